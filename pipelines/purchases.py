"""Customers and purchases of a drawn catalogue from a stated model of taste, and tables at scale.

**What decides a purchase.** On a shopping day a customer fills a basket by the multinomial logit
model (Gumbel noise on utilities, the best *n* taken: sampling without replacement). The utility of
an article is a sum of parts, each scaled so that its weight in `PurchaseModel` is its standard
deviation in units of utility; the choice noise has 1.28.

| part | depends on | can be seen in |
|---|---|---|
| visible taste | garment_type, colour, pattern, length, neckline, sleeve | the photo |
| described taste | fabric, fit, occasion, season, style | at most the human description |
| hidden taste | a latent vector of the product | purchases only |
| popularity | quality and chance, in equal parts | purchases only |
| price | the logarithm of the price, and how thrifty the customer is | the table of articles |
| season, trend | the calendar and slow waves of colours, patterns and styles | dates |
| age | an article is new, then fades; each at its own pace | dates |
| mood | the day's deviation from the customer's usual taste; shared by the basket | nothing |
| product loyalty | another colour of a product bought before | purchases and product_code |

Tastes over the trait levels are partly shared (a few latent factors of the customer, one of which
goes with age) and partly the customer's own, so neighbours are informative but not sufficient. No
part decides alone, and **nothing here knows about recommenders**: which of them does well is for
the benchmark to find out. Apart from choices of utility, `repeat_share` of the lines buy again
what the customer bought on an earlier day, and exact duplicate rows are quantities, as in H&M.

On 2,000 drawn articles, 2,000 customers and 60,000 purchases (test = last 28 days, about 400
customers, a fifth to a quarter of the test pairs cold; seen items kept; three seeds) NDCG@12 was
.003-.008 Random, .006-.021 MostPop, .021-.028 UserKNN, .026-.044 ItemKNN, .024-.030 content by the
visible traits, .033-.043 content by all traits, and .022-.047 MostPop of the last four weeks:
seasons and fading articles reward whoever knows the date. Among cold articles alone, content by the
visible traits had .09-.11 where chance had .03. One standard error is about .004.

Defaults of the shares were set to what H&M's own transactions show: 9 % of the rows are exact
copies, a further 4 % re-buy on a later day, baskets hold 3.6 rows (median 2), history lengths have
quartiles near 3, 9 and 26 when there are 23 rows a customer, and 71 % of the rows are online.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines import InputError
from pipelines.workspace import atomic_file

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

# Relative share of each trait in the variance of its group.
VISIBLE = {
    "garment_type": 3.0,
    "colour": 2.0,
    "pattern": 2.0,
    "length": 1.0,
    "neckline": 1.0,
    "sleeve": 1.0,
}
INVISIBLE = {"fabric": 1.0, "fit": 1.0, "occasion": 2.0, "season": 1.0, "style": 3.0}
TRENDING = ("colour", "pattern", "style")
PEAK_DAY = {"spring": 105, "summer": 190, "autumn": 285, "fall": 285, "winter": 350}
"""Day of the year on which a word of the `season` trait sells best; other words have no season."""

HM_ARTICLES, HM_CUSTOMERS, HM_PURCHASES, HM_DAYS = 105_542, 1_371_980, 31_788_324, 734
PRICE_UNIT = 590.0
"""H&M's published prices are the shop price divided by this."""
SEGMENT_SIZE = 4000
LAST_DAY = date(2020, 9, 22)
TRANSACTION_COLUMNS = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")


