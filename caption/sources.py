"""Datasets on disk -> `CaptionSet`: H&M articles with their photos, COCO-format JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from caption import InputError
from caption.records import CaptionExample, CaptionSet, component_split, normalise_text

if TYPE_CHECKING:
    import polars as pl

HM_COLUMNS = ("article_id", "product_code", "product_type_name", "detail_desc")


def hm_captions(articles: "pl.DataFrame", images: Path, *, name: str = "hm") -> CaptionSet:
    """The H&M articles that have both a description and a photo.

    articles: frame with at least HM_COLUMNS; article_id is the 10-digit string.
    images: folder of `<first 3 digits>/<article_id>.jpg`.
    The type's name becomes the category. Articles come in order of article_id, unsplit.
    Raises InputError when a column is missing or nothing is left.
    """
    missing = [c for c in HM_COLUMNS if c not in articles.columns]
    if missing:
        raise InputError(f"articles: columns {missing} are missing; expected {list(HM_COLUMNS)}")
    examples = []
    described = 0
    for row in articles.sort("article_id").iter_rows(named=True):
        text = " ".join((row["detail_desc"] or "").split())
        if not text:
            continue
        described += 1
        photo = images / row["article_id"][:3] / f"{row['article_id']}.jpg"
        if photo.is_file():
            examples.append(
                CaptionExample(
                    row["article_id"], photo, (text,), category=row["product_type_name"] or ""
                )
            )
    if not examples:
        raise InputError(
            f"none of {articles.height} articles has both a description ({described} have one) "
            f"and a photo under {images}; expected {images}/<first 3 digits>/<article_id>.jpg"
        )
    return CaptionSet(name, tuple(examples))


def split_hm(
    captions: CaptionSet,
    articles: "pl.DataFrame",
    sizes_or_fractions: Mapping[str, float | int],
    seed: int,
) -> CaptionSet:
    """Split so that neither a product_code nor a normalised description stands on two sides.

    Examples that fit no split are left out. Arguments as for `component_split`.
    """
    codes = dict(
        zip(articles["article_id"].to_list(), articles["product_code"].to_list(), strict=True)
    )
    keys = [
        [f"code:{codes[e.id]}", *(f"text:{normalise_text(c)}" for c in e.captions)]
        for e in captions.examples
    ]
    split = captions.with_splits(component_split(keys, sizes_or_fractions, seed))
    return CaptionSet(split.name, tuple(e for e in split.examples if e.split))


def coco_captions(path: Path, *, images: Path | None = None) -> CaptionSet:
    """Any COCO-format caption JSON; images without a caption are an error (see CaptionSet.load)."""
    return CaptionSet.load(path, images=images)
