"""Readers under inputs that nobody wrote: each is taken, or refused in one line of our own.

    python tests/fuzz.py                          # every target by coverage, then by hypothesis
    python tests/fuzz.py --seconds 600 --only captions config

Atheris steers bytes by the branches they reach in our Python code; hypothesis mutates samples and
builds texts of a format's own words. Numba kernels and C code are reached through the readers.
Anything but a result or an `InputError` that says what is wrong is a fault, and so are a read of
more than `PATIENCE` seconds and more than `ROOM` bytes of memory. The inputs tried are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PATIENCE = 20
"""Seconds that an input of a few kilobytes may take."""
ROOM = 1 << 30
"""Bytes by which memory may grow over all inputs of a target."""
LONGEST_MESSAGE = 1500
"""Characters of a refusal: it names what it found, it does not repeat the file."""
BETWEEN = b"\n===\n"
"""Stands between the files of an input that is several."""
UNTOUCHED = tuple(
    f"recsys.{name}"
    for name in ("kernels", "csv_kernels", "metrics", "reduction", "selection", "similarity")
)
"""Compiled by numba from their byte code, which must stay as it is."""


MODULES = (
    "caption.facad", "caption.flickr", "caption.images", "caption.metrics.files",
    "caption.metrics.tokenizer", "caption.sources", "caption.vocabulary", "pipelines.caption_data",
    "pipelines.catalog", "pipelines.config", "pipelines.grid", "pipelines.ratings", "pipelines.run",
    "recsys.encoders", "recsys.readers", "recsys.saved",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader, what it may be given, and what its format is made of."""

    read: Callable[[bytes, Path], object]
    """Called with the input and an empty folder."""
    samples: tuple[bytes, ...]
    words: tuple[str, ...] = ()


def _interactions(data: bytes, folder: Path) -> object:
    """Small files go through polars, large ones through the kernels: the result is the same."""
    from recsys import InputError, readers

    first, path = data[0] if data else 0, folder / "events.csv"
    path.write_bytes(data[1:])
    options: dict[str, Any] = {}
    if first & 1:
        options["time"] = "time"
    if first & 2:
        options["rating"] = "rating"
    if first & 4:
        options["columns"] = ["user_id", "item_id", "time", "rating"]
    if first & 8:
        options["item_ids"] = ["1", "2", "007"]
    found = []
    usual = readers.SMALL
    try:
        for small in (1 << 40, 0):
            readers.SMALL = small
            try:
                found.append(readers.read_interactions(path, **options))
            except InputError as error:
                found.append(error)
    finally:
        readers.SMALL = usual
    by_polars, by_kernels = found
    if isinstance(by_polars, Exception):
        raise by_polars
    if isinstance(by_kernels, Exception):
        raise AssertionError(f"small: read, large: {by_kernels}")
    for name in ("user_ids", "item_ids"):
        assert getattr(by_polars, name).to_list() == getattr(by_kernels, name).to_list(), name
    for name in ("event_ptr", "event_items", "event_times", "event_values"):
        one, other = getattr(by_polars, name), getattr(by_kernels, name)
        assert (one is None) == (other is None), name
        assert one is None or one.tobytes() == other.tobytes(), (name, one, other)
    return by_polars


def _catalog(data: bytes, folder: Path) -> object:
    from pipelines.catalog import interactions_of, read_catalog, read_purchases
    from recsys import readers

    names = ("articles.csv", "customers.csv", "transactions_train.csv")
    drop = data[:1] == b"d"
    for name, part in zip(names, data[1:].split(BETWEEN), strict=False):
        (folder / name).write_bytes(part)
    whole = read_catalog(folder, drop_bad_rows=drop)
    usual, readers.SMALL = readers.SMALL, 0
    try:
        lean, _ = read_purchases(read_catalog(folder, purchases=False), drop_bad_rows=drop)
    finally:
        readers.SMALL = usual
    table = interactions_of(whole)
    assert lean.item_ids.to_list() == table.item_ids.to_list()
    assert lean.n_events == table.n_events, (lean.n_events, table.n_events)
    for photo in whole.photos():
        assert photo is None or photo.resolve().is_relative_to(folder.resolve())
    return whole