@dataclass(frozen=True)
class PurchaseModel:
    """How customers choose; see the module docstring for what each part depends on."""

    visible_weight: float = 1.8
    """Standard deviation of the taste for what a photo shows."""
    invisible_weight: float = 1.8
    """Standard deviation of the taste for fabric, fit, occasion, season and style."""
    hidden_weight: float = 1.5
    """Standard deviation of the taste that neither photo nor text carries."""
    hidden_dim: int = 4
    """Length of the products' latent vectors."""
    taste_factors: int = 6
    """Latent factors of a customer that tastes for trait levels share."""
    shared_taste: float = 0.7
    """Share of the taste variance explained by those factors; the rest is the customer's own."""
    popularity_weight: float = 0.8
    """Standard deviation of the articles' common appeal."""
    quality_share: float = 0.5
    """Share of the appeal's variance that `quality` explains; the rest is chance."""
    price_weight: float = 0.4
    """Utility lost per standard deviation of log price by the average customer, and the
    standard deviation of this loss between customers."""
    season_weight: float = 0.5
    """Utility gained at the peak of the article's season (and lost half a year away)."""
    trend_weight: float = 0.4
    """Standard deviation over time of the appeal of a colour, pattern or style."""
    newness_weight: float = 0.6
    """Utility gained on the day of arrival."""
    newness_days: float = 30.0
    """Days until the gain of newness has fallen to 1/e."""
    fade_days: float = 500.0
    """Median over articles of the days that cost one unit of utility; log-normal, sigma 0.8."""
    mood_weight: float = 0.4
    """Standard deviation of a day's mood, relative to the usual taste for a trait level."""
    loyalty: float = 1.0
    """Utility gained by other colours of a product the customer has bought."""
    repeat_share: float = 0.04
    """Share of the rows that buy again an article bought on an earlier day."""
    duplicate_share: float = 0.091
    """Share of the rows that are exact copies of another: the quantities."""
    basket_mean: float = 3.3
    """Mean number of different articles bought by a customer in a day."""
    basket_sigma: float = 0.95
    """Sigma of the log-normal basket size."""
    activity_sigma: float = 1.2
    """Sigma of the log-normal number of shopping days a customer has per time."""
    founding_share: float = 0.7
    """Share of customers already there on the first day; the others come evenly over time."""
    lifetime_days: float = 1000.0
    """Mean days that a customer stays (exponential)."""
    never_share: float = 0.007
    """Share of customers of `customers.csv` who never buy."""
    online_share: float = 0.71
    """Share of baskets bought online (sales_channel_id 2)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith("_share") or name == "shared_taste":
                good, limit = 0 <= value < 1, "at least 0 and below 1"
            elif name.endswith("_days"):
                good, limit = value > 0, "more than 0"
            else:
                least = 1 if name == "basket_mean" else 0
                good, limit = value >= least, f"at least {least}"
            if not good:
                raise InputError(f"PurchaseModel.{name} is {value}: expected {limit}")


DEFAULT_MODEL = PurchaseModel()


@dataclass(frozen=True)
class _Plan:
    """Who buys how many lines when; trips are sorted by (customer, day), one per pair."""

    customer: Array
    """int32 (n_trips,)."""
    day: Array
    """int16 (n_trips,), 0 on the first day."""
    size: Array
    """int32 (n_trips,): lines, that is different articles."""
    quantity: Array
    """int32 (n_lines,): rows per line; sums to the number of purchases."""
    source: Array
    """int32 (n_repeats,): the earlier line of the customer that is bought again."""
    repeat: Array
    """int32 (n_repeats,): the line that buys it again."""


def draw_purchases(
    traits: pl.DataFrame,
    *,
    n_customers: int,
    n_purchases: int,
    seed: int,
    model: PurchaseModel = DEFAULT_MODEL,
    last_day: date = LAST_DAY,
    n_days: int = 730,
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw customers and their purchases of the articles in `traits`.

    `traits` has one row per article: article_id and product_code (str), the columns of `VISIBLE`
    and `INVISIBLE` (str, null where a garment has no such part), quality (float, any scale), price
    (float, in the unit to be written), arrival (int, day of first sale, 0 or less = there from the
    start; day 0 is `last_day` - `n_days` + 1).

    Returns (customers, purchases): customers has H&M's seven columns and `n_customers` rows;
    purchases has t_dat (date), customer_id (64 hex digits), article_id, price (float64),
    sales_channel_id (int64, 1 store, 2 online), exactly `n_purchases` rows, sorted by t_dat, then
    customer. The same arguments give the same tables. Memory is n_customers * n_articles bytes.

    Raises InputError for missing columns, impossible counts, or no article on sale.
    """
    _check(traits, n_customers=n_customers, n_purchases=n_purchases, n_days=n_days)
    arrival = traits["arrival"].to_numpy().astype(np.int64)
    if arrival.min() >= n_days:
        raise InputError(
            f"traits: the first arrival is day {arrival.min()} of {n_days}, so nothing is ever on "
            "sale; expected an arrival below n_days"
        )
    plan_rng, item_rng, person_rng, trip_rng, table_rng = np.random.default_rng(seed).spawn(5)
    plan = _plan(plan_rng, model, n_customers, n_purchases, n_days, max(0, int(arrival.min())))
    first_day = last_day - timedelta(days=n_days - 1)
    age_factor = person_rng.standard_normal(n_customers)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rngs = item_rng, person_rng, trip_rng
    with threadpool_limits(1, "blas"):  # many small products: threads only wait for each other
        article = _choose(traits, plan, model, first_day, n_days, *rngs, age_factor)
    customers = _customers(table_rng, n_customers, age_factor)

    trip = np.repeat(np.arange(len(plan.size)), plan.size)
    online = table_rng.random(len(plan.size)) < model.online_share
    list_price = traits["price"].to_numpy().astype(np.float64)
    age = plan.day[trip] - np.maximum(arrival[article], 0)
    price = list_price[article] * _markdown(table_rng, age)
    rows = np.repeat(np.arange(len(trip)), plan.quantity)
    rows = rows[np.argsort(plan.day[trip[rows]], kind="stable")]
    days = pl.Series([first_day + timedelta(days=d) for d in range(n_days)], dtype=pl.Date)
    purchases = pl.DataFrame(
        {
            "t_dat": days.gather(plan.day[trip[rows]].astype(np.int64)),
            "customer_id": customers["customer_id"].gather(plan.customer[trip[rows]]),
            "article_id": traits["article_id"].gather(article[rows]),
            "price": price[rows],
            "sales_channel_id": 1 + online[trip[rows]].astype(np.int64),
        }
    )
    if progress is not None:
        progress(n_purchases, n_purchases)
    return customers, purchases


