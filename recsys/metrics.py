"""How good ranked lists are: one vector of values per user, and a signature that says how.

Metrics of relevance are computed in one pass over the lists; a user without relevant items has
NaN. Metrics of the lists alone (coverage, novelty ...) need no relevant items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
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
    cutoffs = np.array(sorted(set(ks)), dtype=np.int64)
    if len(cutoffs) == 0 or cutoffs[0] < 1:
        raise InputError(f"ks is {list(ks)}; expected cut-offs of at least 1")
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


def _code(name: str) -> int:
    names = list(RELEVANCE_METRICS)
    if name not in names:
        raise InputError(f"unknown metric {name!r}; expected one of {', '.join(names)}")
    return names.index(name)


@nb.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _relevance_kernel(  # type: ignore[no-untyped-def]
    lists, start, items, cutoffs, codes, discount, ideal, out, begin, end
):
    """Fill out (metrics, cutoffs, users) in one walk down the lists begin..end."""
    length = lists.shape[1]
    for user in range(begin, end):
        low, high = start[user], start[user + 1]
        m = high - low
        if m == 0:
            for a in range(len(codes)):
                for c in range(len(cutoffs)):
                    out[a, c, user] = np.nan
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
                if rank <= length and _is_hit(lists, user, rank - 1, items, low, high):
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


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _is_hit(lists, user, place, items, low, high):  # type: ignore[no-untyped-def]
    """Whether the item at `place` is relevant (sorted items[low:high]) and new in the list."""
    item = lists[user, place]
    if item < 0:
        return False
    while high - low > 32:
        middle = (low + high) >> 1
        if items[middle] <= item:
            low = middle
        else:
            high = middle
    found = False
    for at in range(low, high):  # no early exit: nearly every place is a miss
        found |= items[at] == item
    if not found:
        return False
    for before in range(place):
        if lists[user, before] == item:
            return False
    return True
