"""`fcr recommend`: split interactions, fit every row, rank the catalogue, measure per user.

Rows that read no text run once (setting "-"); rows that do run once for each text setting, with
everything else unchanged, so that the difference between two settings is what the words did. A
table of interactions without articles is enough for the rows that read neither text nor photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines import InputError
from pipelines.catalog import fingerprints, read_purchases
from pipelines.config import EVERY_ROW, ROWS, Config, RecommendConfig
from pipelines.ranking import NO_TEXT, Row, benchmark, check_metrics, measured_part, print_table
from pipelines.rows import (
    CONTENT_ROWS,
    article_rows,
    check_parameters,
    embed,
    encoder_of,
    families,
    make_recommender,
    reads_text,
    with_parts,
)
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.workspace import Workspace, file_sha256

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from recsys.interactions import Interactions
    from recsys.splits import Split

LARGE = 200e6
"""Bytes of memory above which it is said beforehand what reading takes."""
FILTER = "recommend.split.first, last, core, min_user and min_item"


@dataclass(frozen=True)
class Columns:
    """How a file of interactions is read (see `recsys.readers.read_interactions`)."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    rating: str | None = None
    names: tuple[str, ...] | None = None
    """Names of the columns of a file without a header."""
    min_rating: float | None = None
    """Interactions rated lower are left out, the others count 1."""


def recommend(
    run: Run,
    *,
    models: Sequence[str] = (),
    text: Sequence[str] = (),
    exclude_seen: bool | None = None,
) -> Path:
    """Benchmark the rows `models` on the run's purchases.

    Args:
        run: an open run.
        models: rows; empty takes the configuration's, `all` the demo's nine, `every` all there are.
        text: settings of the article text; empty takes the configuration's.
        exclude_seen: leave bought articles out of the lists; None takes the configuration's.

    Returns:
        path of `metrics.csv` (recommender, setting, metric, k, value, low, high, n_users,
        signature); beside it `recommendations.parquet`, `user_metrics.parquet`, `slices.csv`
        (metrics by popularity of the article and history of the customer), `differences.csv` and
        `split.json`.

    Raises:
        InputError: bad tables, an empty test window, a checkpoint that can't be loaded, unknown
            metric or parameter.
    """
    config = _chosen(run.config.recommend, models, exclude_seen)
    if text:
        config = replace(config, text=tuple(text))  # type: ignore[arg-type]
    check_metrics(config.metrics, vectors=True)
    captions_file = run.workspace.stage_file("caption-items", "captions.parquet")
    if captions_file is None and any(s != "original" for s in config.text):
        if any(reads_text(name, config) for name in config.models):
            run.say(
                "note: this run has no captions yet, so articles keep their original text; "
                "write some with `fcr train-captioner` and `fcr caption-items`"
            )
        config = replace(config, text=("original",))
    inputs = fingerprints(run.data)
    if captions_file is not None:
        manifest = run.workspace.manifest("caption-items")
        assert manifest is not None
        inputs["captions.parquet"] = manifest["files"]["captions.parquet"]
    names = asdict(run.config.encoders)
    encoders = [encoder_of(name, config) for name in with_parts(config) if name in CONTENT_ROWS]
    encoders += [config.diversity] if _diverse(config) else []
    for family in sorted({f for name in encoders for f in families(name, run.config.encoders)}):
        inputs[f"encoder {family}"] = checkpoint_hash(checkpoint(names[family], family))
    settings = {"recommend": plain_settings(config), "encoders": names}
    with run.stage("recommend", config=settings, inputs=inputs) as stage:
        result = stage.path("metrics.csv")
        if not stage.reused:
            catalog = run.catalog(purchases=False)
            _say_memory([run.data / "transactions_train.csv"], run.say)
            bought, findings = read_purchases(catalog, drop_bad_rows=run.config.data.drop_bad_rows)
            for finding in findings:
                run.say(f"note: {finding}")
            stage.record["findings"] = [str(f) for f in (*catalog.findings, *findings)]
            split = split_purchases(bought, config, run)
            del bought  # the split holds its own copies
            vectors = None
            if _diverse(config):
                vectors = embed(run, config.diversity, None, catalog.photos()).vectors
            rows = article_rows(run, config, catalog, captions_file)
            benchmark(
                run, config, split, rows,
                folder=stage.folder, record=stage.record, vectors=vectors,
            )  # fmt: skip
        print_table(pl.read_csv(result), stage.record["protocol"])
    return result


