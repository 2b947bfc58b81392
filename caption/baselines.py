"""Captions that need no captioner: what any captioner has to beat.

`most_frequent` says one text always, `copy_nearest` repeats the text of the nearest training photo,
`consensus` picks among the nearest photos' texts the one that agrees most with the others (Devlin
et al., 2015, "Exploring Nearest Neighbor Approaches for Image Captioning").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caption import InputError
from caption.metrics import TokenizerName


def most_frequent(train_texts: Sequence[str], query_ids: Sequence[str]) -> dict[str, str]:
    """The commonest training text for every item; the first of equally common ones."""
    if not train_texts:
        raise InputError("no training texts: expected at least one")
    (text, _), *_ = Counter(train_texts).most_common(1)
    return dict.fromkeys(query_ids, text)


def copy_nearest(
    train_vectors: ArrayLike,
    train_texts: Sequence[str],
    query_vectors: ArrayLike,
    query_ids: Sequence[str],
    *,
    barred: Sequence[Sequence[int]] | None = None,
) -> dict[str, str]:
    """The text of the training photo with the highest cosine to each query photo.

    `train_vectors` (n_train, dim) and `query_vectors` (n_query, dim) are image embeddings of any
    scale; `barred` names for each query the training rows it may not copy, such as its own. Raises
    `InputError` on shapes that do not fit together, on values that are not finite, and where every
    row is barred.
    """
    nearest = neighbours(train_vectors, train_texts, query_vectors, query_ids, 1, barred=barred)
    return {item: train_texts[row[0]] for item, row in zip(query_ids, nearest, strict=True)}


def consensus(
    train_vectors: ArrayLike,
    train_texts: Sequence[str],
    query_vectors: ArrayLike,
    query_ids: Sequence[str],
    n: int = 20,
    *,
    barred: Sequence[Sequence[int]] | None = None,
    tokenizer: TokenizerName = "auto",
) -> dict[str, str]:
    """The text among the `n` nearest photos' with the highest mean CIDEr-D against the others.

    CIDEr-D's document frequencies are those of `train_texts`. Of equal texts the nearer one is
    taken. Arguments and errors otherwise as in `copy_nearest`.
    """
    from caption.metrics.cider import CiderReward
    from caption.metrics.ngrams import DocumentFrequencies
    from caption.metrics.tokenizer import tokenize

    nearest = neighbours(train_vectors, train_texts, query_vectors, query_ids, n, barred=barred)
    n = nearest.shape[1]
    tokens, _ = tokenize(train_texts, tokenizer)
    df = DocumentFrequencies.of([[text] for text in tokens])
    # A text against all n includes itself, so its score against itself comes off again.
    alone = CiderReward([[text] for text in tokens], df)(tokens, range(len(tokens)))
    chosen: dict[str, str] = {}
    for start in range(0, len(query_ids), BATCH):
        rows = nearest[start : start + BATCH]
        reward = CiderReward([[tokens[j] for j in row] for row in rows], df)
        items = [i for i in range(len(rows)) for _ in range(n)]
        among = reward([tokens[j] for j in rows.ravel()], items).reshape(rows.shape)
        others = n * among - alone[rows]
        best = rows[np.arange(len(rows)), np.round(others, 9).argmax(1)]
        ids = query_ids[start : start + BATCH]
        chosen.update({item: train_texts[j] for item, j in zip(ids, best, strict=True)})
    return chosen


BATCH = 256
"""Query photos scored at once by `consensus`."""


def neighbours(
    train_vectors: ArrayLike,
    train_texts: Sequence[str],
    query_vectors: ArrayLike,
    query_ids: Sequence[str],
    n: int,
    *,
    barred: Sequence[Sequence[int]] | None = None,
) -> NDArray[np.int64]:
    """int64 (n_query, m) rows of the training photos of highest cosine, best first.

    m is `n`, or as many as every query may use: n_train less the longest list of `barred`.
    """
    train, query = _unit("train_vectors", train_vectors), _unit("query_vectors", query_vectors)
    if len(train) != len(train_texts) or len(query) != len(query_ids):
        raise InputError(
            f"{len(train)} training vectors for {len(train_texts)} texts, {len(query)} query "
            f"vectors for {len(query_ids)} ids: expected one vector each"
        )
    if not len(train) or n < 1:
        raise InputError(f"{len(train)} training photos, n={n}: expected at least one of each")
    if train.shape[1] != query.shape[1]:
        raise InputError(
            f"training vectors have {train.shape[1]} dimensions, query vectors {query.shape[1]}: "
            "embed both with the same encoder"
        )
    if barred is not None and len(barred) != len(query):
        raise InputError(f"{len(barred)} lists of barred rows for {len(query)} queries")
    most = max(map(len, barred), default=0) if barred is not None else 0
    if most >= len(train):
        raise InputError(f"a query may use none of {len(train)} training photos: give more")
    import faiss

    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train)
    n = min(n, len(train) - most)
    rows: NDArray[np.int64] = index.search(query, n + most)[1]
    if barred is not None:
        for i, own in enumerate(barred):
            allowed = rows[i][~np.isin(rows[i], list(own))]
            rows[i, :n] = allowed[:n]
    return np.ascontiguousarray(rows[:, :n])


def _unit(name: str, vectors: ArrayLike) -> NDArray[np.float32]:
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}: expected (n, dim)")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
        raise InputError(f"{name} row {bad} is not finite: leave out photos without an embedding")
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    norms[norms == 0] = 1
    unit: NDArray[np.float32] = array / norms
    return unit
