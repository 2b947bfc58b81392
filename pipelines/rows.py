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
from pipelines.config import EVERY_ROW, EncoderConfig, RecommendConfig
from pipelines.parameters import build, read
from pipelines.ranking import NO_TEXT, Row
from pipelines.run import Run, checkpoint

if TYPE_CHECKING:
    from recsys.encoders import Embeddings
    from recsys.recommenders.base import Recommender

TEXT_ROWS = ("tfidf", "sbert", "resbert", "clip")
VECTOR_ROWS = ("itemknn-vectors", "content-to-als", "vbpr")
"""Rows that read the vectors of `recommend.parameters.ROW.encoder`."""
CONTENT_ROWS = (*TEXT_ROWS, "resnet", "hog", *VECTOR_ROWS)
"""Rows that need articles."""
TFIDF = "tfidf"
DEFAULT_ENCODER = "resbert"
"""Of VECTOR_ROWS: photo and text."""


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
            return content(name, setting if reads_text(name, config) else NO_TEXT).recommender
        return make_recommender(name, config, run.config.seed)

    for name in config.models:
        for setting in config.text if reads_text(name, config) else (NO_TEXT,):
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
    from recsys.recommenders.vectors import VECTOR_RECOMMENDERS

    for name in with_parts(config):
        if name in RECOMMENDERS and name != "blend":
            make_recommender(name, config, 0)
            continue
        own = "encoder" if name in VECTOR_ROWS else "parts" if name == "blend" else ""
        given = {k: v for k, v in config.parameters.get(name, {}).items() if k != own}
        kind = {**RECOMMENDERS, **VECTOR_RECOMMENDERS}.get(name, VECTOR_RECOMMENDERS["content"])
        read(kind, given, f"recommend.parameters.{name}")
        if name in VECTOR_ROWS:
            modalities(encoder_of(name, config))


def encoder_of(name: str, config: RecommendConfig) -> str:
    """The encoder (or `tfidf`) whose vectors a row of CONTENT_ROWS reads."""
    if name not in VECTOR_ROWS:
        return name
    return str(config.parameters.get(name, {}).get("encoder", DEFAULT_ENCODER))


def modalities(encoder: str) -> set[str]:
    """What an encoder reads: "text", "image" or both. Raises InputError where it is none."""
    if encoder == TFIDF:
        return {"text"}
    from recsys.encoder_models import KINDS
    from recsys.encoders import parse_encoder

    return {KINDS[part.kind].modality for part in parse_encoder(encoder).parts}


def families(encoder: str, config: EncoderConfig) -> list[str]:
    """The checkpoints of the configuration that an encoder may use: `sbert`, `clip`, `resnet`."""
    if encoder == TFIDF:
        return []
    from recsys.encoders import parse_encoder

    found = {part.kind.split("-")[0] for part in parse_encoder(encoder).parts}
    return sorted(family for family in found if hasattr(config, family))


def reads_text(name: str, config: RecommendConfig) -> bool:
    """Whether a row runs once for each text setting."""
    if name == "blend":
        return any(reads_text(part, config) for part in _blended(config))
    return name in CONTENT_ROWS and "text" in modalities(encoder_of(name, config))


def vector_recommender(
    name: str, found: Embeddings | tuple[Any, Any, str], config: RecommendConfig, seed: int
) -> Recommender:
    """A recommender over vectors, with its parameters.

    Args:
        name: of CONTENT_ROWS, or `content`; all but VECTOR_ROWS are content profiles.
        found: embeddings, or (vectors, valid, signature); CSR vectors are reduced to 200
            dimensions for a recommender that needs arrays.
        config: for the parameters of the row.
        seed: of a recommender that draws.
    """
    import numpy as np

    from recsys.encoders import Embeddings, reduced
    from recsys.recommenders.vectors import VECTOR_RECOMMENDERS

    if not isinstance(found, Embeddings):
        found = Embeddings(*found)
    vectors, signature = found.vectors, found.signature
    own: dict[str, Any] = {"valid": found.valid}
    if name in ("content-to-als", "vbpr"):
        own["seed"] = seed
        if not isinstance(vectors, np.ndarray):
            vectors = reduced(vectors)
            signature += f"|svd:{vectors.shape[1]}"
    if name == "vbpr" and len(found.widths) > 1:
        own["parts"] = found.widths
    own |= {"vectors": vectors, "encoder": signature}
    given = dict(config.parameters.get(name, {}))
    if name in VECTOR_ROWS:
        given.pop("encoder", None)
    kind = VECTOR_RECOMMENDERS.get(name, VECTOR_RECOMMENDERS["content"])
    return build(kind, own, given, f"recommend.parameters.{name}")


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
        family: checkpoint(getattr(names, family), family) for family in families(encoder, names)
    }
    with run.progress() as progress:
        return encode(
            encoder,
            texts,
            photos,
            checkpoints=checkpoints,
            cache=run.workspace.cache / "embeddings",
            batch_size=names.batch_size,
            precision=names.precision,
            progress=lambda what, done, total: progress(f"embedding {what}", done, total),
            elsewhere=None if run.engine is None else run.engine.encode,
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
    from recsys.recommenders.content import tfidf_vectors

    details = ""
    encoder = encoder_of(name, config)
    found: Embeddings | tuple[Any, Any, str]
    if encoder == TFIDF:
        assert texts is not None
        found = (*tfidf_vectors(texts), TFIDF)
    else:
        read = modalities(encoder)
        found = embed(run, encoder, texts, photos if "image" in read else None)
        unreadable = found.counts["unreadable_image"]
        details = f"; {unreadable:,} photos can't be read" if unreadable else ""
    recommender: Any = vector_recommender(name, found, config, run.config.seed)
    missing = recommender.n_without_vector
    row = Row(name, setting, recommender)
    if not missing:
        return row
    fate = "never recommended by this row"
    if name == "content-to-als":
        fate = "ranked by their purchases alone, without purchases never"
    return replace(
        row,
        note=f"{row.label}: {missing:,} of {len(photos):,} articles have no vector and are {fate}"
        f"{details}",
    )
