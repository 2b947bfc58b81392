"""SPICE: the real scorer over given parses, and everything up to the parser that is not here.

CoreNLP's models (384 MB) are not part of any package. The scene graphs, the synonyms and the score
are SPICE's own; their tuples come from the cache file that a run with CoreNLP would have written.
"""

import shutil
from pathlib import Path

import pytest

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable, jvm
from caption.metrics.spice import CORENLP_JARS, spice

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

PARSES = {
    "a red dress": [["dress", "red"], ["dress"]],
    "a woman in a red dress": [["woman", "dress", "in"], ["dress", "red"], ["woman"], ["dress"]],
    "a blue frock": [["frock", "blue"], ["frock"]],
    "two dogs": [["dog", "two"], ["dog"]],
    "": [],
}


def corpus_of(hypotheses: list[str], references: list[list[str]]) -> Corpus:
    ids = tuple(str(i) for i in range(len(hypotheses)))
    return Corpus(ids, hypotheses, references, tokenizer="none")


@pytest.fixture
def corenlp(tmp_path: Path) -> Path:
    """CoreNLP's code from the tokenizer's archive (3.4.1), without the models of the parser."""
    folder = tmp_path / "core nlp"
    folder.mkdir()
    for name in CORENLP_JARS:
        (folder / name).symlink_to(jvm.jar_folder("tokenizer") / "stanford-corenlp-3.4.1.jar")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "parses.tsv"
    path.parent.mkdir()
    rows = ("\t".join([c, *("\x1f".join(t) for t in tuples)]) for c, tuples in PARSES.items())
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


@needs_java
def test_scores_by_hand(corenlp: Path, cache: Path) -> None:
    hypotheses = ["a woman in a red dress", "a red dress", "a blue frock", "", "two dogs"]
    references = [["a red dress"], ["a red dress"], ["a red dress", "two dogs"], ["two dogs"], [""]]
    before = cache.read_bytes()
    (score,) = spice(corpus_of(hypotheses, references), corenlp=corenlp, cache=cache, memory="300m")
    assert isinstance(score, Score), score
    # Tuples of a scene graph: objects, (object, attribute), (object, object, relation).
    # 1: {woman, dress, (dress, red), (woman, in, dress)} against {dress, (dress, red)}:
    #    precision 2/4, recall 2/2. 3: WordNet makes frock a dress: 1 of 2, 1 of 4.
    assert score.per_item is not None
    assert score.per_item.tolist() == pytest.approx([2 / 3, 1.0, 1 / 3, 0.0, 0.0], abs=1e-12)
    assert score.value == pytest.approx(score.per_item.mean())
    assert score.signature.startswith("spice|jar:1.0|corenlp:3.6.0|")
    assert cache.read_bytes() == before


@needs_java
def test_a_caption_that_must_be_parsed_needs_the_models(corenlp: Path, cache: Path) -> None:
    corpus = corpus_of(["a caption nobody parsed"], [["a red dress"]])
    (answer,) = spice(corpus, corenlp=corenlp, cache=cache, memory="300m")
    assert isinstance(answer, Unavailable)
    assert answer.reason.startswith("Java stopped with code 1")
    assert "edu" in answer.reason


def test_without_corenlp_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FCR_CORENLP", raising=False)
    corpus = corpus_of(["a red dress"], [["a red dress"]])
    (answer,) = spice(corpus)
    assert isinstance(answer, Unavailable)
    assert answer.name == "spice"
    assert "stanford-corenlp-full-2015-12-09.zip" in answer.reason
    assert "FCR_CORENLP" in answer.reason


def test_a_folder_that_is_not_corenlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCR_CORENLP", str(tmp_path))
    with pytest.raises(InputError, match=r"no stanford-corenlp-3\.6\.0\.jar and no .*models"):
        spice(corpus_of(["a"], [["a"]]))


def test_without_java_it_is_unavailable(
    corenlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (answer,) = spice(corpus_of(["a"], [["a"]]), corenlp=corenlp)
    assert isinstance(answer, Unavailable)
    assert "install a Java runtime" in answer.reason


def test_an_answer_that_is_not_json(
    corenlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text('#!/bin/sh\n[ "$1" = -version ] && echo \'version "1.8.0"\' >&2; echo "[{"\n')
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (answer,) = spice(corpus_of(["a"], [["a"]]), corenlp=corenlp)
    assert isinstance(answer, Unavailable)
    assert "could not be read" in answer.reason
