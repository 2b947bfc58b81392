"""Drawn purchases: exact counts, what the model promises, and tables at scale."""

import dataclasses
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import InputError
from pipelines.drawing import draw_articles
from pipelines.purchases import (
    LAST_DAY,
    TRANSACTION_COLUMNS,
    PurchaseModel,
    draw_purchases,
    draw_scaled,
    write_purchases,
)

FIRST_DAY = LAST_DAY - timedelta(days=729)
CUSTOMER_COLUMNS = [
    "customer_id", "FN", "Active", "club_member_status", "fashion_news_frequency", "age",
    "postal_code",
]  # fmt: skip
INDIFFERENT = PurchaseModel(
    visible_weight=0, invisible_weight=0, hidden_weight=0, popularity_weight=0, price_weight=0,
    season_weight=0, trend_weight=0, newness_weight=0, fade_days=1e9, mood_weight=0, loyalty=0,
    repeat_share=0, duplicate_share=0,
)  # fmt: skip
"""Every article is as good as any other."""


@pytest.fixture(scope="module")
def traits() -> pl.DataFrame:
    return draw_articles(2000, seed=7).traits


@pytest.fixture(scope="module")
def drawn(traits: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The demo's size."""
    return draw_purchases(traits, n_customers=2000, n_purchases=60_000, seed=1)


def test_counts_columns_dates_and_ids(
    traits: pl.DataFrame, drawn: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    customers, purchases = drawn
    assert customers.columns == CUSTOMER_COLUMNS
    assert len(customers) == customers["customer_id"].n_unique() == 2000
    assert customers["customer_id"].str.contains(r"^[0-9a-f]{64}$").all()
    assert purchases.columns == list(TRANSACTION_COLUMNS)
    assert purchases.dtypes == [pl.Date, pl.String, pl.String, pl.Float64, pl.Int64]
    assert len(purchases) == 60_000
    assert purchases["t_dat"].is_sorted()
    assert FIRST_DAY <= purchases["t_dat"].min() < FIRST_DAY + timedelta(days=7)  # type: ignore[operator]
    assert LAST_DAY - timedelta(days=7) < purchases["t_dat"].max() <= LAST_DAY  # type: ignore[operator]
    assert purchases["customer_id"].is_in(customers["customer_id"].implode()).all()
    assert purchases["article_id"].is_in(traits["article_id"].implode()).all()
    assert set(purchases["sales_channel_id"]) == {1, 2}
    assert 0 < customers["age"].null_count() < 100
    assert customers["age"].drop_nulls().is_between(16, 90).all()


def test_same_seed_same_tables(traits: pl.DataFrame) -> None:
    few = traits.head(300)
    one, two, other = (
        draw_purchases(few, n_customers=100, n_purchases=2000, seed=seed) for seed in (5, 5, 6)
    )
    assert one[0].equals(two[0])
    assert one[1].equals(two[1])
    assert not one[1].equals(other[1])


def test_nothing_is_sold_before_it_arrives_and_new_articles_are(
    traits: pl.DataFrame, drawn: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    sold = drawn[1].join(traits, on="article_id", validate="m:1")
    day = (sold["t_dat"] - FIRST_DAY).dt.total_days()
    assert (day >= sold["arrival"]).all()
    test = sold.filter(day >= 702)
    train_items = sold.filter(day < 702)["article_id"].unique().implode()
    cold = (~test["article_id"].is_in(train_items)).mean()
    assert 0.1 < cold < 0.4  # type: ignore[operator]


def test_prices_are_list_prices_with_markdowns(
    traits: pl.DataFrame, drawn: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    sold = drawn[1].join(traits.rename({"price": "list"}), on="article_id", validate="m:1")
    paid = (sold["price"] / sold["list"]).round(6)
    assert set(paid) == {1.0, 0.9, 0.8, 0.7, 0.5}
    fresh = (sold["t_dat"] - FIRST_DAY).dt.total_days() - sold["arrival"] < 14
    assert (paid.filter(fresh) == 1.0).all()


def test_rows_look_like_hms(drawn: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Shares that H&M's own transactions show: copies .091, later repeats .04, baskets 3.6."""
    _, purchases = drawn
    copies = 1 - purchases.n_unique() / len(purchases)
    assert copies == pytest.approx(0.091, abs=0.003)
    assert later_repeats(purchases) == pytest.approx(0.04, abs=0.01)
    per_customer = purchases.group_by("customer_id").len()["len"].to_numpy()
    assert np.median(per_customer) < 0.6 * per_customer.mean()
    assert np.quantile(per_customer, 0.99) > 5 * per_customer.mean()
    per_article = np.sort(purchases.group_by("article_id").len()["len"].to_numpy())[::-1]
    assert per_article[:200].sum() > 0.25 * len(purchases)
    baskets = purchases.group_by("customer_id", "t_dat").agg(
        pl.len(), pl.col("sales_channel_id").n_unique().alias("channels")
    )
    assert baskets["len"].mean() == pytest.approx(3.6, abs=0.4)
    assert (baskets["channels"] == 1).all()


def test_shares_of_zero_mean_none(traits: pl.DataFrame) -> None:
    model = PurchaseModel(repeat_share=0, duplicate_share=0)
    _, purchases = draw_purchases(traits, n_customers=300, n_purchases=3000, seed=2, model=model)
    assert purchases.select("customer_id", "article_id").n_unique() == 3000


def test_without_preferences_all_articles_sell_alike(traits: pl.DataFrame) -> None:
    always = traits.head(100).with_columns(arrival=pl.lit(0))
    _, purchases = draw_purchases(
        always, n_customers=5000, n_purchases=30_000, seed=3, model=INDIFFERENT
    )
    count = purchases.group_by("article_id").len()["len"].to_numpy()
    assert len(count) == 100
    # Poisson-like: chi-squared with 99 degrees of freedom stays below 149 in 99.9 % of draws
    assert ((count - 300) ** 2 / 300).sum() < 149


@pytest.mark.parametrize(
    ("part", "trait"),
    [("visible_weight", "garment_type"), ("invisible_weight", "style")],
)
def test_each_part_of_taste_concentrates_its_own_trait(
    traits: pl.DataFrame, part: str, trait: str
) -> None:
    def concentration(model: PurchaseModel) -> float:
        """Mean over customers of the share of purchases in their most bought trait level."""
        _, bought = draw_purchases(
            traits.head(400), n_customers=120, n_purchases=4000, seed=4, model=model
        )
        counts = (
            bought.join(traits, on="article_id").group_by("customer_id", trait).len("n")
            .group_by("customer_id").agg(pl.col("n").max() / pl.col("n").sum(), total=pl.sum("n"))
            .filter(pl.col("total") >= 20)
        )  # fmt: skip
        return float(counts["n"].mean())  # type: ignore[arg-type]

    with_part = dataclasses.replace(INDIFFERENT, **{part: 2.0})
    assert concentration(with_part) > 1.3 * concentration(INDIFFERENT)


def test_season_and_quality_sell(traits: pl.DataFrame) -> None:
    model = dataclasses.replace(INDIFFERENT, season_weight=1.0, popularity_weight=1.0)
    always = traits.head(400).with_columns(arrival=pl.lit(0))
    _, purchases = draw_purchases(always, n_customers=300, n_purchases=10_000, seed=5, model=model)
    sold = purchases.join(always, on="article_id")
    month = sold["t_dat"].dt.month()
    winter = sold["season"] == "winter"
    in_winter, in_summer = winter.filter(month.is_in([12, 1])), winter.filter(month.is_in([6, 7]))
    assert in_winter.mean() > 2 * in_summer.mean()  # type: ignore[operator]
    assert sold["quality"].mean() > always["quality"].mean() + 0.05  # type: ignore[operator]


def test_recommenders_can_tell_the_customers_apart(
    traits: pl.DataFrame, drawn: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    """ItemKNN > MostPop > Random, and traits rank unseen articles better than chance."""
    customers, purchases = drawn
    user = purchases.select(_number(customers["customer_id"], "customer_id")).to_series().to_numpy()
    item = purchases.select(_number(traits["article_id"], "article_id")).to_series().to_numpy()
    late = (purchases["t_dat"] > LAST_DAY - timedelta(days=28)).to_numpy()
    shape = (len(customers), len(traits))
    train = sp.csr_matrix((np.ones((~late).sum()), (user[~late], item[~late])), shape)
    seen = (train > 0).astype(float)
    truth = np.zeros(shape, bool)
    truth[user[late], item[late]] = True
    users = np.flatnonzero(truth.any(axis=1))

    norm = np.sqrt(np.maximum(np.asarray(seen.sum(axis=0)).ravel(), 1))
    cosine = (seen.T @ seen).toarray() / np.outer(norm, norm)
    np.fill_diagonal(cosine, 0)
    cosine[cosine < -np.sort(-cosine, axis=1)[:, 19:20]] = 0
    rng = np.random.default_rng(0)
    random = rng.random((len(users), shape[1]))
    popular = np.tile(np.asarray(train.sum(axis=0)), (len(users), 1))
    ndcg = {
        "random": _ndcg(random, truth[users]),
        "mostpop": _ndcg(popular, truth[users]),
        "itemknn": _ndcg(seen[users] @ cosine, truth[users]),
    }
    assert ndcg["random"] < ndcg["mostpop"] < ndcg["itemknn"] < 0.08

    one_hot = traits.select("garment_type", "colour", "pattern", "style", "occasion").to_dummies()
    vectors = one_hot.to_numpy().astype(float)
    vectors -= vectors.mean(axis=0)
    cold = np.flatnonzero(norm**2 * np.asarray(train.sum(axis=0)).ravel() == 0)
    affinity = (train[users] @ vectors) @ vectors[cold].T
    cold_truth = truth[users][:, cold]
    has = cold_truth.any(axis=1)
    assert _ndcg(affinity[has], cold_truth[has]) > 1.5 * _ndcg(
        random[:, cold][has], cold_truth[has]
    )


def test_written_tables_read_back(traits: pl.DataFrame, tmp_path: Path) -> None:
    size: dict[str, Any] = {"n_customers": 50, "n_purchases": 800, "seed": 9}
    customers, purchases = draw_purchases(traits, **size)
    paths = write_purchases(tmp_path, traits, **size)
    assert [path.name for path in paths] == ["customers.csv", "transactions_train.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    text = {"article_id": pl.String}
    assert pl.read_csv(paths[1], schema_overrides=text, try_parse_dates=True).equals(purchases)
    assert pl.read_csv(paths[0], schema_overrides=customers.schema).equals(customers)
    first = paths[1].read_text().splitlines()[1].split(",")
    assert len(first[2]) == 10
    assert first[2].startswith("0")


@given(
    n_articles=st.integers(1, 12),
    n_customers=st.integers(1, 30),
    n_purchases=st.integers(1, 60),
    n_days=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_any_size_gives_exact_counts(
    n_articles: int, n_customers: int, n_purchases: int, n_days: int, seed: int
) -> None:
    traits = SMALL.head(n_articles).with_columns(
        arrival=(pl.Series(np.arange(n_articles)) * 3) % n_days
    )
    customers, purchases = draw_purchases(
        traits, n_customers=n_customers, n_purchases=n_purchases, seed=seed,
        last_day=date(2021, 3, 1), n_days=n_days,
    )  # fmt: skip
    assert (len(customers), len(purchases)) == (n_customers, n_purchases)
    day = n_days - 1 + (purchases["t_dat"] - date(2021, 3, 1)).dt.total_days()
    assert day.is_between(0, n_days - 1).all()
    arrival = purchases.join(traits, on="article_id", maintain_order="left")["arrival"]
    assert (day >= arrival).all()


SMALL = draw_articles(12, seed=1).traits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traits": SMALL.drop("style")}, "style"),
        ({"traits": SMALL.head(0)}, "no rows"),
        ({"traits": SMALL.with_columns(price=pl.lit(0.0))}, "price"),
        ({"traits": SMALL.with_columns(arrival=pl.lit(800))}, "first arrival is day 800 of 730"),
        ({"n_customers": 0}, "n_customers is 0"),
        ({"n_purchases": -1}, "n_purchases is -1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_purchases(
            **{"traits": SMALL, "n_customers": 5, "n_purchases": 20, "seed": 0, **change}
        )


@pytest.mark.parametrize(
    "field", [{"repeat_share": 1.0}, {"fade_days": 0.0}, {"basket_mean": 0.5}, {"loyalty": -1.0},
              {"mood_weight": float("nan")}],
)  # fmt: skip
def test_bad_parameters_are_named(field: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(field))):
        PurchaseModel(**field)  # type: ignore[arg-type]


def test_scaled_tables(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    paths = draw_scaled(
        tmp_path / "a", scale=1e-3, seed=3, progress=lambda done, of: calls.append((done, of))
    )
    again = draw_scaled(tmp_path / "b", scale=1e-3, seed=3)
    assert list(paths) == ["articles.csv", "customers.csv", "transactions_train.csv"]
    for name, path in paths.items():
        assert path.read_bytes() == again[name].read_bytes(), name
    assert calls[-1] == (31_788, 31_788)

    text = {"article_id": pl.String}
    articles = pl.read_csv(paths["articles.csv"], schema_overrides=text)
    customers = pl.read_csv(paths["customers.csv"])
    purchases = pl.read_csv(
        paths["transactions_train.csv"], schema_overrides=text, try_parse_dates=True
    )
    assert (len(articles), articles["article_id"].n_unique(), articles.width) == (106, 106, 25)
    assert articles["article_id"].str.contains(r"^0\d{9}$").all()
    assert (articles["article_id"].str.slice(0, 7).cast(pl.Int64) == articles["product_code"]).all()
    assert (len(customers), customers.columns) == (1372, CUSTOMER_COLUMNS)
    assert (len(purchases), purchases.columns) == (31_788, list(TRANSACTION_COLUMNS))
    assert purchases["t_dat"].is_sorted()
    assert purchases["t_dat"].is_between(date(2018, 9, 20), LAST_DAY).all()
    assert purchases["article_id"].is_in(articles["article_id"].implode()).all()
    assert purchases["customer_id"].is_in(customers["customer_id"].implode()).all()
    assert purchases["price"].is_between(0.0001, 0.6).all()


def test_scaled_tables_keep_hms_skew(tmp_path: Path) -> None:
    paths = draw_scaled(tmp_path, scale=0.02, seed=1)
    purchases = pl.read_csv(
        paths["transactions_train.csv"], schema_overrides={"article_id": pl.String}
    )
    per_customer = purchases.group_by("customer_id").len()["len"].to_numpy()
    assert per_customer.mean() == pytest.approx(23.2, abs=0.5)
    assert np.median(per_customer) == pytest.approx(9, abs=3)
    per_article = np.sort(purchases.group_by("article_id").len()["len"].to_numpy())[::-1]
    assert np.median(per_article) < 0.4 * per_article.mean()
    assert 1 - purchases.n_unique() / len(purchases) == pytest.approx(0.091, abs=0.02)
    assert later_repeats(purchases) > 0.04


def test_interrupted_writing_leaves_the_old_table(tmp_path: Path) -> None:
    old = tmp_path / "transactions_train.csv"
    old.write_text("old")

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_scaled(tmp_path, scale=1e-3, seed=3, progress=stop)
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {
        "articles.csv", "customers.csv", "transactions_train.csv",
    }  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, -1.0, 11.0, float("nan")])
def test_scale_out_of_range(tmp_path: Path, scale: float) -> None:
    with pytest.raises(InputError, match="scale"):
        draw_scaled(tmp_path, scale=scale, seed=0)


def later_repeats(purchases: pl.DataFrame) -> float:
    """Share of rows whose customer bought the article on an earlier day."""
    first = pl.col("t_dat").min().over("customer_id", "article_id")
    return float(purchases.select((pl.col("t_dat") > first).mean()).item())


def _number(ids: pl.Series, column: str) -> pl.Expr:
    return pl.col(column).replace_strict(ids, pl.Series(range(len(ids))))


def _ndcg(scores: Any, truth: Any, k: int = 12) -> float:
    """Mean NDCG@k with the ideal of min(m, k) hits."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    gain = 1 / np.log2(np.arange(2, k + 2))
    hits = np.take_along_axis(truth, top, axis=1)
    ideal = np.cumsum(gain)[np.minimum(truth.sum(axis=1), k) - 1]
    return float(((hits * gain[: hits.shape[1]]).sum(axis=1) / ideal).mean())
