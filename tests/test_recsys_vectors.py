"""Recommenders over item vectors on generated purchases whose causes are known."""

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from recsys import InputError
from recsys.interactions import Interactions
from recsys.recommenders import ALS, BPR
from recsys.recommenders.base import Recommender
from recsys.recommenders.content import VectorKNN
from recsys.recommenders.hybrid import ContentToALS, _map_to
from recsys.recommenders.vbpr import VBPR, _hold_out, _Rows, _standardised, sample_negatives
from recsys.recommenders.vectors import VECTOR_RECOMMENDERS


def interactions(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> Interactions:
    ids = [pl.Series([f"{p}{i:04}" for i in range(n)]) for p, n in (("u", n_users), ("i", n_items))]
    return Interactions.from_events(ids[0], ids[1], users, items)


class Planted:
    """Users like two of eight traits; an item has one, more or less, and a skewed popularity.

    `vectors` are the traits (or with content=False those of other items), turned into 32
    dimensions, with noise. 15 % of the items are cold: all their purchases are in the test, beside
    a fifth of the others.
    """

    def __init__(self, seed: int, *, content: bool, users: int = 700, items: int = 300) -> None:
        rng = np.random.default_rng(seed)
        style = np.eye(8)[rng.integers(8, size=items)]
        style += 0.15 * rng.standard_normal(style.shape)
        taste = np.stack([np.isin(np.arange(8), rng.choice(8, 2, False)) for _ in range(users)])
        likes = 4 * taste @ style.T - np.log(rng.permutation(items) + 5)
        order = np.argsort(-(likes + rng.gumbel(size=likes.shape)), axis=1)
        sizes = rng.poisson(8, users) + 2
        user = np.repeat(np.arange(users), sizes)
        item = np.concatenate([row[:n] for row, n in zip(order, sizes, strict=True)])
        seen = style if content else style[rng.permutation(items)]
        vectors = seen @ rng.standard_normal((8, 32)) / 8**0.5
        self.vectors = (vectors + 0.1 * rng.standard_normal(vectors.shape)).astype(np.float32)
        self.cold = rng.random(items) < 0.15
        test = self.cold[item] | (rng.random(user.size) < 0.2)
        self.train = interactions(user[~test], item[~test], users, items)
        self.wanted = interactions(user[test], item[test], users, items).matrix.toarray() > 0

    def ndcg(self, recommender: Recommender, *, only: np.ndarray | None = None) -> float:
        """NDCG@12, seen items left out; of the items `only`."""
        found, _ = recommender.recommend(
            np.arange(self.train.n_users), self.train.n_items, exclude_seen=True
        )
        wanted = self.wanted if only is None else self.wanted & only
        ranked = [row[row >= 0] if only is None else row[(row >= 0) & only[row]] for row in found]
        gain = 1 / np.log2(np.arange(12) + 2)
        scores = []
        for row, items in zip(wanted, ranked, strict=True):
            if row.any():
                hits = row[items[:12]]
                scores.append((hits * gain[: hits.size]).sum() / gain[: row.sum()].sum())
        return float(np.mean(scores))


@pytest.fixture(scope="module")
def telling() -> Planted:
    return Planted(1, content=True)


@pytest.fixture(scope="module")
def noise() -> Planted:
    return Planted(1, content=False)


def test_content_lifts_vbpr_where_it_drives_choice(telling: Planted) -> None:
    vbpr = VBPR(telling.vectors).fit(telling.train)
    plain = VBPR(np.ones_like(telling.vectors)).fit(telling.train)  # no vector says anything
    peer = BPR().fit(telling.train)
    whole = {"vbpr": telling.ndcg(vbpr), "plain": telling.ndcg(plain), "bpr": telling.ndcg(peer)}
    assert whole["vbpr"] > 1.15 * max(whole["plain"], whole["bpr"]), whole
    # Ranked among themselves, cold items are far above the evenly drawn.
    assert telling.ndcg(vbpr, only=telling.cold) > 0.4
    assert telling.ndcg(plain, only=telling.cold) < 0.25
    # It did stop early, at its best.
    assert vbpr.best_epoch < len(vbpr.history) <= 200
    assert vbpr.history[vbpr.best_epoch - 1] == max(vbpr.history)


def test_noise_lifts_nothing(noise: Planted) -> None:
    vbpr = VBPR(noise.vectors).fit(noise.train)
    plain = VBPR(np.ones_like(noise.vectors)).fit(noise.train)
    assert noise.ndcg(vbpr) < 1.03 * noise.ndcg(plain)
    assert noise.ndcg(vbpr, only=noise.cold) < 0.25
    mapped = ContentToALS(noise.vectors).fit(noise.train)
    als = ALS(regularization=10).fit(noise.train)
    assert noise.ndcg(mapped) == pytest.approx(noise.ndcg(als), rel=0.1)


def test_mapped_factors_lift_cold_items(telling: Planted) -> None:
    als = ALS(regularization=10).fit(telling.train)
    mapped = ContentToALS(telling.vectors).fit(telling.train)
    assert telling.ndcg(als, only=telling.cold) == 0  # never listed
    assert telling.ndcg(mapped, only=telling.cold) > 0.3
    assert telling.ndcg(mapped) > 1.15 * telling.ndcg(als)
    # Popular items keep their factors: without support the others do too.
    own = ContentToALS(telling.vectors, support=0).fit(telling.train)
    taken = telling.train.item_counts > 0
    np.testing.assert_array_equal(own.item_factors[taken], als.item_factors[taken])
    shift = np.abs(mapped.item_factors - als.item_factors).mean(axis=1)
    size = np.abs(als.item_factors).mean(axis=1)
    popular = telling.train.item_counts > 100
    assert (shift[popular] < 0.1 * size[popular]).all()


def test_two_parts_have_content_factors_of_their_own(telling: Planted) -> None:
    split = VBPR(telling.vectors, parts=(20, 12), factors=5, content_factors=3, epochs=2)
    split.fit(telling.train)
    assert split.user_factors.shape[1] == 5 + 2 * 3 + 1
    users = np.array([3, 17])
    found, scores = split.recommend(users, 4, exclude_seen=False)
    expected = (split.user_factors[users][:, None] * split.item_factors[found]).sum(axis=2)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"20 \+ 11 dimensions do not make the 32"):
        VBPR(telling.vectors, parts=(20, 11))


