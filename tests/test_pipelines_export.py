"""The articles as they are handed over: what is generated is marked, and harmless to open."""

from pathlib import Path

import polars as pl
import pytest

from caption.vocabulary import FIELDS
from pipelines.catalog import Catalog
from pipelines.export import described_articles

COLUMNS = sorted({column for field in FIELDS.values() for column in field.columns})


def catalogue() -> Catalog:
    articles = pl.DataFrame(
        {
            "article_id": ["1", "2", "3", "4"],
            "detail_desc": ["By hand.", None, None, None],
            **{column: ["Unknown"] * 4 for column in COLUMNS},
            "product_type_name": ["Dress", "Dress", "Dress", "Hat/beanie"],
            "colour_group_name": ["Red"] * 4,
        }
    )
    return Catalog(Path(), articles, pl.DataFrame(), pl.DataFrame(), ())


CAPTIONS = pl.DataFrame(
    {
        "article_id": ["1", "2", "3", "9"],
        "caption": ["a red dress", "a blue dress", "=1+1 red dress", "of nobody"],
        "captioner": ["fine-tuned"] * 4,
        "logprob": [-1.0] * 4,
    }
)


def test_each_generated_text_says_who_wrote_it_and_how_it_was_audited() -> None:
    table = described_articles(catalogue(), CAPTIONS, text="fill")
    assert table["detail_desc"].to_list() == ["By hand.", "A blue dress", "'=1+1 red dress", None]
    assert table["description_source"].to_list() == ["shop", "generated", "generated", None]
    assert table["description_captioner"].to_list() == [None, "fine-tuned", "fine-tuned", None]
    assert table["audit_type"].to_list() == [None, "right", "right", None]
    assert table["audit_colour"].to_list() == [None, "contradicting", "right", None]
    assert table.columns[: 2 + len(COLUMNS)] == catalogue().articles.columns


@pytest.mark.parametrize(
    ("text", "texts", "sources"),
    [
        (
            "caption",
            ["A red dress", "A blue dress", "'=1+1 red dress", None],
            ["generated", "generated", "generated", None],
        ),
        (
            "both",
            ["By hand. A red dress", "A blue dress", "'=1+1 red dress", None],
            ["shop and generated", "generated", "generated", None],
        ),
    ],
)
def test_other_texts(text: str, texts: list[str | None], sources: list[str | None]) -> None:
    table = described_articles(catalogue(), CAPTIONS, text=text)
    assert table["detail_desc"].to_list() == texts
    assert table["description_source"].to_list() == sources


def test_what_contradicts_the_article_can_be_left_out() -> None:
    table = described_articles(catalogue(), CAPTIONS, text="fill", drop_contradicting=True)
    assert table["detail_desc"].to_list() == ["By hand.", None, "'=1+1 red dress", None]
    assert table["description_captioner"].to_list() == [None, None, "fine-tuned", None]
