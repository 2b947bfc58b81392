"""The PTB jar and its Python twin: golden lines, agreement on real and odd text, hard input."""

import csv
import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption import InputError
from caption.metrics.jvm import JavaError, find_java
from caption.metrics.tokenizer import (
    JAR_SIGNATURE,
    PYTHON_SIGNATURE,
    tokenize,
    tokenize_corpus,
    tokenize_java,
    tokenize_python,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "caption_tokens.json").read_text())
TEXTS = [line["text"] for line in GOLDEN]
TOKENS = [line["tokens"] for line in GOLDEN]


@pytest.fixture(scope="session")
def java() -> str:
    try:
        return find_java()
    except JavaError as error:
        pytest.skip(f"needs Java: {error}")


def test_python_by_hand() -> None:
    lines = ["A red dress.", "3/4-length (oversized)", "It's £5!", "wow!!! 5 3/4 in."]
    assert tokenize_python(lines) == [
        "a red dress",
        "3/4-length -lrb- oversized -rrb-",
        "it 's # 5",
        "wow !!! 5\u00a03/4 in",
    ]


@pytest.mark.parametrize("line", GOLDEN, ids=lambda line: line["text"][:20])
def test_python_equals_golden(line: dict[str, str]) -> None:
    assert tokenize_python([line["text"]]) == [line["tokens"]]


def test_jar_equals_golden(java: str) -> None:
    assert tokenize_java(TEXTS) == TOKENS


def test_captions_do_not_depend_on_their_neighbours(java: str) -> None:
    lines = [
        "letter P.",
        "The dress",
        "A 5",
        "3/4 in.",
        "made in the U.S.",
        "It",
        "No.",
        "5 No. 12.5cm",
        "x.y <a",
        "b>",
    ]
    together = tokenize_java(lines)
    assert together == tokenize_java(lines[::-1])[::-1] == tokenize_python(lines)
    assert together[0] == "letter p."


def test_jar_and_python_agree_on_shuffled_pieces(java: str) -> None:
    """The golden lines' pieces in any order: contexts nobody wrote down."""
    rng = random.Random(0)
    pieces = [piece for text in TEXTS for piece in text.split(" ") if piece.isprintable()]
    lines = [" ".join(rng.choices(pieces, k=rng.randint(1, 8))) for _ in range(4000)]
    different = [
        (line, one, two)
        for line, one, two in zip(lines, tokenize_java(lines), tokenize_python(lines), strict=True)
        if one != two
    ]
    assert len(different) < 0.005 * len(lines), different[:5]


def test_jar_and_python_agree_on_real_captions(shared: Path, java: str) -> None:
    with gzip.open(shared / "flickr30k-text" / "train.1.en.gz", "rt", encoding="utf-8") as file:
        flickr = file.read().splitlines()[:8000]
    described = (shared / "facad-text" / "train_description.txt").read_text().splitlines()[:4000]
    facad = [line.partition(",")[2] for line in described]
    with (shared / "hm-sample" / "articles.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hm = list(dict.fromkeys(row["detail_desc"] for row in rows))[:8000]
    for name, lines in (("flickr30k", flickr), ("facad", facad), ("hm", hm)):
        pairs = zip(tokenize_java(lines), tokenize_python(lines), strict=True)
        different = sum(one != two for one, two in pairs)
        assert different <= 0.001 * len(lines), name


def test_auto_says_what_ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert tokenize(["A dress."]) == (["a dress"], PYTHON_SIGNATURE)
    with pytest.raises(InputError, match=r"tokenizer 'jar' cannot run .*Java was not found"):
        tokenize(["a"], "jar")


def test_auto_takes_the_jar(java: str) -> None:
    assert tokenize(["A dress.", "", "A dress."]) == (["a dress", "", "a dress"], JAR_SIGNATURE)


def test_corpus_keeps_its_shape() -> None:
    got = tokenize_corpus(["A.", "B b!"], [["Cc."], ["D", "E", "F?"]], "python")
    assert (got.hypotheses, got.references) == (["a.", "b b"], [["cc"], ["d", "e", "f"]])


@pytest.mark.parametrize("tokenizer", ["jar", "python"])
def test_control_characters_are_counted_and_shift_nothing(tokenizer: str) -> None:
    if tokenizer == "jar":
        try:
            find_java()
        except JavaError:
            pytest.skip("needs Java")
    breaks = [
        "\r",
        "\r\n",
        "\n",
        "\x0b",
        "\x0c",
        "\u2028",
        "\u2029",
        "\x85",
        "\x00",
        "\x1c",
        "\ud800",
    ]
    texts = [f"a{char}b" for char in breaks] + ["last one"]
    words, signature = tokenize(texts, tokenizer)
    assert words == ["a b"] * len(breaks) + ["last one"]
    assert signature.endswith("+8-cleaned")  # line feeds and carriage returns are ordinary


def test_hard_lines(java: str) -> None:
    lines = ["word " * 100_000, "a," * 4_000, "<a" * 5_000, "5 " * 5_000, "x" * 100_000, "end"]
    jar, python = tokenize_java(lines), tokenize_python(lines)
    assert len(jar[0].split()) == len(python[0].split()) == 100_000
    assert jar[-1] == python[-1] == "end"
    assert len(python) == len(lines)


def test_jar_reports_a_run_that_takes_too_long(java: str) -> None:
    with pytest.raises(JavaError, match="no answer within"):
        tokenize_java(["a dress"] * 50_000, timeout=0.01)


@given(st.lists(st.text(max_size=40), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_one_clean_line(texts: list[str]) -> None:
    words, signature = tokenize(texts, "python")
    assert signature.startswith(PYTHON_SIGNATURE)
    assert len(words) == len(texts)
    for line in words:
        assert line == line.strip(" ")
        assert "  " not in line
        assert not set("\0\n\r\u2028") & set(line)
        assert not {".", ",", "''", "-", "..."} & set(line.split(" "))
    assert [tokenize([text], "python")[0][0] for text in texts] == words
