"""FACAD: files in step are read row by row, files out of step are refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from caption import InputError
from caption.facad import export_photos, facad_findings, json_items, photo_rows, read_facad
from pipelines.workspace import peak_memory
from tests import facad_files as files

pytest.importorskip("h5py", reason="needs h5py: pip install 'fcr[facad]'")

QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_rows_become_examples_with_their_photos(tmp_path: Path) -> None:
    for part, n, first in (("TRAIN", 4, 0), ("VAL", 2, 4), ("TEST", 2, 6)):
        pixels = {row: files.picture(first + row) for row in range(n)}
        files.write_part(tmp_path, part, n, pixels=pixels, first=first)
    source = read_facad(tmp_path)
    assert source.findings == ()
    assert [e.id for e in source.captions.examples][:5] == [
        *(f"train-{i:07d}" for i in range(4)),
        "validation-0000000",
    ]
    third = source.captions.examples[2]
    assert third.captions == ("cotton dress dress dress dress",)
    assert third.attributes == ("dress",)  # "nah" and padding are no attributes
    assert (third.category, third.split) == ("2", "train")
    chosen = [source.captions.examples[i] for i in (7, 2)]
    paths, findings = export_photos(tmp_path, chosen, tmp_path / "out")
    assert findings == ()
    assert paths[third.id] == tmp_path / "out" / "train" / "0000002.jpg"
    with Image.open(paths[third.id]) as image:
        assert image.size == (256, 256)
        shown = np.asarray(image, dtype=np.int64).transpose(2, 0, 1)
    assert np.abs(shown - files.picture(2).astype(np.int64)).mean() < 4  # JPEG's loss
    before = paths[third.id].stat().st_mtime_ns
    export_photos(tmp_path, chosen, tmp_path / "out")
    assert paths[third.id].stat().st_mtime_ns == before  # an interrupted export goes on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"CAPTIONS": [files.encode(["dress"])] * 19}, "20 images, 19 captions"),
        ({"CATES": [[1]] * 21}, "21 cates"),
        ({"CAPLENS": [[9]] * 20}, "20 captions of another length"),
        ({"CAPLENS": [[3], *[[7]] * 19]}, "1 captions of another length"),
    ],
)
def test_counts_and_lengths_that_differ_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    files.write_part(tmp_path, "TRAIN", 20, **change)
    with pytest.raises(InputError, match=words):
        read_facad(tmp_path)
    wrong = [f for f in facad_findings(tmp_path) if f.wrong]
    assert any(words in f.example for f in wrong)


def test_attributes_that_left_their_captions_are_refused(tmp_path: Path) -> None:
    """From row 1,000 on a photo is missing from one file: everything after it is out by some."""
    first = [files.caption(row)[0] for row in range(1600)]
    files.write_part(tmp_path, "TRAIN", 1595, ATTRS=[[w] for w in first[:1595]])
    read_facad(tmp_path)
    files.write_part(tmp_path, "TRAIN", 1595, ATTRS=[[w] for w in first[:1000] + first[1005:]])
    with pytest.raises(InputError, match="rows 1,000 to 1,499"):
        read_facad(tmp_path)


def test_replaced_and_blank_photos_are_left_out(tmp_path: Path) -> None:
    """Row 3 could not be fetched and shows row 0's photo; row 2 is blank."""
    shown = {0: 0, 1: 1, 3: 0, 4: 4}
    files.write_part(
        tmp_path, "TRAIN", 5, pixels={row: files.picture(seed) for row, seed in shown.items()}
    )
    examples = read_facad(tmp_path).captions.examples
    paths, findings = export_photos(tmp_path, examples, tmp_path / "out")
    assert sorted(paths) == ["train-0000001", "train-0000004"]
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir()) == [
        "0000001.jpg",
        "0000004.jpg",
    ]
    assert {f.kind: (f.count, f.wrong) for f in findings} == {
        "blank photo": (1, True),
        "photo that stands under different captions": (2, True),
    }


