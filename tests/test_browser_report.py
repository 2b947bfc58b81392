"""The report in a browser: it sorts, searches, prints, fits a phone, and runs nobody's script."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import HOSTILE, LONG, MARKDOWN, Watched, chromium, hostile_run

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, name = hostile_run(tmp_path_factory.getbasetemp())
    return runs / name / "report" / "report.html"


def opened(browser: Any, report: Path, **options: Any) -> Watched:
    watched = Watched(browser, report.as_uri(), **options)
    watched.page.goto(report.as_uri())
    return watched


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Watched]:
    watched = opened(browser, report)
    yield watched
    assert watched.faults == []
    watched.context.close()


def test_it_loads_whole_from_one_file(page: Watched, report: Path) -> None:
    assert page.broken_images() == []
    assert page.page.locator("img").count() > 20
    assert report.stat().st_size < 10_000_000


def test_tables_sort_on_click_and_by_keyboard(page: Watched) -> None:
    table = page.page.locator("table[data-sortable]", has_text="itemknn").first
    heading = table.locator("thead th").nth(2)

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(3)").evaluate_all(
            "cells => cells.map((c) => c.dataset.sort ?? c.textContent)"
        )
        return [float(cell) for cell in cells if cell.strip()]

    before = column()
    assert len(set(before)) > 2
    heading.get_by_role("button").click()
    assert column() == sorted(before, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").press("Enter")
    assert column() == sorted(before)
    assert heading.get_attribute("aria-sort") == "ascending"


def test_search_narrows_and_widens(page: Watched) -> None:
    box = page.page.get_by_label("Search gallery")
    cards = page.page.locator("[data-search=gallery] > *")
    said = page.page.locator(".search", has=box).locator("output")
    texts = cards.all_text_contents()
    assert len(texts) == 8
    word = texts[0].split()[0]
    wanted = [word.lower() in text.lower() for text in texts]
    box.fill(word)
    assert [card.is_visible() for card in cards.all()] == wanted
    assert said.inner_text() == f"{sum(wanted)} of 8"
    box.fill("surely nothing holds this")
    assert said.inner_text() == "0 of 8"
    assert not any(card.is_visible() for card in cards.all())
    box.fill("")
    assert all(card.is_visible() for card in cards.all())


def test_the_gallery_shows_where_words_were_read(page: Watched) -> None:
    cards = page.page.locator("[data-search=gallery] > .mapped")
    assert cards.count() == 4
    for card in cards.all():
        caption = card.locator(".said:not(.reference) dd").first.inner_text().splitlines()[0]
        words = card.locator(".words li").all_inner_texts()
        assert [w.lower() for w in words] == caption.lower().split()
        assert card.locator(".words img").count() == len(words)
    assert page.page.get_by_text("Zero-shot classification").is_visible()


def test_what_others_published_stands_there_and_is_marked(page: Watched) -> None:
    for name, lines in (("published-captions", 37), ("published-recommendations", 25)):
        table = page.page.locator(f"#{name}")
        assert not table.is_visible()  # nothing of it compares with this run
        page.page.locator("details", has=table).locator("summary").click()
        assert table.is_visible()
        rows = table.locator("tbody tr")
        assert rows.filter(has_text="no: ").count() == lines
        assert rows.filter(has_text="this run: ").count() >= 2
        assert rows.count() == lines + rows.filter(has_text="this run: ").count()


def test_a_customer_has_what_every_recommender_shows(page: Watched) -> None:
    card = page.page.locator(".customer").first
    shown = card.locator("h4").all_text_contents()
    assert shown[0] == "Bought before"
    assert "Bought next" in shown
    for name in ("mostpop", "itemknn", "userknn", "clip (original)", "clip (fill)"):
        assert shown.count(f"{name} shows") == 1, shown


def test_hostile_names_are_text(page: Watched) -> None:
    text = page.page.locator("body").inner_text()
    shown = [name for name in HOSTILE if name[:40] in text]
    assert len(shown) >= 2, "the report shows too few of the hostile names to tell"
    assert page.page.title() != "owned"
    assert page.page.locator("script").count() == 1
    assert page.page.locator("a[href^=javascript]").count() == 0
    assert MARKDOWN not in shown or "![x](http" in text
    assert LONG not in text, "a name of 10,000 characters is cut"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(browser: Any, report: Path, scheme: str) -> None:
    page = opened(browser, report, color_scheme=scheme)
    for details in page.page.locator("details").all():
        details.evaluate("e => { e.open = true }")
    assert page.grave() == []
    paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in paper[4:-1].split(",")[:3])
    assert (brightness > 600) == (scheme == "light")
    page.context.close()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_of_a_narrow_screen(browser: Any, report: Path, width: int) -> None:
    page = opened(browser, report, viewport={**PHONE, "width": width})
    assert page.sideways() == []
    page.context.close()


def test_everything_but_sorting_works_without_scripts(browser: Any, report: Path) -> None:
    with_scripts = opened(browser, report)
    without = opened(browser, report, java_script_enabled=False)
    whole = set(with_scripts.page.locator("tbody tr").all_inner_texts())
    assert set(without.page.locator("tbody tr").all_inner_texts()) == whole
    assert without.page.locator("img").count() == with_scripts.page.locator("img").count()
    assert without.page.locator("th button").count() == 0
    assert without.page.locator("h2").count() == with_scripts.page.locator("h2").count()
    link = without.page.locator("nav a").last
    link.click()
    assert without.page.url.endswith(link.get_attribute("href"))
    for page in (with_scripts, without):
        page.context.close()


def test_it_prints(browser: Any, report: Path, tmp_path: Path) -> None:
    page = opened(browser, report)
    page.page.emulate_media(media="print")
    assert not page.page.locator("nav").is_visible()
    assert not page.page.get_by_label("Search gallery").is_visible()
    assert page.page.locator("#caption-signatures").is_visible(), "paper can't be opened"
    cut = page.page.evaluate(
        """() => {
            document.body.style.width = "718px";  // A4 less Chromium's margins
            return [...document.querySelectorAll("table")]
                .filter((e) => e.checkVisibility() && e.scrollWidth > 718).map((e) => e.innerText);
        }"""
    )
    assert cut == []
    page.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.context.close()


def test_the_keyboard_reaches_everything(page: Watched) -> None:
    page.page.keyboard.press("Tab")
    first = page.page.evaluate("document.activeElement.className")
    assert first == "skip"
    assert page.page.locator(".skip").is_visible()
    page.page.keyboard.press("Enter")
    assert page.page.url.endswith("#main")
    wanted = page.page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")]
            .filter((e) => e.checkVisibility()).map((e, i) => (e.dataset.i = i)).length"""
    )
    page.page.reload()
    page.page.evaluate(
        """() => {
            window.reached = new Set();
            document.addEventListener("focusin", (event) => window.reached.add(event.target));
        }"""
    )
    for _ in range(wanted + 2):
        page.page.keyboard.press("Tab")
    assert page.page.evaluate("window.reached.size") >= wanted
    lost = page.page.evaluate(
        """() => [...document.querySelectorAll(".scroll")]
            .filter((e) => e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0).length"""
    )
    assert lost == 0, "what scrolls sideways has to be reached"
