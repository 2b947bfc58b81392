"""Texts by what CIDEr-D finds in common between them: sparse n-gram vectors and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TextBank:
    """Distinct texts as the n-gram vectors of CIDEr-D."""

    grams: Any
    """CSR float32 (n_texts, n_grams): TF-IDF of 1- to 4-grams, each order of length 1/2, so that a
    product of two texts is the mean cosine of the orders. N-grams of one text alone are left out
    after normalising: they are in no product."""
    bigrams: NDArray[np.int64]
    """(n_texts,) how many each text has, for CIDEr-D's length penalty."""

    @classmethod
    def of(cls, texts: Sequence[str], counts: NDArray[np.int64]) -> TextBank:
        """`counts` (n_texts,) photos of each text: document frequencies are over photos."""
        from scipy import sparse

        from caption.metrics.ngrams import encode, grams
        from caption.metrics.tokenizer import tokenize

        tokens, _ = tokenize(texts, "auto")
        words = encode(tokens)
        blocks = []
        for g in grams(words.words, words.lengths, words.n_vocabulary):
            frequency = np.bincount(g.gram, counts[g.text], minlength=len(g.keys))
            weight = g.count * np.log(counts.sum() / frequency)[g.gram]
            norm = np.sqrt(np.bincount(g.text, weight * weight, minlength=len(texts)))
            shared = np.bincount(g.gram, minlength=len(g.keys)) > 1
            kept = shared[g.gram]
            values = (weight / np.maximum(2 * norm[g.text], 1e-9))[kept].astype(np.float32)
            column = (np.cumsum(shared) - 1)[g.gram[kept]]
            shape = (len(texts), max(1, int(shared.sum())))
            blocks.append(sparse.csr_matrix((values, (g.text[kept], column)), shape=shape))
        return cls(sparse.hstack(blocks).tocsr(), np.maximum(0, words.lengths - 1))

    def alike(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 (m, m) CIDEr-D / 10 between texts, but for its clipping of repeated n-grams."""
        from caption.metrics.cider import SIGMA

        own = self.grams[places]
        longer = self.bigrams[places][:, None] - self.bigrams[places][None]
        products = (own @ own.T).toarray().astype(np.float64)
        alike: NDArray[np.float64] = products * np.exp(-(longer**2) / (2 * SIGMA**2))
        return alike

    def targets(self, kin: int, sharpness: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each text (n_texts, m) the numbers of its kin, and their shares, which sum to 1."""
        n = self.grams.shape[0]
        m = min(kin, n)
        numbers, shares = np.empty((n, m), np.int64), np.empty((n, m), np.float32)
        other = self.grams.T.tocsr()
        for start in range(0, n, 512):
            part = slice(start, start + 512)
            alike = (self.grams[part] @ other).toarray()
            at = np.arange(len(alike))
            alike[at, start + at] = 1  # n-grams of this text alone are not in its product
            numbers[part] = np.sort(np.argpartition(-alike, m - 1, axis=1)[:, :m], axis=1)
            power = np.take_along_axis(alike, numbers[part], 1) ** sharpness
            shares[part] = power / power.sum(1, keepdims=True)
        return numbers, shares

    def reduced(self, dim: int, seed: int) -> NDArray[np.float32]:
        """float32 (n_texts, dim) by SVD; zeros where there are fewer dimensions."""
        from sklearn.utils.extmath import randomized_svd  # type: ignore[import-untyped, unused-ignore]

        most = min(dim, *self.grams.shape)
        u, s, _ = randomized_svd(self.grams, most, n_iter=2, random_state=seed)
        found = np.zeros((self.grams.shape[0], dim), np.float32)
        found[:, :most] = u * s
        return found