def _saved(data: bytes, folder: Path) -> object:
    from recsys.saved import read_recommendations, read_test, score_saved

    suffix = {b"t": ".tsv", b"r": ".trec"}.get(data[:1], ".csv")
    lists, _, test = data[1:].partition(BETWEEN)
    (folder / f"lists{suffix}").write_bytes(lists)
    (folder / f"test{suffix}").write_bytes(test)
    found = read_recommendations(folder / f"lists{suffix}")
    return score_saved(found, read_test(folder / f"test{suffix}"), ks=(2,))


def _coco(data: bytes, folder: Path) -> object:
    from caption.metrics.files import read_hypotheses, read_references
    from caption.records import CaptionSet
    from caption.sources import read_coco, text_findings
    from pipelines.caption_data import lay_out

    path = folder / "captions_val.json"
    path.write_bytes(data)
    refusals = []
    for read in (CaptionSet.load, read_coco, read_hypotheses, read_references):
        try:
            found = read(path)
        except _refused() as error:
            refusals.append(error)
            continue
        if isinstance(found, CaptionSet):
            found.save(folder / "again.json")
            again = CaptionSet.load(folder / "again.json", images=folder)
            assert again.examples == tuple(
                replace(e, image=e.image and folder / os.path.relpath(e.image, folder))
                if e.image and _inside(e.image, folder)
                else replace(e, image=e.image and Path(os.path.abspath(e.image)))
                for e in found.examples
            )
            text_findings(found.examples)
            (folder / "laid").mkdir()
            try:
                lay_out(path, folder / "laid")
            except _refused() as error:
                refusals.append(error)
            for link in (folder / "laid").rglob("*"):
                assert _inside(link, folder / "laid")
    if refusals:
        for error in refusals[1:]:
            _message(error)
        raise refusals[0]
    return None


def _captions_of_lines(data: bytes, folder: Path) -> object:
    from caption.flickr import read_flickr

    names = ("results.csv", "captions.txt", "Flickr8k.token.txt", "flickr_annotations_30k.csv")
    name = names[data[0] % 4] if data else names[0]
    (folder / name).write_bytes(data[1:])
    (folder / "a.jpg").write_bytes(b"")
    return read_flickr(folder)


def _captions_in_step(data: bytes, folder: Path) -> object:
    from caption.flickr import read_flickr

    names = ("train_images.txt", "train.1.en", "train.2.en.gz")
    for name, part in zip(names, data.split(BETWEEN), strict=False):
        (folder / name).write_bytes(part)
    return read_flickr(folder)


def _caption_tables(data: bytes, folder: Path) -> object:
    from caption.metrics.files import read_pair

    suffix = ".tsv" if data[:1] == b"t" else ".csv"
    hypotheses, _, references = data[1:].partition(BETWEEN)
    (folder / f"a{suffix}").write_bytes(hypotheses)
    (folder / f"b{suffix}").write_bytes(references)
    return read_pair(folder / f"a{suffix}", folder / f"b{suffix}", subset=True)


def _facad(data: bytes, folder: Path) -> object:
    from caption.facad import json_items, read_facad

    if data[:1] == b"m":
        (folder / "meta_all_1.json").write_bytes(data[1:])
        return read_facad(folder)
    names = ("WORDMAP_5", "TRAIN_CAPTIONS_5", "TRAIN_CAPLENS_5", "TRAIN_ATTRS_5", "TRAIN_CATES_5")
    for name, part in zip(names, data[1:].split(BETWEEN), strict=False):
        (folder / f"{name}.json").write_bytes(part)
    for path in sorted(folder.glob("TRAIN_*.json")):
        with contextlib.suppress(*_refused()):
            whole, pieces = list(json_items(path)), list(json_items(path, chunk=1))
            assert repr(whole) == repr(pieces)
    return read_facad(folder)


def _config(data: bytes, folder: Path) -> object:
    from pipelines.config import load_config
    from pipelines.grid import read_grid

    path = folder / "own.yaml"
    path.write_bytes(data)
    for line in data.decode(errors="surrogateescape").splitlines()[:5]:
        with contextlib.suppress(*_refused()):
            load_config(None, [line])
    with contextlib.suppress(*_refused()):
        read_grid(path)
    return load_config(path)


