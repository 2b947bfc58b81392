"""A small run whose names attack whoever shows them, and a headless Chromium to look at it with."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
QUOTES = "'\"`\\' onmouseover=\"document.title='owned'\" & <b>bold</b>"
MARKDOWN = "![x](http://192.0.2.1/x.png) [a](javascript:alert(1)) **bold** :red[r] $x^2$ # h"
RIGHT_TO_LEFT = "\u202eevil \u05e9\u05dc\u05d5\u05dd"
LONG = "unending" * 1250
HOSTILE = (SCRIPT, QUOTES, MARKDOWN, RIGHT_TO_LEFT, LONG)
"""The first names of the first articles, in this order; LONG has 10,000 characters."""
KIND = "<i>Vest</i> **top**"
"""A product type of the first article."""
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip
GRAVE = ("serious", "critical")


@cache
def hostile_run(base: Path) -> tuple[Path, str]:
    """Folder of runs and name of one that went the whole way, made once a process."""
    from pipelines.caption_items import caption_items
    from pipelines.config import load_config
    from pipelines.drawing import write_catalogue
    from pipelines.purchases import write_purchases
    from pipelines.recommend import recommend
    from pipelines.report import report
    from pipelines.run import open_run
    from pipelines.score_captions import score_captions
    from pipelines.seeing import attention, zero_shot
    from pipelines.train_captioner import train_captioner

    shop = base / "browsed shop"
    shop.mkdir()
    drawn = write_catalogue(shop, 90, 5, workers=1)
    write_purchases(shop, drawn.traits, n_customers=60, n_purchases=1500, seed=5)
    articles = pl.read_csv(shop / "articles.csv", infer_schema=False)
    names, kinds = articles["prod_name"].to_list(), articles["product_type_name"].to_list()
    names[: len(HOSTILE)], kinds[0] = HOSTILE, KIND
    articles.with_columns(
        pl.Series("prod_name", names), pl.Series("product_type_name", kinds)
    ).write_csv(shop / "articles.csv")
    settings = [
        "captions.validation=8", "captions.test=16", "train.steps=4", "train.batch_size=4",
        "generate.max_new_tokens=12", "score.metrics=[bleu, rouge-l, cider-d]",
        "recommend.bootstrap=50", "score.bootstrap=50",
        "report.gallery=8", "report.customers=2",
    ]  # fmt: skip
    config = load_config(None, settings)
    with open_run(run="browsed", data=shop, config=config, runs=base / "runs", say=str) as run:
        train_captioner(run)
        caption_items(run)
        score_captions(run)
        recommend(run, models=["mostpop", "itemknn", "userknn", "clip"], text=["original", "fill"])
        attention(run)
        zero_shot(run)
        report(run)
    return base / "runs", "browsed"


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, or a skip that says what is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
    path = os.environ.get("FCR_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: install Debian's, or name one in FCR_CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page and what went wrong on it: console errors, exceptions, requests to elsewhere."""

    def __init__(self, browser: Any, allowed: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        allow = (allowed, allowed.replace("http", "ws", 1), "data:", "blob:")
        self.page.on(
            "request",
            lambda request: (
                request.url.startswith(allow) or self.faults.append(f"request to {request.url}")
            ),
        )

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text} {message.location}")

    def broken_images(self) -> list[str]:
        """Names of pictures that did not load; waits for all, as some load when they are seen."""
        found: list[str] = self.page.evaluate(
            """async () => {
                const all = [...document.images];
                for (const image of all) image.loading = "eager";
                const bad = [];
                for (const image of all) {
                    try { await image.decode(); } catch { bad.push(image.alt || image.src); }
                }
                return all.length ? bad : ["there is no picture"];
            }"""
        )
        return found

    def grave(self, **context: Any) -> list[str]:
        """axe-core's serious and critical findings, each with what it is about."""
        axe = pytest.importorskip(
            "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
        )
        results = axe.Axe().run(self.page, context=context or None)
        return [
            f"{finding['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
            for finding in results.response["violations"]
            if finding["impact"] in GRAVE
            for node in finding["nodes"]
        ]

    def sideways(self) -> list[str]:
        """Elements that stick out of the page to the right, unless something scrolls them."""
        found: list[str] = self.page.evaluate(
            """() => {
                const wide = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= wide) return [];
                return [...document.body.querySelectorAll("*")]
                    .filter((e) => e.getBoundingClientRect().right > wide + 1)
                    .map((e) => `${e.tagName}.${e.className}`).slice(0, 5);
            }"""
        )
        return found
