"""Speed and memory of the recommendation core beside its peers, on drawn purchases.

    python tests/benchmarks/bench_recsys.py --scale 0.01 0.1

Each job runs ours and the peer in one process, turn about, three times; the best of each counts.
One JSON line a job and scale: `{job, scale, ours_s, ours_cpu_s, peer, peer_s, peer_cpu_s, ratio,
rss_mb}`; `ours_cpu_s` are seconds of processor time of all threads, which other processes disturb
less than the clock; `rss_mb` is what ours took at its peak beyond the process before it (files
mapped read-only not counted). `--ours` leaves the peers out: cost against scale. Kernels are
compiled beforehand, on the smallest table; `compile` says what that costs a fresh machine in CPU
seconds. Tables are drawn into --folder and kept there; scale 1 (full H&M) needs 4 GB of disk.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.purchases import draw_scaled  # noqa: E402
from recsys.interactions import Interactions  # noqa: E402
from recsys.kernels import thread_count  # noqa: E402
from recsys.readers import read_interactions  # noqa: E402
from recsys.recommenders import ItemKNN, MostPop, RP3beta, UserKNN  # noqa: E402

COLUMNS = {"user": "customer_id", "item": "article_id", "time": "t_dat"}
SAMPLE = 20_000
BATCH = 100_000


@dataclass(frozen=True)
class Sampled:
    """A peer that would take too long: run on a sample, its seconds multiplied."""

    job: Callable[[], Any]
    times: float

    def __call__(self) -> Any:
        return self.job()


Pair = tuple[Callable[[], Any], str, Callable[[], Any] | None]


def private_mb() -> float:
    info = psutil.Process().memory_info()
    return float(info.rss - info.shared) / 1e6


def best_of(
    ours: Callable[[], Any], peer: Callable[[], Any] | None, rounds: int
) -> dict[str, float | None]:
    """Wall seconds of each, the best of all rounds, and the memory ours took."""
    best: dict[str, float] = {}
    peak = 0.0
    for _ in range(rounds):
        for name, job in (("ours_s", ours), ("peer_s", peer)):
            if job is None:
                continue
            gc.collect()
            before, high, stop = private_mb(), [0.0], threading.Event()

            def watch(high: list[float] = high, stop: threading.Event = stop) -> None:
                while not stop.wait(0.02):
                    high[0] = max(high[0], private_mb())

            watcher = threading.Thread(target=watch)
            watcher.start()
            start, busy = time.perf_counter(), time.process_time()
            kept = job()
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            if isinstance(job, Sampled):
                seconds, busy = seconds * job.times, busy * job.times
            high[0] = max(high[0], private_mb())
            stop.set()
            watcher.join()
            del kept
            cpu = name.replace("_s", "_cpu_s")
            best[name] = min(best.get(name, float("inf")), seconds)
            best[cpu] = min(best.get(cpu, float("inf")), busy)
            if name == "ours_s":
                peak = max(peak, high[0] - before)
    peer_s = best.get("peer_s")
    return {
        "ours_s": round(best["ours_s"], 3),
        "ours_cpu_s": round(best["ours_cpu_s"], 3),
        "peer_s": None if peer_s is None else round(peer_s, 3),
        "peer_cpu_s": None if peer_s is None else round(best["peer_cpu_s"], 3),
        "ratio": None if peer_s is None else round(peer_s / best["ours_s"], 2),
        "rss_mb": round(peak),
    }


# ---------------------------------------------------------------- jobs


def csv_to_csr(path: Path, _: Interactions) -> Pair:
    def ours() -> Interactions:
        found = read_interactions(path, **COLUMNS)
        assert found.indptr.size
        return found

    def peer() -> Any:
        from scipy.sparse import csr_matrix

        names = ["customer_id", "article_id"]
        events = pl.read_csv(path, columns=names, schema_overrides=dict.fromkeys(names, pl.String))
        for name in names:
            ids = events.select(pl.col(name).unique()).with_row_index(name + "_idx")
            events = events.join(ids, on=name, how="left").drop(name)
        pairs = events.group_by("customer_id_idx", "article_id_idx").len()
        rows, columns = (pairs[name + "_idx"].to_numpy().astype(np.int32) for name in names)
        return csr_matrix((pairs["len"].to_numpy().astype(np.float32), (rows, columns)))

    return ours, "polars hash join, scipy", peer


def itemknn(_: Path, train: Interactions) -> Pair:
    users = np.arange(train.n_users, dtype=np.int32)
    matrix = train.matrix.astype(np.float64)
    matrix.data[:] = 1

    def ours() -> Any:
        return ItemKNN(k=20).fit(train).recommend(users, 12, exclude_seen=True)

    def peer() -> Any:
        from implicit.nearest_neighbours import CosineRecommender

        model = CosineRecommender(K=20, num_threads=thread_count())
        model.fit(matrix, show_progress=False)
        found = [
            model.recommend(users[at : at + BATCH], matrix[at : at + BATCH], N=12)[0]
            for at in range(0, users.size, BATCH)
        ]
        return np.concatenate(found)

    return ours, "implicit CosineRecommender", peer


def unit_rows(train: Interactions) -> Any:
    """Users as binary rows of length 1, whose products are cosines."""
    scaled = train.matrix.copy()
    sizes = np.diff(scaled.indptr)
    scaled.data = (1 / np.sqrt(np.repeat(sizes, sizes))).astype(np.float32)
    return scaled


def userknn_sample(_: Path, train: Interactions) -> Pair:
    """The 10 nearest users of at most 20,000, the index of all users included."""
    step = max(1, train.n_users // SAMPLE)
    users = np.arange(0, train.n_users, step, dtype=np.int32)[:SAMPLE]
    scaled = unit_rows(train)

    def ours() -> Any:
        return UserKNN(k=10, self_in_k=True).fit(train).neighbours(users)

    try:
        from sparse_dot_topn import sp_matmul_topn
    except ImportError:

        def with_scipy() -> Any:
            other, kept = scaled.T.tocsr(), []
            for at in range(0, users.size, 500):
                block = (scaled[users[at : at + 500]] @ other).tocsr()
                for row in range(block.shape[0]):
                    part = slice(block.indptr[row], block.indptr[row + 1])
                    values = block.data[part]
                    best = np.argpartition(-values, min(10, values.size - 1))[:10]
                    kept.append((block.indices[part][best], values[best]))
            return kept

        return ours, "scipy sparse product, 500 users at a time", with_scipy
    return (
        ours,
        "sparse_dot_topn",
        lambda: sp_matmul_topn(scaled[users], scaled.T.tocsr(), top_n=10, n_threads=thread_count()),
    )


def userknn_all(_: Path, train: Interactions) -> Pair:
    """Everything for every user; the peer from a sample, its index made beforehand."""
    users = np.arange(train.n_users, dtype=np.int32)

    def ours() -> Any:
        return UserKNN(k=10).fit(train).recommend(users, 12, exclude_seen=True)

    try:
        from sparse_dot_topn import sp_matmul_topn
    except ImportError:
        return ours, "none", None
    chosen = users[:: max(1, train.n_users // SAMPLE)][:SAMPLE]
    bought = train.matrix.astype(np.float32)
    bought.data[:] = 1
    scaled, sizes = unit_rows(train), np.diff(bought.indptr)
    columns = scaled.T.tocsr()
    threads = thread_count()

    def peer() -> Any:
        """Neighbours, then what they bought, as many more as the user has, without those."""
        near = sp_matmul_topn(scaled[chosen], columns, top_n=11, n_threads=threads)
        near.data[near.indices == np.repeat(chosen, np.diff(near.indptr))] = 0
        kept = []
        order = np.argsort(sizes[chosen], kind="stable")
        for at in range(0, order.size, 1024):
            rows = order[at : at + 1024]
            most = 12 + int(sizes[chosen[rows[-1]]])
            best = sp_matmul_topn(near[rows], bought, top_n=most, n_threads=threads, sort=True)
            seen = bought[chosen[rows]]
            kept.append(best - best.multiply(seen))
        return kept

    peer_name = f"sparse_dot_topn, {chosen.size:,} users, multiplied"
    return ours, peer_name, Sampled(peer, train.n_users / chosen.size)


def rp3beta(_: Path, train: Interactions) -> Pair:
    users = np.arange(train.n_users, dtype=np.int32)
    return (
        lambda: RP3beta(k=100).fit(train).recommend(users, 12, exclude_seen=True),
        "none",
        None,
    )


def mostpop(_: Path, train: Interactions) -> Pair:
    users = np.arange(train.n_users, dtype=np.int32)
    return lambda: MostPop().fit(train).recommend(users, 12, exclude_seen=True), "none", None


JOBS: dict[str, Callable[[Path, Interactions], Pair]] = {
    "csv_to_csr": csv_to_csr,
    "mostpop_top12_all_users": mostpop,
    "itemknn_fit_top12_all_users": itemknn,
    "userknn_neighbours_sample": userknn_sample,
    "userknn_fit_top12_all_users": userknn_all,
    "rp3beta_fit_top12_all_users": rp3beta,
}


def compile_seconds(path: Path) -> float:
    """CPU seconds a fresh machine spends on the kernels of the seven rows of the main table."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from recsys.readers import read_interactions
