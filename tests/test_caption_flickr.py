"""Flickr, COCO and Karpathy files: every form, every known flaw, and nothing but clear errors."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from caption import InputError
from caption.flickr import read_flickr
from caption.records import CaptionExample
from caption.sources import Source, read_coco, text_findings

QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def texts(source: Source) -> dict[str, tuple[str, ...]]:
    return {e.id: e.captions for e in source.captions.examples}


def kinds(source: Source) -> dict[str, int]:
    return {f.kind: f.count for f in source.findings if f.kind != "missing photos"}


def photos(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4), (sum(name.encode()) % 256, 0, 0)).save(folder / name)


FORMS = {
    "results.csv": "image_name| comment_number| comment\n1.jpg| 0| A dog , a cat .\n"
    "1.jpg| 1| Two.\n2.jpg| 0| A man .\n2.jpg| 1| Four.\n",
    "captions.txt": 'image,caption\n1.jpg,"A dog , a cat ."\n1.jpg,Two.\n2.jpg,A man .\n'
    "2.jpg,Four.\n",
    "captions.csv": 'image_name,comment_number,comment\n1.jpg,0,"A dog , a cat ."\n1.jpg,1,Two.\n'
    "2.jpg,0, A man .\n2.jpg,1,Four.\n",
    "Flickr8k.token.txt": "1.jpg#0\tA dog , a cat .\n1.jpg#1\tTwo.\n2.jpg#0\tA man .\n"
    "2.jpg#1\tFour.\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_reads_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + FORMS[name].replace("\n", "\r\n").encode())
    photos(tmp_path / "Images" / "nested", "1.jpg", "2.jpg")
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("A dog , a cat .", "Two."), "2": ("A man .", "Four.")}
    assert source.findings == ()
    assert source.captions.examples[0].image == tmp_path / "Images" / "nested" / "1.jpg"


def test_a_space_for_the_tab_and_a_lost_separator_are_read_and_said(tmp_path: Path) -> None:
    """The two flaws of public copies: a first line with a space, a row without its second `|`."""
    (tmp_path / "Flickr8k.token.txt").write_text("1.jpg#0 A dog .\n1.jpg#1\tA pup .\n")
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("A dog .", "A pup .")}
    assert kinds(source) == {"line with a space where the tab should be": 1}
    assert source.findings[0].wrong
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\n1.jpg| 0| A dog .\n1.jpg| 4   A dog runs .\n"
        "1.jpg| 2|\n"
    )
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("A dog .", "A dog runs .")}
    assert kinds(source) == {
        "line without the second separator": 1,
        "row without a caption": 1,
    }


def test_paths_missing_photos_and_odd_counts_are_counted(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_bytes(
        b"image,caption\n1.jpg,a\n1.jpg,b\n1.jpg,data/Images/1.jpg\n2.jpg,c\n2.jpg,d\n3.jpg,e\n3.jpg,f"
        b"\n4.jpg,\xff odd\nno separator\n"
    )
    photos(tmp_path, "1.jpg", "2.jpg", "4.jpg")
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("a", "b"), "2": ("c", "d"), "4": ("\ufffd odd",)}
    assert kinds(source) == {
        '"caption" that is the path of a file': 1,
        "line that is not UTF-8": 1,
        "line in another form than the first": 1,
        "photo with more or fewer than 2 captions": 1,
        "caption of a photo that is missing": 1,
    }


def test_flickr8k_parts_and_karpathy_parts(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("1.jpg,a\n2.jpg,b\n3.jpg,c\n")
    for part, name in (("train", "1.jpg"), ("dev", "2.jpg"), ("test", "3.jpg")):
        (tmp_path / f"Flickr_8k.{part}Images.txt").write_text(f"{name}\n")
    parts = {e.id: e.split for e in read_flickr(tmp_path).captions.examples}
    assert parts == {"1": "train", "2": "validation", "3": "test"}
    karpathy = {
        "images": [
            {"filename": "1.jpg", "split": "restval", "sentences": [{"raw": "a  dog"}]},
            {"filename": "2.jpg", "split": "val", "sentences": [{"tokens": ["a", "cat"]}]},
            {"filename": "3.jpg", "split": "test", "sentences": [{"raw": "x"}, {"raw": "i/3.jpg"}]},
        ]
    }
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(karpathy))
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("a dog",), "2": ("a cat",), "3": ("x",)}
    assert [e.split for e in source.captions.examples] == ["train", "validation", "test"]
    assert kinds(source) == {'"caption" that is the path of a file': 1}


def test_lines_in_step_with_names(tmp_path: Path) -> None:
    (tmp_path / "val_images.txt").write_text("1.jpg\n2.jpg\n")
    for i, lines in ((1, "a\nb\n"), (2, "c\nd\n")):
        (tmp_path / f"val.{i}.en.gz").write_bytes(gzip.compress(lines.encode()))
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("a", "c"), "2": ("b", "d")}
    assert {e.split for e in source.captions.examples} == {"validation"}
    (tmp_path / "val.2.en.gz").write_bytes(gzip.compress(b"c\n"))
    with pytest.raises(InputError, match=r"1 lines.*2 photos.*out of step"):
        read_flickr(tmp_path)
    (tmp_path / "val.2.en.gz").write_bytes(gzip.compress(b"c\nd\n")[:-9])
    with pytest.raises(InputError, match="can't be read"):
        read_flickr(tmp_path)


def test_the_hubs_table(tmp_path: Path) -> None:
    rows = [[json.dumps(["a, b", "c"]), "train", "1.jpg"], [json.dumps(["d"]), "val", "2.jpg"]]
    with (tmp_path / "flickr_annotations_30k.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["raw", "split", "filename"], *rows])
    source = read_flickr(tmp_path)
    assert texts(source) == {"1": ("a, b", "c"), "2": ("d",)}
    assert [e.split for e in source.captions.examples] == ["train", "validation"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"nothing like it\n", "no known form"),
        (b"image,caption\n", "no captions"),
    ],
)
def test_unusable_files_say_why(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "captions.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_flickr(tmp_path)


def test_the_folder_below_is_named(tmp_path: Path) -> None:
    (tmp_path / "flickr30k_images").mkdir()
    (tmp_path / "flickr30k_images" / "results.csv").write_text("1.jpg| 0| a\n")
    with pytest.raises(InputError, match="flickr30k_images does: give that"):
        read_flickr(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_flickr(tmp_path / "nowhere")


@QUIET
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.text("aé,\"'|#7 \t", min_size=1, max_size=20)),
        min_size=1,
        max_size=20,
    )
)
def test_captions_with_any_punctuation_survive(tmp_path: Path, rows: list[tuple[int, str]]) -> None:
    """What csv.writer writes is read back, blanks normalised and empty captions left out."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [("image", "caption"), *((f"{i}.jpg", text) for i, text in rows)]
    )
    (tmp_path / "captions.txt").write_text(out.getvalue())
    expected: dict[str, tuple[str, ...]] = {}
    for i, text in rows:
        if words := " ".join(text.split()):
            expected[str(i)] = (*expected.get(str(i), ()), words)
    if not expected:
        with pytest.raises(InputError, match="nothing to read"):
            read_flickr(tmp_path)
    else:
        assert texts(read_flickr(tmp_path)) == expected