def test_cold_items_have_a_content_part_alone(telling: Planted) -> None:
    vbpr = VBPR(telling.vectors, factors=6, content_factors=4, epochs=3).fit(telling.train)
    never = telling.train.item_counts == 0
    assert not vbpr.item_factors[never, :6].any()
    assert vbpr.item_factors[never, 6:].any()
    assert vbpr.item_factors[~never, :6].any(axis=1).all()


def test_gradients_are_those_of_the_loss() -> None:
    """One step of plain descent instead of Adam's, against torch's own derivative."""
    import torch

    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 60), rng.integers(0, 7, 60)
    train = interactions(users, items, 9, 7)
    model = VBPR(
        rng.standard_normal((7, 5)), factors=3, content_factors=2, parts=(2, 3),
        regularization=0.3, content_regularization=0.7, epochs=1, validation=0,
    )  # fmt: skip
    steps: dict[int, torch.Tensor] = {}

    def record(self: _Rows, rows: torch.Tensor | None, slope: torch.Tensor, _: float) -> None:
        whole = torch.zeros_like(self.values)
        found = whole + slope if rows is None else whole.index_add_(0, rows, slope)
        steps[id(self)] = found

    from recsys.recommenders.vbpr import _Learner

    pairs = np.repeat(np.arange(9, dtype=np.int32), np.diff(train.indptr)), train.indices
    learner = _Learner(model, train, pairs)
    u, i, j = (torch.tensor(x) for x in ([0, 1, 1, 4], [2, 0, 3, 3], [1, 5, 5, 3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Rows, "adam", record)
        learner.step(u, i, j)
    for table in learner.tables:
        table.values.requires_grad_(True)
    gamma, theta = learner.users.values[u][:, :3], learner.users.values[u][:, 3:]
    loss = torch.zeros(())
    sides = []
    for item in (i, j):
        own = learner.items.values[item]
        f = learner.features[item]
        projection = learner.projection.values
        seen = torch.cat([f[:, :2] @ projection[:2, :2], f[:, 2:] @ projection[2:, :2]], 1)
        score = own[:, 3] + (gamma * own[:, :3]).sum(1) + (theta * seen).sum(1)
        sides.append(score + f @ projection[:, 2])
        loss = loss + 0.15 * (own[:, :3] ** 2).sum()
    loss = loss - torch.nn.functional.logsigmoid(sides[0] - sides[1]).sum()
    loss = loss + 0.15 * (gamma**2).sum() + 0.15 * (theta**2).sum()
    loss = loss + 0.35 * (learner.projection.values**2).sum()
    loss.backward()
    for table in learner.tables:
        np.testing.assert_allclose(steps[id(table)].detach(), table.values.grad, atol=2e-6)


def test_adam_of_rows_is_sparse_adam() -> None:
    import torch

    rng = np.random.default_rng(2)
    table = _Rows(torch.tensor(rng.standard_normal((6, 3)), dtype=torch.float32))
    peer = torch.nn.Embedding(6, 3, sparse=True, _weight=table.values.clone())
    optimiser = torch.optim.SparseAdam(peer.parameters(), lr=0.05)
    for _ in range(5):
        rows = torch.tensor(rng.integers(0, 6, 4))
        slopes = torch.tensor(rng.standard_normal((4, 3)), dtype=torch.float32)
        table.adam(rows, slopes, 0.05)
        optimiser.zero_grad()
        (peer(rows) * slopes).sum().backward()
        optimiser.step()
    np.testing.assert_allclose(table.values, peer.weight.detach(), atol=1e-5)


def test_negatives_are_even_never_taken_and_the_same_on_any_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = np.zeros((4, 12), int)
    matrix[0, [1, 4, 5]] = 1
    matrix[1, :11] = 1  # one candidate is left
    matrix[2] = 1  # none
    users, items = np.nonzero(matrix)
    train = interactions(users, items, 4, 12)
    candidates = np.arange(12, dtype=np.int32)
    asked = np.repeat(np.array([0, 1, 2, 3], np.int32), 20_000)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    drawn = sample_negatives(train, asked, candidates, 7)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    np.testing.assert_array_equal(sample_negatives(train, asked, candidates, 7), drawn)
    assert (sample_negatives(train, asked, candidates, 8) != drawn).any()
    counts = np.bincount(drawn[:20_000], minlength=12)
    assert not counts[[1, 4, 5]].any()
    free = np.delete(counts, [1, 4, 5])
    assert ((free - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 26  # chi square, 8 degrees: p = .001
    assert (drawn[20_000:40_000] == 11).all()
    assert (drawn[40_000:60_000] == -1).all()
    some = sample_negatives(train, asked[60_000:], np.array([3, 9], np.int32), 7)
    assert set(some.tolist()) == {3, 9}


def test_held_pairs_are_one_a_user_of_users_with_more() -> None:
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(0, 200, 900)).astype(np.int32)
    items = np.arange(900, dtype=np.int32) % 37
    kept, held = _hold_out(users, items, 0.1, np.random.default_rng(1))
    assert 80 <= held[0].size <= 90
    assert len(set(held[0].tolist())) == held[0].size
    assert kept[0].size + held[0].size == 900
    assert set(held[0].tolist()) <= set(kept[0].tolist())
    assert _hold_out(users[:30], items[:30], 0.1, rng)[1][0].size == 0  # too few to follow


def test_scaling_leaves_rows_without_a_vector_at_zero() -> None:
    vectors = np.array([[3, 1], [1, 1], [9, 9]], dtype=np.float32)
    found = _standardised(vectors, np.array([True, True, False]))
    np.testing.assert_allclose(found, [[1, 0], [-1, 0], [0, 0]])


@pytest.mark.parametrize("shape", [(30, 4), (9, 20)], ids=["tall", "wide"])
def test_mapping_is_weighted_ridge(shape: tuple[int, int]) -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(3)
    vectors = rng.standard_normal(shape).astype(np.float32)
    taught = np.arange(shape[0]) % 3 > 0
    targets, weights = rng.standard_normal((taught.sum(), 2)), rng.random(taught.sum()) + 0.1
    found, ridge = _map_to(vectors, taught, targets, weights, 0.5)
    assert ridge == 0.5
    x = vectors[taught].astype(float)
    x -= np.average(x, axis=0, weights=weights)
    scatter = (x * weights[:, None]).T @ x
    scale = np.trace(scatter) / min(x.shape)
    peer = Ridge(alpha=0.5 * scale, solver="svd").fit(vectors[taught], targets, weights)
    np.testing.assert_allclose(found, peer.predict(vectors), atol=1e-5)


def test_cross_validation_chooses_by_what_the_vectors_say() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((200, 30)).astype(np.float32)
    taught, weights = np.ones(200, bool), np.ones(200)
    linear = vectors @ rng.standard_normal((30, 3)) + 0.01 * rng.standard_normal((200, 3))
    assert _map_to(vectors, taught, linear, weights, None)[1] <= 1e-3
    assert _map_to(vectors, taught, rng.standard_normal((200, 3)), weights, None)[1] >= 1


def test_reasons_of_mapped_factors_add_up_to_the_score(telling: Planted) -> None:
    model = ContentToALS(telling.vectors, iterations=100).fit(telling.train)
    found, scores = model.recommend([0, 5], 3, exclude_seen=True)
    for user, items, values in zip((0, 5), found, scores, strict=True):
        for item, score in zip(items, values, strict=True):
            reasons = model.explain(user, int(item), n=100)
            assert sum(r.weight for r in reasons) == pytest.approx(score, rel=0.05, abs=5e-3)
            bought = set(telling.train.matrix[user].indices)
            assert {r.idx for r in reasons} <= bought


def test_neighbours_of_vectors_by_hand() -> None:
    vectors = np.array([[2, 0], [1, 1], [0, 3], [0, 0], [-1, 0], [0, 1]], dtype=np.float32)
    users, items = np.array([0, 1, 1, 1, 2]), np.array([0, 1, 2, 2, 3])
    train = interactions(users, items, 3, 6)
    knn = VectorKNN(vectors, k=2).fit(train)
    found, scores = knn.recommend([0, 1, 2], 4, exclude_seen=False)
    # Item 0 has one neighbour (1): 2 and 5 are at right angles, 4 is opposite, 3 has no vector.
    assert found[0].tolist() == [1, -1, -1, -1]
    np.testing.assert_allclose(scores[0, 0], 0.5**0.5, rtol=1e-6)
    # Of item 1: 0, 2 and 5 tie and the lowest two stay. Of item 2: 5, then 1.
    assert found[1].tolist() == [5, 0, 1, 2]
    np.testing.assert_allclose(scores[1], [1, 0.5**0.5, 0.5**0.5, 0.5**0.5], rtol=1e-6)
    assert (found[2] == -1).all()
    counted = VectorKNN(vectors, k=2, weighting="count").fit(train)
    found, scores = counted.recommend([1], 2, exclude_seen=True)
    assert found.tolist() == [[5, 0]]
    np.testing.assert_allclose(scores, [[2, 0.5**0.5]], rtol=1e-6)
    assert counted.explain(1, 5)[0]._replace(weight=0) == (2, 0, "item")
    assert knn.n_without_vector == 1
    same = VectorKNN(sparse.csr_matrix(vectors), k=2).fit(train)
    again = same.recommend([0, 1, 2], 4, exclude_seen=False)
    np.testing.assert_array_equal(again[0], knn.recommend([0, 1, 2], 4, exclude_seen=False)[0])


@pytest.mark.parametrize("name", sorted(VECTOR_RECOMMENDERS))
def test_bad_vectors_are_refused(name: str) -> None:
    kind = VECTOR_RECOMMENDERS[name]
    train = interactions(np.array([0, 1]), np.array([0, 1]), 2, 3)
    with pytest.raises(InputError, match="4 vectors for 3 items"):
        kind(np.ones((4, 2))).fit(train)
    with pytest.raises(InputError, match="NaN"):
        kind(np.array([[1.0, np.inf]]))
    with pytest.raises(InputError, match="valid has shape"):
        kind(np.ones((3, 2)), np.ones(2, bool))
    with pytest.raises(InputError, match="expected \\(n_items, dim\\)"):
        kind(np.ones(3))
    # Nothing to go by: no list rather than an error, and it is counted.
    empty = kind(np.zeros((3, 2))).fit(train)
    assert empty.n_without_vector == 3
    if name != "content-to-als":  # it falls back on purchases
        assert (empty.recommend([0, 1], 2, exclude_seen=False)[0] == -1).all()


def test_parameters_out_of_range_are_refused() -> None:
    vectors = np.ones((3, 2))
    for kind, wrong in (
        (VBPR, {"learning_rate": 0}), (VBPR, {"validation": 1}), (VBPR, {"epochs": 0}),
        (VBPR, {"factors": -1}), (VectorKNN, {"k": 0}), (VectorKNN, {"weighting": "log"}),
        (ContentToALS, {"ridge": 0}), (ContentToALS, {"support": -1}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{kind.name}: {next(iter(wrong))}"):
            kind(vectors, **wrong)
    with pytest.raises(InputError, match="needs an array"):
        VBPR(sparse.csr_matrix(vectors))


def test_a_diverging_vbpr_says_so(telling: Planted) -> None:
    with pytest.raises(InputError, match="diverged: take a learning_rate below"):
        VBPR(telling.vectors, learning_rate=1e30, epochs=4, validation=0).fit(telling.train)
