"""What people think of captions: ratings kept in a run, one row a rater, article and captioner.

They are what somebody did by hand, so they belong to no stage and nothing removes them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import InputError
from pipelines.workspace import write_table

COLUMNS = {
    **dict.fromkeys(("rater", "article_id", "captioner", "caption", "kind"), pl.String),
    "rating": pl.Int64,
    "blinded": pl.Boolean,
    "rated_at": pl.String,
}
"""Of ratings.csv. kind: "stars" (rating 1 to 5) or "best" (1: chosen, 0: another was)."""
KEY = ("rater", "article_id", "captioner", "kind")
TYPED = ("rater", "article_id", "captioner", "caption")
"""Columns of texts that others wrote; in the file an apostrophe stands before a formula."""
FOLDER, FILE = "ratings", "ratings.csv"


def read_ratings(run: Path) -> pl.DataFrame:
    """The ratings in a run's folder; no row where there are none.

    Raises:
        InputError: the file is not one of ratings.
    """
    path = run / FOLDER / FILE
    if not path.is_file():
        return pl.DataFrame(schema=COLUMNS)
    try:
        found = pl.read_csv(path, schema_overrides=COLUMNS).select(*COLUMNS)
        return found.with_columns(pl.col(*TYPED).str.replace(r"^'('*[=+\-@\t\r])", "$1"))
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{path} is no table of ratings ({str(error).splitlines()[0]}): mend it or move it away"
        ) from error


def rate(
    run: Path,
    *,
    rater: str,
    article_id: str,
    captions: Sequence[tuple[str, str, int]],
    kind: str,
    blinded: bool,
) -> Path:
    """Keep the ratings of an article's captions; the same rater's older ones of them go.

    Args:
        run: the run's folder.
        rater: a name or initials.
        article_id: whose captions they are.
        captions: (captioner, caption, rating).
        kind: "stars" or "best".
        blinded: the rater did not see who wrote which.

    Returns:
        path of the file, replaced as a whole: two raters at once lose nothing, a killed process
        leaves the old one.

    Raises:
        InputError: a rating out of range, no rater, or a file that is not one of ratings.
    """
    highest = {"stars": range(1, 6), "best": range(2)}.get(kind)
    wrong = [rating for *_, rating in captions if highest is None or rating not in highest]
    if wrong or highest is None:
        raise InputError(
            f"rating {wrong[:1]} of kind {kind!r}: expected 1 to 5 stars, or best 0, 1"
        )
    rater = " ".join(rater.split())
    if not rater:
        raise InputError("ratings need a rater: a name or initials")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [
        (rater, article_id, captioner, caption, kind, rating, blinded, now)
        for captioner, caption, rating in captions
    ]
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = pl.DataFrame(rows, schema=COLUMNS, orient="row")
        kept = read_ratings(run).join(new, on=list(KEY), how="anti", maintain_order="left")
        # A spreadsheet would run a name or a caption like =HYPERLINK(...) as a formula.
        guarded = pl.col(*TYPED).str.replace(r"^('*[=+\-@\t\r])", "'$1")
        write_table(folder / FILE, pl.concat([kept, new]).with_columns(guarded))
    return folder / FILE


def summary(ratings: pl.DataFrame, captions: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Per captioner: `rated`, `stars` with `low` and `high` (95 %), `compared`, `best` (share).

    captions: article_id, caption, captioner as they stand now; ratings of other texts do not count.
    An article's ratings by several raters are averaged first: the interval is over articles.
    """
    from recsys.significance import bootstrap_mean

    now = captions.select("article_id", "captioner", "caption")
    valid = ratings.join(now, on=now.columns, how="semi")
    rows = []
    for captioner in captions["captioner"].unique(maintain_order=True):
        own = valid.filter(pl.col("captioner") == captioner)
        means = {
            kind: own.filter(pl.col("kind") == kind)
            .group_by("article_id", maintain_order=True)
            .agg(pl.col("rating").mean())["rating"]
            .to_numpy()
            for kind in ("stars", "best")
        }
        stars, best = means["stars"], means["best"]
        interval = bootstrap_mean(stars, seed=seed) if len(stars) else None
        rows.append(
            {
                "captioner": captioner,
                "rated": len(stars),
                "stars": None if interval is None else interval.estimate,
                "low": None if interval is None or len(stars) < 2 else interval.low,
                "high": None if interval is None or len(stars) < 2 else interval.high,
                "compared": len(best),
                "best": float(np.mean(best)) if len(best) else None,
            }
        )
    numbers = dict.fromkeys(("stars", "low", "high", "best"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=numbers).sort(
        "stars", "best", descending=True, nulls_last=True, maintain_order=True
    )
