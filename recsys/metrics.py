"""How good ranked lists are: one vector of values per user, and a signature that says how.

Metrics of relevance are computed in one pass over the lists; a user without relevant items has
NaN. Metrics of the lists alone (coverage, novelty ...) need no relevant items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recsys import InputError, kernels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RELEVANCE_METRICS: dict[str, str] = {
    "ndcg": "gain:binary|discount:log2(rank+1)|ideal:min(m,k)",
    "ndcg_all": "gain:binary|discount:log2(rank+1)|ideal:k",
    "map": "sum(P(i)rel(i))/min(m,k)",
    "map_r": "sum(P(i)rel(i))/m",
    "map_hits": "sum(P(i)rel(i))/hits",
    "map_elliot": "mean(P@1..P@k)",
    "precision": "hits/k",
    "recall": "hits/m",
    "hit_rate": "hits>0",
    "mrr": "1/rank of the first hit, 0 beyond k",
}
"""Name -> definition, with m relevant items, rel(i) 0 or 1, P(i) the precision at rank i. `ndcg`
and `map` are Kaggle's and RecBole's; `ndcg_all` is RecTools' default; `map_r` RecTools' and ranx';
`map_hits` torchmetrics'; `map_elliot` Elliot's. The order is the kernel's numbering."""

LIST_METRICS: dict[str, str] = {
    "novelty": "mean(-log2(share of train users who bought the item))",
    "popularity": "mean(train purchases of the item)",
    "diversity": "mean(1-cosine) over the pairs of the list",
    "coverage": "distinct recommended items/catalogue",
    "gini": "Gini index of how often each catalogue item is recommended",
}
"""Metrics of the lists alone: name -> definition."""


@dataclass(frozen=True)
class Score:
    """One metric at one k."""

    name: str
    """Such as "ndcg"."""
    k: int
    value: float
    """Mean over the users that have a value; the catalogue-wide value for coverage and gini."""
    per_user: NDArray[np.float64] | None
    """(n_users,) float64, NaN for users without a value; None for catalogue-wide metrics."""
    signature: str
    """How it was computed, for example "ndcg@12|gain:binary|discount:...|users:m>0"."""

    @property
    def n_users(self) -> int:
        return 0 if self.per_user is None else int(np.isfinite(self.per_user).sum())


def score_lists(
    item_idx: NDArray[np.int32],
    relevant: csr_matrix,
    metrics: Sequence[str] = ("ndcg", "map"),
    ks: Sequence[int] = (5, 12),
) -> dict[str, Score]:
    """Metrics of relevance per user.

    Args:
        item_idx: (n, length) int32 ranked lists, best first, padded with -1. An item repeated in
            a list counts at its first place only.
        relevant: CSR (n, n_items); the stored indices of row i are the relevant items of user i.
        metrics: names of RELEVANCE_METRICS.
        ks: cut-offs; one beyond the length of the lists counts the missing places as misses.

    Returns:
        {"ndcg@12": Score, ...}, metric by metric in the order asked for.

    Raises:
        InputError: unknown metric, k < 1, or row counts that differ.
    """
    codes = [_code(name) for name in metrics]
    _check_ks(ks)
    cutoffs = np.array(sorted(set(ks)), dtype=np.int64)
    if item_idx.ndim != 2 or len(item_idx) != relevant.shape[0]:
        raise InputError(
            f"item_idx has shape {item_idx.shape} and relevant has {relevant.shape[0]} rows; "
            "both need one row per user"
        )
    if not relevant.has_canonical_format:
        relevant = relevant.copy()
        relevant.sum_duplicates()
    discount = 1 / np.log2(np.arange(2, cutoffs[-1] + 2))
    out = np.empty((len(codes), len(cutoffs), len(item_idx)))
    arrays = (
        np.ascontiguousarray(item_idx, dtype=np.int32),
        relevant.indptr.astype(np.int64),
        relevant.indices.astype(np.int32, copy=False),
        cutoffs,
        np.array(codes, dtype=np.int64),
        discount,
        np.concatenate([[0.0], np.cumsum(discount)]),
        out,
    )
    block = kernels.block_of(len(item_idx), 65_536)
    kernels.run_blocks(len(item_idx), block, lambda lo, hi: _relevance_kernel(*arrays, lo, hi))
    n_users = int(np.count_nonzero(np.diff(relevant.indptr)))
    found = {}
    for i, name in enumerate(metrics):
        for k in ks:
            values = out[i, int(np.searchsorted(cutoffs, k))]
            mean = float(np.nansum(values) / n_users) if n_users else float("nan")
            signature = f"{name}@{k}|{RELEVANCE_METRICS[name]}|users:m>0"
            found[f"{name}@{k}"] = Score(name, k, mean, values, signature)
    return found


