"""What the sections of a report share: the run's results, its catalogue, photos, files to write."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines import plots
from pipelines.catalog import Catalog
from pipelines.results import Results
from pipelines.run import Run
from pipelines.tables import Table

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.plots import Drawing

PHOTO_BUDGET = 7_000_000
"""Characters of embedded photos, so that the page stays below 10 MB whatever is asked for."""
NAMING = ("prod_name", "product_type_name", "colour_group_name", "graphical_appearance_name")
"""Columns that name an article to people."""
BEGINNING = re.compile(r"(?:^|[.!?]\s)\W*[^\W\d_]")
LONGEST, LONGEST_NAME = 600, 90
"""Characters of a product text and of a product name that are shown."""


@dataclass
class Page:
    """Gathers what is drawn, section by section."""

    results: Results
    catalog: Catalog
    run: Run
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Drawing] = field(default_factory=dict)
    """File name without ending -> figure."""

    def __post_init__(self) -> None:
        self.photos = Photos(self.catalog)
        columns = [c for c in ("article_id", *NAMING) if c in self.catalog.articles.columns]
        rows = self.catalog.articles.select(columns).iter_rows(named=True)
        self._rows = {row["article_id"]: row for row in rows}

    def table(self, table: Table) -> Table:
        """Keep the table as a file too."""
        self.tables.append(table)
        return table

    def figure(self, name: str, drawing: Drawing, caption: str) -> dict[str, str]:
        """Keep the figure as files too; returns what the template needs."""
        self.figures[name] = drawing
        return {"name": name, "svg": plots.themed(drawing, name, caption), "caption": caption}

    def article(self, article_id: str, size: int) -> dict[str, Any]:
        """What is shown of an article: its photo and the names of it."""
        row = self._rows.get(article_id, {})
        return {
            "id": article_id,
            "name": clip(row.get("prod_name") or article_id, LONGEST_NAME),
            "kind": clip(" · ".join(v for c in NAMING[1:] if (v := row.get(c)))),
            "photo": self.photos.uri(article_id, size),
        }


class Photos:
    """Small JPEGs as data URIs, within the page's budget."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.spent = 0
        self.left_out = 0
        self._known: dict[tuple[str, int], str | None] = {}

    def uri(self, article_id: str, size: int) -> str | None:
        """The article's photo, at most `size` pixels wide and 1.5 times as high; None without."""
        key = (article_id, size)
        if key not in self._known:
            self._known[key] = self._encode(*key)
        uri = self._known[key]
        return None if uri is None else self.spend(uri)

    def spend(self, uri: str) -> str | None:
        """A picture's data URI; None, and counted, where the page has no room left for it."""
        if self.spent + len(uri) > PHOTO_BUDGET:
            self.left_out += 1
            return None
        self.spent += len(uri)
        return uri

    def _encode(self, article_id: str, size: int) -> str | None:
        from caption.images import UnreadableImage, open_image

        try:
            image = open_image(self.catalog.photo(article_id), at_least=(size, size))
        except (UnreadableImage, ValueError):
            return None
        return data_uri(image, size)


def data_uri(image: Image, size: int) -> str:
    """A JPEG of at most `size` pixels' width and 1.5 times the height; `image` is made smaller."""
    image.thumbnail((size, size * 3 // 2))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def sentence_case(text: str) -> str:
    """A caption as people write it: captioners of lower-cased text begin no sentence in capitals.

    Only what is shown is changed; tables and scores keep what was written.
    """
    return BEGINNING.sub(lambda begin: begin[0].upper(), text)


def clip(text: str, longest: int = LONGEST) -> str:
    """A product text as it is shown: what is beyond any sensible length is cut, and said so."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters)"
