"""`fcr data`: get, prepare, check and describe datasets. Imports nothing heavy, like `cli.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.stores import INPUT, OUTPUT, delivered, in_words, is_copy, is_url

if TYPE_CHECKING:
    from pipelines.run import Progress

DATASETS = ["hm", "facad", "flickr30k", "flickr8k", "coco"]
NO_PHOTOS = "Leave the photos unread (fast, finds less)."


@click.group()
def data() -> None:
    """Datasets: get them from their owners, prepare, check and describe them."""


@data.command()
@click.argument("name", type=click.Choice(DATASETS), required=False)
@click.option("--out", type=OUTPUT, metavar="DIR|URL", help="Where to download to.")
@click.option(
    "--accept-terms",
    "accepted",
    is_flag=True,
    help="I have read and accept the owner's terms: call the owner's client.",
)
@click.option("--client", type=click.Choice(["kaggle", "huggingface"]), default="kaggle")
def get(name: str | None, out: Path | str | None, accepted: bool, client: str) -> None:
    """Say where a dataset comes from, its terms and size; download it on your word.

    Without --accept-terms nothing is downloaded.
    """
    from pipelines import InputError
    from pipelines.data_get import explain
    from pipelines.data_get import get as download

    if not accepted:
        click.echo("\n\n".join(explain(each) for each in ([name] if name else DATASETS)))
        return
    if name is None or out is None:
        raise InputError("--accept-terms downloads one dataset: give its NAME and --out DIR")
    with delivered(out, click.echo) as folder:
        download(name, folder, client=client, say=click.echo)
    click.echo(
        f"downloaded to {out}\nnext: unpack what is packed there, then "
        f"fcr data prepare {name} --source {out} --out PREPARED"
    )


@data.command()
@click.argument("dataset", type=click.Choice(DATASETS))
@click.option("--source", type=INPUT, required=True, metavar="DIR|URL", help="The raw files.")
@click.option("--out", type=OUTPUT, required=True, metavar="DIR|URL", help="The prepared set.")
@click.option(
    "--split",
    type=click.Choice(["leak-free", "given", "random", "in-order"]),
    help="leak-free: no product, text or photo on two sides; given: the publisher's parts; random: "
    "by example; in-order [default: given where the files name parts, else leak-free].",
)
@click.option(
    "--size",
    metavar="N|PARTS",
    help="Examples altogether, or train=10000,validation=1000,test=2000 (counts or shares).",
)
@click.option("--as-published", is_flag=True, help="Cut as the published comparison did.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--tagger",
    metavar="hanta|stanza|spacy|words",
    help="Add nouns and adjectives that stand in train ten times to the attributes; another model "
    "of spacy or stanza stands behind a colon (spacy:en_core_web_trf).",
)
def prepare(dataset: str, source: Path, out: Path | str, size: str | None, **options: Any) -> None:
    """Raw files to a caption set with splits, and for hm checked tables."""
    from pipelines.data import prepare as command
    from pipelines.data_split import parse_size

    sizes = parse_size(size) if size else None
    with delivered(out, click.echo) as folder, _progress() as progress:
        path = command(
            dataset, source, folder, sizes=sizes, say=click.echo, progress=progress,
            with_photos=is_url(out) or is_copy(source), **options,
        )  # fmt: skip
    click.echo(in_words(f"wrote {path}\nnext: fcr data check {out}"))


@data.command()
@click.argument("folder", type=INPUT, metavar="DIR|URL")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--no-photos", is_flag=True, help=NO_PHOTOS)
def check(folder: Path, as_json: bool, no_photos: bool) -> None:
    """Find what would make results wrong, in raw or prepared files; exit code 1 if there is."""
    from pipelines.data_check import check as command

    with _progress() as progress:
        page = command(folder, photos=not no_photos, progress=progress)
    click.echo(in_words(page.json() if as_json else page.text()))
    if page.wrong:
        raise click.exceptions.Exit(1)


@data.command()
@click.argument("folder", type=INPUT, metavar="DIR|URL")
@click.option(
    "--out", type=OUTPUT, metavar="DIR|URL", help="Where the page goes [default: description-NAME]."
)
@click.option("--no-photos", is_flag=True, help=NO_PHOTOS)
def describe(folder: Path, out: Path | str | None, no_photos: bool) -> None:
    """Draw what a dataset looks like: an HTML page and description.json."""
    from pipelines.describe import describe as command

    out = out or Path(f"description-{folder.resolve().name}")
    with delivered(out, click.echo) as page, _progress() as progress:
        path = command(folder, page, photos=not no_photos, progress=progress)
    click.echo(in_words(f"wrote {path}\nnext: open it in a browser"))


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A line on standard error every half minute: these commands write tables, not bars."""
    import sys
    import time

    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    yield show