def write_purchases(
    folder: Path,
    traits: pl.DataFrame,
    *,
    n_customers: int,
    n_purchases: int,
    seed: int,
    model: PurchaseModel = DEFAULT_MODEL,
    last_day: date = LAST_DAY,
    n_days: int = 730,
    progress: Progress | None = None,
) -> tuple[Path, Path]:
    """`draw_purchases` written as `customers.csv` and `transactions_train.csv` in Kaggle's format.

    Each file appears whole or not at all. Returns the two paths.
    """
    customers, purchases = draw_purchases(
        traits,
        n_customers=n_customers,
        n_purchases=n_purchases,
        seed=seed,
        model=model,
        last_day=last_day,
        n_days=n_days,
        progress=progress,
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "customers.csv", folder / "transactions_train.csv"
    for path, frame in zip(paths, (customers, purchases), strict=True):
        with atomic_file(path) as file:
            frame.write_csv(file)
    return paths


def draw_scaled(
    folder: Path,
    *,
    scale: float,
    seed: int,
    model: PurchaseModel = DEFAULT_MODEL,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write purchase tables of `scale` times H&M's size, for benchmarks of speed and memory.

    Counts at scale 1 are H&M's: 105,542 articles, 1,371,980 customers, 31,788,324 purchases on 734
    days. Shopping days, baskets, quantities, repeats and the coming and going of customers are
    those of `draw_purchases`; the choice of article is simpler, because 31 million choices among
    105,542 articles do not pay for utilities: popularity is log-normal within an article's time on
    sale, and half of the choices stay in the customer's own segment of 4,000 articles. Scores of
    recommenders on it mean nothing.

    Measured at scale 1: 15 % of the rows name an article their customer bought before (copies
    included; 9.5 % are copies), the best seller has 58,000 rows and the median article 88, the
    quartiles of the history lengths are 4, 11 and 26.

    Writes `articles.csv` (25 columns), `customers.csv`, `transactions_train.csv` (sorted by t_dat)
    and returns their paths by name. Deterministic. At scale 1: 1.5 GB of memory, 3.5 GB of disk, 30
    CPU seconds. Memory grows with the scale, disk likewise.

    Raises InputError unless 0 < scale <= 10.
    """
    if not 0 < scale <= 10:
        raise InputError(f"scale is {scale}: expected more than 0 and at most 10 (1 is full H&M)")
    n_articles = max(64, round(HM_ARTICLES * scale))
    n_customers = max(16, round(HM_CUSTOMERS * scale))
    n_purchases = max(64, round(HM_PURCHASES * scale))
    item_rng, plan_rng, choice_rng, table_rng = np.random.default_rng(seed).spawn(4)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("articles.csv", "customers.csv", "transactions_train.csv")
    paths = {name: folder / name for name in names}

    articles, price, begin, end = _scaled_articles(item_rng, n_articles)
    with atomic_file(paths["articles.csv"]) as file:
        articles.write_csv(file)
    customers = _customers(table_rng, n_customers, table_rng.standard_normal(n_customers))
    with atomic_file(paths["customers.csv"]) as file:
        customers.write_csv(file)

    plan = _plan(plan_rng, model, n_customers, n_purchases, HM_DAYS, 0)
    line_day = np.repeat(plan.day, plan.size)
    line_customer = np.repeat(plan.customer, plan.size)
    article = _choose_scaled(choice_rng, line_day, line_customer, begin, end)
    article[plan.repeat] = article[_origin(plan)]
    online = np.repeat(choice_rng.random(len(plan.size)) < model.online_share, plan.size)
    first_day = LAST_DAY - timedelta(days=HM_DAYS - 1)
    days = pl.Series([str(first_day + timedelta(days=d)) for d in range(HM_DAYS)])
    order = np.argsort(line_day, kind="stable")
    done = 0
    with atomic_file(paths["transactions_train.csv"]) as file:
        for at in range(0, len(order), 1 << 20):
            lines = order[at : at + (1 << 20)]
            bought = article[lines]
            paid = price[bought] * _markdown(choice_rng, line_day[lines] - begin[bought])
            twice = np.repeat(np.arange(len(lines)), plan.quantity[lines])
            rows = lines[twice]
            block = pl.DataFrame(
                {
                    "t_dat": days.gather(line_day[rows].astype(np.int64)),
                    "customer_id": customers["customer_id"].gather(line_customer[rows]),
                    "article_id": articles["article_id"].gather(bought[twice]),
                    "price": paid[twice],
                    "sales_channel_id": 1 + online[rows].astype(np.int64),
                }
            )
            block.write_csv(file, include_header=at == 0)
            done += len(rows)
            if progress is not None:
                progress(done, n_purchases)
    return paths


# --- who buys when ---------------------------------------------------------------------------


def _plan(
    rng: np.random.Generator,
    model: PurchaseModel,
    n_customers: int,
    n_purchases: int,
    n_days: int,
    opening_day: int,
) -> _Plan:
    """Shopping days, basket sizes, quantities and repeats; nothing about articles."""
    n_lines = n_purchases - round(n_purchases * model.duplicate_share)
    n_trips = max(1, round(n_lines / model.basket_mean))

    # Customers: an interval of activity and a rate.
    born = rng.random(n_customers) * (n_days - opening_day) + opening_day
    born[rng.random(n_customers) < model.founding_share] = opening_day
    gone = np.minimum(n_days, born + 1 + rng.exponential(model.lifetime_days, n_customers))
    rate = rng.lognormal(0.0, model.activity_sigma, n_customers) * (gone - born)
    buyers = rng.permutation(n_customers)[: max(1, round(n_customers * (1 - model.never_share)))]
    more = rng.random(max(0, n_trips - len(buyers)))
    weight = np.cumsum(rate[buyers])
    customer = np.concatenate([buyers, buyers[np.searchsorted(weight, more * weight[-1])]])
    customer = customer[:n_trips]

    # Days: the shop's calendar restricted to the customer's interval.
    day_of_year = np.arange(n_days) * (2 * np.pi / 365.25)
    calendar = 1 + 0.2 * np.sin(day_of_year) + 0.1 * np.sin(2 * day_of_year + 1)
    calendar *= rng.lognormal(0.0, 0.25, n_days)
    through = np.concatenate([[0.0], np.cumsum(calendar)])
    low, high = (np.interp(edge[customer], np.arange(n_days + 1), through) for edge in (born, gone))
    day = np.searchsorted(through, low + rng.random(len(customer)) * (high - low), "right") - 1
    key = np.sort(customer * np.int64(n_days) + np.clip(day, opening_day, n_days - 1))
    key = key[np.concatenate([[True], key[1:] > key[:-1]])]

    mu = np.log(max(model.basket_mean - 0.5, 0.5)) - model.basket_sigma**2 / 2
    size = np.ceil(rng.lognormal(mu, model.basket_sigma, len(key))).astype(np.int32)
    size = _fit(rng, np.clip(size, 1, 60), n_lines)
    quantity = np.ones(n_lines, np.int32)
    np.add.at(quantity, rng.integers(0, n_lines, n_purchases - n_lines), 1)

    # Repeats: `first` is the customer's first line, `start` the trip's.
    trip_customer = (key // n_days).astype(np.int32)
    start = np.cumsum(size) - size
    opens = np.concatenate([[True], trip_customer[1:] != trip_customer[:-1]])
    first = np.maximum.accumulate(np.where(opens, start, 0))
    history = start - first
    eligible = int(size[history > 0].sum())
    chance = min(1.0, model.repeat_share * n_purchases / max(1, eligible))
    count = rng.binomial(size, np.where(history > 0, chance, 0.0))
    trip = np.repeat(np.arange(len(size)), count)
    nth = np.arange(len(trip)) - np.repeat(np.cumsum(count) - count, count)
    recency = 1 - rng.random(len(trip)) ** 2  # the recent past is re-bought more often
    source = first[trip] + (recency * history[trip]).astype(np.int64)
    return _Plan(
        customer=trip_customer,
        day=(key % n_days).astype(np.int16),
        size=size,
        quantity=quantity,
        source=source.astype(np.int32),
        repeat=(start[trip] + nth).astype(np.int32),
    )


def _fit(rng: np.random.Generator, size: Array, total: int) -> Array:
    """Change entries evenly or at random, never below one, until the sum is `total` >= len."""
    size = size + max(0, (total - int(size.sum())) // len(size))
    while (gap := total - int(size.sum())) != 0:
        able = np.flatnonzero(size > 1) if gap < 0 else np.arange(len(size))
        size[rng.permutation(able)[: abs(gap)]] += np.sign(gap)
    return np.asarray(size)


def _origin(plan: _Plan) -> Array:
    """The line whose article each repeat carries: repeats of repeats are followed to their root."""
    pointer = np.full(len(plan.quantity), -1, np.int32)
    pointer[plan.repeat] = plan.source
    origin = plan.source.copy()
    while (chained := pointer[origin] >= 0).any():
        origin[chained] = pointer[origin[chained]]
    return origin


# --- which article ---------------------------------------------------------------------------


def _choose(
    traits: pl.DataFrame,
    plan: _Plan,
    model: PurchaseModel,
    first_day: date,
    n_days: int,
    item_rng: np.random.Generator,
    person_rng: np.random.Generator,
    trip_rng: np.random.Generator,
    age_factor: Array,
) -> Array:
    """The article (row of `traits`, int32) of every line, day after day: habits need a history."""
    n_customers, n_articles = len(age_factor), len(traits)
    items, tastes, n_levels = _tastes(traits, model, item_rng, person_rng, age_factor)
    appeal = _appeal(traits, model, first_day, n_days, item_rng)  # (n_days, n_articles)
    product = _codes(traits, "product_code")
    owns = np.zeros((n_customers, n_articles), bool)
    knows = np.zeros((n_customers, int(product.max()) + 1), bool)
    start = np.cumsum(plan.size) - plan.size
    article = np.full(int(plan.size.sum()), -1, np.int32)
    source = np.full(len(article), -1, np.int32)
    source[plan.repeat] = plan.source
    by_day = np.argsort(plan.day, kind="stable")
    edges = np.searchsorted(plan.day[by_day], np.arange(n_days + 1))
    for today in range(n_days):
        trips = by_day[edges[today] : edges[today + 1]]
        if not len(trips):
            continue
        customer, size = plan.customer[trips], plan.size[trips]
        basket = np.repeat(np.arange(len(trips)), size)
        nth = np.arange(len(basket)) - np.repeat(np.cumsum(size) - size, size)
        lines = start[trips][basket] + nth

        again = np.flatnonzero(source[lines] >= 0)
        bought = article[source[lines[again]]]
        _, kept = np.unique(basket[again] * np.int64(n_articles) + bought, return_index=True)
        article[lines[again[kept]]] = bought[kept]

        wish = tastes[customer]
        wish[:, :n_levels] += model.mood_weight * trip_rng.standard_normal((len(trips), n_levels))
        utility = wish @ items
        utility += appeal[today] + trip_rng.gumbel(size=utility.shape)
        utility += model.loyalty * knows[customer][:, product]
        utility -= 100.0 * owns[customer]  # buying the same again is `repeat_share`'s business
        fresh = np.flatnonzero(article[lines] < 0)
        rank = np.arange(len(fresh)) - np.searchsorted(basket[fresh], basket[fresh])
        on_sale = int(np.isfinite(appeal[today]).sum())
        best = _top(utility, min(int(rank.max(initial=0)) + 1, on_sale))
        article[lines[fresh]] = best[basket[fresh], rank % best.shape[1]]
        owns[customer[basket], article[lines]] = True
        knows[customer[basket], product[article[lines]]] = True
    return article


def _top(utility: Array, k: int) -> Array:
    """Column numbers of the `k` largest entries of each row, best first: (n, k)."""
    near = np.argpartition(-utility, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(utility, near, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(near, order, axis=1))


def _tastes(
    traits: pl.DataFrame,
    model: PurchaseModel,
    item_rng: np.random.Generator,
    person_rng: np.random.Generator,
    age_factor: Array,
) -> tuple[Array, Array, int]:
    """Articles (d, n_articles) and customers (n_customers, d) whose product is the taste.

    The first n_levels of the d coordinates are trait levels, then hidden ones, then the price.
    """
    n_customers = len(age_factor)
    levels = []
    for group, weight in ((VISIBLE, model.visible_weight), (INVISIBLE, model.invisible_weight)):
        for trait, share in group.items():
            scale = weight * np.sqrt(share / sum(group.values()))
            levels.append(scale * _one_hot(traits, trait))
    one_hot = np.concatenate(levels)
    loading = item_rng.standard_normal((model.taste_factors, len(one_hot)))
    factors = person_rng.standard_normal((n_customers, model.taste_factors))
    factors[:, :1] = age_factor[:, None]
    shared = factors @ loading / np.sqrt(max(1, model.taste_factors))
    own = person_rng.standard_normal((n_customers, len(one_hot)))
    taste = np.sqrt(model.shared_taste) * shared + np.sqrt(1 - model.shared_taste) * own

    product = _codes(traits, "product_code")
    hidden = item_rng.standard_normal((model.hidden_dim, product.max() + 1))[:, product]
    hidden *= model.hidden_weight / np.sqrt(max(1, model.hidden_dim))
    hidden_taste = person_rng.standard_normal((n_customers, model.hidden_dim))
    price = _standardised(np.log(traits["price"].to_numpy().astype(np.float64)))[None]
    thrift = -model.price_weight * (1 + person_rng.standard_normal((n_customers, 1)))
    items = np.concatenate([one_hot, hidden, price])
    return items, np.concatenate([taste, hidden_taste, thrift], axis=1), len(one_hot)


def _appeal(
    traits: pl.DataFrame,
    model: PurchaseModel,
    first_day: date,
    n_days: int,
    rng: np.random.Generator,
) -> Array:
    """What everybody thinks of an article on a day: (n_days, n_articles), -inf before arrival."""
    n = len(traits)
    day = np.arange(n_days)[:, None]
    quality = _standardised(traits["quality"].to_numpy().astype(np.float64))
    popularity = np.sqrt(model.quality_share) * quality
    popularity += np.sqrt(1 - model.quality_share) * rng.standard_normal(n)
    out = np.tile(model.popularity_weight * popularity, (n_days, 1))

    day_of_year = first_day.timetuple().tm_yday + day
    seasons = traits["season"].cast(pl.String).fill_null("").str.to_lowercase().to_list()
    for word, peak in PEAK_DAY.items():
        has = np.array([word in season for season in seasons])
        wave = model.season_weight * np.cos(2 * np.pi * (day_of_year - peak) / 365.25)
        out[:, has] += wave
    for trait in TRENDING:
        one_hot = _one_hot(traits, trait)
        period = rng.uniform(120, 500, (3, 1, len(one_hot)))
        phase = rng.uniform(0, 2 * np.pi, (3, 1, len(one_hot)))
        wave = np.sin(2 * np.pi * day / period + phase).sum(axis=0) * np.sqrt(2 / 3)
        out += model.trend_weight / np.sqrt(len(TRENDING)) * wave @ one_hot

    # What is there from the start was not new on day 0.
    arrival = traits["arrival"].to_numpy().astype(np.float64)
    launch = np.where(arrival <= 0, -rng.uniform(0, 365, n), arrival)
    age = day - launch
    pace = model.fade_days * rng.lognormal(0.0, 0.8, n)
    out += model.newness_weight * np.exp(-np.maximum(age, 0) / model.newness_days) - age / pace
    out[day < arrival] = -np.inf
    return np.asarray(out)


def _one_hot(traits: pl.DataFrame, trait: str) -> Array:
    """(n_levels, n_articles) float64; null is a level of its own (no such part, or unknown)."""
    level = _codes(traits, trait)
    return np.asarray((level == np.arange(level.max() + 1)[:, None]).astype(np.float64))


def _codes(traits: pl.DataFrame, column: str) -> Array:
    """The values of a column as numbers from 0, in the order of their spelling: int64 (n,)."""
    values = traits[column].cast(pl.String).fill_null("").to_numpy()
    return np.asarray(np.unique(values, return_inverse=True)[1])


def _standardised(x: Array) -> Array:
    spread = float(x.std())
    return (x - x.mean()) / spread if spread > 0 else np.zeros_like(x)


def _markdown(rng: np.random.Generator, age: Array) -> Array:
    """Share of the list price that is paid: sales become likelier and deeper with age (days)."""
    steps = np.array([1.0, 0.9, 0.8, 0.7, 0.5])
    depth = rng.random(len(age)) * np.clip(age / 120.0, 0.0, 1.5) * 3
    return np.asarray(steps[np.minimum(depth.astype(np.int64), len(steps) - 1)])


def _choose_scaled(
    rng: np.random.Generator, line_day: Array, line_customer: Array, begin: Array, end: Array
) -> Array:
    """The article (int32) of every line: popularity while on sale, half within a segment."""
    n_segments = max(1, len(begin) // SEGMENT_SIZE)
    segment = rng.permutation(np.arange(len(begin)) % n_segments)
    appeal = rng.lognormal(0.0, 1.25, len(begin))
    by_segment = np.argsort(segment, kind="stable")
    bound = np.searchsorted(segment[by_segment], np.arange(n_segments + 1))
    article = np.empty(len(line_day), np.int32)
    week = (line_day // 7).astype(np.uint8)
    order = np.argsort(week, kind="stable")
    edges = np.searchsorted(week[order], np.arange(int(week.max()) + 2))
    for number in range(len(edges) - 1):
        lines = order[edges[number] : edges[number + 1]]
        first, last = number * 7, number * 7 + 6
        weight = np.where((begin <= first) & (end >= last), appeal, 0.0)[by_segment]
        through = np.concatenate([[0.0], np.cumsum(weight)])
        own = (line_customer[lines].astype(np.int64) * 2654435761 >> 8) % n_segments
        low, high = through[bound[own]], through[bound[own + 1]]
        everywhere = (rng.random(len(lines)) < 0.5) | (high <= low)
        low, high = np.where(everywhere, 0.0, low), np.where(everywhere, through[-1], high)
        at = np.searchsorted(through, low + rng.random(len(lines)) * (high - low), "right") - 1
        article[lines] = by_segment[np.minimum(at, len(by_segment) - 1)]
    return article


# --- tables ----------------------------------------------------------------------------------


def _customers(rng: np.random.Generator, n: int, age_factor: Array) -> pl.DataFrame:
    """H&M's seven columns, with its shares of missing values."""
    young = rng.random(n) < 0.6
    age = np.where(young, 25.0 + 4.5 * age_factor, 50.0 + 7.0 * age_factor)
    age = np.clip(np.round(age), 16, 90)
    active, news = rng.random(n) < 0.34, rng.random(n) < 0.35
    club = pl.Series(["ACTIVE", "PRE-CREATE", "LEFT CLUB"]).gather(
        rng.choice(3, n, p=[0.9285, 0.0712, 0.0003])
    )
    return pl.DataFrame(
        {
            "customer_id": _hex(rng, n),
            "FN": pl.Series(news).replace_strict({True: 1.0, False: None}, return_dtype=pl.Float64),
            "Active": pl.Series(active & news).replace_strict(
                {True: 1.0, False: None}, return_dtype=pl.Float64
            ),
            "club_member_status": club.set(pl.Series(rng.random(n) < 0.004), None),
            "fashion_news_frequency": pl.Series(news).replace_strict(
                {True: "Regularly", False: "NONE"}, return_dtype=pl.String
            ),
            "age": pl.Series(age).set(pl.Series(rng.random(n) < 0.012), None),
            "postal_code": _hex(rng, max(1, n // 4)).gather(rng.integers(0, max(1, n // 4), n)),
        }
    )


def _hex(rng: np.random.Generator, n: int) -> pl.Series:
    """`n` strings of 64 hexadecimal digits; 256 random bits do not collide."""
    text = rng.bytes(32 * n).hex()
    return pl.Series([text[at : at + 64] for at in range(0, len(text), 64)], dtype=pl.String)


_TYPES = (
    (253, "Vest top", "Garment Upper body"),
    (255, "T-shirt", "Garment Upper body"),
    (252, "Sweater", "Garment Upper body"),
    (258, "Blouse", "Garment Upper body"),
    (265, "Dress", "Garment Full body"),
    (272, "Trousers", "Garment Lower body"),
    (274, "Shorts", "Garment Lower body"),
    (275, "Skirt", "Garment Lower body"),
)
_COLOURS = (
    (9, "Black", 4, "Dark", 5, "Black"),
    (10, "White", 3, "Light", 9, "White"),
    (73, "Dark Blue", 4, "Dark", 2, "Blue"),
    (51, "Light Pink", 1, "Dusty Light", 4, "Pink"),
    (12, "Light Beige", 1, "Dusty Light", 11, "Beige"),
    (42, "Red", 2, "Medium Dusty", 18, "Red"),
)
_PATTERNS = ((1010016, "Solid"), (1010001, "All over pattern"), (1010017, "Stripe"))
_PLACE = {
    "department_no": 1676,
    "department_name": "Jersey Basic",
    "index_code": "A",
    "index_name": "Ladieswear",
    "index_group_no": 1,
    "index_group_name": "Ladieswear",
    "section_no": 16,
    "section_name": "Womens Everyday Basics",
    "garment_group_no": 1002,
    "garment_group_name": "Jersey Basic",
}


def _scaled_articles(rng: np.random.Generator, n: int) -> tuple[pl.DataFrame, Array, Array, Array]:
    """articles.csv, list price (float64), first and last day on sale (int64), each (n,).

    Products have 2.2 colours on average; later codes arrive later, as H&M's do.
    """
    n_products = max(1, round(n / 2.235))
    more = rng.integers(0, n_products, n - n_products)
    product = np.sort(np.concatenate([np.arange(n_products), more]))
    codes = np.sort(rng.choice(np.arange(108_775, 959_462), n_products, replace=False))
    suffix = 1 + np.arange(n) - np.searchsorted(product, product)
    kind = rng.integers(0, len(_TYPES), n_products)[product]
    shade, pattern = rng.integers(0, len(_COLOURS), n), rng.integers(0, len(_PATTERNS), n)
    price = np.round(rng.lognormal(2.7, 0.6, n_products), 0)[product].clip(1.0) - 0.01
    begin = np.round((product / n_products - 0.35) / 0.65 * (HM_DAYS - 21)).astype(np.int64)
    begin += rng.integers(-60, 15, n)
    end = begin + 28 + rng.exponential(250.0, n).astype(np.int64)
    end = np.where(begin < 0, np.maximum(end, 30), end)

    def pick(table: Sequence[tuple[Any, ...]], column: int, row: Array) -> pl.Series:
        return pl.Series([entry[column] for entry in table]).gather(row)

    names = pick(_TYPES, 1, kind)
    frame = pl.DataFrame(
        {
            "article_id": pl.Series(codes[product] * 1000 + suffix).cast(pl.String).str.zfill(10),
            "product_code": codes[product],
            "prod_name": names + " " + pl.Series(codes[product]).cast(pl.String),
            "product_type_no": pick(_TYPES, 0, kind),
            "product_type_name": names,
            "product_group_name": pick(_TYPES, 2, kind),
            "graphical_appearance_no": pick(_PATTERNS, 0, pattern),
            "graphical_appearance_name": pick(_PATTERNS, 1, pattern),
            "colour_group_code": pick(_COLOURS, 0, shade),
            "colour_group_name": pick(_COLOURS, 1, shade),
            "perceived_colour_value_id": pick(_COLOURS, 2, shade),
            "perceived_colour_value_name": pick(_COLOURS, 3, shade),
            "perceived_colour_master_id": pick(_COLOURS, 4, shade),
            "perceived_colour_master_name": pick(_COLOURS, 5, shade),
            **{name: pl.Series([value]).new_from_index(0, n) for name, value in _PLACE.items()},
            "detail_desc": names + " in style " + pl.Series(codes[product]).cast(pl.String) + ".",
        }
    )
    return frame, price / PRICE_UNIT, begin, end


def _check(traits: pl.DataFrame, *, n_customers: int, n_purchases: int, n_days: int) -> None:
    for name, value in (
        ("n_customers", n_customers),
        ("n_purchases", n_purchases),
        ("n_days", n_days),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}: expected at least 1")
    needed = ["article_id", "product_code", *VISIBLE, *INVISIBLE, "quality", "price", "arrival"]
    missing = [name for name in needed if name not in traits.columns]
    if missing:
        raise InputError(f"traits lacks the columns {', '.join(missing)}; it has {traits.columns}")
    if traits.is_empty():
        raise InputError("traits has no rows: expected one per article")
    nulls = sum(traits.select("quality", "price", "arrival").null_count().row(0))
    if nulls or not (traits["price"] > 0).all():
        raise InputError("traits: quality, price, arrival must have values, price one above 0")
