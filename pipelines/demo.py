"""The demo: a drawn catalogue in H&M's layout, and every stage over it."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pipelines import InputError
from pipelines.config import Config, DemoConfig
from pipelines.run import Run
from pipelines.workspace import version

TEXTS = ("original", "fill")


def draw_demo(run: Run) -> Path:
    """Draw the catalogue, its customers and purchases into the run, unless they are there.

    Returns:
        the data folder, in Kaggle's layout; about 2,000 photos and 60,000 purchases.
    """
    from pipelines.drawing import write_catalogue
    from pipelines.purchases import write_purchases

    demo, seed = run.config.demo, run.config.seed
    inputs = {"generator": version()}
    with run.workspace.stage(
        "catalogue", config=asdict(demo), inputs=inputs, seed=seed, say=lambda _: None
    ) as stage:
        if stage.reused:
            return stage.folder
        run.say(f"drawing {demo.articles:,} articles and {demo.purchases:,} purchases")
        with run.progress() as progress:
            drawn = write_catalogue(
                stage.folder,
                demo.articles,
                seed,
                workers=os.cpu_count() or 1,
                progress=partial(progress, "drawing photos"),
            )
            write_purchases(
                stage.folder,
                drawn.traits,
                n_customers=demo.customers,
                n_purchases=demo.purchases,
                seed=seed,
                progress=partial(progress, "drawing purchases"),
            )
    return stage.folder


def drawn_as(run: Run) -> Config:
    """The run's configuration; where it asks for no size, with that of the catalogue it has."""
    manifest = run.workspace.manifest("catalogue")
    if manifest is None or run.config.demo != DemoConfig():
        return run.config
    return replace(run.config, demo=DemoConfig(**manifest["config"]))


def demo(run: Run) -> Path:
    """The whole way of the data: fine-tune, caption, score, audit, recommend, look, report.

    Returns:
        path of the HTML report.
    """
    from pipelines.caption_items import caption_items
    from pipelines.recommend import recommend
    from pipelines.report import report
    from pipelines.score_captions import score_captions
    from pipelines.seeing import attention, zero_shot
    from pipelines.train_captioner import train_captioner

    train_captioner(run)
    caption_items(run)
    score_captions(run)
    recommend(run, text=TEXTS)
    for look in (attention, zero_shot):
        try:
            look(run)
        except InputError as error:  # a captioner without maps, no CLIP: the report says so too
            run.say(f"note: {error}")
    return report(run)
