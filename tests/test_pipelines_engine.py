"""Ray computes what one process computes, byte by byte, whoever is killed meanwhile."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from click.testing import CliRunner

from caption.captioners import Captioner, load_captioner
from caption.generate import Elsewhere, GenerateResult, Item, caption_catalogue
from pipelines import InputError, engine, ranking
from pipelines.cli import main
from pipelines.engine import Engine
from pipelines.recommend import Columns, recommend_files
from recsys import encoders
from tests.tiny import draw_photos, tiny_captioner

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "data" / "demo"
if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray: pip install 'fcr[ray]'", allow_module_level=True)
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
# Sending this module by value makes cloudpickle look through torch's old attributes.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Engine]:
    """Two workers on this machine; started once, as that takes seconds."""
    with Engine(workers=2) as started:
        ray = started._joined()
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        assert ray.cluster_resources()["CPU"] == 2
        yield started


@pytest.fixture
def two(cluster: Engine) -> Engine:
    cluster.workers = 2
    return cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_captioner("blip", tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """33 photos, one of them broken."""
    place = tmp_path_factory.mktemp("photos")
    drawn = [(f"{n}{id}", path) for n in range(4) for id, path, _ in draw_photos(place)]
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 half")
    return [*drawn[:10], ("broken", place / "broken.jpg"), *drawn[10:]]


@pytest.fixture(scope="module")
def remote(cluster: Engine, folder: Path) -> Elsewhere:
    return cluster.captioner(partial(slow, folder))


@pytest.fixture(scope="module")
def alone(
    folder: Path, items: list[Item], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Every file that one process writes."""
    out = tmp_path_factory.mktemp("alone")
    describe(load_captioner(folder, device="cpu"), items, out)
    return files(out)


def slow(folder: Path) -> Captioner:
    """A captioner that takes its time, so that a shard can be interrupted."""
    captioner = load_captioner(folder, device="cpu")
    real = captioner.generate

    def generate(*args: Any, **more: Any) -> Any:
        time.sleep(0.1)
        return real(*args, **more)

    captioner.generate = generate  # type: ignore[method-assign]
    return captioner


def describe(
    captioner: Captioner | Elsewhere, items: list[Item], out: Path, **more: Any
) -> GenerateResult:
    return caption_catalogue(
        captioner, items, out, label="x", batch_size=2, shard_size=4, max_new_tokens=8, **more
    )


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


def actors() -> list[psutil.Process]:
    """The processes of the pool."""

    def named(process: psutil.Process) -> bool:
        try:
            return any("ray::MapWorker" in part for part in process.cmdline()[:1])
        except psutil.Error:  # it has ended since, or waits to be buried
            return False

    return [p for p in psutil.Process().children(recursive=True) if named(p)]


def test_captions_are_those_of_one_process(
    cluster: Engine,
    remote: Elsewhere,
    items: list[Item],
    alone: dict[str, bytes],
    tmp_path: Path,
) -> None:
    cluster.workers = 1
    seen: list[int] = []
    at_work: set[int] = set()

    def look(what: str, done: int, total: int) -> None:
        seen.append(done)
        at_work.update(p.pid for p in actors())
        assert {p.nice() for p in actors()} <= {psutil.Process().nice()}

    result = describe(remote, items, tmp_path, progress=look)
    assert files(tmp_path) == alone
    assert (result.n_captions, result.n_skipped, result.n_reused) == (32, 1, 0)
    assert len(at_work) == 1
    assert sorted(seen) == seen
    assert (len(seen), seen[-1]) == (9, 33)
    again = describe(remote, items, tmp_path)
    assert again.n_reused == 33
    assert files(tmp_path) == alone


