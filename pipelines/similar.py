"""What lies nearest under an encoder: `fcr similar`, and the app."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import InputError
from pipelines.augment import article_texts
from pipelines.catalog import ID_DIGITS, Catalog
from pipelines.rows import TEXT_ROWS, embed
from pipelines.run import Run

if TYPE_CHECKING:
    from recsys.similarity import ItemIndex


@dataclass(frozen=True)
class Places:
    """Where the articles of a catalogue lie under an encoder."""

    encoder: str
    unit: NDArray[np.float32]
    """(n_articles, dim), norm 1; zero where `valid` is False."""
    valid: NDArray[np.bool_]
    """(n_articles,) whether the article has what the encoder reads."""
    index: ItemIndex

    def nearest(
        self, vector: NDArray[np.float32], k: int, *, but: int | None = None
    ) -> list[tuple[int, float]]:
        """(row, cosine) of the at most k articles nearest to `vector` (dim,), best first.

        but: row of an article that is left out.
        """
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        rows, scores = self.index.top_k(unit[None], k + (but is not None))
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [(row, score) for row, score in found if row >= 0 and row != but][:k]


def places(run: Run, catalog: Catalog, encoder: str) -> Places:
    """Every article under `encoder`, texts being those of the run's first text setting.

    Nothing is written but the cache of vectors.
    """
    from recsys.similarity import ItemIndex

    articles = catalog.articles
    texts = None
    if encoder in TEXT_ROWS:
        written = run.workspace.stage_file("caption-items", "captions.parquet")
        captions = {}
        if written is not None:
            frame = pl.read_parquet(written)
            captions = dict(zip(frame["article_id"], frame["caption"], strict=True))
        setting = run.config.recommend.text[0] if captions else "original"
        ids, described = articles["article_id"].to_list(), articles["detail_desc"].to_list()
        texts = article_texts(ids, described, captions, setting)
    found = embed(run, encoder, texts, None if encoder == "sbert" else catalog.photos())
    norms = np.linalg.norm(found.vectors, axis=1, keepdims=True)
    unit = found.vectors / np.maximum(norms, np.float32(1e-12))
    return Places(encoder, unit, found.valid, ItemIndex(unit, found.valid))


def similar(run: Run, article: str, *, encoder: str = "clip", k: int = 10) -> list[str]:
    """The `k` articles of highest cosine similarity to `article`, as lines for the user.

    Raises:
        InputError: unknown article, or one without what the encoder reads.
    """
    catalog = run.catalog(purchases=False)
    articles = catalog.articles
    ids = articles["article_id"].to_list()
    wanted = article if article in ids else article.zfill(ID_DIGITS)
    if wanted not in ids:
        near = difflib.get_close_matches(wanted, ids, n=3)
        raise InputError(
            f"there is no article {article} among {len(ids):,} ({run.data}); "
            f"near ids: {', '.join(near or ids[:3])}"
        )
    found = places(run, catalog, encoder)
    row = ids.index(wanted)
    if not found.valid[row]:
        raise InputError(f"article {wanted} has {lacking(encoder)}, so {encoder} can't place it")
    names = [
        " · ".join(str(value) for value in row if value)
        for row in articles.select("prod_name", "product_type_name", "colour_group_name").rows()
    ]
    lines = [f"{wanted}         {names[row]}"]
    for at, score in found.nearest(found.unit[row], k, but=row):
        lines.append(f"{ids[at]}  {score:6.3f} {names[at]}")
    return lines


def lacking(encoder: str) -> str:
    """What an article without a vector has not."""
    lacks = {"sbert": "no text", "resnet": "no readable photo", "hog": "no readable photo"}
    return lacks.get(encoder, "neither text nor a readable photo")