def _run_files(data: bytes, folder: Path) -> object:
    from pipelines.run import open_run
    from pipelines.workspace import Workspace, read_json

    first, _, second = data.partition(BETWEEN)
    (folder / "r" / "s").mkdir(parents=True)
    (folder / "r" / "s" / "manifest.json").write_bytes(first)
    (folder / "r" / "s" / "a").write_bytes(b"")
    workspace = Workspace.open("r", folder)
    with contextlib.suppress(*_refused()):
        workspace.stage_file("s", "a")
    with workspace.stage("s", config={}, inputs={}, seed=0, say=str) as stage:
        assert not stage.reused
    (folder / "q").mkdir()
    (folder / "q" / "run.json").write_bytes(second)
    (folder / "data").mkdir()
    with open_run(run="q", data=folder / "data", runs=folder, say=str):
        pass
    (folder / "q" / "run.json").write_bytes(second)
    known = read_json(folder / "q" / "run.json") or {}
    if isinstance(known.get("data"), str):  # without it the demo would be drawn
        with open_run(run="q", runs=folder, say=str) as run:
            assert not run.is_demo
    return None


def _ratings(data: bytes, folder: Path) -> object:
    from pipelines.ratings import read_ratings

    (folder / "ratings").mkdir()
    (folder / "ratings" / "ratings.csv").write_bytes(data)
    return read_ratings(folder)


def _encoder(data: bytes, folder: Path) -> object:
    from recsys.encoders import parse_encoder

    return parse_encoder(data.decode(errors="replace"))


def _photo(data: bytes, folder: Path) -> object:
    from caption.images import open_image

    (folder / "a.jpg").write_bytes(data)
    picture = open_image(folder / "a.jpg")
    assert picture.mode == "RGB"
    return picture


def _parquet(data: bytes, folder: Path) -> object:
    from caption.metrics.files import read_hypotheses
    from recsys.readers import memory_needed, read_interactions
    from recsys.saved import read_recommendations

    path = folder / "a.parquet"
    path.write_bytes(data)
    memory_needed(path)
    for read in (read_hypotheses, read_recommendations):
        with contextlib.suppress(*_refused()):
            read(path)
    return read_interactions(path)


def _tokenizer(data: bytes, folder: Path) -> object:
    from caption.metrics.tokenizer import tokenize
    from caption.records import normalise_text
    from caption.vocabulary import mentions

    text = data.decode(errors="surrogateescape")
    texts = [text, *text.split("\n")]
    found, _ = tokenize(texts, "python")
    assert len(found) == len(texts)
    assert found == tokenize(texts[::-1], "python")[0][::-1]
    assert not any("\n" in line for line in found)
    normalise_text(text)
    mentions(text)
    return found


def _packed(frame: dict[str, list[Any]]) -> bytes:
    import io

    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame(frame).write_parquet(buffer)
    return buffer.getvalue()


def _pictures() -> tuple[bytes, ...]:
    import io

    from PIL import Image

    found = []
    for kind, mode in (("JPEG", "RGB"), ("PNG", "LA"), ("GIF", "P"), ("TIFF", "I;16")):
        buffer = io.BytesIO()
        Image.new(mode, (9, 7)).save(buffer, kind)
        found.append(buffer.getvalue())
    return tuple(found)


_COCO = {
    "info": {"description": "a set"},
    "images": [
        {"id": 1, "file_name": "a.jpg", "split": "train"},
        {"id": "b", "file_name": "../b.jpg", "split": "validation"},
        {"id": "c", "file_name": "/c.jpg", "split": "test"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a shirt", "attributes": ["red"], "category": "Shirt"},
        {"id": 2, "image_id": "b", "caption": "trousers"},
        {"id": 3, "image_id": "c", "caption": "a blue hat"},
    ],
}
_KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]},
        {"filename": "b.jpg", "split": "val", "sentences": [{"tokens": ["a", "cat"]}]},
    ]
}
_ARTICLES = (
    b"article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
    b"colour_group_name,detail_desc\n0108775015,0108775,Strap top,Vest top,Solid,Black,Jersey top\n"
    b'108775044,0108775,"Strap, top",Vest top,Solid,White,\n'
)
_CUSTOMERS = b"customer_id,age\nu1,20\nu2,\n"
_PURCHASES = (
    b"t_dat,customer_id,article_id,price\n2018-09-20,u1,0108775015,0.05\n"
    b"2018-09-21,u2,0108775044,0.03\n2018-09-22,u1,108775015,0.03\n"
)
_JSON = ("{", "}", "[", "]", ",", ":", '"', "null", "true", "1e999", "-1", "NaN", '"\\ud800"')
_CSV = (",", "\t", ";", '"', "\n", "\r\n", "\r", "\ufeff", "\0", "é", "1", "-1", "nan", "1e300")

