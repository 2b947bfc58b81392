"""METEOR against pycocoevalcap's own, and what happens when Java is missing or fails."""

import random
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable, jvm
from caption.metrics import meteor as module
from caption.metrics.meteor import meteor

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

TEXT = """a the dress dresses red dark blue cotton cottons t-shirt shirt's jersey knitted knit with
and in long short sleeves sleeve buttons down front buying purchased small little motif 100 % 5 3/4
crêpe naïve mother-of-pearl -lrb- -rrb- don't cannot & ' " # $ ... i.e. u.s. dr. 1,000 3.5 cm ½ 衣服
"""
WORDS = TEXT.split()


def corpus_of(hypotheses: list[str], references: list[list[str]], backend: str = "fcr") -> Corpus:
    ids = tuple(str(i) for i in range(len(hypotheses)))
    return Corpus(ids, hypotheses, references, tokenizer="none", backend=backend)  # type: ignore[arg-type]


def value_of(result: list[Score | Unavailable]) -> Score:
    (score,) = result
    assert isinstance(score, Score), score
    return score


def reason_of(result: list[Score | Unavailable]) -> str:
    (score,) = result
    assert isinstance(score, Unavailable), score
    assert score.name == "meteor"
    return score.reason


@needs_java
def test_equals_pycocoevalcap_to_the_last_bit() -> None:
    rng = random.Random(7)

    def text(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))

    references = [[text(25) for _ in range(rng.choice([1, 1, 2, 5, 9]))] for _ in range(250)]
    hypotheses = []
    for refs in references:  # half of them near a reference, so that phrases and stems do match
        words = rng.choice(refs).split()
        turn = rng.randint(0, len(words))
        near = [*words[turn:], *rng.choices(WORDS, k=3), *words[:turn]]
        hypotheses.append(" ".join(near) if rng.random() < 0.5 else text(20))
    hypotheses[:4] = ["", "  two  blanks   here ", references[2][0], "|||"]
    hypotheses += ["he bought a large number of cars", "he bought a car"]
    references += [["he bought numerous cars"], ["he purchased an automobile", "cars"]]
    ours = value_of(meteor(corpus_of(hypotheses, references)))
    theirs = value_of(meteor(corpus_of(hypotheses, references, "pycocoevalcap")))
    assert ours.per_item is not None
    assert theirs.per_item is not None
    np.testing.assert_array_equal(ours.per_item, theirs.per_item)
    assert ours.value == theirs.value
    assert 0 < ours.value < 1
    assert len(set(ours.per_item)) > 200


@needs_java
def test_paraphrase_and_synonym_survive_the_filter() -> None:
    exact, synonym, phrase, other, none = meteor_items(
        ("he bought a car", "he bought a car"),
        ("he bought a car", "he bought an automobile"),
        ("he bought a large number of cars", "he bought numerous cars"),
        ("he bought a small jar of cars", "he bought numerous cars"),
        ("he bought a car", "it rains all night"),
    )
    assert exact > 0.99
    assert none == 0
    assert 0.3 < synonym < exact
    assert phrase > 1.2 * other  # "a large number of" matches "numerous"


def meteor_items(*pairs: tuple[str, str]) -> list[float]:
    score = value_of(meteor(corpus_of([h for h, _ in pairs], [[r] for _, r in pairs]), threads=3))
    assert score.per_item is not None
    return score.per_item.tolist()


@needs_java
def test_separators_in_texts_change_nothing() -> None:
    clean = meteor_items(("a red dress", "one red dress here"), ("blue hat", "a blue hat"))
    dirty = meteor_items(
        ("a\nred\tdress", "one |||red\r\ndress\x0bhere"), ("blue\x00hat", "a\x1fblue hat")
    )
    assert clean == dirty


@needs_java
def test_install_path_with_a_space_and_another_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = meteor_items(("a red dress", "one red dress here"))
    folder = tmp_path / "site packages" / "meteor"
    folder.mkdir(parents=True)
    for entry in jvm.jar_folder("meteor").glob("*"):
        (folder / entry.name).symlink_to(entry)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(module, "jar_folder", lambda package: tmp_path / "site packages" / package)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=it")
    assert meteor_items(("a red dress", "one red dress here")) == expected


@needs_java
def test_a_huge_caption_is_cut_and_counted() -> None:
    huge = "the " * 100_000
    score = value_of(meteor(corpus_of([huge, "a hat"], [["the hat"], ["a hat"]]), max_tokens=50))
    same = value_of(meteor(corpus_of(["the " * 50, "a hat"], [["the hat"], ["a hat"]])))
    assert score.value == same.value
    assert "|cut:1|" in score.signature
    assert "cut" not in same.signature


@needs_java
def test_too_little_memory_is_a_reason_not_a_score() -> None:
    assert "memory at 3m" in reason_of(meteor(corpus_of(["a hat"], [["a hat"]]), memory="3m"))
    with pytest.raises(InputError, match=r"plenty.*1500m"):
        meteor(corpus_of(["a hat"], [["a hat"]]), memory="plenty")


def test_without_java_it_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install a Java runtime" in reason_of(meteor(corpus_of(["a"], [["a"]])))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("kill -9 $$", "killed by SIGKILL"),
        ("exec sleep 30", "within 1 seconds"),
        ("echo 0.5", "answered 1 numbers, expected 2"),
        ("echo 'Error: no such thing' >&2; exit 3", "code 3: Error: no such thing"),
    ],
)
def test_a_java_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    says_version = '[ "$1" = -version ] && echo \'version "17.0.1"\' >&2 && exit'
    java.write_text(f"#!/bin/sh\n{says_version}\n{body}\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert reason in reason_of(meteor(corpus_of(["a"], [["a"]]), timeout=1))


def test_a_java_that_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'No Java runtime present' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(jvm.JavaError, match="Java was not found"):
        jvm.find_java()


def test_the_archive_was_built_from_these_sources() -> None:
    sources = sorted(jvm.LAUNCHERS.parent.glob("*.java"))
    assert sources
    with zipfile.ZipFile(jvm.LAUNCHERS) as jar:
        for source in sources:
            assert jar.read(source.name) == source.read_bytes(), "python -m caption.metrics.jvm"
            assert int.from_bytes(jar.read(f"{source.stem}.class")[6:8], "big") == 52  # Java 8