def score_catalogue(
    item_idx: NDArray[np.int32],
    metrics: Sequence[str] = tuple(LIST_METRICS),
    ks: Sequence[int] = (12,),
    *,
    n_items: int,
    train: csr_matrix | None = None,
    vectors: NDArray[np.float32] | None = None,
) -> dict[str, Score]:
    """Metrics of the lists alone.

    Args:
        item_idx: (n, length) int32 ranked lists, best first, padded with -1.
        metrics: names of LIST_METRICS.
        ks: cut-offs.
        n_items: size of the catalogue.
        train: CSR (users, n_items) of the training pairs; needed by novelty and popularity. An
            item nobody bought counts as bought by one in novelty, as RecTools does.
        vectors: (n_items, dim) float32; needed by diversity. Items with a zero vector, and users
            with fewer than two others, have no value.

    Returns:
        {"novelty@12": Score, ...}; empty lists have NaN. Coverage and gini have no per_user.

    Raises:
        InputError: unknown metric, k < 1, train or vectors needed and not given or of another size.
    """
    _check_ks(ks)
    for name in metrics:
        if name not in LIST_METRICS:
            raise InputError(f"unknown metric {name!r}; expected one of {', '.join(LIST_METRICS)}")
        if name in ("novelty", "popularity") and train is None:
            raise InputError(f"{name} needs the training pairs: give train")
        if name == "diversity" and vectors is None:
            raise InputError("diversity needs the items' vectors: give vectors")
    for source, size in (
        ("train", n_items if train is None else train.shape[1]),
        ("vectors", n_items if vectors is None else len(vectors)),
    ):
        if size != n_items:
            raise InputError(f"{source} is about {size} items and the catalogue has {n_items}")
    found = {}
    for name in metrics:
        for k in ks:
            top = item_idx[:, :k]
            signature = f"{name}@{k}|{LIST_METRICS[name]}|n_items:{n_items}"
            if name in ("coverage", "gini"):
                times = np.bincount(top[top >= 0], minlength=n_items)
                value = np.count_nonzero(times) / n_items if name == "coverage" else gini(times)
                found[f"{name}@{k}"] = Score(name, k, float(value), None, signature)
                continue
            if name == "diversity":
                values = _diversity(top, vectors)
            else:
                assert train is not None
                values = _mean_over_list(top, _item_values(name, train))
            mean = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            found[f"{name}@{k}"] = Score(name, k, mean, values, f"{signature}|users:with a list")
    return found


def score_slices(
    item_idx: NDArray[np.int32],
    relevant: csr_matrix,
    metrics: Sequence[str] = ("ndcg", "map"),
    ks: Sequence[int] = (12,),
    *,
    items: Mapping[str, NDArray[np.bool_]] | None = None,
    users: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, dict[str, Score]]:
    """Metrics of relevance on parts of the truth or of the users; the lists stay whole.

    Args:
        item_idx, relevant, metrics, ks: as in `score_lists`.
        items: slice -> (n_items,) bool; only relevant items of the slice count, users without one
            have NaN (see `popularity_bands`).
        users: slice -> (n,) bool; the other users have NaN (see `history_bands`).

    Returns:
        {slice: {"ndcg@12": Score, ...}}.
    """
    from scipy import sparse

    found = {}
    for part, chosen in [*(items or {}).items(), *(users or {}).items()]:
        of_items = items is not None and part in items
        kept = chosen[relevant.indices] if of_items else np.repeat(chosen, np.diff(relevant.indptr))
        start = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[relevant.indptr]
        truth = sparse.csr_matrix(
            (np.ones(start[-1], dtype=np.float32), relevant.indices[kept], start),
            shape=relevant.shape,
        )
        suffix = f"|{'relevant' if of_items else 'users'}:{part}"
        found[part] = {
            name: replace(score, signature=score.signature + suffix)
            for name, score in score_lists(item_idx, truth, metrics, ks).items()
        }
    return found


