"""`fcr similar`: the articles nearest to one article under an encoder."""

from __future__ import annotations

import difflib

import numpy as np
import polars as pl

from pipelines import InputError
from pipelines.augment import article_texts
from pipelines.catalog import ID_DIGITS
from pipelines.rows import TEXT_ROWS, embed
from pipelines.run import Run


def similar(run: Run, article: str, *, encoder: str = "clip", k: int = 10) -> list[str]:
    """The `k` articles of highest cosine similarity to `article`, as lines for the user.

    Texts are those of the run's first text setting. Nothing is written but the cache of vectors.

    Raises:
        InputError: unknown article, or one without what the encoder reads.
    """
    from recsys.similarity import ItemIndex

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
    texts = None
    if encoder in TEXT_ROWS:
        written = run.workspace.stage_file("caption-items", "captions.parquet")
        captions = {}
        if written is not None:
            frame = pl.read_parquet(written)
            captions = dict(zip(frame["article_id"], frame["caption"], strict=True))
        setting = run.config.recommend.text[0] if captions else "original"
        texts = article_texts(ids, articles["detail_desc"].to_list(), captions, setting)
    found = embed(run, encoder, texts, None if encoder == "sbert" else catalog.photos())
    row = ids.index(wanted)
    if not found.valid[row]:
        lacks = {"sbert": "no text", "resnet": "no readable photo", "hog": "no readable photo"}
        missing = lacks.get(encoder, "neither text nor a readable photo")
        raise InputError(f"article {wanted} has {missing}, so {encoder} can't place it")
    norms = np.linalg.norm(found.vectors, axis=1, keepdims=True)
    unit = found.vectors / np.maximum(norms, np.float32(1e-12))
    others = found.valid.copy()
    others[row] = False
    nearest, scores = ItemIndex(unit, others).top_k(unit[[row]], k)
    names = [
        " · ".join(str(value) for value in row if value)
        for row in articles.select("prod_name", "product_type_name", "colour_group_name").rows()
    ]
    lines = [f"{wanted}         {names[row]}"]
    for at, score in zip(nearest[0], scores[0], strict=True):
        if at >= 0:
            lines.append(f"{ids[at]}  {score:6.3f} {names[at]}")
    return lines
