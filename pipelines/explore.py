"""What a run says of one article, one photo or one customer: the reader behind the app.

It reads the artefacts of finished stages and computes only what is about the one thing looked at: a
caption with its attention maps, the nearest articles, the reasons of a list. It takes no lock, so a
run may be looked at while a command works on it.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

import caption
import recsys
from pipelines import InputError
from pipelines.catalog import Catalog, interactions_of, read_catalog
from pipelines.config import Config, from_mapping, load_config
from pipelines.page import NAMING, clip, data_uri
from pipelines.results import CATALOGUE, Results, read_results
from pipelines.rows import TEXT_ROWS
from pipelines.run import DEMO, Run, remembered
from pipelines.similar import Places, lacking, places
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from caption.captioners import Captioner
    from pipelines.ranking import Row
    from recsys.splits import Split

ENCODERS = ("clip", "sbert", "resnet", "resbert", "hog")
"""By which articles can be near."""
TASTE = ("contradicting", "silent", "right")
"""Verdicts, the worst first: an article has the worst of its fields."""
INPUT_ERRORS = (InputError, caption.InputError, recsys.InputError)
"""What may be said to somebody who looks."""
KEPT = 3
"""Heavy things of a kind that are held at once: captioners, encoders' vectors, fitted rows."""
WORD = 104
"""Width of an attention map in pixels."""

T = TypeVar("T")


@dataclass(frozen=True)
class Word:
    """A word of a caption and the photo under the heat of where it was read."""

    text: str
    picture: str
    """Data URI."""


@dataclass(frozen=True)
class Description:
    """What a captioner says of a photo."""

    captioner: str
    caption: str
    verdicts: tuple[Mapping[str, str], ...]
    """field, verdict, expected, found; empty without an article to compare with."""
    words: tuple[Word, ...]
    note: str = ""
    """Why there are no maps."""


@dataclass(frozen=True)
class Because:
    """Something that carried a recommendation."""

    kind: str
    """"user" or "item"."""
    id: str
    share: float
    """Of the score, 0 to 1 where all its reasons help."""


@dataclass(frozen=True)
class Explained:
    """Why a recommender shows a customer what it shows."""

    because: Mapping[str, tuple[Because, ...]]
    """article_id -> reasons, the heaviest first; none for a recommender that can't name any."""
    same: bool
    """Fitting it again gave the list of the run: only then are these that list's reasons."""


def open_to_read(name: str, runs: Path) -> Run:
    """A finished or half-finished run, without its lock.

    Settings are those its stages were made with, as far as this version knows them.

    Raises:
        InputError: no such run, or its data are gone.
    """
    folder = runs / name
    known = remembered(folder / "run.json")
    data = Path(known.get("data", folder / "catalogue"))
    if not (data / "articles.csv").is_file():
        remedy = (
            "make it with `fcr demo`"
            if name == DEMO
            else f"make it with `fcr train-captioner --run {name} --data DIR`"
        )
        where = f"its articles are gone from {data}" if known else f"there is no {folder}"
        others = [p.parent.parent.name for p in sorted(runs.glob("*/*/manifest.json"))]
        there = f"; runs here: {', '.join(dict.fromkeys(others))}" if others else ""
        raise InputError(f"run {name} can't be shown, {where}: {remedy} first{there}")
    workspace = Workspace(folder)
    config = load_config(known.get("config"))
    config = _as_made(workspace, config)
    return Run(workspace, config, data, data == folder / "catalogue", lambda _: None)


