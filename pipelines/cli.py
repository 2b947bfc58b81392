"""The `fcr` command: parse, one call, say where the result is. The only place that exits.

Nothing heavy is imported here, so that `fcr --help` answers at once; each command imports its own
function when it is called.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import caption
import pipelines
import recsys
from caption.trust import TRUST
from pipelines import interrupts
from pipelines.data_cli import data
from pipelines.stores import (
    DATA,
    INPUT,
    INPUT_SET,
    OUTPUT,
    RUNS,
    deliver,
    delivered,
    fetch,
    in_words,
    is_url,
)

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from pipelines.run import Run

# Idle OpenMP threads spin by default: beside any other busy process that cost 4 times the time of a
# training step (2 cores, torch's libgomp). It is read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MODELS = [
    "random",
    "mostpop",
    "userknn",
    "itemknn",
    "tfidf",
    "sbert",
    "resnet",
    "resbert",
    "clip",
    "hog",
    "itemknn-vectors",
    "content-to-als",
    "vbpr",
    "p3alpha",
    "rp3beta",
    "ease",
    "als",
    "bpr",
    "repurchase",
    "blend",
    "all",
    "every",
]
TEXTS = ["original", "caption", "fill", "both"]


SHORT = (
    "memory is short, or the system killed a worker for it: close other programs, or take smaller "
    "batches (--set generate.batch_size, train.batch_size, encoders.batch_size), then give the "
    "same command again; it goes on from here"
)


class _Group(click.Group):
    """Turns every mistake of the user's into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        interrupts.install()
        try:
            return super().invoke(ctx)
        except (caption.InputError, recsys.InputError, pipelines.InputError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            click.echo("\ninterrupted: the same command goes on from here", err=True)
            sys.exit(130)
        except BrokenPipeError:
            # The reader of our output has gone (`fcr ... | head`): nothing left to say, and the
            # interpreter must not complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except MemoryError:
            _fail(SHORT)
        except RuntimeError as error:
            # torch says it in these words; a worker that the system killed breaks its pool.
            if "can't allocate memory" in str(error) or "BrokenProcess" in type(error).__name__:
                _fail(SHORT)
            raise
        except Exception as error:
            # Copies of folders and safetensors say the system's number in their text alone.
            said = re.search(r"(?:\[Errno |os error )(\d+)", str(error))
            number = getattr(error, "errno", None) or (int(said[1]) if said else 0)
            file = getattr(error, "filename", None) or "a file"
            if number == errno.ENOMEM:
                _fail(SHORT)
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                _fail(
                    f"no space left while writing {file} ({os.strerror(number)}): "
                    "free some, then give the same command again; it goes on from here"
                )
            if number in (errno.EACCES, errno.EROFS, errno.EPERM):
                _fail(f"{file} can't be written: {os.strerror(number)}")
            raise


def _fail(message: str) -> None:
    click.echo(f"error: {in_words(message)}", err=True)
    sys.exit(2)


def _trust(context: click.Context, parameter: click.Parameter, trusted: bool) -> None:
    """Nothing but this option lets code of a checkpoint run, and this call alone."""
    if trusted:
        os.environ[TRUST] = "1"
        context.call_on_close(lambda: os.environ.pop(TRUST, None))
    else:
        os.environ.pop(TRUST, None)


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options every command has."""
    for option in (
        click.option(
            "--runs",
            type=RUNS,
            default=Path("runs"),
            show_default=True,
            help="Folder of all runs.",
        ),
        click.option(
            "--run",
            metavar="NAME",
            help="Run to work in [default: the data folder's name, or demo].",
        ),
        click.option(
            "--data",
            type=DATA,
            metavar="DIR|URL",
            help="Articles, purchases and photos in Kaggle's H&M layout [default: the "
            "run's, or the embedded demo].",
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="A.B=VALUE",
            help="Change one setting; repeatable. `fcr config` lists them.",
        ),
        click.option("--config", metavar="FILE", help="YAML file, or the name of a preset."),
        click.option(
            "--trust-remote-code",
            is_flag=True,
            expose_value=False,
            callback=_trust,
            help="Run Python code that a checkpoint brings; read it first.",
        ),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def _run(options: dict[str, Any]) -> Iterator[Run]:
    from pipelines.run import open_run

    with (
        _engine(options, options["runs"]) as engine,
        open_run(**options, say=click.echo, engine=engine) as run,
    ):
        yield run


def _on_engine(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that can compute on other machines."""
    for option in (
        click.option(
            "--engine-gpus",
            type=click.FloatRange(min=0),
            metavar="X",
            help="With --engine ray: share of a GPU a worker takes, such as 0.5 [default: 1 where "
            "there are any].",
        ),
        click.option(
            "--engine-workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="With --engine ray: workers [default: one for each GPU share, else CPU].",
        ),
        click.option(
            "--engine-address",
            metavar="ADDR",
            help="With --engine ray: a cluster's (`auto`, HOST:PORT) [default: this machine].",
        ),
        click.option(
            "--engine",
            type=click.Choice(["ray"]),
            help="Compute on a Ray cluster; results are the same bytes [default: this process].",
        ),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def _engine(options: dict[str, Any], place: Path | str) -> Iterator[Engine | None]:
    """The engine that was asked for, until the block ends; takes its options out of `options`.

    `place` is a folder that a cluster's machines share.
    """
    given = {
        name: value
        for name in ("address", "workers", "gpus")
        if (value := options.pop(f"engine_{name}", None)) is not None
    }
    if options.pop("engine", None) is None:
        if given:
            raise pipelines.InputError(f"--engine-{next(iter(given))} goes with --engine ray")
        yield None
        return
    from pipelines.engine import Engine

    if "address" in given:
        given["folder"] = Path(place).absolute() / ".engine"
    with Engine(**given) as engine:
        yield engine


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fcr")
def main() -> None:
    """Write item descriptions from photos, and measure what they are worth to recommendation.

    Every command runs without arguments on an embedded demo; start with `fcr demo`.
    """


main.add_command(data)


@main.command()
@_common
@click.option(
    "--rebuild-models",
    "rebuild",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Train the four shipped demo models from nothing into DIR (a quarter of an hour or two), "
    "and stop.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Only draw tables of S times H&M's size (1: 105,542 articles, 1.37 M customers, 31.8 M "
    "purchases, 4 GB) into --out, for benchmarks, and stop.",
)
@click.option(
    "--out",
    type=OUTPUT,
    metavar="DIR|URL",
    help="Folder for the tables of --scale.",
)
def demo(rebuild: Path | None, scale: float | None, out: Path | str | None, **options: Any) -> None:
    """The whole way on the embedded catalogue: captions, scores, recommendations, report."""
    if (scale is None) != (out is None):
        raise pipelines.InputError("--scale S and --out DIR go together: how large, and where to")
    if scale is not None and out is not None:
        from pipelines.config import load_config
        from pipelines.purchases import draw_scaled
        from pipelines.run import live_progress

        seed = load_config(options["config"], options["overrides"]).seed
        with delivered(out, click.echo) as folder, live_progress() as progress:
            draw_scaled(
                folder,
                scale=scale,
                seed=seed,
                progress=lambda done, rows: progress("drawing purchases", done, rows),
            )
        click.echo(f"wrote {out}\nnext: fcr recommend --data {out} --model itemknn")
        return
    if rebuild is not None:
        from pipelines.pretrain import rebuild as rebuild_models
        from pipelines.run import live_progress

        with live_progress() as progress:
            rebuild_models(
                rebuild,
                progress=lambda name, step, steps, loss: progress(
                    f"{name}, loss {loss:.3f}", step, steps
                ),
            )
        click.echo(f"wrote the demo models to {rebuild}")
        return
    from pipelines.demo import demo as command

    with _run(options) as run:
        path = command(run)
    _done(path, "open it in a browser; then `fcr recommend --help`, or your own --data DIR")


@main.command("train-captioner")
@_common
@click.option(
    "--captions",
    type=INPUT_SET,
    metavar="FILE",
    help="Learn from any caption set with splits (captions.json of `fcr data prepare`) instead of "
    "a shop's articles; the run's other commands follow.",
)
@click.option(
    "--grid",
    metavar="FILE",
    help="YAML file or preset with a list of values a setting: train every combination, keep the "
    "best.",
)
def train_captioner(captions: Path | None, grid: str | None, **options: Any) -> None:
    """Fine-tune a captioner on the articles that have a description and a photo.

    Several processes share each batch:

    \b
      torchrun --nproc_per_node 2 -m -- pipelines train-captioner --run mine
    """
    from pipelines import train_captioner as training

    if training.processes()[0] > 0:
        training.follow()
        return
    if captions is not None:
        from pipelines.caption_data import with_captions

        options = with_captions(options, captions)
    with _run(options) as run:
        if grid is not None:
            from pipelines.grid import train_grid

            path = train_grid(run, grid)
        else:
            path = training.train_captioner(run)
        training.release()
        name = run.folder.name
    _done(path, f"fcr caption-items --run {name}")


@main.command("reinforce-captioner")
@_common
def reinforce_captioner(**options: Any) -> None:
    """Go on from the fine-tuned captioner towards a reward (`reinforce.rewards`).

    Attributes and category of the reference (als, sls), CIDEr-D, CLIPScore, audited truth, or any
    weighted sum of them. A control trains as many steps without a reward.

    \b
      fcr reinforce-captioner --set reinforce.rewards.truth=1 --set reinforce.steps=200
    """
    from pipelines.reinforce import reinforce_captioner as command

    with _run(options) as run:
        path = command(run)
        name = run.folder.name
    _done(path, f"fcr score-captions --run {name}, or caption-items --captioner reinforced")


@main.command("caption-items")
@_common
@_on_engine
@click.option(
    "--captioner",
    metavar="NAME",
    help="`fine-tuned`, `reinforced`, `pretrained`, a checkpoint's name or folder, or a captioner "
    "without a language model: `copy-nearest`, `consensus`, `retrieval` [default: fine-tuned where "
    "the run has it].",
)
def caption_items(captioner: str | None, **options: Any) -> None:
    """Write a description for every article that has a photo; resumes after an interruption."""
    from pipelines.caption_items import caption_items as command

    with _run(options) as run:
        path = command(run, captioner=captioner)
        name = run.folder.name
    _done(path, f"fcr score-captions --run {name}")


@main.command("score-captions")
@_common
@click.option(
    "--hypotheses",
    type=INPUT,
    metavar="FILE",
    help="Score any captions: COCO results JSON, or CSV/Parquet with id and text.",
)
@click.option(
    "--references",
    type=INPUT,
    metavar="FILE",
    help="With --hypotheses: COCO annotations JSON, or CSV/Parquet with id and text.",
)
@click.option(
    "--out",
    type=OUTPUT,
    metavar="DIR|URL",
    help="With --hypotheses: where scores.json and caption_scores.parquet go.",
)
@click.option("--metrics", metavar="A,B", help="Metrics to compute [default: the configuration's].")
@click.option(
    "--images",
    type=INPUT,
    metavar="DIR",
    help="With --hypotheses: folder of photos named by id, for CLIPScore.",
)
@click.option(
    "--training",
    type=INPUT,
    metavar="FILE",
    help="With --hypotheses: texts the captioner learned from, for `verbatim` and `attributes`.",
)
@click.option(
    "--backend",
    type=click.Choice(["fcr", "pycocoevalcap"]),
    default="fcr",
    show_default=True,
    help="With --hypotheses: `pycocoevalcap` runs the original scorers.",
)
def score_captions(
    hypotheses: Path | None,
    references: Path | None,
    out: Path | str | None,
    metrics: str | None,
    images: Path | None,
    training: Path | None,
    backend: Any,
    **options: Any,
) -> None:
    """Score captions against references, and audit them against the articles' own fields."""
    names = _names(metrics)
    if hypotheses is not None or references is not None:
        if hypotheses is None or references is None:
            raise pipelines.InputError(
                "--hypotheses and --references go together: give both files, or neither to score "
                "the run's own captions"
            )
        from pipelines.score_captions import score_files

        with delivered(out or Path("scores"), click.echo) as folder:
            path = score_files(
                hypotheses,
                references,
                out=folder,
                metrics=names,
                images=images,
                training=training,
                backend=backend,
                say=click.echo,
            )
        click.echo(in_words(f"wrote {path}"))
        return
    from pipelines.score_captions import score_captions as command

    with _run(options) as run:
        path = command(run, metrics=names)
        following = "recommend" if (run.data / "transactions_train.csv").is_file() else "report"
        name = run.folder.name
    _done(path, f"fcr {following} --run {name}")


@main.command()
@_common
@_on_engine
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(MODELS),
    help="Row of the table; repeatable. `all` is the first nine, `every` all there are "
    "[default: all].",
)
@click.option(
    "--text",
    "text",
    multiple=True,
    type=click.Choice(TEXTS),
    help="Text an article has: the human one, the machine's, the machine's where the "
    "human one is missing, or both; repeatable [default: fill].",
)
@click.option(
    "--exclude-seen/--keep-seen",
    default=None,
    help="Leave out what a customer bought before [default: keep].",
)
@click.option("--interactions", type=INPUT, metavar="FILE", help="Any table instead of --data.")
@click.option("--train", type=INPUT, metavar="FILE", help="With --test: a split made elsewhere.")
@click.option("--test", type=INPUT, metavar="FILE", help="With --train: what to predict.")
@click.option(
    "--validation",
    type=INPUT,
    metavar="FILE",
    help="With --train and --test: kept from training, measured on "
    "`--set recommend.split.measure=validation`.",
)
@click.option("--user", metavar="COLUMN", help="Column of users [default: user_id].")
@click.option("--item", metavar="COLUMN", help="Column of items [default: item_id].")
@click.option("--time", metavar="COLUMN", help="Column of dates or of seconds since 1970.")
@click.option("--rating", metavar="COLUMN", help="Column of ratings or quantities.")
@click.option("--min-rating", type=float, metavar="X", help="Leave out what is rated lower.")
@click.option("--columns", metavar="A,B,C", help="All columns of a file without a header.")
@click.option("--core", type=int, metavar="K", help="Keep the k-core before splitting.")
@click.option("--min-user", type=int, metavar="N", help="Keep users with N items or more.")
@click.option("--min-item", type=int, metavar="N", help="Keep items with N users or more.")
@click.option(
    "--out",
    type=OUTPUT,
    metavar="DIR|URL",
    help="With a table: where its results go [default: recommendations].",
)
def recommend(
    models: tuple[str, ...],
    text: tuple[str, ...],
    exclude_seen: bool | None,
    interactions: Path | None,
    train: Path | None,
    test: Path | None,
    validation: Path | None,
    out: Path | str | None,
    core: int | None,
    min_user: int | None,
    min_item: int | None,
    **options: Any,
) -> None:
    """Benchmark recommenders on purchases: ranking metrics with intervals.

    On a run's articles and purchases, or on any table (CSV, TSV or Parquet) of users and items:

    \b
      fcr recommend --interactions F --time timestamp --model every
      fcr recommend --train F --test F --model itemknn --model ease

    The split (`recommend.split`: by time, leave last out, user ratio, random), metrics, cut-offs
    and the parameters of rows are settings: see `fcr config`.
    """
    reading = {
        name: value
        for name in ("user", "item", "time", "rating", "min_rating", "columns")
        if (value := options.pop(name)) is not None
    }
    filters = {"core": core, "min_user": min_user, "min_item": min_item}
    options["overrides"] += tuple(
        f"recommend.split.{name}={value}" for name, value in filters.items() if value is not None
    )
    if interactions or train or test or validation:
        for name, value in (("data", options["data"]), ("run", options["run"]), ("text", text)):
            if value:
                raise pipelines.InputError(
                    f"--{name} is about a run's articles and does not go with a table of "
                    "interactions: leave one out"
                )
        from pipelines.config import load_config
        from pipelines.recommend import Columns, recommend_files

        names = reading.pop("columns", None)
        place = out or Path("recommendations")
        with (
            delivered(place, click.echo) as folder,
            _engine(options, folder) as engine,
        ):
            path = recommend_files(
                interactions,
                train=train,
                test=test,
                validation=validation,
                columns=Columns(**reading, names=_names(names)),
                config=load_config(options["config"], options["overrides"]),
                models=models,
                exclude_seen=exclude_seen,
                out=folder,
                say=click.echo,
                engine=engine,
            )
        click.echo(in_words(f"wrote {path}"))
        return
    if reading or out:
        raise pipelines.InputError(
            f"--{next(iter(reading), 'out').replace('_', '-')} goes with --interactions, or with "
            "--train and --test"
        )
    from pipelines.recommend import recommend as command

    with _run(options) as run:
        path = command(run, models=models, text=text, exclude_seen=exclude_seen)
        name = run.folder.name
    _done(path, f"fcr report --run {name}")


@main.command()
@_common
@click.option(
    "--captions",
    type=INPUT,
    metavar="FILE",
    help="Captions written elsewhere: a table of article_id (integers too) and description "
    "[default: the run's].",
)
@click.option("--plan", is_flag=True, help="Only say what would be done and how long it takes.")
@click.option(
    "--allow-leaks", is_flag=True, help="Go on although the leak audit fails; stamps every table."
)
def experiment(captions: Path | None, plan: bool, allow_leaks: bool, **options: Any) -> None:
    """What the words are worth: recommenders compared while only the article text changes.

    Texts (`experiment.settings`): none; metadata (colour, type, pattern by template); original;
    caption; fill (caption where the description is missing); both; shuffled and shuffled-fill
    (captions of other articles, the placebos of caption and fill); copy (the nearest training
    photo's text). `experiment.mask` draws the imputation curve. A killed call goes on from its last
    finished cell; `fcr report` draws the answers.

    \b
      fcr experiment --plan
      fcr experiment --config thesis-corrected --captions augmented.csv --data DIR
    """
    from pipelines.experiment import experiment as command

    with _run(options) as run:
        path = command(run, captions=captions, plan_only=plan, allow_leaks=allow_leaks)
        name = run.folder.name
    if path is not None:
        _done(path, f"fcr report --run {name}")


@main.command("score-recommendations")
@click.option(
    "--recommendations",
    type=INPUT,
    metavar="FILE",
    required=True,
    help="Ranked lists: a table with user, item and rank or score; Kaggle's submission; TREC run.",
)
@click.option(
    "--test",
    type=INPUT,
    metavar="FILE",
    required=True,
    help="What was to be predicted: a table with user and item, or TREC qrels.",
)
@click.option(
    "--metrics", metavar="A,B", help="Such as ndcg, map, recall, mrr [default: ndcg,map]."
)
@click.option("--k", metavar="N,M", help="Cut-offs [default: 5,12].")
@click.option(
    "--out",
    type=OUTPUT,
    metavar="DIR|URL",
    default=Path("recommendation-scores"),
    show_default=True,
    help="Where metrics.csv and user_metrics.parquet go.",
)
def score_recommendations(
    recommendations: Path, test: Path, metrics: str | None, k: str | None, out: Path | str
) -> None:
    """Score ranked lists of any origin by the same code as `recommend`."""
    from pipelines.saved_lists import score_recommendations as command

    try:
        ks = [int(part) for part in _names(k) or ()]
    except ValueError:
        raise pipelines.InputError(f"--k is {k!r}: expected whole numbers such as 5,12") from None
    with delivered(out, click.echo) as folder:
        path = command(
            recommendations, test, out=folder, metrics=_names(metrics), ks=ks, say=click.echo
        )
    click.echo(in_words(f"wrote {path}"))


@main.command()
@_common
@click.argument("article")
@click.option(
    "--encoder",
    type=click.Choice(["clip", "sbert", "resnet", "resbert", "hog"]),
    default="clip",
    show_default=True,
    help="What is compared: photo and text, text, photo, both, shape and colour.",
)
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
def similar(article: str, encoder: str, k: int, **options: Any) -> None:
    """The articles most like ARTICLE (an id), with their cosine similarity."""
    from pipelines.similar import similar as command

    with _run(options) as run:
        lines = command(run, article, encoder=encoder, k=k)
    for line in lines:
        click.echo(line)


@main.command()
@_common
def attention(**options: Any) -> None:
    """Draw where the captioner looked, word by word: best, worst and random test captions."""
    from pipelines.seeing import attention as command

    with _run(options) as run:
        path = command(run)
        name = run.folder.name
    _done(path, f"fcr report --run {name}")


@main.command("zero-shot")
@_common
def zero_shot(**options: Any) -> None:
    """Classify the catalogue's photos by CLIP and prompt templates: type, colour, pattern."""
    from pipelines.seeing import zero_shot as command

    with _run(options) as run:
        path = command(run)
        name = run.folder.name
    _done(path, f"fcr report --run {name}")


@main.command()
@_common
@click.argument("names", metavar="[RUN RUN ...]", nargs=-1)
def report(names: tuple[str, ...], **options: Any) -> None:
    """Draw everything the run holds as one HTML file, with tables as CSV, Markdown and LaTeX.

    Two or more RUNs are put side by side instead; the first is the control of every difference.
    """
    if len(names) > 1:
        from pipelines.compare_runs import compare_runs
        from pipelines.workspace import Workspace

        known = [Workspace.known(name, options["runs"]) for name in names]
        out = options["run"] or "-vs-".join(names)[:100]
        path = compare_runs(known, out, say=click.echo)
        _done(path, "open it in a browser")
        return
    if names:
        options["run"] = names[0]
    from pipelines.report import report as command

    with _run(options) as run:
        path = command(run)
    _done(path, "open it in a browser")


@main.command()
@click.option(
    "--runs",
    type=RUNS,
    default=Path("runs"),
    show_default=True,
    help="Folder of all runs.",
)
@click.option("--run", metavar="NAME", default="demo", show_default=True, help="Run to show.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--headless", is_flag=True, help="Open no browser.")
def app(run: str, runs: Path, port: int, headless: bool) -> None:
    """Look around a run in a browser: articles, your own photos, customers; rate captions.

    Serves this machine only (127.0.0.1), and asks nothing of the network.
    """
    from pipelines.app import app as serve

    serve(run=run, runs=runs, port=port, headless=headless)


@main.command()
@_common
@click.option("--merged", is_flag=True, help="The whole model, even where an adapter was trained.")
@click.option(
    "--text",
    type=click.Choice(["fill", "caption", "both"]),
    default="fill",
    show_default=True,
    help="Descriptions of articles.csv: captions where the shop has none, everywhere, or behind "
    "the shop's own.",
)
@click.option(
    "--drop-contradicting",
    is_flag=True,
    help="Leave out descriptions that contradict the article's own type, colour or pattern.",
)
@click.option("--licence", metavar="ID", help="Of the weights, for the model card (hub id).")
@click.option("--out", type=OUTPUT, metavar="DIR|URL", help="Copy it there as well.")
def export(out: Path | str | None, **options: Any) -> None:
    """Hand over: the captioner with its model card, and articles.csv with descriptions."""
    from pipelines.export import export as command

    names = ("merged", "text", "drop_contradicting", "licence")
    choices = {name: options.pop(name) for name in names}
    with _run(options) as run:
        exported = command(run, **choices)
        if out is not None:
            click.echo(f"copied {deliver(exported.articles.parent, out):,} files to {out}")
    if exported.captioner is not None:
        click.echo(f"wrote {exported.captioner}")
    _done(exported.articles, "load it; generated texts are marked in description_source")


@main.command()
@_common
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def doctor(as_json: bool, **options: Any) -> None:
    """What is installed, what is missing, what that costs and how to get it."""
    from pipelines.doctor import examine, to_json, to_table

    run, data = options["run"], options["data"]
    if is_url(data):
        data = fetch(data, lazily=True)
    checks = examine(data=data, run=options["runs"] / run if run else options["runs"])
    if as_json:
        click.echo(to_json(checks))
        return
    from rich.console import Console

    Console().print(to_table(checks))


@main.command()
@click.option("--config", metavar="FILE", help="YAML file, or the name of a preset.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one setting.")
def config(config: str | None, overrides: tuple[str, ...]) -> None:
    """List every setting: its path, its value here and its meaning."""
    from rich.console import Console
    from rich.table import Table

    from pipelines.config import describe, load_config

    settings = load_config(config, overrides)
    table = Table("setting", "value", "meaning")
    for path, _, meaning in describe():
        value: Any = settings
        for part in path.split("."):
            value = getattr(value, part)
        table.add_row(path, repr(value), meaning)
    Console().print(table)


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",")) if text else None


def _done(path: Path, following: str) -> None:
    click.echo(f"wrote {path}\nnext: {following}")
