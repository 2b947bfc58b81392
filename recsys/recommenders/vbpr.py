"""VBPR: matrix factorisation whose items also carry a learned projection of their vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from recsys import InputError
from recsys.interactions import Float32, Int32, Int64, Interactions
from recsys.recommenders.base import (
    Recommender,
    check_at_least,
    check_one_per_item,
    checked_vectors,
    empty_lists,
)

if TYPE_CHECKING:
    from recsys.similarity import ItemIndex

_HELD_PAIRS = 2000
"""At most so many pairs are kept for early stopping: each is ranked against every item."""
_FEWEST_HELD = 20
"""With fewer held pairs early stopping would follow noise: all epochs are run."""
_USERS = 16_384
"""Users whose lists are searched at a time."""
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(eq=False)
class VBPR(Recommender):
    """Visual Bayesian personalised ranking, with vectors of any kind. (He and McAuley, 2016.)

    score(u, i) = b_i + gamma_u . gamma_i + sum over parts p of theta_u^p . (E_p f_i^p) + beta . f_i

    f_i are the item's vectors, centred and scaled to a mean square norm of 1 (which changes no
    ranking the model can express, only how well its gradients are conditioned). Learned by Adam on
    -ln sigmoid(score(u, i) - score(u, j)) for every bought item i and an item j drawn evenly among
    those that somebody bought and u did not.

    An item nobody bought has gamma = 0 and b = 0 (what an item of mean popularity has) and is
    ranked by its vectors alone. Items without a vector take no part in learning and are never
    recommended (`n_without_vector` counts them); users who bought nothing with a vector get empty
    lists. The result depends on nothing but the
    data, the parameters and the seed on a CPU; on a GPU sums are added in any order.
    """

    name: ClassVar[str] = "vbpr"

    vectors: Any = field(repr=False)
    """(n_items, dim) float32, in the order of the training items; every part beside the other."""
    valid: NDArray[np.bool_] | None = field(default=None, repr=False)
    """(n_items,) False where there is no vector; a zero vector counts as none in any case."""
    encoder: str = ""
    """Signature of the vectors."""
    parts: tuple[int, ...] | None = field(default=None, repr=False)
    """Widths of the parts, such as those of photo and text: each gets content factors of its own.
    None: one part."""
    factors: int = 64
    """Length of gamma; 0 leaves the content alone."""
    content_factors: int = 64
    """Length of theta, for each part."""
    epochs: int = 200
    """At most so many passes over the pairs."""
    batch_size: int = 1024
    """Pairs a step."""
    learning_rate: float = 5e-3
    regularization: float = 0.03
    """l2 on gamma and theta, per pair (half the squared norm)."""
    content_regularization: float = 0.3
    """l2 on E and beta, per step: more where the vectors may say little, less for cold items."""
    validation: float = 0.05
    """Share of the pairs kept for early stopping (at most 2,000, at most one a user); 0: none."""
    patience: int = 10
    """Epochs without a better rank of the kept pairs after which learning stops; the best epoch's
    parameters are taken."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        self.vectors, self.valid = checked_vectors(self.vectors, self.valid, dense=self.name)
        for name, low in (
            ("factors", 0), ("content_factors", 1), ("epochs", 1), ("batch_size", 1),
            ("patience", 1), ("regularization", 0), ("content_regularization", 0),
        ):  # fmt: skip
            check_at_least(f"{self.name}: {name}", getattr(self, name), low)
        if not self.learning_rate > 0:
            raise InputError(f"{self.name}: learning_rate must be above 0: {self.learning_rate}")
        if not 0 <= self.validation < 1:
            raise InputError(f"{self.name}: validation must lie in 0..1, got {self.validation}")
        if self.parts is not None and sum(self.parts) != self.vectors.shape[1]:
            raise InputError(
                f"{self.name}: parts of {' + '.join(map(str, self.parts))} dimensions do not make "
                f"the {self.vectors.shape[1]} of the vectors"
            )

    @property
    def n_without_vector(self) -> int:
        """Items that this recommender can neither use nor recommend."""
        return int((~self._valid).sum())

    @property
    def _valid(self) -> NDArray[np.bool_]:
        assert self.valid is not None
        return self.valid

    def _fit(self, train: Interactions) -> None:
        from recsys.similarity import ItemIndex

        check_one_per_item(self.name, self.vectors, train)
        users = np.repeat(np.arange(train.n_users, dtype=np.int32), np.diff(train.indptr))
        usable = self._valid[train.indices]
        pairs = users[usable], train.indices[usable]
        self._known = np.bincount(pairs[0], minlength=train.n_users) > 0
        self.history: list[float] = []
        """Mean 1 / log2(1 + rank) of the kept pairs after each epoch; empty without them."""
        self.best_epoch = 0
        """Epochs whose parameters were taken."""
        learner = _Learner(self, train, pairs)
        learner.run()
        self.user_factors: Float32
        """(n_users, d) float32: gamma, theta of each part, 1."""
        self.item_factors: Float32
        """(n_items, d) float32: gamma, E f of each part, b + beta . f."""
        self.user_factors, self.item_factors = learner.factors()
        if not (np.isfinite(self.user_factors).all() and np.isfinite(self.item_factors).all()):
            raise InputError(
                f"{self.name} diverged: take a learning_rate below {self.learning_rate:g}"
            )
        self._index: ItemIndex = ItemIndex(self.item_factors, self._valid)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        bought = self.fitted().matrix
        ids, scores = empty_lists(len(rows), k)
        asked = np.flatnonzero(self._known[rows])
        for lo in range(0, len(asked), _USERS):
            at = asked[lo : lo + _USERS]
            ids[at], scores[at] = self._index.top_k(
                self.user_factors[rows[at]],
                k,
                exclude=bought[rows[at]] if exclude_seen else None,
                device=self.device,
            )
        return ids, scores


