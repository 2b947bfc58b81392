"""What hypotheses are like on their own: length, variety, and what they repeat of the training."""

from __future__ import annotations

import numpy as np

from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.ngrams import encode, grams


def diversity(corpus: Corpus) -> list[Score | Unavailable]:
    """Scores length, distinct-1, distinct-2 and distinct-captions, over tokenized hypotheses.

    `length` is the mean number of words. `distinct-n` is the number of different n-grams over the
    number of n-grams (Li et al. 2016, who divide by words); `distinct-captions` the number of
    different captions over that of items: near 0, the captioner has collapsed to a few sentences.
    A corpus without an n-gram scores 0.
    """
    hypotheses = corpus.tokenized.hypotheses
    texts = encode(hypotheses)
    lengths = texts.lengths.astype(np.float64)
    values = {"length": float(lengths.mean())}
    orders = zip(
        ("distinct-1", "distinct-2"),
        grams(texts.words, texts.lengths, texts.n_vocabulary),
        strict=False,
    )
    for name, g in orders:
        values[name] = len(g.keys) / max(1, int(g.count.sum()))
    values["distinct-captions"] = len(set(hypotheses)) / len(hypotheses)
    return [
        Score(name, value, lengths if name == "length" else None, corpus.signature(name))
        for name, value in values.items()
    ]


def verbatim(corpus: Corpus) -> list[Score | Unavailable]:
    """Score verbatim: share of hypotheses that stand word for word in `corpus.training`.

    Compared after tokenization, so case and punctuation don't matter; 1 or 0 an item.
    """
    if not corpus.training:
        return [Unavailable("verbatim", "no training captions were given")]
    from caption.metrics.tokenizer import tokenize_corpus

    known = set(tokenize_corpus(corpus.training, [], corpus.tokenizer).hypotheses)
    per_item = np.array([text in known for text in corpus.tokenized.hypotheses], np.float64)
    signature = corpus.signature("verbatim", f"training:{len(known)}-distinct")
    return [Score("verbatim", float(per_item.mean()), per_item, signature)]
