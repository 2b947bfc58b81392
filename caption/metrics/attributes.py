"""Do captions name the attributes and the category that people named?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.attributes import Vocabulary, build_vocabulary
from caption.categories import CategoryClassifier
from caption.metrics import Corpus, Score, Unavailable


def attributes(
    corpus: Corpus, *, vocabulary: Vocabulary | None = None
) -> list[Score | Unavailable]:
    """Scores attribute-map, attribute-mar and attribute-f1, of sets of attribute words an item.

    With H and R the vocabulary's words in the hypothesis and in any of its references:
    attribute-map = mean of |H & R| / |H|, attribute-mar = mean of |H & R| / |R|, 0 where the
    denominator is. Published tables call them MAP and MAR; they are mean precision and recall of
    sets, not average precision. attribute-f1 = mean of 2 |H & R| / (|H| + |R|), 1 where both are
    empty, which is neither F1 of the two means.

    `vocabulary` (default: built from `corpus.training`) needs training captions: without either
    the answer is `Unavailable`.
    """
    names = ("attribute-map", "attribute-mar", "attribute-f1")
    try:
        if vocabulary is None and corpus.training:
            vocabulary = _vocabulary(tuple(corpus.training))
        if vocabulary is None or not vocabulary.words:
            few = "has no word often enough" if vocabulary else "is not given"
            reason = f"the attribute vocabulary {few}: give the training captions"
            return [Unavailable(name, reason) for name in names]
        n_refs = [len(refs) for refs in corpus.references]
        found = vocabulary.attributes([ref for refs in corpus.references for ref in refs])
        hypotheses = vocabulary.attributes(corpus.hypotheses)
    except InputError as error:  # a tagger that is not installed
        return [Unavailable(name, str(error)) for name in names]
    ends = np.cumsum(n_refs)
    references = [
        frozenset().union(*found[end - n : end]) for n, end in zip(n_refs, ends, strict=True)
    ]
    both = _sizes([h & r for h, r in zip(hypotheses, references, strict=True)])
    h, r = _sizes(hypotheses), _sizes(references)
    f1 = _share(2 * both, h + r)
    f1[h + r == 0] = 1
    vocab = f"vocab:{len(vocabulary.words)}-min-{vocabulary.min_count}"
    return [
        Score(
            name,
            float(values.mean()),
            values,
            corpus.signature(name, f"tagger:{vocabulary.tagger}", vocab, tokenizer=False),
        )
        for name, values in zip(names, (_share(both, h), _share(both, r), f1), strict=True)
    ]


def category_accuracy(
    corpus: Corpus, categories: Sequence[str], classifier: CategoryClassifier
) -> list[Score | Unavailable]:
    """Score category-accuracy: share of hypotheses from which the classifier reads the category.

    `categories` (n_items,) are the items' own, in the order of `corpus.ids`; an empty one is not
    known: that item is NaN and left out. Raises `InputError` when their number is another.
    """
    name = "category-accuracy"
    if len(categories) != len(corpus.ids):
        n = len(corpus.ids)
        raise InputError(f"{len(categories)} categories for {n} items: expected one each")
    known = np.array([bool(category) for category in categories])
    if not known.any():
        return [Unavailable(name, "no item has a category")]
    predicted = classifier.predict(corpus.hypotheses)
    right = np.array([p == c for p, c in zip(predicted, categories, strict=True)], np.float64)
    right[~known] = np.nan
    items = f"items:{int(known.sum())}/{len(known)}"
    signature = corpus.signature(name, classifier.signature, items, tokenizer=False)
    return [Score(name, float(np.nanmean(right)), right, signature)]


@lru_cache(maxsize=2)
def _vocabulary(training: tuple[str, ...]) -> Vocabulary:
    """Tagging the training texts takes most of the time: captioners that share them share it."""
    return build_vocabulary(training)


def _sizes(sets: Sequence[frozenset[str]]) -> NDArray[np.float64]:
    return np.array([len(each) for each in sets], np.float64)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