def test_killed_workers_lose_nothing_and_repeat_nothing(
    two: Engine, remote: Elsewhere, items: list[Item], alone: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []
    at_work: set[int] = set()

    def kill() -> bool:
        """After the first shard one of the two workers dies, after the fourth another."""
        shards = len(list((tmp_path / "shards").glob("*.parquet")))
        working = actors()
        if shards in (1, 4):
            victim = working[0]
            victim.kill()
            killed.append(victim.pid)
        at_work.update(p.pid for p in working)
        return False

    result = describe(remote, items, tmp_path, stop=kill)
    assert len(set(killed)) == 2
    assert len(at_work) > 2
    assert files(tmp_path) == alone
    ids = pl.read_parquet(result.captions)["article_id"].to_list()
    assert ids == [id for id, _ in items if id != "broken"]


def test_a_killed_driver_leaves_no_process_and_its_shards(
    two: Engine,
    remote: Elsewhere,
    folder: Path,
    items: list[Item],
    alone: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[4]); from pathlib import Path\n"
        "from functools import partial; from pipelines.engine import Engine\n"
        "from tests.test_pipelines_engine import describe, slow\n"
        "folder, out, photos, _ = sys.argv[1:]\n"
        "items = [(i, Path(p)) for i, p in (x.split('=', 1) for x in photos.split('|'))]\n"
        "with Engine(workers=2) as engine:\n"
        "    describe(engine.captioner(partial(slow, Path(folder))), items, Path(out))\n"
    )
    photos = "|".join(f"{id}={path}" for id, path in items)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(out), photos, str(ROOT)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    children: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 150
        while len(list((out / "shards").glob("*.parquet"))) < 2:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        agents = {p.pid for p in children if "Agent" in " ".join(p.cmdline())}
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(children) > 2
    assert not (out / "captions.parquet").exists()
    computed: list[int] = []
    real = two.map
    monkeypatch.setattr(
        two, "map", lambda work, shards: real(work, [computed.append(1) or x for x in shards])
    )
    result = describe(remote, items, out)
    assert 8 <= result.n_reused < len(items)
    assert len(computed) == 9 - -(-result.n_reused // 4)
    assert files(out) == alone
    # Ray's agents notice within half a minute that their parent has gone, all others at once.
    computing = [p for p in children if p.pid not in agents]
    assert not psutil.wait_procs(computing, timeout=60)[1]
    scratch = engine._scratch()  # the next start clears up behind the killed one
    scratch.rmdir()
    assert not list(scratch.parent.glob(f"{engine.SCRATCH}{process.pid}-*"))


def test_workers_read_their_shards_from_parquet(
    two: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SHARDS_A_FILE", 2)
    monkeypatch.setattr(two, "folder", tmp_path / "shared")
    shards = [pa.table({"x": [10 * n]}) for n in range(2, 7)]
    seen: list[str] = []

    def lazily() -> Iterator[Any]:
        for shard in shards:
            yield shard
            seen[:] = sorted(p.name for p in (tmp_path / "shared").rglob("*.parquet"))

    found = dict(two.map(Deadly(), lazily()))
    assert {n: table["y"].to_pylist() for n, table in found.items()} == {
        n: [100 * n + 200] for n in range(5)
    }
    assert seen == [f"tasks-{n:06d}.parquet" for n in range(3)]
    assert not list((tmp_path / "shared").iterdir())
    assert list(Engine("127.0.0.1:1").map(Deadly(), [])) == []  # asks no cluster for nothing
    dead = tmp_path / "shared" / f"{engine.SCRATCH}{socket.gethostname()}-999999999-ab"
    other = tmp_path / "shared" / f"{engine.SCRATCH}elsewhere-999999999-ab"
    dead.mkdir()
    other.mkdir()
    with engine._written(tmp_path / "shared", shards) as tasks:
        assert [tasks.read(n)["x"].to_pylist() for n in (4, 0, 1)] == [[60], [20], [30]]
        assert pq.ParquetFile(tasks.file(0)).num_row_groups == 2
        assert not dead.exists()  # left by a killed process of this machine
    assert list((tmp_path / "shared").iterdir()) == [other]
    with pytest.raises(InputError, match=r"doesn't see .*shared.*--runs.*same path"):
        engine._Tasks(tasks.folder, 2, 5).read(3)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file can't be written .*--runs DIR"),
        engine._written(tmp_path / "file", shards),
    ):
        pass


@dataclass(frozen=True)
class Deadly:
    """Work whose second shard kills its worker."""

    def open(self) -> engine.Compute:
        def compute(shard: Any) -> Any:
            (x,) = shard["x"].to_pylist()
            if x == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return pa.table({"y": [x * 10]})

        return compute


def test_a_shard_that_kills_its_worker_again_and_again_is_refused(
    two: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TRIES", 1)
    with pytest.raises(InputError, match=r"shard 1 lost its worker 1 times.*memory"):
        list(two.map(Deadly(), [pa.table({"x": [0]}), pa.table({"x": [1]})]))


def test_other_weights_on_a_worker_are_refused(folder: Path) -> None:
    work = engine._Describe(partial(load_captioner, folder, device="cpu"), "0" * 64, {})
    with pytest.raises(InputError, match="other weights"):
        work.open()
    part = encoders.Part("sbert", str(DEMO / "sbert"))
    with pytest.raises(Exception, match="other weights"):
        encoders.Encoding(part, DEMO / "sbert", "0" * 64, 4, "cpu", "float32").open()


def test_vectors_are_those_of_one_process(
    two: Engine, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_SHARD", 8)
    n = 24
    texts = [f"{'long ' * (i % 5)}shirt number {i}" if i % 7 else None for i in range(n)]
    photos = []
    for i in range(n):
        photos.append(tmp_path / f"{i:02d}.jpg")
        photos[-1].write_bytes(items[i % 8][1].read_bytes() + bytes([i]))
    for i in range(8, 16):  # a whole shard that no photo can be read of
        photos[i].write_bytes(b"broken" + bytes([i]))

    def run(name: str, **more: Any) -> tuple[encoders.Embeddings, dict[str, bytes]]:
        cache = tmp_path / name
        found = encoders.encode(
            "sbert+hog", texts, photos, checkpoints={"sbert": DEMO / "sbert"}, batch_size=4,
            cache=cache, **more,
        )  # fmt: skip
        return found, files(cache)

    seen: list[tuple[str, int, int]] = []
    here, own = run("a")
    there, remote = run("b", elsewhere=two.encode, progress=lambda *said: seen.append(said))
    assert np.array_equal(here.vectors, there.vectors)
    assert np.array_equal(here.valid, there.valid)
    assert (here.signature, here.counts) == (there.signature, there.counts)
    assert here.counts["unreadable_image"] == 8
    assert own == remote
    assert len(own) == 3 + 2 + 1  # shards of texts, of photos that can be read, and their memo
    assert [said for said in seen if said[1] == said[2]] == [("sbert", 20, 20), ("hog", 24, 24)]


def test_rankings_are_those_of_one_process(
    two: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "USERS_A_BLOCK", 16)
    monkeypatch.setattr(ranking, "WORTH_WORKERS", 0.0)
    sent: list[int] = []
    real = two.rank
    monkeypatch.setattr(
        two, "rank", lambda a, blocks, *b, **c: sent.append(len(blocks)) or real(a, blocks, *b, **c)
    )
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 60, 1500)],
            "item_id": [f"i{i}" for i in rng.zipf(1.5, 1500) % 80],
        }
    ).unique(maintain_order=True)
    table.write_csv(tmp_path / "t.csv")
    from pipelines.config import load_config

    config = load_config(None, ["recommend.split.method=random"])
    for name, used in (("a", None), ("b", two)):
        recommend_files(
            tmp_path / "t.csv", columns=Columns(), config=config, models=["itemknn"],
            out=tmp_path / name, say=lambda line: None, engine=used,
        )  # fmt: skip
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert sent == [2]  # the first block and the one that is timed are ranked here
    monkeypatch.setattr(ranking, "WORTH_WORKERS", 10.0)
    recommend_files(
        tmp_path / "t.csv", columns=Columns(), config=config, models=["itemknn", "userknn"],
        out=tmp_path / "c", say=lambda line: None, engine=two,
    )  # fmt: skip
    assert sent == [2]  # not worth the start of workers
    assert pl.read_parquet(tmp_path / "b" / "recommendations.parquet")["user_id"].n_unique() > 48