def test_memory_stays_flat_over_gigabytes(tmp_path: Path) -> None:
    n = 12_000
    files.write_part(tmp_path, "TRAIN", n, pixels={n - 1: files.picture(1)})
    assert (tmp_path / "TRAIN_IMAGES_5.hdf5").stat().st_size > 2 * 2**30
    with peak_memory() as before:
        pass
    with peak_memory() as peak:
        rows = range(7, n, 8)
        filled = [row for row, pixels in photo_rows(tmp_path, "train", rows) if pixels.any()]
    assert filled == [n - 1]
    assert len(rows) * 196_608 > 256 * 2**20
    assert peak[0] - before[0] < 64 * 2**20


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("WORDMAP_5.json", b"{", "word -> number"),
        ("WORDMAP_5.json", b'{"a": 1, "b": 1}', "same number"),
        ("TRAIN_CAPTIONS_5.json", b"{}", "JSON array"),
        ("TRAIN_CAPTIONS_5.json", b"[[1, 2], [", "breaks off"),
        ("TRAIN_IMAGES_5.hdf5", b"not HDF5", "not a whole HDF5 file"),
    ],
)
def test_broken_files_say_which(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    files.write_part(tmp_path, "TRAIN", 3)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_facad(tmp_path)
    assert name in str(error.value)


def test_a_cut_hdf5_and_another_dataset_say_so(tmp_path: Path) -> None:
    import h5py

    files.write_part(tmp_path, "TRAIN", 3, pixels={2: files.picture(0)})
    path = tmp_path / "TRAIN_IMAGES_5.hdf5"
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(InputError, match="TRAIN_IMAGES_5"):
        list(photo_rows(tmp_path, "train"))
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 5), np.float32)
    with pytest.raises(InputError, match=r"uint8 \(n, 3, 256, 256\).*float32 \(2, 5\)"):
        list(photo_rows(tmp_path, "train"))


def test_without_h5py_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_part(tmp_path, "TRAIN", 3)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install 'fcr\[facad\]'"):
        read_facad(tmp_path)


def test_the_crawl_and_the_text_lists(tmp_path: Path) -> None:
    items = [
        {
            "id": 7, "title": "gown", "description": "A  red\nGown.", "detail_info": "silk",
            "categoryid": 4, "attr": ["gown", "red"], "images": [{"color": "Ruby Red", "0": "u"}],
        },
        {"id": 8, "title": "boot", "description": "", "detail_info": "Tall boot", "images": []},
        {"id": 7, "title": "again", "description": "again"},
    ]  # fmt: skip
    (tmp_path / "meta_all_129927.json").write_text(json.dumps(items))
    source = read_facad(tmp_path)
    first, second = source.captions.examples
    assert first.captions == ("A red Gown.",)
    assert first.attributes == ("gown", "red", "ruby red")
    assert (first.category, first.image) == ("4", None)
    assert second.captions == ("Tall boot",)
    assert {f.kind: f.count for f in source.findings} == {
        "item without a description": 1,
        "item id that came before": 1,
        "missing photos": 1,
    }
    (tmp_path / "meta_all_129927.json").write_text('[{"title": "no id"}]')
    with pytest.raises(InputError, match="item 0 is not FACAD's"):
        read_facad(tmp_path)
    lists = tmp_path / "text"
    lists.mkdir()
    (lists / "train_title.txt").write_text("12.jpg,red gown\n7.jpg,tall boot")
    assert [e.captions for e in read_facad(lists).captions.examples] == [
        ("red gown",),
        ("tall boot",),
    ]
    with pytest.raises(InputError, match="no FACAD files"):
        read_facad(tmp_path.parent)


def test_real_titles(shared: Path) -> None:
    titles = read_facad(shared / "facad-text")
    assert len(titles.captions) == 39_001
    texts = read_facad(shared / "facad-text" / "train_description.txt")
    assert len(texts.captions) == 9_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@QUIET
@given(items=st.lists(JSON, max_size=8), chunk=st.integers(1, 9), indent=st.none() | st.just(1))
def test_arrays_are_read_in_any_pieces(
    tmp_path: Path, items: list[Any], chunk: int, indent: int | None
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(items, indent=indent))
    assert list(json_items(path, chunk=chunk)) == items


@QUIET
@given(text=st.text('[]{},"1a: ', max_size=30))
def test_no_text_breaks_the_array_reader(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    try:
        list(json_items(path))
    except InputError as error:
        assert "x.json" in str(error)


@QUIET
@given(
    side=st.sampled_from(["CAPTIONS", "CAPLENS", "ATTRS", "CATES"]),
    content=st.lists(JSON, max_size=4),
)
def test_no_content_breaks_the_reader(tmp_path: Path, side: str, content: list[Any]) -> None:
    files.write_part(tmp_path, "TRAIN", 3, **{side: content})
    try:
        assert read_facad(tmp_path).captions.examples
    except InputError as error:
        assert str(error)