from recsys.recommenders import ItemKNN, MostPop, Random, UserKNN
import numpy as np
def run():
    start = time.process_time()
    train = read_interactions(Path({str(path)!r}), **{COLUMNS!r})
    for part in (Random(), MostPop(), UserKNN(), ItemKNN()):
        part.fit(train).recommend(np.arange(50), 12, exclude_seen=True)
    return time.process_time() - start
first = run()
print(first - run())
"""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    return float(done.stdout)


def lines(
    scales: list[float], jobs: list[str], folder: Path, rounds: int, peers: bool
) -> Iterator[dict[str, Any]]:
    tables = {}
    for scale in sorted({0.01, *scales}):
        place = folder / f"scale-{scale:g}"
        tables[scale] = place / "transactions_train.csv"
        if not tables[scale].is_file():
            draw_scaled(place, scale=scale, seed=0)
    seconds = compile_seconds(tables[0.01])
    yield {"job": "compile", "scale": None, "ours_s": round(seconds, 1), "unit": "CPU seconds"}
    warm = read_interactions(tables[0.01], **COLUMNS)
    for name in jobs:
        JOBS[name](tables[0.01], warm)[0]()
    for scale in scales:
        train = read_interactions(tables[scale], **COLUMNS)
        assert train.indptr.size
        for name in jobs:
            ours, peer_name, peer = JOBS[name](tables[scale], train)
            measured = best_of(ours, peer if peers else None, rounds)
            yield {"job": name, "scale": scale, "peer": peer_name, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fcr-bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    options = parser.parse_args()
    for line in lines(
        options.scale, options.jobs, options.folder, options.rounds, not options.ours
    ):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