class _Learner:
    """The parameters, on a device, and the steps that change them."""

    def __init__(self, model: VBPR, train: Interactions, pairs: tuple[Int32, Int32]) -> None:
        import torch

        self.model, self.train = model, train
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = automatic if model.device == "auto" else model.device
        rng = np.random.default_rng(model.seed)
        self.pairs, self.held = _hold_out(*pairs, model.validation, rng)
        self.rng = rng
        self.bought = np.zeros(train.n_items, bool)
        self.bought[self.pairs[1]] = True
        self.candidates = np.flatnonzero(self.bought).astype(np.int32)
        self.features = torch.from_numpy(_standardised(model.vectors, model._valid)).to(self.device)
        widths = model.parts or (model.vectors.shape[1],)
        ends = np.cumsum(widths).tolist()
        self.slices = [slice(e - w, e) for e, w in zip(ends, widths, strict=True)]
        f, d = model.factors, model.content_factors * len(widths)
        self.users = _Rows(torch.from_numpy(_normal(rng, train.n_users, f + d)).to(self.device))
        items = np.concatenate(
            [_normal(rng, train.n_items, f), np.zeros((train.n_items, 1), np.float32)], axis=1
        )
        items[~self.bought] = 0
        self.items = _Rows(torch.from_numpy(items).to(self.device))
        dim = model.vectors.shape[1]
        start = np.concatenate(
            [_normal(rng, dim, model.content_factors), np.zeros((dim, 1), np.float32)], axis=1
        )
        self.projection = _Rows(torch.from_numpy(start).to(self.device))  # E | beta

    def run(self) -> None:
        import torch

        model = self.model
        best, kept = -np.inf, None
        with torch.inference_mode():
            for epoch in range(1, model.epochs + 1):
                self.epoch()
                if not self.held[0].size:
                    model.best_epoch = epoch
                    continue
                model.history.append(self.validate())
                if model.history[-1] > best:
                    best, model.best_epoch = model.history[-1], epoch
                    kept = [table.values.clone() for table in self.tables]
                elif epoch - model.best_epoch >= model.patience:
                    break
            if kept is not None:
                for table, values in zip(self.tables, kept, strict=True):
                    table.values = values

    @property
    def tables(self) -> tuple[_Rows, _Rows, _Rows]:
        return self.users, self.items, self.projection

    def epoch(self) -> None:
        import torch

        order = self.rng.permutation(self.pairs[0].size)
        seed = int(self.rng.integers(2**63))
        users, items = self.pairs[0][order], self.pairs[1][order]
        others = sample_negatives(self.train, users, self.candidates, seed)
        free = others >= 0  # False for a user who bought every item there is
        table = np.stack([users[free], items[free], others[free]]).astype(np.int64)
        drawn = torch.from_numpy(table).to(self.device)
        for lo in range(0, drawn.shape[1], self.model.batch_size):
            self.step(*drawn[:, lo : lo + self.model.batch_size])

    def step(self, users: Any, items: Any, others: Any) -> None:
        """One step of Adam on a batch of (user, bought, not bought)."""
        import torch

        model, f = self.model, self.model.factors
        u = self.users.values.index_select(0, users)  # (B, f + d): gamma, theta
        i = self.items.values.index_select(0, items)  # (B, f + 1): gamma, b
        j = self.items.values.index_select(0, others)
        gamma, theta = u[:, :f], u[:, f:]
        apart = i - j
        features = self.features.index_select(0, items)  # (B, dim)
        features -= self.features.index_select(0, others)
        weights = self.projection.values
        seen = self.project(features)  # (B, d)
        score = (gamma * apart[:, :f]).sum(1) + apart[:, f]
        score += (theta * seen).sum(1) + features @ weights[:, -1]
        slope = -torch.sigmoid(-score)[:, None]  # of the loss, by the score: (B, 1)
        l2 = model.regularization
        for_users = torch.cat([slope * apart[:, :f], slope * seen], 1) + l2 * u
        for_items = torch.cat([slope * gamma, slope], 1)
        penalty = torch.full((f + 1,), l2, device=u.device)
        penalty[f] = 0  # none on b, as the rows of the comparison this model was taken from
        bought, drawn = for_items + penalty * i, penalty * j - for_items
        for_projection = model.content_regularization * weights
        width = model.content_factors
        for p, part in enumerate(self.slices):
            pull = torch.cat([slope * theta[:, p * width : (p + 1) * width], slope], 1)
            for_projection[part] += features[:, part].T @ pull
        self.users.adam(users, for_users, model.learning_rate)
        self.items.adam(torch.cat([items, others]), torch.cat([bought, drawn]), model.learning_rate)
        self.projection.adam(None, for_projection, model.learning_rate)

    def project(self, features: Any) -> Any:
        """(n, dim) -> (n, d): E f of each part."""
        import torch

        weights = self.projection.values[:, :-1]
        return torch.cat([features[:, part] @ weights[part] for part in self.slices], 1)

    def item_table(self) -> Any:
        """(n_items, f + d + 1)."""
        import torch

        f = self.model.factors
        own = self.items.values
        bias = own[:, f:] + self.features @ self.projection.values[:, -1:]
        return torch.cat([own[:, :f], self.project(self.features), bias], 1)

    def validate(self) -> float:
        """Mean 1 / log2(1 + rank) of the held pairs among the bought items not known of the user:
        a discounted gain without a cut-off. Equal scores share their ranks."""
        import torch

        users, items = self.held
        table = self.item_table()[torch.from_numpy(self.candidates).to(self.device)]
        place = np.full(self.train.n_items, -1, np.int64)
        place[self.candidates] = np.arange(self.candidates.size)
        known = self.train.matrix[users]  # holds the held pair too
        total = 0.0
        for lo in range(0, users.size, 256):
            at = slice(lo, lo + 256)
            query = self.users.values[torch.from_numpy(users[at].astype(np.int64)).to(self.device)]
            scores = query @ table[:, :-1].T + table[:, -1]
            target = place[items[at]]
            rows = np.arange(target.size)
            wanted = scores[rows, target].clone()[:, None]
            seen = known[at].tocoo()
            column = place[seen.col]
            scores[seen.row[column >= 0], column[column >= 0]] = -torch.inf
            above = (scores > wanted).sum(1) + 0.5 * (scores == wanted).sum(1)
            total += float((1 / torch.log2(2 + above.double())).sum())
        return total / users.size

    def factors(self) -> tuple[Float32, Float32]:
        users = self.users.values.cpu().numpy()
        ones = np.ones((len(users), 1), np.float32)
        return np.concatenate([users, ones], axis=1), self.item_table().cpu().numpy()


