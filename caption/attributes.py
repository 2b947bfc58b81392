"""Attribute words of captions: nouns, adjectives and proper nouns, and the vocabulary of a corpus.

    >>> vocabulary = build_vocabulary(training_texts)
    >>> vocabulary.attributes(["A red cotton dress"])
    [frozenset({'red', 'cotton', 'dress'})]

Words are lower-cased and lose their hyphens ("t-shirt" -> "tshirt"), and are kept when training
text has them at least ten times, as in the published comparison this follows.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from caption import InputError

Tagger = Callable[[Sequence[str]], list[list[str]]]
"""Captions -> the attribute words of each, in order, repeated words included."""


@dataclass(frozen=True)
class Vocabulary:
    """The attribute words of a corpus, and how to find them in other captions."""

    words: tuple[str, ...]
    """Commonest first."""
    tagger: str = "hanta"
    """A name of `TAGGERS`, as `build_vocabulary` takes it."""
    min_count: int = 10
    _set: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        load_tagger(self.tagger)
        object.__setattr__(self, "_set", frozenset(self.words))

    def attributes(self, captions: Sequence[str]) -> list[frozenset[str]]:
        """The words of the vocabulary that each caption uses as noun, adjective or proper noun.

        With tagger "words" they count wherever they stand, whatever their part of speech.
        """
        unique = list(dict.fromkeys(captions))
        tagged = load_tagger(self.tagger)(unique)
        found = {c: self._set & set(words) for c, words in zip(unique, tagged, strict=True)}
        return [found[caption] for caption in captions]

    def save(self, path: Path) -> None:
        """Write JSON: words, tagger, min_count."""
        content = asdict(self)
        del content["_set"]
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `InputError` on anything else."""
        content = read_json(path, ("words", "tagger", "min_count"))
        return cls(tuple(content["words"]), content["tagger"], content["min_count"])


def build_vocabulary(
    texts: Sequence[str], *, tagger: str = "hanta", min_count: int = 10
) -> Vocabulary:
    """Attribute words that stand at least `min_count` times in `texts`.

    `tagger`: "hanta" (needs no download), "stanza" (as published) or "spacy" (each with its English
    model installed), or "words", which takes every word for an attribute. "spacy:MODEL" takes
    another pipeline (a package or a folder), "stanza:FOLDER" another folder of models.
    Raises `InputError` on an unknown tagger, and on one that is not installed, naming the remedy.
    """
    repeated = Counter(texts)
    counts: Counter[str] = Counter()
    for words, n in zip(load_tagger(tagger)(list(repeated)), repeated.values(), strict=True):
        for word in words:
            counts[word] += n
    kept = sorted(((-n, word) for word, n in counts.items() if n >= min_count))
    return Vocabulary(tuple(word for _, word in kept), tagger, min_count)


def words_of(caption: str) -> list[str]:
    """Lower-case words with inner hyphens and apostrophes, and punctuation marks, in order."""
    return re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]", caption.lower())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(scratch, path)


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object with `keys`; `InputError` otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise InputError(f"{path} is not the right file: expected an object with {', '.join(keys)}")
    return content


def _plain(word: str) -> str:
    return word.lower().replace("-", "")


@cache
def _hanta(_: str) -> Tagger:
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError:
        raise InputError(
            "tagger 'hanta' is not installed: pip install hanta, or choose tagger 'words'"
        ) from None
    tagger: Any = HanoverTagger("morphmodel_en.pgz")

    def tag(captions: Sequence[str]) -> list[list[str]]:
        # The BNC's tags: NN* nouns, NP0 proper nouns, AJ* adjectives.
        tagged = (tagger.tag_sent(words) if (words := words_of(c)) else [] for c in captions)
        return [
            [_plain(word) for word, _, pos in found if pos.startswith(("NN", "NP", "AJ"))]
            for found in tagged
        ]

    return tag


@cache
def _stanza(model: str) -> Tagger:
    remedy = "pip install stanza, then python -c \"import stanza; stanza.download('en')\""
    try:
        import stanza  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise InputError(f"tagger 'stanza' is not installed: {remedy}") from None
    try:
        with _tensors_only():
            pipeline: Any = stanza.Pipeline(
                "en",
                processors="tokenize,pos",
                download_method=None,
                verbose=False,
                **({"dir": model} if model else {}),
            )
    except Exception as error:
        raise InputError(f"tagger 'stanza' has no English model ({error}): {remedy}") from error

    def tag(captions: Sequence[str]) -> list[list[str]]:
        documents = pipeline.bulk_process([caption.lower() for caption in captions])
        return [
            _universal((w.text, w.upos) for s in d.sentences for w in s.words) for d in documents
        ]

    return tag


@contextmanager
def _tensors_only() -> Iterator[None]:
    """No pickle is run: Stanza would load one where it finds more than tensors in a file."""
    import torch

    real = torch.load
    torch.load = lambda *given, **more: real(*given, **{**more, "weights_only": True})
    try:
        yield
    finally:
        torch.load = real


@cache
def _spacy(model: str) -> Tagger:
    model = model or "en_core_web_sm"
    remedy = f"pip install spacy, then python -m spacy download {model}"
    try:
        import spacy  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise InputError(f"tagger 'spacy' is not installed: {remedy}") from None
    try:
        pipeline: Any = spacy.load(model, disable=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise InputError(f"tagger 'spacy' has no pipeline {model!r}: {remedy}") from error

    def tag(captions: Sequence[str]) -> list[list[str]]:
        documents = pipeline.pipe([caption.lower() for caption in captions])
        return [_universal((token.text, token.pos_) for token in d) for d in documents]

    return tag


@cache
def _words(_: str) -> Tagger:
    return lambda captions: [[_plain(w) for w in words_of(c) if w[0].isalnum()] for c in captions]


def _universal(tagged: Any) -> list[str]:
    return [_plain(word) for word, pos in tagged if pos in ("NOUN", "ADJ", "PROPN")]


TAGGERS: dict[str, Callable[[str], Tagger]] = {
    "hanta": _hanta,
    "stanza": _stanza,
    "spacy": _spacy,
    "words": _words,
}
"""Tagger name -> what loads it, once, from the model named behind its colon ("" for its own)."""


def load_tagger(tagger: str) -> Tagger:
    """The tagger of that name, as `build_vocabulary` takes it. Raises `InputError` as it does."""
    name, _, model = tagger.partition(":")
    if name not in TAGGERS or (model and name not in ("stanza", "spacy")):
        raise InputError(
            f"unknown tagger {tagger!r}: expected one of {', '.join(TAGGERS)}; spacy and stanza "
            "take a model behind a colon (spacy:en_core_web_trf)"
        )
    return TAGGERS[name](model)
