"""Scores of captions against references: what each metric says, and how it came to say so.

    >>> scores = score_captions({"0108775015": "a red dress"}, {"0108775015": ["red dress"]})
    >>> scores["bleu-1"].value, scores["bleu-1"].signature

Every score carries a signature (definition, reference counts, tokenizer, versions); a metric that
cannot run here is `Unavailable` with its reason, never 0 and never another metric's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caption import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from caption.metrics.ngrams import Matches
    from caption.metrics.tokenizer import Tokenized

TokenizerName = Literal["auto", "jar", "python", "none"]
Backend = Literal["fcr", "pycocoevalcap"]


@dataclass(frozen=True)
class Score:
    """One metric over one corpus."""

    name: str
    value: float
    per_item: NDArray[np.float64] | None
    """float64 (n_items,) in the order of `Corpus.ids`; None where the metric has no item value."""
    signature: str
    """Fields joined by `|`: name, definition, `refs:`, `tok:`, `ver:`."""


@dataclass(frozen=True)
class Unavailable:
    """A metric that was asked for and cannot be computed here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Hypotheses, their references and what metrics need besides; checked by `score_captions`."""

    ids: tuple[str, ...]
    hypotheses: list[str]
    """(n_items,) raw text, as the captioner wrote it."""
    references: list[list[str]]
    """(n_items,) lists of at least one raw text."""
    tokenizer: TokenizerName = "auto"
    backend: Backend = "fcr"
    images: Mapping[str, Path] | None = None
    """Photo of each id, for the metrics that look at it."""
    clip: str | Path | None = None
    """CLIP checkpoint that looks; None: as `clipscore` says."""
    training: Sequence[str] = field(default=())
    """Captions the captioner was trained on, for the share it repeats verbatim."""
    df_references: Sequence[Sequence[str]] | None = None
    """Reference lists that give CIDEr-D its document frequencies; None takes this corpus'."""

    @cached_property
    def tokenized(self) -> Tokenized:
        """Both sides through the PTB tokenizer, lower-cased, without punctuation."""
        from caption.metrics.tokenizer import tokenize_corpus

        return tokenize_corpus(self.hypotheses, self.references, self.tokenizer)

    @cached_property
    def matches(self) -> Matches:
        """N-grams the hypotheses share with their references: one sweep for BLEU and CIDEr-D."""
        from caption.metrics.ngrams import DocumentFrequencies, Layout, encode, match, translate
        from caption.metrics.tokenizer import tokenize_corpus

        both = zip(self.tokenized.hypotheses, self.tokenized.references, strict=True)
        texts = encode([text for hyp, refs in both for text in (hyp, *refs)])
        layout = Layout.of([len(refs) for refs in self.references])
        if self.df_references is None:
            return match(texts.words, texts.lengths, texts.n_vocabulary, layout)
        given = tokenize_corpus([], self.df_references, self.tokenizer)
        df = DocumentFrequencies.of(given.references)
        numbers = translate(texts.vocabulary, df.words)
        return match(texts.words, texts.lengths, texts.n_vocabulary, layout, df, numbers)

    @property
    def as_coco(self) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
        """References and hypotheses as the scorers of pycocoevalcap take them, tokenized."""
        tok = self.tokenized
        return dict(enumerate(tok.references)), {i: [h] for i, h in enumerate(tok.hypotheses)}

    def signature(self, *definition: str, tokenizer: bool = True, package: Backend = "fcr") -> str:
        """`definition` fields, then reference counts, tokenizer, and whose scorer computed it."""
        counts = sorted({len(refs) for refs in self.references})
        refs = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
        tok = (f"tok:{self.tokenized.signature}",) if tokenizer else ()
        return "|".join((*definition, f"refs:{refs}", *tok, f"ver:{package}-{_version(package)}"))


