"""The rows of the benchmark: the recommender a name stands for, its vectors, its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines import InputError
from pipelines.augment import article_texts
from pipelines.catalog import Catalog
from pipelines.config import EVERY_ROW, RecommendConfig
from pipelines.parameters import build, read
from pipelines.ranking import NO_TEXT, Row
from pipelines.run import Run, checkpoint

if TYPE_CHECKING:
    from recsys.encoders import Embeddings
    from recsys.recommenders.base import Recommender

TEXT_ROWS = ("tfidf", "sbert", "resbert", "clip")
CONTENT_ROWS = (*TEXT_ROWS, "resnet", "hog")
"""Rows that need articles."""
ENCODED_BY = {
    "sbert": ("sbert",),
    "resnet": ("resnet",),
    "resbert": ("resnet", "sbert"),
    "clip": ("clip",),
    "hog": (),
}
"""Row -> the encoders of the configuration that it needs."""


def article_rows(
    run: Run, config: RecommendConfig, catalog: Catalog, captions_file: Path | None
) -> Iterator[Row]:
    """Rows in the table's order; vectors are encoded here, cached by content."""
    captions: dict[str, str] = {}
    if captions_file is not None:
        frame = pl.read_parquet(captions_file)
        captions = dict(zip(frame["article_id"], frame["caption"], strict=True))
    described = catalog.articles["detail_desc"].to_list()
    ids = catalog.articles["article_id"].to_list()
    photos = catalog.photos()

    def content(name: str, setting: str) -> Row:
        texts = None if setting == NO_TEXT else article_texts(ids, described, captions, setting)
        return _content_row(run, config, name, setting, texts, photos)

    def part(name: str, setting: str) -> Recommender:
        if name in CONTENT_ROWS:
            return content(name, setting if name in TEXT_ROWS else NO_TEXT).recommender
        return make_recommender(name, config, run.config.seed)

    for name in config.models:
        reads = name in TEXT_ROWS or (name == "blend" and set(_blended(config)) & set(TEXT_ROWS))
        for setting in config.text if reads else (NO_TEXT,):
            if name in CONTENT_ROWS:
                yield content(name, setting)
                continue
            parts = [part(p, setting) for p in _blended(config)] if name == "blend" else ()
            yield Row(name, setting, make_recommender(name, config, run.config.seed, parts))


def make_recommender(
    name: str, config: RecommendConfig, seed: int, parts: Sequence[Recommender] = ()
) -> Recommender:
    """A row that needs no articles, with its parameters; `parts` are those of a blend."""
    from recsys.recommenders import RECOMMENDERS

    own: dict[str, Any] = {
        "userknn": {"k": config.userknn_neighbours},
        "itemknn": {"k": config.itemknn_neighbours},
        **{drawn: {"seed": seed} for drawn in ("random", "als", "bpr")},
    }.get(name, {})
    given = dict(config.parameters.get(name, {}))
    if name == "blend":
        given.pop("parts", None)
        own = {"parts": parts or [make_recommender(p, config, seed) for p in _blended(config)]}
    return build(RECOMMENDERS[name], own, given, f"recommend.parameters.{name}")


def with_parts(config: RecommendConfig) -> list[str]:
    """Names of the rows, and of what `blend` blends."""
    parts = _blended(config) if "blend" in config.models else ()
    return list(dict.fromkeys((*config.models, *parts)))


def check_parameters(config: RecommendConfig) -> None:
    """Refuse what can be refused before an hour of other rows has passed."""
    from recsys.recommenders import RECOMMENDERS
    from recsys.recommenders.content import ContentRecommender

    for name in with_parts(config):
        if name in RECOMMENDERS and name != "blend":
            make_recommender(name, config, 0)
            continue
        given = {k: v for k, v in config.parameters.get(name, {}).items() if k != "parts"}
        kind = RECOMMENDERS.get(name, ContentRecommender)
        read(kind, given, f"recommend.parameters.{name}")


def embed(
    run: Run,
    encoder: str,
    texts: list[str | None] | None,
    photos: list[Path | None] | None,
) -> Embeddings:
    """Vectors of texts and photos by the run's checkpoint of `encoder`, from its cache."""
    from recsys.encoders import encode

    names = run.config.encoders
    # A demo checkpoint has to be asked for: the encoders' own defaults are names on the hub.
    checkpoints = {
        family: checkpoint(getattr(names, family), family)
        for family in ENCODED_BY.get(encoder, (encoder.partition("-")[0],))
        if hasattr(names, family)
    }
    with run.progress() as progress:
        return encode(
            encoder,
            texts,
            photos,
            checkpoints=checkpoints,
            cache=run.workspace.cache / "embeddings",
            batch_size=names.batch_size,
            progress=lambda what, done, total: progress(f"embedding {what}", done, total),
        )


def _blended(config: RecommendConfig) -> tuple[str, ...]:
    parts = config.parameters.get("blend", {}).get("parts", ("itemknn", "mostpop"))
    rows = [name for name in EVERY_ROW if name != "blend"]
    wrong = parts if not isinstance(parts, list | tuple) else [p for p in parts if p not in rows]
    if wrong or not parts:
        raise InputError(
            f"recommend.parameters.blend.parts is {parts!r}: expected a list of rows among "
            f"{', '.join(rows)}"
        )
    return tuple(parts)


def _content_row(
    run: Run,
    config: RecommendConfig,
    name: str,
    setting: str,
    texts: list[str | None] | None,
    photos: list[Path | None],
) -> Row:
    from recsys.recommenders.content import ContentRecommender, tfidf_vectors

    if name == "tfidf":
        assert texts is not None
        vectors, valid = tfidf_vectors(texts)
        signature = "tfidf"
        details = ""
    else:
        found = embed(run, name, texts, None if name == "sbert" else photos)
        vectors, valid, signature = found.vectors, found.valid, found.signature
        unreadable = found.counts["unreadable_image"]
        details = f"; {unreadable:,} photos can't be read" if unreadable else ""
    own = {"vectors": vectors, "valid": valid, "encoder": signature}
    given = config.parameters.get(name, {})
    recommender = build(ContentRecommender, own, given, f"recommend.parameters.{name}")
    missing = recommender.n_without_vector
    row = Row(name, setting, recommender)
    if not missing:
        return row
    return replace(
        row,
        note=f"{row.label}: {missing:,} of {len(photos):,} articles have no vector and are never "
        f"recommended by this row{details}",
    )
