"""CIDEr-D against a corpus' own or given document frequencies, and as a reward for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.ngrams import (
    DocumentFrequencies,
    Floats,
    Layout,
    Matches,
    encode,
    match,
    spans,
    translate,
)

SIGMA = 6.0


def cider_d(corpus: Corpus) -> list[Score | Unavailable]:
    """Score cider-d: clipped tf-idf cosine over 1- to 4-grams with a Gaussian length penalty, x 10.

    As in pycocoevalcap's `Cider()`, the penalty counts bigrams, and a corpus of one item, or of
    items with identical references, scores 0 because every n-gram is in every document. Document
    frequencies come from `corpus.df_references` when given. Source: Vedantam et al. 2015.
    """
    name = "cider-d"
    if not any(text.split() for refs in corpus.tokenized.references for text in refs):
        return [Unavailable(name, "no reference has a word left after tokenization")]
    if corpus.backend == "pycocoevalcap" and corpus.df_references is not None:
        return [Unavailable(name, "pycocoevalcap takes no document frequencies: use backend fcr")]
    per_item = _original(corpus) if corpus.backend == "pycocoevalcap" else _score(corpus.matches)
    df = "df:refs" if corpus.df_references is None else f"df:given-{len(corpus.df_references)}"
    signature = corpus.signature(name, f"sigma:{SIGMA:g}", df, package=corpus.backend)
    return [Score(name, float(per_item.mean()), per_item, signature)]


class CiderReward:
    """CIDEr-D of sampled captions against references prepared once.

    All text is tokenized already (words joined by spaces). `references` holds one list an item;
    `df` are the document frequencies, by default those of `references`.

    Raises `InputError` on an item without references.
    """

    def __init__(
        self, references: Sequence[Sequence[str]], df: DocumentFrequencies | None = None
    ) -> None:
        empty = [i for i, refs in enumerate(references) if not refs]
        if empty:
            raise InputError(f"items {empty[:5]} have no references: CIDEr-D needs at least one")
        texts = encode([ref for refs in references for ref in refs])
        self._df = df or DocumentFrequencies.of(references)
        self._n_refs = np.array([len(refs) for refs in references], np.int64)
        self._first_text = np.cumsum(self._n_refs) - self._n_refs
        self._lengths = texts.lengths
        self._first_word = np.cumsum(texts.lengths) - texts.lengths
        self._words = texts.words
        self._vocabulary = pl.Enum(texts.vocabulary)
        self._df_numbers = translate(texts.vocabulary, self._df.words)

    def __call__(self, captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        """float64 (n_captions,) score of each caption against the references of its item.

        `items` are rows of the references; the same item may come many times.
        """
        rows = np.asarray(items, np.int64)
        if len(rows) != len(captions):
            raise InputError(f"{len(captions)} captions for {len(rows)} items: expected as many")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self._n_refs):
            raise InputError(
                f"items are {rows.min()}..{rows.max()}: expected rows 0..{len(self._n_refs) - 1}"
            )
        if not len(rows):
            return np.zeros(0)
        mine = encode(captions)
        theirs = translate(mine.vocabulary, self._vocabulary)
        new = theirs < 0  # words of no reference: numbered behind all others, weighed by df alone
        theirs[new] = len(self._df_numbers) + np.arange(new.sum())
        df_numbers = np.concatenate(
            [self._df_numbers, translate(mine.vocabulary.filter(pl.Series(new)), self._df.words)]
        )

        layout = Layout.of(self._n_refs[rows])
        is_ref = np.ones(len(layout.items), bool)
        is_ref[layout.heads] = False
        refs = spans(self._first_text[rows], self._n_refs[rows])
        lengths = np.empty(len(layout.items), np.int64)
        lengths[~is_ref], lengths[is_ref] = mine.lengths, self._lengths[refs]
        words = np.empty(lengths.sum(), np.int32)
        from_ref = np.repeat(is_ref, lengths)
        words[~from_ref] = theirs[mine.words]
        words[from_ref] = self._words[spans(self._first_word[refs], self._lengths[refs])]
        return _score(match(words, lengths, len(df_numbers), layout, self._df, df_numbers))


def _score(matches: Matches, sigma: float = SIGMA) -> Floats:
    """float64 (n_items,) CIDEr-D of each item."""
    layout = matches.layout
    head = layout.heads[layout.items]
    bigrams = np.maximum(0, matches.lengths - 1)
    norms = np.sqrt(matches.squares)
    norm = norms * norms[head]
    cosine = np.divide(matches.dots, norm, out=np.zeros_like(norm), where=norm != 0)
    penalty = np.exp(-((bigrams[head] - bigrams) ** 2) / (2 * sigma**2))
    per_text = cosine.mean(1) * penalty  # 0 at heads: their dots are
    n_refs = np.bincount(layout.items) - 1
    return 10 * np.bincount(layout.items, per_text) / n_refs


def _original(corpus: Corpus) -> Floats:
    from pycocoevalcap.cider.cider import Cider

    return np.asarray(Cider().compute_score(*corpus.as_coco)[1], np.float64)