def recommend_files(
    interactions: Path | None = None,
    *,
    train: Path | None = None,
    test: Path | None = None,
    validation: Path | None = None,
    columns: Columns | None = None,
    config: Config | None = None,
    models: Sequence[str] = (),
    exclude_seen: bool | None = None,
    out: Path = Path("recommendations"),
    say: Callable[[str], None] = print,
    engine: Engine | None = None,
) -> Path:
    """Benchmark the rows that need no articles on any table of interactions.

    Args:
        interactions: CSV, TSV or Parquet, one interaction a line; split as `config` says.
        train, test, validation: instead of it, files that were split elsewhere.
        columns: the names of their columns.
        config: a configuration; None takes the defaults.
        models: rows; empty takes the configuration's that need no articles.
        exclude_seen: leave known items out of the lists; None takes the configuration's.
        out: folder of the artefacts, which are those of `recommend`; `article_id` is the item.
        say: receives lines for the user.
        engine: ranks the users instead of this process; the caller closes it.

    Returns:
        path of `metrics.csv`.

    Raises:
        InputError: files that can't be read or don't go together, rows that need articles, an
            empty part, unknown metric or parameter.
    """
    whole = config or Config()
    files = {"interactions": interactions, "train": train, "test": test, "validation": validation}
    given = {name: path for name, path in files.items() if path is not None}
    if set(given) - {"validation"} not in ({"interactions"}, {"train", "test"}):
        raise InputError(
            "give either --interactions F, or --train F and --test F together"
            f" (given: {', '.join(f'--{name}' for name in given) or 'none'})"
        )
    if "interactions" in given and "validation" in given:
        raise InputError(
            "--validation goes with --train and --test; of --interactions a validation part is "
            "kept by recommend.split.validation_days or recommend.split.validation"
        )
    settings = _chosen(whole.recommend, models, exclude_seen)
    lost = [name for name in with_parts(settings) if name in CONTENT_ROWS]
    asked = [name for name in lost if name in models or name not in settings.models]
    kept = tuple(name for name in settings.models if name not in CONTENT_ROWS)
    if asked or not kept:
        raise InputError(
            f"{', '.join(asked or lost)}: a row that reads texts or photos needs articles, and a "
            "table of interactions has none; give --data DIR in Kaggle's layout, or take rows "
            f"among {', '.join(name for name in EVERY_ROW if name not in CONTENT_ROWS)}"
        )
    if lost:
        say(f"note: {', '.join(lost)} need articles and are left out")
    settings = replace(settings, models=kept)
    check_metrics(settings.metrics, vectors=False)
    run = Run(Workspace(out.parent), replace(whole, recommend=settings), out, False, say, engine)
    columns = columns or Columns()
    if "interactions" in given and settings.split.method != "random" and columns.time is None:
        raise InputError(
            f"splitting by time ({settings.split.method}) needs the time of each interaction: name "
            "its column with --time, or give --set recommend.split.method=random"
        )
    _say_memory(list(given.values()), say)
    parts = {name: _read(path, columns) for name, path in given.items()}
    if "interactions" in parts:
        split = split_purchases(parts["interactions"], settings, run, items=True)
    else:
        split = _fixed(parts, settings, run)
    inputs = {name: file_sha256(path) for name, path in given.items()}
    keyed = {"recommend": plain_settings(settings), "columns": asdict(columns)}
    with run.workspace.stage(
        out.name, config=keyed, inputs=inputs, seed=whole.seed, say=say
    ) as stage:
        result = stage.path("metrics.csv")
        if not stage.reused:
            rows = (Row(n, NO_TEXT, make_recommender(n, settings, whole.seed)) for n in kept)
            benchmark(
                run, settings, split, rows,
                folder=stage.folder, record=stage.record, items="items",
            )  # fmt: skip
        print_table(pl.read_csv(result), stage.record["protocol"])
    return result


def _chosen(
    config: RecommendConfig, models: Sequence[str], exclude_seen: bool | None
) -> RecommendConfig:
    if models:
        groups: dict[str, Sequence[str]] = {"all": ROWS, "every": EVERY_ROW}
        names = [name for model in models for name in groups.get(model, (model,))]
        config = replace(config, models=tuple(dict.fromkeys(names)))  # type: ignore[arg-type]
    if exclude_seen is not None:
        config = replace(config, exclude_seen=exclude_seen)
    if config.list_length < max(config.k):
        raise InputError(
            f"recommend.list_length is {config.list_length} and recommend.k asks for "
            f"{max(config.k)}: lists have to be at least as long"
        )
    unknown = [name for name in config.parameters if name not in EVERY_ROW]
    if unknown:
        raise InputError(
            f"recommend.parameters.{unknown[0]}: there is no such row; expected one of "
            f"{', '.join(EVERY_ROW)}"
        )
    check_parameters(config)
    return config


