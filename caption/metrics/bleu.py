"""BLEU-1 to BLEU-4 as the COCO caption evaluation computes them, and the original beside it."""

from __future__ import annotations

import numpy as np

from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.ngrams import MAX_ORDER, Floats, Ints, Matches

_TINY, _SMALL = 1e-15, 1e-9  # keep empty captions defined; part of the reference definition


def bleu(corpus: Corpus) -> list[Score | Unavailable]:
    """Scores bleu-1 to bleu-4: closest reference length, no smoothing.

    Source: Papineni et al. 2002; corpus and item formula of pycocoevalcap's `Bleu(4)`.
    """
    values, per_item = _original(corpus) if corpus.backend == "pycocoevalcap" else _ours(corpus)
    names = [f"bleu-{n + 1}" for n in range(MAX_ORDER)]
    signatures = [corpus.signature(n, "len:closest", package=corpus.backend) for n in names]
    return [
        Score(name, float(values[n]), per_item[:, n], signature)
        for n, (name, signature) in enumerate(zip(names, signatures, strict=True))
    ]


def _ours(corpus: Corpus) -> tuple[Floats, Floats]:
    matches = corpus.matches
    hyp_len = matches.lengths[matches.layout.heads]
    ref_len = closest_lengths(matches)
    guess = np.maximum(0, hyp_len[:, None] - np.arange(MAX_ORDER))
    per_item = _formula(matches.clipped, guess, hyp_len, ref_len)
    whole = _formula(
        matches.clipped.sum(0)[None], guess.sum(0)[None], hyp_len.sum()[None], ref_len.sum()[None]
    )
    return whole[0], per_item


def closest_lengths(matches: Matches) -> Ints:
    """int64 (n_items,) length of the reference nearest in length, the shorter one on a tie."""
    layout, lengths = matches.layout, matches.lengths
    distance = np.abs(lengths - lengths[layout.heads][layout.items])
    width = int(lengths.max(initial=0)) + 1
    rank = distance * width + lengths
    rank[layout.heads] = np.iinfo(np.int64).max
    return np.minimum.reduceat(rank, layout.heads) % width


def _formula(correct: Ints, guess: Ints, hyp_len: Ints, ref_len: Ints) -> Floats:
    """float64 (n, MAX_ORDER) geometric mean of precisions times the brevity penalty."""
    precision = np.cumprod((correct + _TINY) / (guess + _SMALL), axis=1)
    scores = precision ** (1 / np.arange(1, MAX_ORDER + 1))
    ratio = (hyp_len + _TINY) / (ref_len + _SMALL)
    return scores * np.exp(np.minimum(0, 1 - 1 / ratio))[:, None]


def _original(corpus: Corpus) -> tuple[Floats, Floats]:
    from pycocoevalcap.bleu.bleu import Bleu

    values, per_item = Bleu(MAX_ORDER).compute_score(*corpus.as_coco, verbose=0)
    return np.array(values), np.array(per_item).T
