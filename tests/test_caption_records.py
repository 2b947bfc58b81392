"""Caption sets: COCO JSON in and out, and splits in which no key stands on two sides."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption import InputError
from caption.records import CaptionExample, CaptionSet, component_split, normalise_text


def example(id: str, *captions: str, image: Path | None = None, split: str = "") -> CaptionExample:
    return CaptionExample(id, image, captions or ("a shirt",), ("cotton",), "Shirt", split)


def test_json_round_trip_keeps_everything_and_relative_photos_move_with_it(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "b.jpg"
    here = tmp_path / "set"
    before = CaptionSet(
        "näme",
        (
            example("01", "one", "two", image=here / "photos" / "a.jpg", split="train"),
            example("02", image=outside, split="test"),
            example("03", "no photo"),
        ),
    )
    before.save(here / "captions.json")
    assert CaptionSet.load(here / "captions.json") == before
    document = json.loads((here / "captions.json").read_text())
    assert [i["file_name"] for i in document["images"]] == ["photos/a.jpg", str(outside), None]
    assert [a["image_id"] for a in document["annotations"]] == ["01", "01", "02", "03"]
    assert set(document["annotations"][0]) == {
        "id", "image_id", "caption", "attributes", "category",
    }  # fmt: skip
    here.rename(tmp_path / "moved")
    moved = CaptionSet.load(tmp_path / "moved" / "captions.json")
    assert moved.examples[0].image == tmp_path / "moved" / "photos" / "a.jpg"
    again = tmp_path / "moved" / "again.json"
    moved.save(again)
    assert not [p for p in again.parent.iterdir() if p.name.endswith(".tmp")]


def test_cocos_own_files_load(tmp_path: Path) -> None:
    """Integer ids, no attributes, no split: what COCO and Flickr conversions hold."""
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "7.jpg", "width": 3}],
                "annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}],
            }
        )
    )
    loaded = CaptionSet.load(path, images=Path("/photos"))
    assert loaded.name == "coco"
    assert loaded.examples == (CaptionExample("7", Path("/photos/7.jpg"), ("a cat",)),)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not readable JSON"),
        ("[]", "expected a JSON object"),
        ('{"images": []}', "images[{id, file_name}]"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "not listed"),
        ('{"images": [{"id": 1}], "annotations": []}', "no caption"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path: Path, document: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(document)
    with pytest.raises(InputError) as error:
        CaptionSet.load(path)
    assert words in str(error.value)


def test_ids_are_unique_and_splits_named() -> None:
    with pytest.raises(InputError, match="more than once"):
        CaptionSet("x", (example("1"), example("1")))
    with pytest.raises(InputError, match=r"no split 'dev'.*\['test', 'train'\]"):
        CaptionSet("x", (example("1", split="train"), example("2", split="test"))).by_split("dev")


def test_normalised_text_ignores_case_punctuation_and_spacing() -> None:
    assert normalise_text(" T-shirt, in  COTTON.\n") == normalise_text("t shirt in cotton")
    assert normalise_text("3/4 sleeves") != normalise_text("34 sleeves")


def test_a_chain_of_shared_keys_is_one_component() -> None:
    """0-1 share a code, 1-2 a text, 2-3 a code: all four belong together; 4 stands alone."""
    keys = [["c1", "t1"], ["c1", "t2"], ["c2", "t2"], ["c2", "t3"], ["c9", ""]]
    split = component_split(keys, {"train": 4, "test": 1}, seed=0)
    assert split == ["train"] * 4 + ["test"]


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.lists(st.integers(0, 40).map(str), max_size=3), min_size=1, max_size=60),
    seed=st.integers(0, 5),
    wanted=st.sampled_from(
        [{"a": 0.8, "b": 0.1, "c": 0.1}, {"a": -1, "b": 0.2}, {"a": 0.3, "b": 0.3}]
    ),
)
def test_no_key_on_two_sides(
    keys: list[list[str]], seed: int, wanted: dict[str, float | int]
) -> None:
    split = component_split(keys, wanted, seed)
    sides: dict[str, set[str]] = {}
    for own, side in zip(keys, split, strict=True):
        for key in own:
            sides.setdefault(key, set()).add(side)
    assert all(len(s) == 1 for s in sides.values())
    assert split == component_split(keys, wanted, seed)
    if sum(wanted.values()) == 1 or -1 in wanted.values():
        assert "" not in split


def test_sizes_are_met_and_the_seed_matters() -> None:
    keys = [[f"c{i // 2}"] for i in range(1000)]
    counts = Counter(component_split(keys, {"train": 300, "test": 100}, seed=1))
    assert counts == {"train": 300, "test": 100, "": 600}
    fractions = component_split(keys, {"train": 0.8, "test": 0.2}, seed=1)
    assert Counter(fractions) == {"train": 800, "test": 200}
    assert fractions != component_split(keys, {"train": 0.8, "test": 0.2}, seed=2)


@pytest.mark.parametrize(
    "wanted", [{}, {"a": 11}, {"a": 0.8, "b": 0.3}, {"a": -1, "b": -1}, {"a": 1.5}, {"a": -2}]
)
def test_impossible_targets_are_refused(wanted: dict[str, float | int]) -> None:
    with pytest.raises(InputError):
        component_split([[str(i)] for i in range(10)], wanted, seed=0)


def test_records_import_neither_torch_nor_polars() -> None:
    code = (
        "import caption.records, caption.train, sys; print({'torch', 'polars'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
