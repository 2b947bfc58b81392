"""ROUGE-L as the COCO caption evaluation computes it: bit-parallel over all pairs at once."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.ngrams import Floats, Ints, encode

BETA = 1.2
_BITS = 64
_CELLS = 1 << 17  # steps of all pairs taken together: what stays in cache


def rouge_l(corpus: Corpus) -> list[Score | Unavailable]:
    """Score rouge-l: F of the best precision and best recall over references, beta 1.2.

    Words are those of `split(" ")`, as in pycocoevalcap's `Rouge()`: a fraction that the tokenizer
    joined by a no-break space is one word, and two empty captions agree fully. Source: Lin 2004.
    """
    per_item = _original(corpus) if corpus.backend == "pycocoevalcap" else _ours(corpus)
    signature = corpus.signature("rouge-l", f"beta:{BETA:g}", package=corpus.backend)
    return [Score("rouge-l", float(per_item.mean()), per_item, signature)]


def _ours(corpus: Corpus) -> Floats:
    hyps, refs = corpus.tokenized.hypotheses, corpus.tokenized.references
    texts = encode([*hyps, *chain.from_iterable(refs)], any_whitespace=False)
    n_refs = np.array([len(rs) for rs in refs])
    first = np.cumsum(n_refs) - n_refs
    starts = np.cumsum(texts.lengths) - texts.lengths
    hyp = np.repeat(np.arange(len(hyps)), n_refs)
    ref = np.arange(len(hyps), len(texts.lengths))
    lcs = lcs_lengths(texts.words, starts, texts.lengths, hyp, ref)
    precision = np.maximum.reduceat(lcs / texts.lengths[hyp], first)
    recall = np.maximum.reduceat(lcs / texts.lengths[ref], first)
    both = recall + BETA**2 * precision
    return np.divide((1 + BETA**2) * precision * recall, both, np.zeros(len(hyps)), where=both != 0)


def lcs_lengths(
    words: NDArray[np.int32], starts: Ints, lengths: Ints, left: Ints, right: Ints
) -> Ints:
    """int64 (n_pairs,) longest common subsequence of texts `left[i]` and `right[i]`.

    Text t is `words[starts[t] : starts[t] + lengths[t]]`. A column of the dynamic programme is the
    bits of one integer (Hyyrö 2004), for the shorter text; the longer one takes the steps. Pairs
    whose shorter text has at most 64 words advance together; the rest go one by one through
    Python's long integers.
    """
    swap = lengths[left] > lengths[right]
    bits, steps = np.where(swap, right, left), np.where(swap, left, right)
    n_bits, n_steps = lengths[bits], lengths[steps]
    words = np.pad(words, (0, int(lengths.max(initial=0))))
    out = np.zeros(len(left), np.int64)
    fits = np.flatnonzero(n_bits <= _BITS)
    fits = fits[np.lexsort((n_bits[fits], n_steps[fits]))[::-1]]
    while len(fits):
        width = int(n_steps[fits[0]])
        size = max(1, _CELLS // max(1, width))
        now, fits = fits[:size], fits[size:]
        height = int(n_bits[now].max())
        column = _padded(words, starts[bits[now]], n_bits[now], height, -1)
        row = _padded(words, starts[steps[now]], n_steps[now], width, -2)
        uint = _smallest(height)
        matched = np.zeros((width, len(now)), uint)
        for word in column[::-1]:
            matched <<= uint(1)
            matched |= row == word
        state = np.full(len(now), np.iinfo(uint).max, uint)
        for hit in matched:
            hit &= state
            state = (state + hit) | (state - hit)
        out[now] = np.bitwise_count(~state)
    for pair in np.flatnonzero(n_bits > _BITS):
        a, b = bits[pair], steps[pair]
        out[pair] = _long_lcs(
            words[starts[a] : starts[a] + lengths[a]].tolist(),
            words[starts[b] : starts[b] + lengths[b]].tolist(),
        )
    return out


def _smallest(n_bits: int) -> Any:
    """The unsigned integer type that holds `n_bits` in the fewest bytes."""
    return next(
        u for u in (np.uint8, np.uint16, np.uint32, np.uint64) if n_bits <= np.iinfo(u).bits
    )


def _padded(
    words: NDArray[np.int32], starts: Ints, lengths: Ints, width: int, fill: int
) -> NDArray[np.int32]:
    """int32 (width, n_texts): one text a column, `fill` below it."""
    place = np.arange(width)[:, None]
    out: NDArray[np.int32] = words[starts + place]
    out[place >= lengths] = fill
    return out


def _long_lcs(bits: list[int], steps: list[int]) -> int:
    masks: dict[int, int] = dict.fromkeys(steps, 0)
    for i, word in enumerate(bits):
        if word in masks:
            masks[word] |= 1 << i
    full = (1 << len(bits)) - 1
    state = full
    for word in steps:
        hit = state & masks[word]
        state = ((state + hit) | (state - hit)) & full
    return (state ^ full).bit_count()


def _original(corpus: Corpus) -> Floats:
    from pycocoevalcap.rouge.rouge import Rouge

    return np.asarray(Rouge().compute_score(*corpus.as_coco)[1], np.float64)