def test_the_own_cluster_is_quiet_and_listens_on_loopback_only(two: Engine) -> None:
    ours = {p.pid: p for p in psutil.Process().children(recursive=True)}
    listening = [
        connection
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.pid in {*ours, os.getpid()}
    ]
    assert listening
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not [c for c in listening if c.laddr.port == 8265]  # the dashboard's


def test_refusals_need_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"workers": 0}, "--engine-workers is 0"),
        ({"gpus": -0.5}, "--engine-gpus is -0.5"),
    ):
        with pytest.raises(InputError, match=words):
            Engine(**options)  # type: ignore[arg-type]
    done = CliRunner().invoke(main, ["caption-items", "--engine-workers", "2"])
    assert done.exit_code == 2
    assert "error: --engine-workers goes with --engine ray" in done.output
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"no Ray cluster answers at {address}: .*refused"):
        Engine(address)._join(None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray: pip install 'fcr\[ray\]'"):
        Engine()._joined()


def test_gpus_that_are_not_there_are_refused(two: Engine) -> None:
    if two._joined().cluster_resources().get("GPU"):
        pytest.skip("this machine has GPUs")
    with pytest.raises(InputError, match=r"--engine-gpus is 0.5 and this machine has 0 GPUs"):
        list(Engine(gpus=0.5).map(Deadly(), [pa.table({"x": [0]})]))