class Explorer:
    """Everything the app shows, from one run; safe to use from several threads."""

    def __init__(self, run: Run) -> None:
        """Read the run's results. Raises InputError where a file is not what its stage wrote."""
        self.run = run
        self.results: Results = read_results(run.workspace)
        self.catalog = run.catalog(purchases=False)
        self.ids: list[str] = self.catalog.articles["article_id"].to_list()
        self._row = {article_id: row for row, article_id in enumerate(self.ids)}
        self._lock = threading.RLock()
        self._held: OrderedDict[tuple[str, ...], Any] = OrderedDict()
        # Methods that are cached forever would keep every explorer alive: bound here instead.
        self.photo: Callable[[str, int], str | None] = lru_cache(4096)(self._photo)

    # ------------------------------------------------------------ articles and their captions

    @cached_property
    def articles(self) -> pl.DataFrame:
        """One row an article: its fields, `caption`, the worst `verdict`, and its scores."""
        frame = self.catalog.articles
        if self.results.written is not None:
            written = self.results.written.select("article_id", "caption")
            frame = frame.join(written, on="article_id", how="left", maintain_order="left")
        else:
            frame = frame.with_columns(pl.lit(None, pl.String).alias("caption"))
        audited = self.results.audit_items
        if audited is not None:
            order = pl.col("verdict").replace_strict(TASTE, range(len(TASTE)), default=None)
            worst = (
                audited.filter(pl.col("captioner") == CATALOGUE)
                .group_by("article_id")
                .agg(pl.col("verdict").get(order.arg_min()))
            )
            frame = frame.join(worst, on="article_id", how="left", maintain_order="left")
        else:
            frame = frame.with_columns(pl.lit(None, pl.String).alias("verdict"))
        own = self.results.item_scores.get(self.results.captioner or "")
        return frame if own is None else frame.join(own, on="article_id", how="left")

    @property
    def metrics(self) -> list[str]:
        """Caption metrics that articles of the test part have a score of."""
        own = self.results.item_scores.get(self.results.captioner or "")
        return [] if own is None else [name for name in own.columns if name != "article_id"]

    def card(self, article_id: str, size: int = 96, note: str = "") -> dict[str, Any]:
        """An article as the templates show it."""
        row = self._row.get(article_id)
        known = {} if row is None else self.catalog.articles.row(row, named=True)
        return {
            "id": article_id,
            "name": clip(known.get("prod_name") or article_id, 90),
            "kind": clip(" · ".join(v for c in NAMING[1:] if (v := known.get(c))), 120),
            "text": clip(known.get("detail_desc") or ""),
            "photo": self.photo(article_id, size),
            "note": note,
            "hit": False,
        }

    def captioners(self) -> list[str]:
        """Those that can write here: pretrained, and what the run has trained."""
        from pipelines.reinforce import REINFORCED
        from pipelines.reinforce import STAGE as REINFORCE
        from pipelines.train_captioner import STAGE as TRAIN

        found = ["pretrained"]
        for stage, label in ((TRAIN, "fine-tuned"), (REINFORCE, REINFORCED)):
            if self.run.workspace.manifest(stage) is not None:
                found.append(label)
        return found

    def said(self, article_id: str) -> dict[str, str]:
        """captioner -> caption, of those the run has written down for the article."""
        found: dict[str, str] = {}
        for frame in (self.results.captions, self.results.written):
            if frame is not None:
                rows = frame.filter(pl.col("article_id") == article_id)
                found.update(rows.select("captioner", "caption").iter_rows())
        return found

    def scores(self, article_id: str) -> dict[str, dict[str, float]]:
        """captioner -> metric -> score of its caption; empty outside the test part."""
        found = {}
        for name, frame in self.results.item_scores.items():
            for row in frame.filter(pl.col("article_id") == article_id).iter_rows(named=True):
                found[name] = {m: v for m, v in row.items() if isinstance(v, float)}
        return found

    def references(self, article_id: str) -> list[str]:
        """What a captioner's caption of the article is scored against."""
        frame = self.results.references
        if frame is None:
            return []
        return frame.filter(pl.col("article_id") == article_id)["reference"].to_list()

    def describe(
        self, captioner: str, photo: Path, *, article_id: str | None = None
    ) -> Description:
        """The caption of a photo with a map for each of its words.

        article_id: whose photo it is: the caption is then the run's where it wrote one, and it is
            compared with the article's own fields.

        Raises:
            InputError: the photo can't be read, or the captioner can't be loaded.
        """
        from caption.attention import attention_maps, overlay
        from caption.images import open_image

        settings = self.run.config.generate
        image = open_image(photo, at_least=(512, 512))
        text = self.said(article_id).get(captioner) if article_id is not None else None
        with self._lock:
            writer: Captioner = self._hold(("captioner", captioner), lambda: self._load(captioner))
            if text is None:
                pixels = writer.preprocess(image)[None]
                (generated,) = writer.generate(
                    pixels, beams=settings.beams, max_new_tokens=settings.max_new_tokens
                )
                text = generated.text
            try:
                maps, note = attention_maps(writer, image, text=text), ""
            except INPUT_ERRORS as error:
                maps, note = [], str(error)
        small = image.copy()
        small.thumbnail((WORD, WORD * 3 // 2))
        words = [Word(word, data_uri(overlay(small, seen), WORD)) for word, seen in maps]
        verdicts = () if article_id is None else self._verdicts(article_id, text)
        return Description(captioner, text, verdicts, tuple(words), note)

    # ------------------------------------------------------------ what is near

    def encoded(self) -> list[str]:
        """Encoders of the run's benchmark: their vectors are in its cache."""
        manifest = self.results.manifests.get("recommend")
        rows = manifest["config"]["recommend"]["models"] if manifest else ()
        return [name for name in ENCODERS if name in rows]

    def nearest(self, encoder: str, article_id: str, k: int = 8) -> list[tuple[str, float]]:
        """(article_id, cosine) of the articles nearest to one.

        Raises:
            InputError: the article has nothing that the encoder reads.
        """
        found, row = self._places(encoder), self._row[article_id]
        if not found.valid[row]:
            raise InputError(f"this article has {lacking(encoder)}, so {encoder} can't place it")
        near = found.nearest(found.unit[row], k, but=row)
        return [(self.ids[at], cosine) for at, cosine in near]

    def nearest_to_photo(
        self, encoder: str, photo: Path, text: str, k: int = 8
    ) -> list[tuple[str, float]]:
        """(article_id, cosine) of the articles nearest to a photo and its caption.

        Raises:
            InputError: there is nothing that the encoder reads.
        """
        from pipelines.rows import embed

        found = self._places(encoder)
        with tempfile.TemporaryDirectory() as folder, self._lock:
            # A cache of its own: what somebody uploads leaves no trace in the run's.
            apart = replace(self.run, workspace=Workspace(Path(folder) / "run"))
            own = embed(
                apart,
                encoder,
                [text] if encoder in TEXT_ROWS else None,
                None if encoder == "sbert" else [photo],
            )
        if not own.valid[0]:
            raise InputError(f"this photo has {lacking(encoder)}, so {encoder} can't place it")
        return [(self.ids[at], cosine) for at, cosine in found.nearest(own.vectors[0], k)]

    # ------------------------------------------------------------ customers

    @cached_property
    def shop(self) -> Catalog:
        """The tables with purchases.

        Raises:
            InputError: they can't be read.
        """
        return read_catalog(self.run.data, drop_bad_rows=self.run.config.data.drop_bad_rows)

    @cached_property
    def customers(self) -> list[str]:
        """Customers the run has lists for: those of most lists first (who is new has few)."""
        lists = self.results.recommendations
        if lists is None:
            return []
        counted = lists.group_by("user_id").len().collect()
        users: list[str] = counted.sort(["len", "user_id"], descending=[True, False])[
            "user_id"
        ].to_list()
        return users

    @property
    def cutoff(self) -> date | None:
        """First day of what was to be predicted; None where there is no one day for everybody."""
        day = self.results.split.get("cutoff")
        return None if day is None else date.fromisoformat(day)

    def bought(self, user: str) -> tuple[list[tuple[str, date]], list[tuple[str, date]]]:
        """(article_id, day) before the cutoff, latest first, and from it on, earliest first."""
        with self._lock:
            purchases = self.shop.purchases
        own = purchases.filter(pl.col("customer_id") == user).select("article_id", "t_dat")
        after = pl.lit(False) if self.cutoff is None else pl.col("t_dat") >= self.cutoff
        before = (
            own.filter(~after).reverse().unique("article_id", keep="first", maintain_order=True)
        )
        later = own.filter(after).unique("article_id", keep="first", maintain_order=True)
        return list(before.iter_rows()), list(later.iter_rows())

    def lists(self, user: str) -> dict[tuple[str, str], list[str]]:
        """(recommender, text setting) -> article ids, best first, in the table's order."""
        lists = self.results.recommendations
        if lists is None:
            return {}
        rows = lists.filter(pl.col("user_id") == user).collect()
        return {
            (str(key[0]), str(key[1])): part.sort("rank")["article_id"].to_list()
            for key, part in rows.group_by(["recommender", "setting"], maintain_order=True)
        }

    def explain(self, recommender: str, setting: str, user: str, n: int = 3) -> Explained:
        """Why the recommender shows the customer its list; fits it again, once.

        Raises:
            InputError: the run's tables no longer give what it was fitted on.
        """
        shown = self.lists(user).get((recommender, setting), [])
        with self._lock:
            split: Split = self._hold(("split",), self._split)
            row: Row = self._hold(
                ("row", recommender, setting), lambda: self._fit(recommender, setting, split)
            )
            fitted = row.recommender
            (at,) = split.train.user_idx([user]).tolist()
            places = split.train.item_idx(shown).tolist()
            again, _ = fitted.recommend(
                np.array([at], np.int32),
                max(1, len(shown)),
                exclude_seen=self.run.config.recommend.exclude_seen,
            )
            reasons = {
                article_id: fitted.explain(at, place, n=1000)
                for article_id, place in zip(shown, places, strict=True)
            }
        because = {}
        for article_id, found in reasons.items():
            whole = sum(abs(reason.weight) for reason in found) or 1.0
            because[article_id] = tuple(
                Because(
                    reason.kind,
                    str(
                        (split.train.user_ids if reason.kind == "user" else split.train.item_ids)[
                            reason.idx
                        ]
                    ),
                    reason.weight / whole,
                )
                for reason in found[:n]
            )
        return Explained(because, again[0].tolist() == places)

    # ------------------------------------------------------------ helpers

    def _photo(self, article_id: str, size: int) -> str | None:
        from caption.images import UnreadableImage, open_image

        with suppress(UnreadableImage, InputError):
            path = self.catalog.photo(article_id)
            return data_uri(open_image(path, at_least=(size, size)), size)
        return None

    def _hold(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """`make()`, or what it gave before; of each kind the latest few are kept."""
        if key not in self._held:
            self._held[key] = make()
            same = [other for other in self._held if other[0] == key[0]]
            for other in same[: -(KEPT + 2) if key[0] == "places" else -KEPT]:
                del self._held[other]
        self._held.move_to_end(key)
        found: T = self._held[key]
        return found

    def _load(self, captioner: str) -> Captioner:
        from pipelines.caption_items import load

        return load(self.run, captioner)

    def _places(self, encoder: str) -> Places:
        with self._lock:
            return self._hold(("places", encoder), lambda: places(self.run, self.catalog, encoder))

    def _verdicts(self, article_id: str, caption: str) -> tuple[Mapping[str, str], ...]:
        from caption.audit import audit_captions

        said = pl.DataFrame({"article_id": [article_id], "caption": [caption]})
        own = self.catalog.articles[[self._row[article_id]]]
        return tuple(audit_captions(said, own).per_item.iter_rows(named=True))

    def _split(self) -> Split:
        from pipelines.recommend import split_purchases

        return split_purchases(interactions_of(self.shop), self.run.config.recommend, self.run)

    def _fit(self, recommender: str, setting: str, split: Split) -> Row:
        from pipelines.rows import article_rows

        config = replace(
            self.run.config.recommend,
            models=(recommender,),  # type: ignore[arg-type]
            text=(setting,) if setting != "-" else ("original",),  # type: ignore[arg-type]
        )
        captions = self.run.workspace.stage_file("caption-items", "captions.parquet")
        (row,) = article_rows(self.run, config, self.shop, captions)
        row.recommender.fit(split.train)
        return row


def matching(
    articles: pl.DataFrame,
    *,
    words: str = "",
    kinds: Sequence[str] = (),
    verdict: str | None = None,
    metric: str | None = None,
    between: tuple[float, float] = (-np.inf, np.inf),
) -> pl.DataFrame:
    """Rows of `Explorer.articles` that hold every word (id, name, kind, description, caption).

    kinds: values of product_type_name; empty takes all. verdict: the worst of the audit. metric:
    only articles whose score of it lies between the two.
    """
    texts = [c for c in ("article_id", *NAMING, "detail_desc", "caption") if c in articles.columns]
    everything = pl.concat_str(texts, separator=" ", ignore_nulls=True).str.to_lowercase()
    wanted = [everything.str.contains(word, literal=True) for word in words.lower().split()]
    if kinds:
        wanted.append(pl.col("product_type_name").is_in(list(kinds)))
    if verdict is not None:
        wanted.append(pl.col("verdict") == verdict)
    if metric is not None:
        wanted.append(pl.col(metric).is_between(*between))
    return articles.filter(*wanted) if wanted else articles


def _as_made(workspace: Workspace, config: Config) -> Config:
    """`config` with what the manifests of the stages say they were made with."""
    sections = {"caption-items": ("generate",), "recommend": ("recommend", "encoders")}
    for stage, names in sections.items():
        made = (workspace.manifest(stage) or {}).get("config", {})
        if stage == "caption-items":
            made = {"generate": {k: v for k, v in made.items() if k != "captioner"}}
        for name in names:
            # A run of another version may know other settings: today's defaults stand in, and
            # `Explained.same` says where that made a difference.
            with suppress(InputError):
                read = from_mapping({name: made.get(name, {})}, f"manifest of {stage}")
                config = replace(config, **{name: getattr(read, name)})
    return config
