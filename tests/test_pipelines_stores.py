"""Inputs and outputs in stores: fsspec's memory and local file systems, a server speaking S3."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from caption.images import UnreadableImage, open_image, prepared_images
from pipelines import InputError, stores
from pipelines.catalog import fingerprints, read_catalog
from pipelines.cli import main
from pipelines.stores import StoredPath, deliver, delivered, fetch, images, is_url
from tests.tiny import tiny_captioner

IDS = [f"01{n:02d}000001" for n in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("FCR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty."""
    fs = fsspec.filesystem("memory")
    yield fs
    for place in fs.ls("/", detail=False):
        fs.rm(place, recursive=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that speaks S3, with a bucket `shop`; its address."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("shop")
        yield f"http://{host}:{port}"
        fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six articles with photos of six colours, five days of purchases."""
    folder = tmp_path_factory.mktemp("shop") / "data"
    colours = ("red", "green", "blue", "white", "black", "yellow")
    for id, colour in zip(IDS, colours, strict=True):
        photo = folder / "images" / id[:3] / f"{id}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 48), colour).save(photo)
    pl.DataFrame(
        {
            "article_id": IDS,
            "product_code": [id[:7] for id in IDS],
            "prod_name": "shirt",
            "product_type_name": "Shirt",
            "graphical_appearance_name": "Solid",
            "perceived_colour_master_name": [colour.title() for colour in colours],
            "colour_group_name": [colour.title() for colour in colours],
            "detail_desc": [f"a {colour} shirt" for colour in colours],
        }
    ).write_csv(folder / "articles.csv")
    pl.DataFrame({"customer_id": ["c0", "c1", "c2"]}).write_csv(folder / "customers.csv")
    bought = [(f"2020-01-0{1 + d}", f"c{(d + n) % 3}", IDS[(n + d) % 6], 0.1)
              for d in range(5) for n in range(4)]  # fmt: skip
    names = ["t_dat", "customer_id", "article_id", "price"]
    pl.DataFrame(bought, names, orient="row").write_csv(folder / "transactions_train.csv")
    return folder


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_captioner("blip", tmp_path_factory.mktemp("blip"))


def fcr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refusal(*arguments: str | Path) -> str:
    """The one line a mistake gives."""
    done = fcr(*arguments)
    assert done.exit_code == 2, done.output
    (line,) = [x for x in done.output.splitlines() if x.startswith("error: ")]
    return line


def upload(fs: Any, folder: Path, root: str) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        fs.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://b/x", "gs://b", "memory://x", "file:///x", "S3A://b")))
    assert not any(map(is_url, ("s3:/b", "/x://y", "x", Path("s3://b"), None, "C:\\x", "::s3://")))


def test_a_file_is_copied_once_a_version(memory: Any, cache: Path) -> None:
    memory.pipe_file("/b/t/interactions.csv", b"user_id,item_id\n")
    first = fetch("memory://b/t/interactions.csv")
    assert first.name == "interactions.csv"
    assert first.read_bytes() == b"user_id,item_id\n"
    inode = first.stat().st_ino
    assert fetch("memory://b/t/interactions.csv").stat().st_ino == inode
    memory.pipe_file("/b/t/interactions.csv", b"item_id,user_id\n")
    again = fetch("memory://b/t/interactions.csv")
    assert again == first
    assert again.read_bytes() == b"item_id,user_id\n"
    assert not list(cache.rglob("*.part"))


def test_a_folder_follows_the_store(memory: Any) -> None:
    for name in ("a.csv", "sub/b.csv", "sub/c.csv"):
        memory.pipe_file(f"/b/set/{name}", name.encode())
    folder = fetch("memory://b/set/")
    assert folder.name == "set"
    assert folder.resolve().name == "set"
    memory.rm("/b/set/sub/c.csv")
    memory.pipe_file("/b/set/d.csv", b"new")
    assert fetch("memory://b/set") == folder
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.csv": b"a.csv", "sub/b.csv": b"sub/b.csv", "d.csv": b"new"}


def test_a_copy_goes_on_where_it_stopped(
    memory: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "CHUNK", 1000)
    content = os.urandom(5000)
    memory.pipe_file("/b/large.bin", content)
    real = type(memory)._open
    reads: list[int] = []

    class Breaks:
        """A connection that breaks after two chunks."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.left = inner, 2

        def __enter__(self) -> "Breaks":
            return self

        def __exit__(self, *_: object) -> None: ...

        def seek(self, place: int) -> None:
            reads.append(place)
            self.inner.seek(place)

        def read(self, n: int) -> bytes:
            self.left -= 1
            if self.left < 0 and len(reads) == 1:
                raise ConnectionResetError("connection reset by peer")
            return self.inner.read(n)

    monkeypatch.setattr(
        type(memory), "open", lambda self, path, *a, **k: Breaks(real(self, path)), raising=False
    )
    with pytest.raises(InputError, match=r"memory://b/large.bin can't be read .*reset by peer"):
        fetch("memory://b/large.bin")
    (part,) = cache.rglob("*.part")
    assert part.read_bytes() == content[:2000]
    assert fetch("memory://b/large.bin").read_bytes() == content
    assert reads == [0, 2000]
    assert not list(cache.rglob("*.part"))


def test_the_cache_stays_within_its_bounds(
    memory: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def photo(n: int) -> Path:
        return stores._copied(stores._entry(f"memory://b/{n}.jpg", memory.info(f"/b/{n}.jpg")))

    for n in range(8):
        memory.pipe_file(f"/b/{n}.jpg", bytes([n]) * 8192)
    memory.pipe_file("/b/set/articles.csv", b"x" * 8192)
    monkeypatch.setattr(stores, "LOOK_EACH", 1)
    table = fetch("memory://b/set") / "articles.csv"
    first = photo(0)
    monkeypatch.setenv("FCR_CACHE_GB", str(20_000 / 1e9))
    copies = [first, *(photo(n) for n in range(1, 5))]
    assert all(p.is_file() for p in copies)  # each may just be about to be opened
    monkeypatch.setattr(stores, "IN_USE_S", 0.0)
    assert photo(0) == first  # asked for again: now the youngest
    last = photo(5)
    assert [p.is_file() for p in (*copies, last)] == [True, False, False, False, False, True]
    assert table.read_bytes() == b"x" * 8192
    assert photo(1).read_bytes() == b"\x01" * 8192
    monkeypatch.delenv("FCR_CACHE_GB")
    kept = set(cache.rglob("*.jpg"))
    photo(6)
    assert set(cache.rglob("*.jpg")) > kept
    monkeypatch.setattr(stores, "KEEP_FREE", 1.0)  # a disk that is always too full
    photo(7)
    assert not list(cache.rglob("*.jpg"))
    monkeypatch.setenv("FCR_CACHE_GB", "much")
    with pytest.raises(InputError, match=r"FCR_CACHE_GB is 'much': expected gigabytes"):
        photo(2)


def test_an_object_that_changes_while_it_is_read_is_refused(
    memory: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/x.bin", b"old")
    entry = stores._entry("memory://b/x.bin", memory.info("/b/x.bin"))
    memory.pipe_file("/b/x.bin", b"newer")
    with pytest.raises(InputError, match="changed while it was read"):
        stores._copied(entry)
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_names_that_lead_out_of_the_folder_are_refused(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"/b/set/../../evil.csv": {"size": 1, "type": "file"}}
    monkeypatch.setattr(type(memory), "find", lambda self, root, **_: listed)
    with pytest.raises(InputError, match=r"evil\.csv.*no name of a file"):
        fetch("memory://b/set")
    assert not list(tmp_path.rglob("evil.csv"))


def test_local_urls_are_the_files_themselves(shop: Path, tmp_path: Path, cache: Path) -> None:
    assert fetch(f"file://{shop}") == shop
    with delivered(f"file://{tmp_path}/out", print) as folder:
        assert folder == tmp_path / "out"
    assert not cache.exists()


def test_photos_stay_in_the_store_until_they_are_opened(
    memory: Any, shop: Path, cache: Path
) -> None:
    upload(memory, shop, "/shop/data")
    folder = fetch("memory://shop/data", lazily=True)
    assert not list(cache.rglob("*.jpg"))
    catalog, plain = read_catalog(folder), read_catalog(shop)
    assert catalog.articles.equals(plain.articles)
    photos = catalog.photos()
    assert [p and p.name for p in photos] == [p and p.name for p in plain.photos()]
    assert fingerprints(folder)["articles.csv"] == fingerprints(shop)["articles.csv"]
    assert fingerprints(folder)["images"] == fingerprints(folder)["images"]
    assert not list(cache.rglob("*.jpg"))
    photo = catalog.photo(IDS[2])
    assert isinstance(photo, StoredPath)
    assert photo.is_file()
    assert photo.stat().st_size == plain.photo(IDS[2]).stat().st_size
    assert open_image(photo).getpixel((3, 3)) == open_image(plain.photo(IDS[2])).getpixel((3, 3))
    assert len(list(cache.rglob("*.jpg"))) == 1
    assert Path(os.fspath(photo)).read_bytes() == plain.photo(IDS[2]).read_bytes()
    assert os.stat(photo).st_mtime_ns == photo.stat().st_mtime_ns
    memory.pipe_file("/shop/data/images/010/new.jpg", b"x")
    later = fetch("memory://shop/data", lazily=True)
    assert fingerprints(later)["images"] != fingerprints(shop)["images"]
    assert images(later).is_dir()
    assert not (images(later) / "none").is_dir()


def test_a_photo_travels_to_other_processes(memory: Any, shop: Path) -> None:
    upload(memory, shop, "/shop/data")
    photo = read_catalog(fetch("memory://shop/data", lazily=True), purchases=False).photo(IDS[0])
    whole = (shop / "images" / IDS[0][:3] / f"{IDS[0]}.jpg").read_bytes()
    for sent in (stores.referred(stores.reference(photo)), pickle.loads(pickle.dumps(photo))):  # noqa: S301
        assert sent.name == photo.name
        assert Path(os.fspath(sent)).read_bytes() == whole
    plain = Path("/some/where.jpg")
    assert stores.referred(stores.reference(plain)) == plain


def test_a_photo_that_went_is_the_photos_fault_and_a_store_that_fails_is_not(
    memory: Any, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(memory, shop, "/shop/data")
    photo = read_catalog(fetch("memory://shop/data", lazily=True), purchases=False).photo(IDS[0])
    memory.rm(f"/shop/data/images/{IDS[0][:3]}/{IDS[0]}.jpg")
    (found,) = prepared_images([photo], lambda image: image)
    assert isinstance(found, UnreadableImage)
    assert found.reason == "no such file"

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(type(memory), "cat_file", refused)
    with pytest.raises(InputError, match=r"can't be read.*credentials"):
        list(prepared_images([photo], lambda image: image))


def test_deliveries_are_whole_and_the_manifest_comes_last(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    order: list[str] = []
    real = type(memory).put_file
    monkeypatch.setattr(
        type(memory),
        "put_file",
        lambda self, local, remote, *a, **k: order.append(remote) or real(self, local, remote),
    )
    with pytest.raises(ZeroDivisionError), delivered("memory://b/out", said.append) as folder:
        folder.mkdir(parents=True)
        (folder / "half.csv").write_text("half")
        raise ZeroDivisionError
    assert not memory.exists("/b/out/half.csv")
    with delivered("memory://b/out/", said.append) as again:
        assert again == folder
        (again / "half.csv").write_text("whole")
        (again / "manifest.json").write_text("{}")
        (again / "sub").mkdir()
        (again / "sub" / "z.csv").write_text("z")
        (again / ".z.csv.tmp-1").write_text("left over")
        (again / ".engine" / "x").mkdir(parents=True)
        (again / ".engine" / "x" / "tasks.parquet").write_text("left over by a killed call")
    assert order == ["/b/out/half.csv", "/b/out/sub/z.csv", "/b/out/manifest.json"] or order == [
        "b/out/half.csv", "b/out/sub/z.csv", "b/out/manifest.json"
    ]  # fmt: skip
    assert sorted(memory.find("/b/out")) == [
        "/b/out/half.csv", "/b/out/manifest.json", "/b/out/sub/z.csv"
    ]  # fmt: skip
    assert said == ["delivered 3 files to memory://b/out"]
    assert deliver(folder, tmp_path / "copy") == 3
    assert (tmp_path / "copy" / "sub" / "z.csv").read_text() == "z"


def test_a_prepared_set_goes_to_a_store_with_its_photos(
    memory: Any, shop: Path, tmp_path: Path, cache: Path
) -> None:
    upload(memory, shop, "/shop/raw")
    cut = ["--split", "random", "--size", "train=4,validation=1,test=1"]
    raw = tmp_path / "raw"
    (raw / "Images").mkdir(parents=True)
    for name, id in zip("abcdef", IDS, strict=True):
        photo = shop / "images" / id[:3] / f"{id}.jpg"
        (raw / "Images" / f"{name}.jpg").write_bytes(photo.read_bytes())
    lines = [f"{name}.jpg,a shirt called {name} in five words" for name in "abcdef"]
    (raw / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    upload(memory, raw, "/shop/flickr")
    for dataset, source, photo in (
        ("flickr8k", "flickr", "images/Images/a.jpg"),
        ("hm", "raw", f"images/{IDS[0][:3]}/{IDS[0]}.jpg"),
    ):
        out = f"memory://shop/prepared-{dataset}"
        done = fcr(
            "data", "prepare", dataset, "--source", f"memory://shop/{source}", "--out", out, *cut
        )
        assert done.exit_code == 0, done.output
        assert f"wrote {out}/captions.json" in done.output
        assert str(cache) not in done.output
        document = memory.cat(f"/shop/prepared-{dataset}/captions.json").decode()
        assert str(tmp_path) not in document
        assert photo in {image["file_name"] for image in json.loads(document)["images"]}
        assert len(memory.find(f"/shop/prepared-{dataset}/images")) == 6
        # A copy on this disk outlives the cache.
        here = tmp_path / dataset
        done = fcr(
            "data", "prepare", dataset, "--source", f"memory://shop/{source}", "--out", here, *cut
        )
        assert done.exit_code == 0, done.output
        shutil.rmtree(cache)
        for folder in (here, out):
            checked = fcr("data", "check", folder)
            assert checked.exit_code == 0, checked.output
            assert checked.output.startswith(f"{folder}: prepared caption set")
            assert "6 photos" in checked.output
    # The same folder, now from a disk: the photos are named where they lie.
    done = fcr("data", "prepare", "hm", "--source", shop, "--out", tmp_path / "hm", *cut)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "hm" / "images").is_symlink()
    done = fcr("data", "prepare", "hm", "--source", "memory://shop/raw", "--out", tmp_path / "hm",
               *cut)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "hm" / "images").rglob("*.jpg"))) == 6
    assert len(list((shop / "images").rglob("*.jpg"))) == 6
    page = fcr("data", "describe", "memory://shop/prepared-hm", "--out", "memory://shop/page")
    assert page.exit_code == 0, page.output
    assert b"<html" in memory.cat("/shop/page/description.html")[:200]


def test_captions_are_scored_and_compared_from_a_store(
    memory: Any, shop: Path, captioner: Path, tmp_path: Path
) -> None:
    upload(memory, shop, "/shop/data")
    table = pl.DataFrame({"id": IDS, "text": [f"a {n} shirt" for n in range(6)]})
    memory.pipe_file("/shop/hyp.csv", table.write_csv().encode())
    memory.pipe_file("/shop/ref.csv", table.reverse().write_csv().encode())
    done = fcr(
        "score-captions", "--hypotheses", "memory://shop/hyp.csv", "--metrics", "rouge-l,verbatim",
        "--references", "memory://shop/ref.csv", "--training", "memory://shop/ref.csv",
        "--images", "memory://shop/data/images", "--out", "memory://shop/scores",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "wrote memory://shop/scores/scores.json" in done.output
    found = json.loads(memory.cat("/shop/scores/scores.json"))
    assert found["rouge-l"]["value"] == pytest.approx(1.0)
    written = pl.DataFrame({"article_id": [int(id) for id in IDS], "description": "a shirt"})
    memory.pipe_file("/shop/augmented.csv", written.write_csv().encode())
    plan = ["experiment", "--plan", "--runs", tmp_path, "--data", "memory://shop/data",
            "--set", "recommend.test_days=2", "--captions"]  # fmt: skip
    done = fcr(*plan, "memory://shop/augmented.csv")
    assert done.exit_code == 0, done.output
    assert "caption" in done.output
    memory.pipe_file("/shop/wrong.csv", b"id,words\n1,a\n")
    assert "memory://shop/wrong.csv" in refusal(*plan, "memory://shop/wrong.csv")


def test_checkpoints_come_from_stores(
    memory: Any, shop: Path, captioner: Path, tmp_path: Path
) -> None:
    upload(memory, captioner, "/models/blip")
    small = ["--data", shop, "--set", "generate.max_new_tokens=8"]
    for name, where in (("a", captioner), ("b", "memory://models/blip")):
        done = fcr("caption-items", "--runs", tmp_path / name, *small, "--captioner", where)
        assert done.exit_code == 0, done.output
    files = (tmp_path / x / "data" / "caption-items" / "captions.parquet" for x in "ab")
    one, other = map(pl.read_parquet, files)
    assert one.drop("captioner").equals(other.drop("captioner"))
    assert set(other["captioner"]) == {"memory://models/blip"}
    said = refusal("caption-items", "--runs", tmp_path / "c", *small, "--captioner", "memory://no")
    assert "memory://no is not there" in said


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(stores, "_filesystem", missing)
    with pytest.raises(InputError, match=r"s3://b/x needs .*\(s3fs\): pip install 'fcr\[s3\]'"):
        fetch("s3://b/x")
    with pytest.raises(InputError, match=r"gs://b/x needs .*\(gcsfs\): pip install gcsfs"):
        fetch("gs://b/x")


def test_runs_are_refused_in_a_store() -> None:
    said = refusal("caption-items", "--runs", "s3://shop/runs")
    assert "local disk" in said
    assert "fcr export --out" in said


def test_unknown_protocols_and_missing_places_are_one_line(memory: Any) -> None:
    assert "expected s3://" in refusal("recommend", "--interactions", "nonsense://b/x.csv")
    said = refusal("recommend", "--interactions", "memory://b/none.csv")
    assert "memory://b/none.csv is not there" in said


def test_a_cache_that_cant_be_made_names_the_variable(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/x.csv", b"1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FCR_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="FCR_CACHE"):
        fetch("memory://b/x.csv")


# ---------------------------------------------------------------------------------------------
# Against a server that speaks S3


def test_s3_refusals_are_one_line(server: str, tmp_path: Path) -> None:
    said = refusal("recommend", "--interactions", "s3://no-such-bucket/x.csv")
    assert "s3://no-such-bucket/x.csv is not there" in said
    (tmp_path / "t.csv").write_text("user_id,item_id\na,b\n")
    said = refusal(
        "recommend", "--interactions", tmp_path / "t.csv", "--out", "s3://no-such-bucket/out",
        "--set", "recommend.split.method=random",
    )  # fmt: skip
    assert "s3://no-such-bucket/out" in said


def test_s3_permission_is_the_stores_word(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe_file("shop/secret.csv", b"x")
    import s3fs

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "find", denied)
    with pytest.raises(InputError, match=r"s3://shop/none can't be read .*Access Denied.*credenti"):
        fetch("s3://shop/none")


def test_the_whole_way_from_s3_to_s3_is_that_of_local_files(
    server: str, shop: Path, captioner: Path, tmp_path: Path
) -> None:
    s3 = fsspec.filesystem("s3")
    upload(s3, shop, "shop/data")
    small = ["--set", "generate.batch_size=2", "--set", "generate.shard_size=4",
             "--set", "generate.max_new_tokens=8", "--captioner", str(captioner)]  # fmt: skip
    done = fcr("caption-items", "--runs", tmp_path / "a", "--data", shop, *small)
    assert done.exit_code == 0, done.output
    done = fcr("caption-items", "--runs", tmp_path / "b", "--data", "s3://shop/data", *small)
    assert done.exit_code == 0, done.output
    mine, theirs = (tmp_path / x / "data" / "caption-items" / "captions.parquet" for x in "ab")
    assert mine.read_bytes() == theirs.read_bytes()
    remembered = json.loads((tmp_path / "b" / "data" / "run.json").read_text())
    assert remembered == {"data": "s3://shop/data"}
    again = fcr("caption-items", "--runs", tmp_path / "b", "--run", "data", *small)
    assert "nothing changed, reused" in again.output
    out = fcr("export", "--runs", tmp_path / "b", "--run", "data", "--out", "s3://shop/handed/over")
    assert out.exit_code == 0, out.output
    local = tmp_path / "b" / "data" / "export"
    for path in (p for p in local.rglob("*") if p.is_file()):
        assert s3.cat(f"shop/handed/over/{path.relative_to(local)}") == path.read_bytes()
    # A photo that changes in the bucket is described anew.
    s3.pipe_file(
        f"shop/data/images/{IDS[0][:3]}/{IDS[0]}.jpg",
        (shop / "images" / IDS[1][:3] / f"{IDS[1]}.jpg").read_bytes(),
    )
    again = fcr("caption-items", "--runs", tmp_path / "b", "--run", "data", *small)
    assert "nothing changed" not in again.output
    rows = pl.read_parquet(theirs)
    assert rows["caption"][0] == rows["caption"][1]


def test_a_benchmark_from_s3_to_s3(server: str, shop: Path, tmp_path: Path) -> None:
    s3 = fsspec.filesystem("s3")
    table = (shop / "transactions_train.csv").read_bytes()
    s3.pipe_file("shop/tables/bought.csv", table)
    options = [
        "--user", "customer_id", "--item", "article_id", "--time", "t_dat", "--model", "mostpop",
        "--set", "recommend.test_days=2", "--set", "recommend.k=[2]",
    ]  # fmt: skip
    done = fcr(
        "recommend", "--interactions", "s3://shop/tables/bought.csv",
        "--out", "s3://shop/results/one", *options,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    local = fcr(
        "recommend", "--interactions", shop / "transactions_train.csv", "--out", tmp_path / "out",
        *options,
    )  # fmt: skip
    assert local.exit_code == 0, local.output
    assert "files to s3://shop/results/one" in done.output
    for name in ("metrics.csv", "recommendations.parquet", "user_metrics.parquet"):
        assert s3.cat(f"shop/results/one/{name}") == (tmp_path / "out" / name).read_bytes()
    wanted = pl.DataFrame({"user_id": ["c0", "c1"], "item_id": IDS[:2]}).write_csv()
    s3.pipe_file("shop/tables/wanted.csv", wanted.encode())
    scored = fcr(
        "score-recommendations", "--test", "s3://shop/tables/wanted.csv", "--k", "2",
        "--recommendations", "s3://shop/results/one/recommendations.parquet",
        "--out", "s3://shop/results/scored",
    )  # fmt: skip
    assert scored.exit_code == 0, scored.output
    assert b"ndcg" in s3.cat("shop/results/scored/metrics.csv")
