"""`fcr score-recommendations`: ranked lists of any origin, measured by the code of `recommend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from pipelines.config import RecommendConfig
from pipelines.ranking import METRICS, NO_TEXT, measured_row, print_table
from pipelines.workspace import write_table


def score_recommendations(
    recommendations: Path,
    test: Path,
    *,
    out: Path,
    metrics: Sequence[str] | None = None,
    ks: Sequence[int] = (),
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Score saved lists against a test set.

    Args:
        recommendations: see `recsys.saved.read_recommendations`.
        test: see `recsys.saved.read_test`.
        out: folder of the results.
        metrics: names of `recsys.metrics.RELEVANCE_METRICS`; None takes NDCG and MAP.
        ks: cut-offs; empty takes 5 and 12.
        seed: of the bootstrap.
        say: receives lines for the user.

    Returns:
        path of `metrics.csv`, of the columns of `fcr recommend`; beside it `user_metrics.parquet`.

    Raises:
        InputError: files that can't be read or don't belong together, unknown metric, k < 1.
    """
    from recsys.saved import read_recommendations, read_test, score_saved

    config = RecommendConfig()
    found = score_saved(
        read_recommendations(recommendations),
        read_test(test),
        tuple(metrics or config.metrics),
        tuple(ks or config.k),
    )
    rows, per_user = [], []
    for saved in found:
        about = {
            "recommender": saved.recommender or recommendations.stem,
            "setting": saved.setting or NO_TEXT,
        }
        for score in saved.scores.values():
            rows.append({**about, **measured_row(score, seed=seed, resamples=config.bootstrap)})
        columns = {"user_id": saved.user_ids, **{n: s.per_user for n, s in saved.scores.items()}}
        constants = {name: pl.lit(value) for name, value in about.items()}
        per_user.append(pl.DataFrame(columns).with_columns(**constants))
        for what, number in saved.findings.items():
            if number:
                say(f"{about['recommender']}: {number:,} {what}")
    frame = pl.DataFrame(rows, schema=METRICS)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "user_metrics.parquet", pl.concat(per_user))
    write_table(out / "metrics.csv", frame)
    print_table(frame, f"{recommendations.name} against {test.name}")
    return out / "metrics.csv"
