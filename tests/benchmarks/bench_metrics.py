"""NDCG and MAP at 5 and 12 for many users: our kernel against polars and RecTools.

    python tests/benchmarks/bench_metrics.py [--scale 0.01 0.1 1] [--rectools PYTHON]

Prints one JSON line a job: {job, scale, ours_s, peer, peer_s, ratio, rss_mb}; times are the best of
three interleaved runs on the same million users (at scale 1). RecTools runs in the interpreter
given by --rectools (`pip install rectools` in an environment of its own). The recipe's and
RecTools' inputs are data frames of numbers, prepared beforehand; so is our CSR matrix.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from recsys.metrics import score_lists

K = 12
N_ITEMS = 105_542
RECTOOLS = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import pandas as pd
from rectools.metrics import MAP, NDCG, calc_metrics
lists, truth = (pd.read_parquet(f) for f in sys.argv[1:3])
metrics = {f"{n}@{k}": c(k=k) for k in (5, 12) for n, c in (("map", MAP), ("ndcg", NDCG))}
start = time.perf_counter()
calc_metrics(metrics, reco=lists, interactions=truth)
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--rectools", help="a Python interpreter that has RecTools")
    options = parser.parse_args()
    start = time.perf_counter()
    score_lists(np.zeros((1, K), np.int32), sparse.csr_matrix((1, 5)))
    print(json.dumps({"first_call_s": round(time.perf_counter() - start, 3)}), flush=True)
    for scale in options.scale:
        bench(scale, options.rectools)


def bench(scale: float, rectools: str | None) -> None:
    lists, truth = draw(int(1_000_000 * scale))
    rows, places = np.divmod(np.arange(lists.size), K)
    ranked = pl.DataFrame(
        {"user_id": rows, "item_id": lists.ravel().astype(np.int64), "rank": places + 1}
    )
    users, items = truth.nonzero()
    relevant = pl.DataFrame({"user_id": users.astype(np.int64), "item_id": items.astype(np.int64)})
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("lists.parquet", "truth.parquet")]
        ranked.write_parquet(files[0])
        relevant.write_parquet(files[1])
        times: dict[str, float] = {}
        for _ in range(3):
            ours = timed(times, "ours", lambda: score_lists(lists, truth, ("ndcg", "map"), (5, 12)))
            recipe = timed(times, "polars", lambda: polars_recipe(ranked, relevant))
            if rectools:
                spent = subprocess.run(
                    [rectools, "-c", RECTOOLS, *map(str, files)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                times["rectools"] = min(times.get("rectools", np.inf), float(spent.stdout))
    for name, value in recipe.items():
        assert abs(ours[name].value - value) < 1e-9, name
    for peer, spent_s in times.items():
        if peer != "ours":
            line = {
                "job": f"NDCG + MAP @5 and @12, {len(lists):,} users",
                "scale": scale,
                "ours_s": round(times["ours"], 4),
                "peer": peer,
                "peer_s": round(spent_s, 4),
                "ratio": round(spent_s / times["ours"], 1),
                "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
            print(json.dumps(line), flush=True)


def draw(n_users: int) -> tuple[Any, Any]:
    """Lists of 12 distinct items and about 3 relevant ones a user, a few of them hit."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, N_ITEMS, n_users)
    step = rng.integers(1, 5000, n_users)
    lists = ((first[:, None] + step[:, None] * np.arange(K)) % N_ITEMS).astype(np.int32)
    m = 1 + rng.poisson(2, n_users)
    users = np.repeat(np.arange(n_users), m)
    items = rng.integers(0, N_ITEMS, len(users))
    hit = rng.random(len(users)) < 0.03
    items[hit] = lists[users[hit], rng.integers(0, K, hit.sum())]
    truth = sparse.csr_matrix(
        (np.ones(len(users), np.float32), (users, items)), shape=(n_users, N_ITEMS)
    )
    truth.data[:] = 1
    return lists, truth


def polars_recipe(lists: pl.DataFrame, truth: pl.DataFrame) -> dict[str, float]:
    """Join the hits, then sums by user: what a data scientist writes in ten lines."""
    m = truth.group_by("user_id").agg(m=pl.len())
    hits = lists.lazy().join(truth.lazy(), on=["user_id", "item_id"]).sort("user_id", "rank")
    hits = hits.with_columns(nth=pl.int_range(1, pl.len() + 1).over("user_id"))
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, K + 2)))])
    found = {}
    for k in (5, 12):
        top = hits.filter(pl.col("rank") <= k).group_by("user_id")
        sums = top.agg(
            dcg=(1 / (pl.col("rank") + 1).log(2)).sum(), ap=(pl.col("nth") / pl.col("rank")).sum()
        )
        each = sums.join(m.lazy(), on="user_id").with_columns(best=pl.col("m").clip(upper_bound=k))
        each = each.with_columns(
            ndcg=pl.col("dcg") / pl.lit(pl.Series(ideal)).gather(pl.col("best")),
            map=pl.col("ap") / pl.col("best"),
        )
        totals = each.select("ndcg", "map").sum().collect()
        found |= {f"{name}@{k}": totals[name][0] / len(m) for name in ("ndcg", "map")}
    return found


def timed(times: dict[str, float], name: str, job: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = job()
    times[name] = min(times.get(name, np.inf), time.perf_counter() - start)
    return result


if __name__ == "__main__":
    main()
