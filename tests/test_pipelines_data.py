"""Preparing datasets: parts, checksums, resumption, and folders that are not ours."""

import contextlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pipelines.data
from caption.records import CaptionExample, CaptionSet, normalise_text
from caption.sources import Source
from pipelines import InputError
from pipelines.catalog import read_catalog
from pipelines.data import prepare
from pipelines.data_split import Protocol, cut, parse_size, scaled

HEADER = (
    "article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
    "colour_group_name,detail_desc"
)


def shop(folder: Path, n: int = 40) -> Path:
    """H&M tables whose ids lost their zero; two colours a product, a text for every two products;
    the photos of articles 0 and 39 are one."""
    rows, sold = [], []
    for i in range(n):
        kind, colour = ("Dress", "Dark Blue") if i % 8 < 4 else ("Socks", "Unknown")
        text = "" if i == 5 else f"{kind} in pattern {i // 4}."
        rows.append(f"{100000000 + i},{1000 + i // 2},P{i},{kind},Solid,{colour},{text}")
        sold.append(f"2020-01-{1 + i % 28:02d},c{i % 7},{100000000 + i},0.5,1")
        photo = folder / "images" / "010" / f"0{100000000 + i}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        shade = 0 if i == n - 1 else i
        Image.new("RGB", (8, 12), (shade * 6, 0, 0)).save(photo)
    people = "\n".join(["customer_id", *(f"c{i}" for i in range(7))])
    (folder / "articles.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "customers.csv").write_text(people + "\n")
    head = "t_dat,customer_id,article_id,price,sales_channel_id"
    (folder / "transactions_train.csv").write_text("\n".join([head, *sold]) + "\n")
    return folder


def flickr(folder: Path, n: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{i}.jpg,caption {j} of {i}" for i in range(n) for j in range(5)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    for i in range(n):
        Image.new("RGB", (4, 4), (i * 10, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.png").rename(folder / f"{i}.jpg")
    return folder


def silent(line: str) -> None:
    del line


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.is_file()}


def test_hm_becomes_checked_tables_and_parts_without_leaks(tmp_path: Path) -> None:
    said: list[str] = []
    path = prepare("hm", shop(tmp_path / "raw"), tmp_path / "out", say=said.append)
    prepared = CaptionSet.load(path)
    assert len(prepared) == 39  # article 5 has no text
    by_id = {e.id: e for e in prepared.examples}
    sides = {e.id: e.split for e in prepared.examples}
    for i in range(0, 40, 4):  # two products of one text
        assert len({sides[f"0{100000000 + j}"] for j in range(i, i + 4) if j != 5}) == 1
    assert sides["0100000000"] == sides["0100000039"]  # one photo
    assert by_id["0100000001"].attributes == ("dark blue",)
    assert by_id["0100000004"].attributes == ()  # "Unknown" is no colour
    assert by_id["0100000004"].category == "Socks"
    assert by_id["0100000001"].image == tmp_path / "out" / "images" / "010" / "0100000001.jpg"
    catalog = read_catalog(tmp_path / "out")
    assert [f.kind for f in catalog.findings] == ["article without description"]
    assert catalog.purchases.height == 40
    assert any("lost its leading zero" in line and line.startswith("warning") for line in said)
    assert "parts" in json.loads((tmp_path / "out" / "manifest.json").read_text())["record"]


def test_the_json_is_cocos(tmp_path: Path) -> None:
    """COCO's own reader takes it."""
    pycocotools = pytest.importorskip("pycocotools.coco")
    path = prepare("flickr8k", flickr(tmp_path / "raw"), tmp_path / "out", say=silent)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = pycocotools.COCO(str(path))
    assert len(coco.getImgIds()) == 20
    assert len(coco.getAnnIds()) == 100
    record = coco.loadAnns(coco.getAnnIds(imgIds=["7"]))[0]
    assert record["caption"] == "caption 0 of 7"
    assert set(record) == {"id", "image_id", "caption", "attributes", "category"}


def test_the_same_call_is_reused_and_gives_the_same_bytes(tmp_path: Path) -> None:
    raw, said = flickr(tmp_path / "raw"), []
    prepare("flickr30k", raw, tmp_path / "a", seed=3, say=silent)
    first = (tmp_path / "a" / "captions.json").read_bytes()
    stamp = (tmp_path / "a" / "captions.json").stat().st_mtime_ns
    prepare("flickr30k", raw, tmp_path / "a", seed=3, say=said.append)
    assert (tmp_path / "a" / "captions.json").stat().st_mtime_ns == stamp
    assert "nothing changed" in said[0]
    (tmp_path / "a" / "captions.json").write_bytes(first[:-100])  # damaged: made again
    prepare("flickr30k", raw, tmp_path / "a", seed=3, say=silent)
    assert (tmp_path / "a" / "captions.json").read_bytes() == first
    prepare("flickr30k", raw, tmp_path / "a", seed=4, say=silent)
    assert (tmp_path / "a" / "captions.json").read_bytes() != first
    (raw / "captions.txt").write_text((raw / "captions.txt").read_text() + "\n3.jpg,one more")
    prepare("flickr30k", raw, tmp_path / "a", seed=3, say=silent)
    assert b"one more" in (tmp_path / "a" / "captions.json").read_bytes()


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = shop(tmp_path / "raw")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipelines.data, "_describe_items", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare("hm", raw, tmp_path / "out", say=silent)
    assert not (tmp_path / "out" / "manifest.json").exists()
    prepare("hm", raw, tmp_path / "out", say=silent)
    prepare("hm", raw, tmp_path / "fresh", say=silent)
    names = ("captions.json", "articles.csv", "findings.json")
    resumed, fresh = content(tmp_path / "out"), content(tmp_path / "fresh")
    assert [resumed[n] for n in names] == [fresh[n] for n in names]


def test_folders_that_are_not_ours_stay_as_they_are(tmp_path: Path) -> None:
    raw = shop(tmp_path / "raw")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="did not write"):
        prepare("hm", raw, tmp_path / "mine", say=silent)
    with pytest.raises(InputError, match="is the source"):
        prepare("hm", raw, raw, say=silent)
    before = sorted(raw.rglob("*"))
    prepare("hm", raw, tmp_path / "out", say=silent)
    prepare("flickr8k", flickr(tmp_path / "f"), tmp_path / "out", say=silent)  # replaces it
    assert not (tmp_path / "out" / "articles.csv").exists()
    assert not os.path.lexists(tmp_path / "out" / "images")
    assert sorted(raw.rglob("*")) == before  # photos behind the link are the source's


def test_facad_photos_are_written_for_the_chosen_rows(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs h5py: pip install 'fcr[facad]'")
    from tests import facad_files as files

    for part, n, first in (("TRAIN", 12, 0), ("VAL", 4, 12), ("TEST", 4, 16)):
        pixels = {row: files.picture(first + row) for row in range(n)}
        files.write_part(tmp_path / "raw", part, n, pixels=pixels, first=first)
    sizes = {"train": 5, "validation": 2, "test": 3}
    path = prepare(
        "facad", tmp_path / "raw", tmp_path / "out", split="given", sizes=sizes, say=silent
    )
    prepared = CaptionSet.load(path)
    assert Counter(e.split for e in prepared.examples) == sizes
    assert all(e.image is not None and e.image.is_file() for e in prepared.examples)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 10
    assert "images/train" in path.read_text()
    (tmp_path / "out" / "manifest.json").unlink()  # as if killed before the end
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")}
    path = prepare(
        "facad", tmp_path / "raw", tmp_path / "out", split="given", sizes=sizes, say=silent
    )
    assert CaptionSet.load(path) == prepared
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")} == written
    prepare("facad", tmp_path / "raw", tmp_path / "out", sizes=6, seed=1, say=silent)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 6  # photos of other rows are gone
    with pytest.raises(InputError, match="'train' has 12 examples, 10,000 were"):
        prepare("facad", tmp_path / "raw", tmp_path / "p", as_published=True, say=silent)


def numbered(n: int, split: str = "", text: str = "text {}") -> Source:
    examples = (CaptionExample(f"{i}", None, (text.format(i),), split=split) for i in range(n))
    return Source(CaptionSet("x", tuple(examples)))


def test_parts_have_the_sizes_asked_for() -> None:
    def sizes(protocol: Protocol, total: int | None = None) -> dict[str, int]:
        found = cut(numbered(100), protocol, total, 0)
        return dict(Counter(e.split for e in found.examples))

    eighty = {"train": 80, "validation": 10, "test": 10}
    assert sizes(Protocol("leak-free")) == eighty
    assert sizes(Protocol("random"), 10) == {"train": 8, "validation": 1, "test": 1}
    assert sizes(Protocol("random", {"train": -1, "test": 0.25})) == {"train": 75, "test": 25}
    assert sizes(Protocol("random", {"train": 7, "test": 3})) == {"train": 7, "test": 3}
    first = cut(numbered(100), Protocol("random"), None, 0)
    assert first == cut(numbered(100), Protocol("random"), None, 0)
    assert first != cut(numbered(100), Protocol("random"), None, 1)
    ordered = cut(numbered(100), Protocol("in-order"), None, 0)
    assert [e.split for e in ordered.examples] == (
        ["train"] * 80 + ["test"] * 10 + ["validation"] * 10
    )
    assert scaled(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}


def test_equal_photos_stay_together(tmp_path: Path) -> None:
    """Twelve pairs of one photo each, of products and texts of their own, over two halves."""
    examples = []
    for i in range(24):
        path = tmp_path / f"{i}.jpg"
        Image.new("RGB", (8, 8), (i // 2 * 20, 0, 0)).save(path)
        examples.append(CaptionExample(str(i), path, (f"text {i}",)))
    source = Source(CaptionSet("x", tuple(examples)))
    halves = cut(source, Protocol("leak-free", {"train": 0.5, "test": 0.5}), None, 0).examples
    sides = {e.id: e.split for e in halves}
    assert Counter(sides.values()) == {"train": 12, "test": 12}
    assert all(sides[str(i)] == sides[str(i + 1)] for i in range(0, 24, 2))


def test_given_parts_are_drawn_from() -> None:
    two = [*numbered(80, "train").captions.examples]
    two += [CaptionExample(f"t{i}", None, ("t",), split="test") for i in range(20)]
    source = Source(CaptionSet("x", (*two, CaptionExample("none", None, ("n",)))))
    assert len(cut(source, Protocol("given"), None, 0)) == 100  # what no part names is left out
    drawn = cut(source, Protocol("given"), 10, 0)
    assert Counter(e.split for e in drawn.examples) == {"train": 8, "test": 2}
    drawn = cut(source, Protocol("given", {"test": 5}), None, 0)
    assert Counter(e.split for e in drawn.examples) == {"test": 5}
    with pytest.raises(InputError, match="no part 'dev'"):
        cut(source, Protocol("given", {"dev": 5}), None, 0)
    with pytest.raises(InputError, match="name no parts"):
        cut(numbered(5), Protocol("given"), None, 0)


def test_sizes_are_parsed_or_refused() -> None:
    assert parse_size("1000") == 1000
    assert parse_size("train=0.5, test=100,validation=-1") == {
        "train": 0.5,
        "test": 100,
        "validation": -1,
    }
    for bad in ("", "0", "-5", "many", "train=x", "train", "=", "train=1=2"):
        with pytest.raises(InputError, match="--size"):
            parse_size(bad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "imagenet"}, "unknown dataset"),
        ({"split": "magic"}, "leak-free, given"),
        ({"as_published": True, "split": "random"}, "fixes split and size"),
        ({"sizes": 1000}, "only 20 examples"),
        ({"source": Path("nowhere")}, "does not exist"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    call: dict[str, Any] = {"dataset": "flickr8k", "source": flickr(tmp_path / "raw"), **arguments}
    with pytest.raises(InputError, match=words):
        prepare(out=tmp_path / "out", say=silent, **call)
    assert not (tmp_path / "out").exists()


def test_attributes_are_the_vocabularys_words_and_the_category_map_is_learned(
    tmp_path: Path,
) -> None:
    """With the tagger that takes every word: those that train has ten times, commonest first."""
    raw = shop(tmp_path / "raw", 80)
    prepare("hm", raw, tmp_path / "out", tagger="words", say=silent)
    prepared = CaptionSet.load(tmp_path / "out" / "captions.json")
    assert set(prepared.examples[0].attributes) == {"in", "pattern", "dress", "dark blue"}
    vocabulary = json.loads((tmp_path / "out" / "attributes.json").read_text())
    assert vocabulary["words"][:2] == ["in", "pattern"]
    words = json.loads((tmp_path / "out" / "category_map.json").read_text())["words"]
    assert words["socks"] == ["Socks", 1.0]


def test_nouns_and_adjectives_of_a_real_tagger(tmp_path: Path) -> None:
    pytest.importorskip("HanTa", reason="needs the tagger: pip install hanta")
    prepare("hm", shop(tmp_path / "raw", 80), tmp_path / "out", tagger="hanta", say=silent)
    prepared = CaptionSet.load(tmp_path / "out" / "captions.json")
    assert {"pattern", "dress"} <= set(prepared.examples[0].attributes)
    assert "in" not in prepared.examples[0].attributes


def test_real_articles_are_cut_without_a_leak(shared: Path, tmp_path: Path) -> None:
    """All 105,542 articles; 16,971 have a text and a photo."""
    path = prepare("hm", shared / "hm-sample", tmp_path / "out", sizes=3000, say=silent)
    prepared = CaptionSet.load(path)
    assert Counter(e.split for e in prepared.examples) == {
        "train": 2400,
        "validation": 300,
        "test": 300,
    }
    catalog = read_catalog(tmp_path / "out")
    assert catalog.articles.height == 105_542
    codes = dict(catalog.articles.select("article_id", "product_code").iter_rows())
    parts = [prepared.by_split(s).examples for s in ("train", "validation", "test")]
    for key in (lambda e: codes[e.id], lambda e: normalise_text(e.captions[0])):
        keys = [{key(e) for e in part} for part in parts]
        assert not keys[0] & keys[1]
        assert not keys[0] & keys[2]
        assert not keys[1] & keys[2]
    assert not (shared / "hm-sample" / "captions.json").exists()