def popularity_bands(item_counts: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Masks of items by training purchases: "cold" has none; of the "warm" ones, "head", "middle"
    and "tail" carry a third of all purchases each, most bought first, ties by lowest id.

    Args:
        item_counts: (n_items,) purchases of each item in the training data.
    """
    counts = np.asarray(item_counts)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.empty(len(counts), dtype=np.int64)
    third[order] = np.minimum(3 * before // max(int(counts.sum()), 1), 2)
    warm = counts > 0
    bands = {name: warm & (third == i) for i, name in enumerate(("head", "middle", "tail"))}
    return {"cold": ~warm, "warm": warm, **bands}


def history_bands(
    history: NDArray[np.integer[Any]], edges: Sequence[int] = (1, 5, 20)
) -> dict[str, NDArray[np.bool_]]:
    """Masks of users by the number of items they bought in training: "0", "1-4", "5-19", "20+".

    Args:
        history: (n_users,) distinct items bought.
        edges: the first number of each band after the first.
    """
    bounds = [0, *edges]
    masks = {}
    for low, high in zip(bounds, [*edges, None], strict=True):
        name = f"{low}+" if high is None else (f"{low}" if high == low + 1 else f"{low}-{high - 1}")
        masks[f"history {name}"] = (history >= low) & (history < (high or np.inf))
    return masks


def gini(times: NDArray[np.integer[Any]]) -> float:
    """Gini index of non-negative counts: 0 when all are equal, towards 1 when one has all."""
    ordered = np.sort(np.asarray(times, dtype=np.float64))
    n, total = len(ordered), float(ordered.sum())
    if total == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def _item_values(name: str, train: csr_matrix) -> NDArray[np.float64]:
    n_users, n_items = train.shape
    if name == "popularity":
        counts = np.bincount(train.indices, weights=train.data, minlength=n_items)
        return counts.astype(np.float64)
    buyers = np.bincount(train.indices, minlength=n_items)
    rarity: NDArray[np.float64] = -np.log2(np.maximum(buyers, 1) / max(n_users, 1))
    return rarity


def _mean_over_list(top: NDArray[np.int32], values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = top >= 0
    total = np.where(there, values[np.maximum(top, 0)], 0).sum(axis=1)
    length = there.sum(axis=1)
    return np.where(length > 0, total / np.maximum(length, 1), np.nan)


def _diversity(top: NDArray[np.int32], vectors: Any) -> NDArray[np.float64]:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scale = np.where(norms > 0, 1 / np.maximum(norms, 1e-300), 0)
    out = np.full(len(top), np.nan)
    size = max(1, 8_000_000 // max(1, top.shape[1] * vectors.shape[1]))
    for lo in range(0, len(top), size):
        ids = top[lo : lo + size]
        weight = np.where(ids >= 0, scale[np.maximum(ids, 0)], 0)
        total = np.einsum("nk,nkd->nd", weight, vectors[np.maximum(ids, 0)], dtype=np.float64)
        n = np.count_nonzero(weight, axis=1)
        pairs = n * (n - 1)
        cosine = ((total**2).sum(axis=1) - n) / np.maximum(pairs, 1)
        out[lo : lo + size] = np.where(pairs > 0, 1 - cosine, np.nan)
    return out


def _check_ks(ks: Sequence[int]) -> None:
    if len(ks) == 0 or min(ks) < 1:
        raise InputError(f"ks is {list(ks)}; expected cut-offs of at least 1")


def _code(name: str) -> int:
    names = list(RELEVANCE_METRICS)
    if name not in names:
        raise InputError(f"unknown metric {name!r}; expected one of {', '.join(names)}")
    return names.index(name)


@kernels.jit
def _relevance_kernel(  # type: ignore[no-untyped-def]
    lists, start, items, cutoffs, codes, discount, ideal, out, begin, end
):
    """Fill out (metrics, cutoffs, users) in one walk down the lists begin..end."""
    last = cutoffs[-1]
    width = min(lists.shape[1], last)
    hit = np.empty(last, dtype=np.bool_)
    for user in range(begin, end):
        low, high = start[user], start[user + 1]
        m = high - low
        hit[:] = False
        any_hit = False
        # Relevant items outside: the inner loop is predictable, and stops at an item's first place.
        for p in range(low, high):
            for r in range(width):
                if lists[user, r] == items[p]:
                    hit[r] = True
                    any_hit = True
                    break
        if not any_hit:
            for a in range(len(codes)):
                for c in range(len(cutoffs)):
                    out[a, c, user] = 0.0 if m > 0 else np.nan
            continue
        hits = 0
        first_hit = 0
        dcg = 0.0
        hit_precision = 0.0
        precision_sum = 0.0
        rank = 0
        for c in range(len(cutoffs)):
            k = cutoffs[c]
            while rank < k:
                rank += 1
                if hit[rank - 1]:
                    hits += 1
                    dcg += discount[rank - 1]
                    hit_precision += hits / rank
                    if first_hit == 0:
                        first_hit = rank
                precision_sum += hits / rank
            for a in range(len(codes)):
                code = codes[a]
                value = 0.0
                if code == 0:
                    value = dcg / ideal[min(m, k)]
                elif code == 1:
                    value = dcg / ideal[k]
                elif code == 2:
                    value = hit_precision / min(m, k)
                elif code == 3:
                    value = hit_precision / m
                elif code == 4:
                    value = hit_precision / max(hits, 1)
                elif code == 5:
                    value = precision_sum / k
                elif code == 6:
                    value = hits / k
                elif code == 7:
                    value = hits / m
                elif code == 8:
                    value = 1.0 if hits > 0 else 0.0
                elif first_hit > 0:
                    value = 1.0 / first_hit
                out[a, c, user] = value