class _Rows:
    """A table and its moments; a step of Adam changes the rows of the batch alone, as a whole
    table of a million users would cost a hundred times the step. (Kingma and Ba, 2015.)"""

    def __init__(self, values: Any) -> None:
        import torch

        self.values = values
        self.moments = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = 0

    def adam(self, rows: Any, gradients: Any, rate: float) -> None:
        """rows (B,) may repeat: their gradients (B, d) are added up. None: every row."""
        import torch

        self.steps += 1
        first, second = self.moments
        if rows is not None:
            rows, inverse = torch.unique(rows, return_inverse=True)
            empty = gradients.new_zeros((rows.numel(), gradients.shape[1]))
            gradients = empty.index_add_(0, inverse, gradients)
            first, second = first.index_select(0, rows), second.index_select(0, rows)
        first.mul_(_BETAS[0]).add_(gradients, alpha=1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradients, gradients, value=1 - _BETAS[1])
        scale = (1 - _BETAS[1] ** self.steps) ** 0.5
        change = first / (second.sqrt() / scale + _EPSILON)
        size = -rate / (1 - _BETAS[0] ** self.steps)
        if rows is None:
            self.values.add_(change, alpha=size)
            return
        self.values.index_add_(0, rows, change, alpha=size)
        self.moments[0].index_copy_(0, rows, first)
        self.moments[1].index_copy_(0, rows, second)