def _bleu(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.bleu import bleu

    return bleu(corpus)


def _rouge_l(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.rouge import rouge_l

    return rouge_l(corpus)


def _cider_d(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.cider import cider_d

    return cider_d(corpus)


def _diversity(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.diversity import diversity

    return diversity(corpus)


def _verbatim(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.diversity import verbatim

    return verbatim(corpus)


def _meteor(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.meteor import meteor

    return meteor(corpus)


def _spice(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.spice import spice

    return spice(corpus)


def _clipscore(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.clipscore import clipscore

    return clipscore(corpus, checkpoint=corpus.clip)


def _attributes(corpus: Corpus) -> list[Score | Unavailable]:
    from caption.metrics.attributes import attributes

    return attributes(corpus)


METRICS: dict[str, Callable[[Corpus], list[Score | Unavailable]]] = {
    "bleu": _bleu,
    "rouge-l": _rouge_l,
    "cider-d": _cider_d,
    "meteor": _meteor,
    "spice": _spice,
    "clipscore": _clipscore,
    "attributes": _attributes,
    "diversity": _diversity,
    "verbatim": _verbatim,
}
"""What can be asked for; one entry may answer with several scores (bleu: bleu-1 to bleu-4)."""


def score_captions(
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = ("bleu", "rouge-l", "cider-d"),
    *,
    tokenizer: TokenizerName = "auto",
    images: Mapping[str, Path] | None = None,
    clip: str | Path | None = None,
    backend: Backend = "fcr",
    training: Sequence[str] = (),
    df_references: Sequence[Sequence[str]] | None = None,
) -> dict[str, Score | Unavailable]:
    """Score one hypothesis an item against its references, with every metric of `metrics`.

    Items keep the order of `hypotheses`. `tokenizer` "auto" is the PTB jar where Java is found and
    its Python twin otherwise; "none" takes captions as tokenized already. `images` are the photos
    of the items, and `clip` the checkpoint that looks at them (None: as `clipscore` chooses).
    `backend` "pycocoevalcap" runs the original scorers of BLEU, ROUGE-L and CIDEr-D.

    Raises `InputError` on an unknown metric, ids that stand on one side only, an item without
    references, a blank reference, and anything that is not text.
    """
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}: expected some of {', '.join(METRICS)}")
    if backend not in ("fcr", "pycocoevalcap"):
        raise InputError(f"backend is {backend!r}: expected fcr or pycocoevalcap")
    check_captions(hypotheses, references)
    for what, texts in (
        ("training", training),
        *(("df_references", r) for r in df_references or ()),
    ):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{what}: expected strings in a list, got {texts!r:.80}")
    if df_references is not None and not len(df_references):
        raise InputError("df_references is empty: expected reference lists, or None")
    corpus = Corpus(
        ids=tuple(hypotheses),
        hypotheses=list(hypotheses.values()),
        references=[list(references[item]) for item in hypotheses],
        tokenizer=tokenizer,
        backend=backend,
        images=images,
        clip=clip,
        training=training,
        df_references=df_references,
    )
    found = [score for name in dict.fromkeys(metrics) for score in METRICS[name](corpus)]
    return {score.name: score for score in found}


def check_captions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` on what no metric may see; every message lists some of the items."""
    if not hypotheses:
        raise InputError("no hypotheses: expected at least one item")
    for missing, have, lack in (
        ([i for i in hypotheses if i not in references], "hypotheses", "references"),
        ([i for i in references if i not in hypotheses], "references", "hypotheses"),
    ):
        if missing:
            raise InputError(
                f"{some(missing)} in {have} but not in {lack}: give both sides the same ids"
            )
    _refuse([i for i in hypotheses if not isinstance(i, str)], "ids that are not strings")
    _refuse(
        [i for i, text in hypotheses.items() if not isinstance(text, str)],
        'a hypothesis that is not a string (an empty caption is "")',
    )
    _refuse(
        [
            i
            for i, r in references.items()
            if isinstance(r, str) or not isinstance(r, Sequence) or not r
        ],
        "no list of references (expected at least one string in a list)",
    )
    _refuse(
        [i for i, refs in references.items() if not all(isinstance(r, str) for r in refs)],
        "a reference that is not a string",
    )
    _refuse(
        [i for i, refs in references.items() if not all(map(str.strip, refs))],
        "a blank reference (leave it out, or the item if it has no other)",
    )


def _refuse(ids: Sequence[object], what: str) -> None:
    if ids:
        raise InputError(f"{some(ids)} with {what}")


def some(ids: Sequence[object], shown: int = 5) -> str:
    """How many items, and the first of them, for a message."""
    listed = ", ".join(repr(i) for i in ids[:shown])
    return f"{len(ids)} item{'s' * (len(ids) > 1)} ({listed}{', ...' * (len(ids) > shown)})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"