_MAKERS: dict[str, Callable[[], Target]] = {
    "interactions": lambda: Target(
        _interactions,
        (
            b"\x03user_id,item_id,time,rating\nu1,1,2018-09-20,5\nu2,007,2018-09-21,1.5\n",
            b"\x01user_id\titem_id\ttime\nu1\t1\t1537401600\nu2\t2\t1537401601\n",
            b"\x0buser_id:token,item_id:token,time:float,rating:float\r\nu1,1,1.0,5\r\nu2,2,2.0,3",
            b"\x07u1,1,2018-09-20 10:00:00,5\nu2,2,2018-09-20 11:00:00,4\n",
            b'\x00user_id,item_id\n"u,1",1\n"u""2",2\n',
        ),
        (*_CSV, "user_id", "item_id", "time", "rating", "2018-09-20", "2018-09-20 10:00:00"),
    ),
    "catalog": lambda: Target(
        _catalog,
        (b"d" + BETWEEN.join((_ARTICLES, _CUSTOMERS, _PURCHASES)),
         b"k" + BETWEEN.join((_ARTICLES, _CUSTOMERS, b"," + _PURCHASES))),
        (*_CSV, "article_id", "customer_id", "t_dat", "price", "detail_desc", "../x", "0108775015"),
    ),
    "saved": lambda: Target(
        _saved,
        (
            b"cuser_id,item_id,rank\nu,a,1\nu,b,2" + BETWEEN + b"user_id,item_id\nu,b\nv,a\n",
            b"ccustomer_id,prediction\nu,a b" + BETWEEN + b"user_id,item_id\nu,b\n",
            b"ru Q0 a 1 2.5 x\nu Q0 b 2 1.5 x" + BETWEEN + b"u 0 b 1\nu 0 a 0\n",
            b"tuser\titem\tscore\tsetting\nu\ta\t1\ts\n"
            + BETWEEN
            + b"user\titem\trelevance\nu\ta\t1",
        ),
        (*_CSV, "user_id", "item_id", "rank", "score", "relevance", "setting", "prediction"),
    ),
    "coco": lambda: Target(
        _coco,
        (json.dumps(_COCO).encode(), json.dumps(_KARPATHY).encode(),
         json.dumps(_COCO["annotations"]).encode()),
        (*_JSON, '"images"', '"annotations"', '"image_id"', '"id"', '"caption"', '"file_name"',
         '"sentences"', '"raw"', '"tokens"', '"split"', '"attributes"', '"info"', '"filename"'),
    ),
    "caption lines": lambda: Target(
        _captions_of_lines,
        (
            b"\x00image_name| comment_number| comment\na.jpg| 0| a dog\na.jpg| 1 a cat\n",
            b"\x01image,caption\na.jpg,a dog\na.jpg,\"a \"\"cat\"\"\"\n",
            b"\x02a.jpg#0\ta dog\na.jpg#1 a cat\n",
            b'\x03raw,split,filename\n"[""a dog"", ""a cat""]",train,a.jpg\n',
        ),
        (*_CSV, "a.jpg", "#", "|", "image", "caption", "raw", "split", "filename", "[", "]"),
    ),
    "captions in step": lambda: Target(
        _captions_in_step,
        (BETWEEN.join((b"a.jpg\nb.jpg\n", b"a dog\na cat\n", b"\x1f\x8b")),
         BETWEEN.join((b"a.jpg\nb.jpg\n", b"a dog\na cat\n"))),
    ),
    "caption tables": lambda: Target(
        _caption_tables,
        (b"cid,caption\n1,a dog\n" + BETWEEN + b"article_id,text\n1,a cat\n2,x\n",
         b"tid\tcaption\n1\ta dog\n" + BETWEEN + b"id\tcaption\n1\ta cat\n"),
        (*_CSV, "id", "caption", "text", "image_id"),
    ),
    "facad": lambda: Target(
        _facad,
        (
            b"w" + BETWEEN.join(
                (b'{"<start>": 1, "<end>": 2, "red": 3, "<unk>": 4, "<pad>": 0}',
                 b"[[1, 3, 2, 0], [1, 3, 3, 2]]", b"[3, 4]", b'[[3], ["red"]]', b'["top", 7]')),
            b'm[{"id": 1, "description": "a shirt", "images": [{"color": "red", "0": "u/a.jpg"}]}]',
        ),
        (*_JSON, '"id"', '"description"', '"images"', '"color"', '"<start>"'),
    ),
    "config": lambda: Target(
        _config,
        (
            b"seed: 3\ntrain:\n  steps: 5\n  learning_rate: 1.0e-4\nrecommend: {k: [5, 12]}\n",
            b"like: hm-small\nrecommend.split.cutoff: 2020-09-01\n",
            b"train.learning_rate: [1.0e-5, 1.0e-4]\ntrain.adapt: {rank: [8, 16]}\n",
            b"recommend.parameters.ease.l2=200\ntrain.steps=many\nseed=2001-99-99\n",
            b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        ),
        (": ", "- ", "\n  ", "&a ", "*a", "<<: ", "!!", "{", "}", "[", "]", "=", ".", "'", '"',
         "seed", "train", "recommend", "like", "0x", "1_0", "2001-99-99", ".inf", ".nan", "? ",
         "!!binary ", "!!timestamp ", "!!int ", "!!float ", "!!set ", "!!omap "),
    ),
    "run files": lambda: Target(
        _run_files,
        (
            b'{"key": "k", "files": {"a": "0"}, "record": {}}' + BETWEEN
            + b'{"data": "/nowhere", "config": "hm-small"}',
            b'{"files": {"../x": "0"}}' + BETWEEN + b'{"data": "."}',
        ),
        (*_JSON, '"data"', '"config"', '"files"', '"key"', '"record"'),
    ),
    "ratings": lambda: Target(
        _ratings,
        (b"rater,article_id,captioner,caption,kind,rating,blinded,rated_at\nx,1,c,t,stars,3,true,now",),
        _CSV,
    ),
    "encoder": lambda: Target(
        _encoder,
        (b"resnet+0.5*sbert:some/folder|zscore|pca:0.9,64", b"clip|raw"),
        ("+", "*", ":", "|", ",", "clip", "resnet", "sbert", "blip2", "pca", "1e999", "nan", "-"),
    ),
    "photo": lambda: Target(_photo, _pictures()),
    "parquet": lambda: Target(
        _parquet,
        (_packed({"user_id": ["u", "v"], "item_id": ["a", "b"], "rank": [1, 2]}),
         _packed({"id": [1, 2], "caption": ["a", None]})),
    ),
    "tokenizer": lambda: Target(
        _tokenizer,
        ("It's a $4.50 T-shirt (size M). The U.S. no. 5 3/4 isn't <b>bold</b>…".encode(),
         b"mail a.b@c.de, see https://x.y/z?q=1 or call (555) 123-4567; :-) cannot gonna '90s"),
        (".", "-", "'", "’", "n't", "(", ")", "<", ">", "&amp;", "no.", "U.S.", "1/2", "½",
         "\u2028", "\u00ad", "\u0301", "@", "#", "http://", "\0", "$", "İ", "ß"),
    ),
}  # fmt: skip
TARGETS = tuple(_MAKERS)


