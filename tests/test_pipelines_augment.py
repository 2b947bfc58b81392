"""Text settings: each changes only what it says, and files of captions written elsewhere."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import InputError
from pipelines.augment import (
    SETTINGS,
    TextSource,
    article_texts,
    canonical,
    metadata_texts,
    nearest_copies,
    read_captions,
    seeded,
)

IDS = ["0108775015", "0108775044", "0110065001", "0111565001"]
HUMAN = ["Strap top.", None, "T-shirt bra.", "Tights."]
MACHINE = {IDS[0]: "a top", IDS[1]: "a vest", IDS[3]: "black tights"}
SOURCE = TextSource(IDS, HUMAN, MACHINE, ["m0", "m1", "m2", None], {IDS[2]: "copied"})


def test_every_setting_by_hand() -> None:
    found = {name: SOURCE.under(name) for name in SETTINGS if not name.startswith("shuffled")}
    assert found == {
        "none": [None] * 4,
        "metadata": ["m0", "m1", "m2", None],
        "original": HUMAN,
        "caption": ["a top", "a vest", None, "black tights"],
        "fill": ["Strap top.", "a vest", "T-shirt bra.", "Tights."],
        "both": ["Strap top. a top", "a vest", "T-shirt bra.", "Tights. black tights"],
        "copy": [None, None, "copied", None],
    }
    assert article_texts(IDS, HUMAN, MACHINE, "fill") == found["fill"]


@given(n=st.integers(2, 30), seed=st.integers(0, 5))
def test_nobody_keeps_its_own_caption_and_none_is_lost(n: int, seed: int) -> None:
    ids = [f"a{i}" for i in range(n)]
    source = TextSource(ids, [None] * n, {f"a{i}": f"c{i}" for i in range(1, n)})
    texts = source.under("shuffled", seed)
    assert texts[0] is None
    if n == 2:
        assert texts == [None, None]  # there is no other caption to give
        return
    assert all(text != f"c{i}" for i, text in enumerate(texts))
    assert sorted(text or "" for text in texts) == sorted(["", *(f"c{i}" for i in range(1, n))])
    assert source.under("shuffled", seed) == texts


def test_the_placebo_of_fill_leaves_human_texts_alone() -> None:
    texts = SOURCE.under("shuffled-fill", 1)
    assert [texts[i] for i in (0, 2, 3)] == [HUMAN[i] for i in (0, 2, 3)]
    assert texts[1] in ("a top", "black tights")


@given(low=st.integers(0, 100), high=st.integers(0, 100), seed=st.integers(0, 3))
def test_masks_are_nested_exact_and_independent_of_order(low: int, high: int, seed: int) -> None:
    low, high = sorted((low, high))
    ids = [f"a{i}" for i in range(40)]
    human = [f"h{i}" if i % 4 else None for i in range(40)]
    source = TextSource(ids, human, dict.fromkeys(ids, "c"))
    some, more = source.under(f"mask-{low}", seed), source.under(f"mask-{high}", seed)
    gone = {i for i in range(40) if human[i] and not some[i]}
    assert gone <= {i for i in range(40) if human[i] and not more[i]}
    assert len(gone) == round(low * 30 / 100)
    assert all(text in (None, own) for text, own in zip(some, human, strict=True))
    filled = source.under(f"mask-{low}-fill", seed)
    assert filled == [text or "c" for text in some]
    backwards = TextSource(ids[::-1], human[::-1], source.captions)
    assert backwards.under(f"mask-{low}", seed) == some[::-1]


def test_ends_of_the_curve_are_other_settings() -> None:
    for name in ("mask-0", "mask-0-fill", "mask-100", "mask-100-fill"):
        assert SOURCE.under(name) == SOURCE.under(canonical(name))
        assert not seeded(name)
    assert canonical("mask-50") == "mask-50"
    assert all(map(seeded, ("mask-1", "mask-99-fill", "shuffled", "shuffled-fill")))
    assert not seeded("fill")


def test_seeds_draw_different_masks_and_placebos() -> None:
    ids = [f"a{i}" for i in range(50)]
    source = TextSource(ids, ids, {i: f"c{i}" for i in ids})
    for setting in ("mask-50", "shuffled"):
        assert source.under(setting, 0) != source.under(setting, 1)


def test_unknown_settings_are_refused() -> None:
    for name in ("captions", "mask-101", "mask-", "mask-5-filled"):
        with pytest.raises(InputError, match=r"expected one of none, metadata"):
            SOURCE.under(name)
    with pytest.raises(InputError, match="articles' own columns"):
        article_texts(IDS, HUMAN, MACHINE, "metadata")


def test_metadata_leaves_out_what_says_nothing() -> None:
    frame = pl.DataFrame(
        {
            "product_type_name": ["T-shirt", "Unknown", None],
            "colour_group_name": ["Light Pink", "Undefined", "Unknown"],
            "graphical_appearance_name": ["Stripe", "Solid", ""],
        }
    )
    assert metadata_texts(frame) == ["Light Pink T-shirt, Stripe.", "Solid.", None]


def test_copies_never_come_from_the_article_itself_its_product_or_its_text() -> None:
    ids = ["a", "b", "c", "d", "e"]
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.06], [0, 1]], np.float32)
    human = ["one", "two", "ONE.", "four", None]
    valid = np.array([True, True, True, True, False])
    found = nearest_copies(ids, ["p", "p", "q", "r", "s"], human, vectors, valid, ids[:4])
    # a: b is its product, c its text. e has no photo.
    assert found == {"a": "four", "b": "ONE.", "c": "two", "d": "ONE."}


def test_a_file_of_captions_with_ids_read_as_integers(tmp_path: Path) -> None:
    file = tmp_path / "augmented_articles.csv"
    file.write_text(
        ",article_id,description\n0,108775015,a strap top\n1,110065001.0,\n2,999,a hat\n"
        "3,0111565001,tights\n"
    )
    found, notes = read_captions(file, IDS)
    assert found == {IDS[0]: "a strap top", IDS[3]: "tights"}
    assert notes[0] == "augmented_articles.csv: 2 texts for 4 articles"
    assert [note.split(": ")[1] for note in notes[1:]] == [
        "2 ids padded to 10 digits",
        "1 rows without a text left out",
        "1 rows of unknown articles left out, e.g. 0000000999",
    ]
    numbers = tmp_path / "captions.parquet"
    pl.DataFrame({"article_id": [108775015], "caption": ["x"]}).write_parquet(numbers)
    assert read_captions(numbers, IDS)[0] == {IDS[0]: "x"}


def test_files_that_hold_no_captions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    for text, expected in (
        ("article,words\n1,x\n", "expected an id"),
        ("article_id,caption\n7,x\n", "no row has a text for an article"),
        ("article_id,caption\n108775015,x\n108775015,y\n", "twice with different texts"),
        ("", "can't be read"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=expected):
            read_captions(file, IDS)
    with pytest.raises(InputError, match="does not exist"):
        read_captions(tmp_path / "no.csv", IDS)
