"""Does the experiment find an effect of words that is there, and none where there is none?

Purchases are drawn from the model of `pipelines.purchases` with a stated answer:

* words matter: customers have a taste for what the description says (fabric, fit, occasion, season,
  style) and for what the photo shows;
* words don't: the same customers, baskets and popularity, but taste only for a hidden vector of the
  product that neither text nor photo carries, and no trend, season or price that goes with a word.

Every article is a product of its own and arrives on a day of its own, so that a text says nothing
beyond its words. The experiment
compares three texts by TF-IDF: the description, the descriptions of other articles (the placebo),
and colour, type and pattern; split, metric, bootstrap and correction are those of `fcr experiment`.
Found: the rise of the description over the placebo is shown. A false alarm: a difference of these
two is shown, of either sign.

    python tests/benchmarks/bench_experiment.py [--seeds 100] [--jobs 2]

Exits with 1 unless the effect is found in at least 95 % of the seeds and a false alarm is raised in
at most 5 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")

import polars as pl  # noqa: E402 - after the numbers of threads

ARTICLES, CUSTOMERS, PURCHASES, TEST_DAYS = 300, 1500, 30_000, 90
PLANTED: dict[str, dict[str, float]] = {
    "words matter": {"visible_weight": 2.5, "invisible_weight": 2.5, "hidden_weight": 0.5},
    "words don't matter": {
        "visible_weight": 0.0,
        "invisible_weight": 0.0,
        "hidden_weight": 3.6,
        "season_weight": 0.0,
        "trend_weight": 0.0,
        "price_weight": 0.0,
        "quality_share": 0.0,
    },
}
"""World -> what differs from the purchase model's defaults."""


def one(world: str, seed: int) -> dict[str, Any]:
    """The experiment's row about descriptions against the placebo, in one drawn world."""
    from pipelines.answers import contrast, shown, write_answers
    from pipelines.augment import TextSource, metadata_texts
    from pipelines.catalog import Catalog
    from pipelines.config import Config, ExperimentConfig, RecommendConfig
    from pipelines.drawing import draw_articles
    from pipelines.experiment import Trial
    from pipelines.purchases import DEFAULT_MODEL, draw_purchases
    from pipelines.run import Run
    from pipelines.workspace import Stage, Workspace
    from recsys.interactions import Interactions
    from recsys.splits import split_global_time

    drawn = draw_articles(ARTICLES, seed)
    ids = drawn.traits["article_id"].to_list()
    # Colours of a product share text and day of arrival: a text would tell an article's age.
    arrival = drawn.traits["arrival"].shuffle(seed)
    traits = drawn.traits.with_columns(product_code=pl.col("article_id"), arrival=arrival)
    model = dataclasses.replace(DEFAULT_MODEL, **PLANTED[world])
    _, purchases = draw_purchases(
        traits, n_customers=CUSTOMERS, n_purchases=PURCHASES, seed=seed, model=model
    )
    found = Interactions.from_frame(
        purchases, user="customer_id", item="article_id", time="t_dat", item_ids=ids
    )
    split = split_global_time(found, last_days=TEST_DAYS)
    said = dict(drawn.articles.select("article_id", "detail_desc").iter_rows())
    captions = {i: text for i, text in said.items() if text}
    source = TextSource(ids, [None] * len(ids), captions, metadata_texts(drawn.articles))
    settings = ExperimentConfig(
        settings=("metadata", "caption", "shuffled"), encoders=("tfidf",), others=(), mask=(),
        metrics=("ndcg",),
        seeds=tuple(range(8)), contrasts=(), bootstrap=2000, depth=12,
    )  # fmt: skip
    config = Config(seed=seed, experiment=settings)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = Run(Workspace(home / "run"), config, home, False, lambda _: None)
        trial = Trial(run, settings, RecommendConfig(), split, source, [None] * len(ids))
        stage = Stage(home, "", reused=False)
        nobody = pl.DataFrame()
        catalog = Catalog(home, drawn.articles, nobody, nobody, ())
        write_answers(trial, trial.measure(), catalog, stage, learned=set())
        table = pl.read_csv(home / "differences.csv", infer_schema_length=None)
    (row,) = contrast(table.filter(slice="all", metric="ndcg@12"), "caption", "shuffled")
    sign = "up" if row["difference"] > 0 else "down"
    return {**row, "world": world, "seed": seed, "found": sign if shown(row) else ""}


def main() -> None:
    """Run both worlds over all seeds and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    worlds = [world for world in PLANTED for _ in range(options.seeds)]
    seeds = [*range(options.seeds)] * len(PLANTED)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(one, worlds, seeds, chunksize=5))
    good = True
    for world in PLANTED:
        own = [row for row in rows if row["world"] == world]
        up, down = (sum(row["found"] == sign for row in own) for sign in ("up", "down"))
        mean = sum(row["difference"] for row in own) / len(own)
        nominal = sum(row["p"] < 0.05 for row in own)
        print(
            f"{world}: rise shown in {up} of {len(own)} seeds, fall in {down}; mean difference of "
            f"NDCG@12 {mean:+.4f} over {own[0]['n_users']} customers; p < 0.05 in {nominal}"
        )
        limit = 0.05 * len(own)
        good &= up >= len(own) - limit if world == "words matter" else up + down <= limit
    print(f"{len(rows)} experiments in {time.monotonic() - started:.0f} s: "
          f"{'as wanted' if good else 'NOT as wanted'}")  # fmt: skip
    sys.exit(not good)


if __name__ == "__main__":
    main()