def target(name: str) -> Target:
    """The target called `name`; its readers are imported when it is first called."""
    return _MAKERS[name]()


def check(chosen: Target, data: bytes) -> str:
    """Give an input to a reader: "taken" or "refused"; whatever else happens is raised."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        try:
            chosen.read(data, Path(place))
        except _refused() as error:
            _message(error)
            return "refused"
    return "taken"


def inputs(chosen: Target) -> Any:
    """Strategy of inputs: any bytes, texts of the format's words, samples with a few changes."""
    from hypothesis import strategies as st

    word = st.sampled_from(chosen.words or ("a",)).map(str.encode) | st.binary(max_size=6)
    texts = st.lists(word, max_size=40).map(b"".join)

    def changed(draw: tuple[bytes, list[tuple[float, int, bytes]]]) -> bytes:
        data, edits = draw
        for place, length, new in edits:
            at = int(place * len(data))
            data = data[:at] + new + data[at + length :]
        return data

    def samples(edits: int, longest: int) -> Any:
        edit = st.tuples(st.floats(0, 1), st.integers(0, longest), word)
        edited = st.lists(edit, max_size=edits)
        return st.tuples(st.sampled_from(chosen.samples), edited).map(changed)

    return samples(2, 2) | samples(4, 12) | texts | st.binary(max_size=200)