@QUIET
@given(
    content=st.binary(max_size=200) | st.text("ab.jpg#01,|\t\n\"'", max_size=200).map(str.encode)
)
@pytest.mark.parametrize("name", ["captions.txt", "results.csv", "val_images.txt", "x.json"])
def test_no_bytes_break_the_readers(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "val.1.en").write_bytes(content[::-1])
    try:
        found = read_flickr(tmp_path).captions.examples
    except InputError as error:
        assert str(error)
    else:
        assert all(e.id and all(e.captions) for e in found)


SMALL = st.none() | st.integers(0, 3) | st.text("ab/.jpg", max_size=6)
RECORD = st.dictionaries(
    st.sampled_from(["id", "file_name", "image_id", "caption", "split", "sentences", "filename"]),
    SMALL | st.lists(st.dictionaries(st.sampled_from(["raw", "tokens"]), SMALL), max_size=2),
)


@QUIET
@given(
    document=st.dictionaries(
        st.sampled_from(["images", "annotations", "info"]), st.lists(RECORD, max_size=4) | SMALL
    )
)
def test_no_json_breaks_the_coco_reader(tmp_path: Path, document: dict[str, object]) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(document))
    try:
        assert read_coco(tmp_path).captions.examples
    except InputError as error:
        assert str(error)


def test_coco_files_by_their_names(tmp_path: Path) -> None:
    for part, first in (("train", 1), ("val", 3)):
        document = {
            "images": [{"id": first, "file_name": f"{first}.jpg"}, {"id": 9, "file_name": "9.jpg"}],
            "annotations": [
                {"id": 1, "image_id": first, "caption": "a dog\n"},
                {"id": 2, "image_id": 77, "caption": "of nothing"},
            ],
        }
        path = tmp_path / "annotations" / f"captions_{part}2014.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")
    source = read_coco(tmp_path)
    assert texts(source) == {"1": ("a dog",), "3": ("a dog",)}
    assert [e.split for e in source.captions.examples] == ["train", "validation"]
    assert kinds(source) == {
        "caption of an image that is not listed": 2,
        "image without a caption": 1,
    }


def test_leaks_and_foreign_ids_are_wrong() -> None:
    def example(id: str, split: str, *captions: str) -> CaptionExample:
        return CaptionExample(id, None, captions, split=split)

    found = text_findings(
        [
            example("0100000001", "train", "A red shirt."),
            example("0100000002", "train", "see 100000003 for this"),
            example("0100000003", "test", "a RED shirt", "0100000003 in blue"),
            example("0100000004", "test", "photos/1.jpg"),
        ]
    )
    assert [(f.kind.split(" '")[0], f.count, f.wrong) for f in found] == [
        ("caption that names another example's id", 1, True),
        ('"caption" that is the path of a file', 1, True),
        ("caption of split", 1, True),
    ]
    many = [example(f"t{i}", "test", f"text {i}") for i in range(200)]
    few = text_findings([example("a", "train", "text 7"), *many])
    assert [(f.count, f.wrong) for f in few] == [(1, False)]  # one in two hundred


def test_real_text(shared: Path) -> None:
    small = read_flickr(shared / "flickr8k-sample", name="flickr8k")
    assert len(small.captions) == 700
    assert {len(e.captions) for e in small.captions.examples} == {5}
    assert small.findings == ()
    assert texts(small)["1012212859_01547e3f17"][0].endswith("a red ball next to it .")
    large = read_flickr(shared / "flickr30k-text")
    assert {s: len(large.captions.by_split(s)) for s in ("train", "validation")} == {
        "train": 29_000,
        "validation": 1_014,
    }
