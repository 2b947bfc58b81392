"""Readers of caption tables: every format, every kind of bad input, arbitrary bytes."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caption import InputError
from caption.metrics.files import read_hypotheses, read_pair, read_references

ROWS = [("0108775015", "A red dress, short."), ("0108775044", 'Top "basic"\nwith straps')]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def results(*rows: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"image_id": i, "caption": text} for i, text in rows]


@pytest.mark.parametrize("kind", ["results", "annotations", "csv", "tsv", "parquet"])
def test_every_format_reads_the_same(tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame(ROWS, schema=["article_id", "caption"], orient="row")
    path = tmp_path / f"captions.{kind}"
    if kind == "results":
        path = write(tmp_path / "c.json", results(*ROWS))
    elif kind == "annotations":
        path = write(tmp_path / "c.json", {"images": [], "annotations": results(*ROWS)})
    elif kind == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if kind == "tsv" else ",")
    assert read_hypotheses(path) == dict(ROWS)
    assert read_references(path) == ({i: [text] for i, text in ROWS}, {})


def test_integer_ids_become_text_and_zeros_survive_in_csv(tmp_path: Path) -> None:
    assert read_hypotheses(write(tmp_path / "a.json", results((7, "x")))) == {"7": "x"}
    assert read_hypotheses(write(tmp_path / "a.csv", "id,text\n007,x\n")) == {"007": "x"}
    path = tmp_path / "a.parquet"
    pl.DataFrame({"image_id": [7], "caption": ["x"]}).write_parquet(path)
    assert read_hypotheses(path) == {"7": "x"}
    bom = tmp_path / "b.json"
    bom.write_bytes(b"\xef\xbb\xbf" + json.dumps(results((7, "é"))).encode())
    assert read_hypotheses(bom) == {"7": "é"}


def test_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,sku,words,caption\n1,A,by name,usual\n")
    assert read_hypotheses(path) == {"1": "usual"}
    assert read_hypotheses(path, id_column="sku", text_column="words") == {"A": "by name"}
    with pytest.raises(InputError, match="no column 'colour'; it has id, sku, words, caption"):
        read_hypotheses(path, text_column="colour")


def test_pair_aligns_and_reports_what_it_leaves_out(tmp_path: Path) -> None:
    hyps = write(tmp_path / "h.json", results(("b", "two"), ("a", ""), ("c", "three")))
    rows = (("a", "one"), ("b", "x"), ("a", " "), ("b", "y"), ("c", None), ("d", "late"))
    refs = write(tmp_path / "r.json", {"annotations": results(*rows)})
    pair = read_pair(hyps, refs, subset=True)
    assert pair.hypotheses == {"b": "two", "a": ""}
    assert list(pair.references.items()) == [("b", ["x", "y"]), ("a", ["one"])]
    assert pair.excluded == {"c": "no reference text", "d": "no hypothesis"}
    with pytest.raises(InputError, match=r"no caption for 1 item \('d'\) .*score the subset"):
        read_pair(hyps, refs)


def test_pair_names_ids_that_lost_their_zeros(tmp_path: Path) -> None:
    hyps = write(tmp_path / "h.json", results((108775015, "x"), (5, "x")))
    refs = write(tmp_path / "r.csv", "article_id,text\n0108775015,x\n")
    with pytest.raises(InputError, match=r"2 items \('108775015', '5'\).*; 1 of them differ by"):
        read_pair(hyps, refs)


def test_pair_with_nothing_to_score(tmp_path: Path) -> None:
    hyps = write(tmp_path / "h.json", results(("a", "x")))
    refs = write(tmp_path / "r.json", results(("a", "")))
    with pytest.raises(InputError, match=r"no item of .* has a reference that is not blank"):
        read_pair(hyps, refs)


WHOLE = json.dumps(results(*ROWS))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", WHOLE[:-20], "not readable as JSON .*cut off"),
        ("a.json", "", "not readable as JSON"),
        ("a.json", "[" * 100_000, "not readable as JSON"),
        ("a.json", '{"a": "x"}', "expected COCO results"),
        ("a.json", '"text"', "expected COCO results"),
        ("a.json", "[]", "holds no captions"),
        ("a.json", '[{"image_id": 1}]', "entry 0 is .*expected image_id and caption"),
        ("a.json", '["x"]', "entry 0 is 'x'"),
        ("a.json", '[{"image_id": 1, "caption": NaN}]', "entry 0 has the caption nan"),
        ("a.json", '[{"image_id": 1, "caption": ["x"]}]', "entry 0 has the caption"),
        ("a.json", '[{"image_id": 1.5, "caption": "x"}]', "entry 0 has the id 1.5"),
        ("a.json", '[{"image_id": null, "caption": "x"}]', "entry 0 has the id None"),
        ("a.json", '[{"image_id": true, "caption": "x"}]', "entry 0 has the id True"),
        ("a.json", '[{"image_id": "", "caption": "x"}]', "entry 0 has the id ''"),
        ("a.json", '[{"image_id": 1, "caption": null}]', r"no caption for 1 item \('1'\)"),
        ("a.json", json.dumps(results((1, "x"), (1, "y"))), r"1 item \('1'\) with more than one"),
        ("a.csv", "", "not readable as CSV"),
        ("a.csv", "id,caption\n", "holds no captions"),
        ("a.csv", "id,caption\n1,\n", "no caption for 1 item"),
        ("a.csv", "id,caption\n,x\n", "entry 0 has the id None"),
        ("a.csv", "id,caption\n1,x,y,z\n", "not readable as CSV"),
        ("a.csv", "sku,caption\n1,x\n", "no id column: expected one of article_id.*it has sku"),
        ("a.csv", "id,words\n1,x\n", "no text column: expected one of caption"),
        ("a.parquet", "PAR1 no", "not readable as PARQUET"),
        ("a.txt", "x", "expected a .json, .csv, .tsv or .parquet file"),
        ("a.json", None, "no such file"),
    ],
)
def test_bad_input(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(InputError, match=says):
        read_hypotheses(path)


def test_columns_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"id": [1.5], "caption": ["x"]}).write_parquet(path)
    with pytest.raises(InputError, match="column 'id' is Float64: expected text or integers"):
        read_hypotheses(path)
    pl.DataFrame({"id": [1], "caption": [float("nan")]}).write_parquet(path)
    with pytest.raises(InputError, match="column 'caption' is Float64: expected text"):
        read_hypotheses(path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    for name in ("a.json", "a.csv"):
        path = tmp_path / name
        path.write_bytes(
            WHOLE.encode("utf-16") if name == "a.json" else b"id,caption\n1,\xff\xfe\n"
        )
        with pytest.raises(InputError, match="not readable as"):
            read_hypotheses(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["image_id", "caption", "annotations", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
    | st.integers(0, len(WHOLE)).map(lambda n: WHOLE[:n].encode()),
    st.sampled_from([".json", ".csv", ".parquet"]),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_arbitrary_files_are_read_or_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"fuzz{kind}"
    path.write_bytes(content)
    for read in (read_hypotheses, read_references):
        try:
            got = read(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert got