def sample_negatives(
    train: Interactions, users: Int32, candidates: Int32, seed: int
) -> NDArray[np.int32]:
    """For each of users (n,) int32 one of `candidates` that the user did not take.

    Drawn evenly, with replacement, the same for the same seed on any number of threads; -1 where
    the user took every candidate.
    """
    from recsys import kernels

    out = np.empty(users.size, np.int32)
    if not candidates.size:
        out[:] = -1
        return out
    users = np.ascontiguousarray(users, np.int32)
    indptr: Int64 = train.indptr
    kernels.run_blocks(
        users.size,
        kernels.block_of(users.size, 1 << 18),
        lambda start, stop: kernels.draw_negatives(
            users, indptr, train.indices, candidates, np.uint64(seed), out, start, stop
        ),
    )
    return out


def _hold_out(
    users: Int32, items: Int32, share: float, rng: np.random.Generator
) -> tuple[tuple[Int32, Int32], tuple[Int32, Int32]]:
    """Pairs (ordered by user) to learn from and pairs to stop by: one a user, of users with two or
    more."""
    nothing = (users[:0], items[:0])
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    sizes = np.diff(np.append(starts, users.size))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    wanted = min(int(share * users.size), _HELD_PAIRS, starts.size)
    if wanted < _FEWEST_HELD:
        return (users, items), nothing
    chosen = np.sort(rng.choice(starts.size, wanted, replace=False))
    at = starts[chosen] + rng.integers(sizes[chosen])
    kept = np.ones(users.size, bool)
    kept[at] = False
    # An item whose only purchase is held would be cold: it can't be ranked with the others.
    still = np.isin(items[at], items[kept])
    return (users[kept], items[kept]), (users[at[still]], items[at[still]])


def _standardised(vectors: Float32, valid: NDArray[np.bool_]) -> Float32:
    """Centred over the valid rows, of mean square norm 1; the others 0."""
    if not valid.any():
        return np.zeros_like(vectors)
    centred = vectors - vectors[valid].mean(axis=0, dtype=np.float64).astype(np.float32)
    centred[~valid] = 0
    square = float(np.einsum("ij,ij->i", centred, centred, dtype=np.float64)[valid].mean())
    return centred * np.float32(1 / max(square, 1e-24) ** 0.5)  # type: ignore[no-any-return]


def _normal(rng: np.random.Generator, rows: int, columns: int) -> Float32:
    return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.1)