def plain_settings(config: RecommendConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    found = asdict(config)
    split = found["split"]
    for name in ("cutoff", "first", "last"):
        split[name] = None if split[name] is None else split[name].isoformat()
    return found


def _diverse(config: RecommendConfig) -> bool:
    return "diversity" in config.metrics


def _say_memory(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """What reading large files will take, before an hour is spent on finding out."""
    import psutil

    from recsys.readers import memory_needed

    need = sum(memory_needed(path) for path in paths if path.is_file())
    free = psutil.virtual_memory().available
    said = f"reading the interactions needs {need / 1e9:,.1f} GB of memory; {free / 1e9:,.1f} GB"
    if need > free:
        raise InputError(
            f"{said} are free: give plain text without quotes, which takes a fifth of a table's, "
            "fewer rows, or a machine with more memory"
        )
    if need > LARGE:
        say(f"{said} are free")


def _read(path: Path, columns: Columns) -> Interactions:
    from recsys.readers import read_interactions

    found = read_interactions(
        path,
        user=columns.user,
        item=columns.item,
        time=columns.time,
        rating=columns.rating,
        columns=columns.names,
    )
    if columns.min_rating is None:
        return found
    if found.event_values is None:
        raise InputError("a smallest rating needs the ratings: name their column with --rating")
    good = found.select(
        found.event_values >= columns.min_rating, reason=f"rated below {columns.min_rating:g}"
    )
    return replace(good, event_values=None)


def split_purchases(
    found: Interactions, config: RecommendConfig, run: Run, *, items: bool = False
) -> Split:
    """Filtered, split and reported. `items`: those that the filters empty leave the catalogue."""
    from recsys import splits

    how = config.split
    if _dated(config):
        end = None if how.last is None else how.last + timedelta(days=1)
        found = found.between(how.first, end)
        if not found.n_events:
            raise InputError(
                f"no interaction is left between recommend.split.first ({how.first}) and last "
                f"({how.last}): choose days that the interactions have"
            )
        found = found.without_empty(items=items)
    if _filters(config):
        if how.core:
            found = found.k_core(how.core)
        found = found.min_support(user=how.min_user, item=how.min_item)
        if not found.n_events:
            raise InputError(f"no interaction is left by {FILTER}: ask for less")
        found = found.without_empty(items=items)
    if how.method == "time":
        days = None if how.cutoff else config.test_days
        split = splits.split_global_time(
            found, cutoff=how.cutoff, last_days=days, validation_days=how.validation_days
        )
    elif how.method == "leave-last-out":
        split = splits.split_leave_last_out(found, n=how.n, validation=how.validation > 0)
    elif how.method == "user-ratio":
        split = splits.split_user_ratio(found, test=how.test, validation=how.validation)
    else:
        split = splits.split_random(
            found, test=how.test, validation=how.validation, seed=run.config.seed
        )
    return _reported(split, config, run)


def _fixed(parts: dict[str, Interactions], config: RecommendConfig, run: Run) -> Split:
    from recsys.splits import split_fixed

    if _filters(config) or _dated(config):
        raise InputError(
            f"--train and --test are taken as they are: {FILTER} filter before splitting, so they "
            "go with --interactions"
        )
    split = split_fixed(parts["train"], parts["test"], parts.get("validation"))
    return _reported(split, config, run)


def _dated(config: RecommendConfig) -> bool:
    return config.split.first is not None or config.split.last is not None


def _filters(config: RecommendConfig) -> bool:
    how = config.split
    return how.core > 0 or how.min_user > 1 or how.min_item > 1


def _reported(split: Split, config: RecommendConfig, run: Run) -> Split:
    """The part that is measured; says what it holds, and the memory that a row will need."""
    import psutil

    from recsys.recommenders import RECOMMENDERS

    split = measured_part(split, config)
    for line in split.report.lines():
        run.say(line)
    told = split.report
    if not (told.repeated_pairs or config.exclude_seen) and told.test_pairs > told.cold_user_pairs:
        run.say(
            "note: nobody takes again in the test part what they took before, and the lists may "
            "hold it: --exclude-seen leaves the places to other items"
        )
    for name in with_parts(config):
        needs = getattr(RECOMMENDERS.get(name), "memory_bytes", None)
        if needs is None:
            continue
        need, free = needs(split.train), psutil.virtual_memory().available
        run.say(f"{name} needs {need / 1e9:,.2f} GB of memory; {free / 1e9:,.2f} GB are free")
        if need > free:
            raise InputError(
                f"{name} needs {need / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free: leave it "
                "out, or keep fewer items with recommend.split.min_item"
            )
    return split