def by_hypothesis(name: str, examples: int) -> Counter[str]:
    """How many inputs were taken and refused."""
    from hypothesis import HealthCheck, given, settings

    chosen, seen = target(name), Counter[str]()

    @settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs(chosen))
    def tried(data: bytes) -> None:
        with patience():
            seen[check(chosen, data)] += 1

    for sample in chosen.samples:
        check(chosen, sample)
    before = _most_memory()
    tried()
    grown = _most_memory() - before
    assert grown < ROOM, f"{name}: memory grew by {grown / 2**20:.0f} MiB"
    return seen


@contextlib.contextmanager
def patience(seconds: int = PATIENCE) -> Iterator[None]:
    """TimeoutError in the main thread after some seconds."""
    import signal

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"an input took more than {seconds} s")

    usual = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)


def by_coverage(name: str, seconds: int, keep: Path) -> tuple[int, str]:
    """Runs of atheris in a process of its own: (inputs tried, what failed or "")."""
    with tempfile.TemporaryDirectory(prefix="corpus") as corpus:
        for number, sample in enumerate(target(name).samples):
            Path(corpus, str(number)).write_bytes(sample)
        words = Path(corpus, ".words")
        words.write_text("".join(f"{_quoted(word)}\n" for word in target(name).words or ("a",)))
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, f"-max_total_time={seconds}",
             f"-timeout={PATIENCE}", f"-rss_limit_mb={4 * ROOM >> 20}", "-print_final_stats=1",
             "-max_len=2000", "-verbosity=0", "-close_fd_mask=0", f"-dict={words}",
             f"-artifact_prefix={keep}/{name.replace(' ', '-')}-", corpus],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    tried = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    failed = "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]
    return int(tried[1]) if tried else 0, failed


def _child(name: str, options: Sequence[str]) -> None:
    import atheris

    with atheris.instrument_imports(
        include=["caption", "recsys", "pipelines", "yaml", "json", "csv", "gzip"],
        exclude=list(UNTOUCHED),
    ):
        for module in MODULES:
            importlib.import_module(module)
    chosen = target(name)
    atheris.Setup([sys.argv[0], *options], lambda data: check(chosen, data) and None)
    atheris.Fuzz()


def _inside(path: Path, folder: Path) -> bool:
    """As the path is written: where a link leads is another matter."""
    return Path(os.path.abspath(path)).is_relative_to(folder)


def _refused() -> tuple[type[Exception], ...]:
    import caption
    import pipelines
    import recsys

    return caption.InputError, recsys.InputError, pipelines.InputError


def _message(error: BaseException) -> None:
    """A refusal is said in words, of a bearable length."""
    said = str(error)
    assert len(said.split()) >= 4, f"refused without saying why: {said!r}"
    assert len(said) <= LONGEST_MESSAGE, f"{len(said)} characters of refusal: {said[:500]}"


def _quoted(word: str) -> str:
    """As libFuzzer's dictionaries want it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Run every target both ways; exit code 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=30, help="of atheris, for each target")
    parser.add_argument("--examples", type=int, default=2000, help="of hypothesis, for each target")
    parser.add_argument("--only", nargs="*", default=TARGETS, choices=TARGETS)
    parser.add_argument("--keep", type=Path, default=Path("."), help="where failing inputs go")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child[0], options.child[1:])
        return 0
    total, faults = Counter[str](), []
    print(f"{'reader':<18}{'by coverage':>12}{'hypothesis':>12}{'taken':>8}{'refused':>9}")
    for name in options.only:
        covered, failed = by_coverage(name, options.seconds, options.keep)
        if failed:
            faults.append(f"{name}, by coverage:\n{failed}")
        seen = Counter[str]()
        try:
            seen = by_hypothesis(name, options.examples)
        except BaseException:
            import traceback

            faults.append(f"{name}, by hypothesis:\n{traceback.format_exc(limit=-6)}")
        total.update({"coverage": covered, **seen})
        print(
            f"{name:<18}{covered:>12,}{sum(seen.values()):>12,}{seen['taken']:>8,}"
            f"{seen['refused']:>9,}{'  FAILED' if failed or not seen else ''}",
            flush=True,
        )
    n = sum(total.values())
    print(f"{n:,} inputs tried, {len(faults)} readers failed")
    for fault in faults:
        print(f"\n{fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
