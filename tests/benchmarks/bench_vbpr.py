"""VBPR: drawing negatives and one epoch of learning, against what one would write otherwise.

    python tests/benchmarks/bench_vbpr.py [--scale 0.01 0.1 1] [--dim 384] [--batch 1024]

Scale 1 is 200,000 users, 105,542 items and about 3.6 million pairs of skewed popularity (H&M has
seven times as many). Prints one JSON line a job: {job, scale, ours_s, peer, peer_s, ratio}; times
are the best of three interleaved runs, the loop of Python sets is timed on 20,000 draws and scaled.
Steps of the dense peer (torch's autograd and Adam over whole tables, as Cornac does) are timed on
20 batches and scaled to an epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.interactions import Interactions
from recsys.recommenders.vbpr import VBPR, _Learner, sample_negatives

USERS, ITEMS = 200_000, 105_542
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    for scale in options.scale:
        bench(scale, options.dim, options.batch)


def bench(scale: float, dim: int, batch: int) -> None:
    train = draw(max(int(USERS * scale), 200), max(int(ITEMS * scale), 500))
    users = np.repeat(np.arange(train.n_users, dtype=np.int32), np.diff(train.indptr))
    candidates = np.arange(train.n_items, dtype=np.int32)
    sample_negatives(train, users[:10], candidates, 0)  # compiles
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: sample_negatives(train, users, candidates, 1),
        "numpy, sorted keys": lambda: by_sorted_keys(train, users),
        "Python sets": lambda: by_sets(train, users[:20_000]),
    }
    times = best_of_three(jobs)
    times["Python sets"] *= users.size / min(users.size, 20_000)
    for peer in ("numpy, sorted keys", "Python sets"):
        report(f"{users.size:,} negatives", scale, times["ours"], peer, times[peer])

    vectors = np.random.default_rng(0).standard_normal((train.n_items, dim), dtype=np.float32)
    model = VBPR(vectors, validation=0, batch_size=batch)
    pairs = users, train.indices
    learner = _Learner(model, train, pairs)
    rows = np.random.default_rng(1).permutation(users.size)[: STEPS * batch]
    triples = users[rows], train.indices[rows], sample_negatives(train, users[rows], candidates, 2)
    steps = -(-rows.size // batch)
    times = best_of_three(
        {
            "ours": lambda: sparse_steps(learner, triples, batch),
            "dense": dense_steps(learner, triples, batch),
        }
    )
    whole = -(-users.size // batch) / steps
    job = f"epoch of {users.size:,} pairs in batches of {batch:,}, {dim}-d, 64 + 64 factors"
    report(job, scale, times["ours"] * whole, "autograd, dense Adam", times["dense"] * whole)


def draw(n_users: int, n_items: int) -> Interactions:
    rng = np.random.default_rng(0)
    sizes = np.minimum(1 + rng.geometric(1 / 18, n_users), 400)
    items = (n_items * rng.random(sizes.sum()) ** 3).astype(np.int32)
    ids = [pl.Series([str(i) for i in range(n)]) for n in (n_users, n_items)]
    return Interactions.from_events(ids[0], ids[1], np.repeat(np.arange(n_users), sizes), items)


def by_sorted_keys(train: Interactions, users: NDArray[np.int32]) -> NDArray[np.int64]:
    """Draw for all, look up (user, item) among the sorted pairs, draw again where found."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(train.n_users, dtype=np.int64), np.diff(train.indptr))
    keys = owner * train.n_items + train.indices
    out = np.empty(users.size, np.int64)
    left = np.arange(users.size)
    while left.size:
        out[left] = rng.integers(train.n_items, size=left.size)
        asked = users[left].astype(np.int64) * train.n_items + out[left]
        at = np.minimum(np.searchsorted(keys, asked), keys.size - 1)
        left = left[keys[at] == asked]
    return out


def by_sets(train: Interactions, users: NDArray[np.int32]) -> list[int]:
    rng = np.random.default_rng(1)
    taken: dict[int, set[int]] = {}
    out = []
    for user in users.tolist():
        if user not in taken:
            row = slice(train.indptr[user], train.indptr[user + 1])
            taken[user] = set(train.indices[row].tolist())
        item = int(rng.integers(train.n_items))
        while item in taken[user]:
            item = int(rng.integers(train.n_items))
        out.append(item)
    return out


def sparse_steps(learner: _Learner, triples: tuple[Any, ...], batch: int) -> None:
    import torch

    drawn = torch.from_numpy(np.stack(triples).astype(np.int64))
    with torch.inference_mode():
        for lo in range(0, drawn.shape[1], batch):
            learner.step(*drawn[:, lo : lo + batch])


def dense_steps(learner: _Learner, triples: tuple[Any, ...], batch: int) -> Callable[[], None]:
    import torch

    f, l2 = learner.model.factors, learner.model.regularization
    tables = [torch.nn.Parameter(table.values.clone()) for table in learner.tables]
    optimiser = torch.optim.Adam(tables, lr=learner.model.learning_rate)
    drawn = torch.from_numpy(np.stack(triples).astype(np.int64))

    def run() -> None:
        for lo in range(0, drawn.shape[1], batch):
            users, items, others = drawn[:, lo : lo + batch]
            u, i, j = tables[0][users], tables[1][items], tables[1][others]
            apart = learner.features[items] - learner.features[others]
            score = (u[:, :f] * (i - j)[:, :f]).sum(1) + (i - j)[:, f]
            score = score + (u[:, f:] * (apart @ tables[2][:, :-1])).sum(1)
            score = score + apart @ tables[2][:, -1]
            loss = -torch.nn.functional.logsigmoid(score).sum()
            loss = loss + l2 / 2 * ((u**2).sum() + (i**2).sum() + (j**2).sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return run


def best_of_three(jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    times = dict.fromkeys(jobs, np.inf)
    for _ in range(3):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def report(job: str, scale: float, ours: float, peer: str, theirs: float) -> None:
    line = {"job": job, "scale": scale, "ours_s": round(ours, 4), "peer": peer}
    print(json.dumps(line | {"peer_s": round(theirs, 4), "ratio": round(theirs / ours, 2)}))


if __name__ == "__main__":
    main()
