"""The app as somebody uses it: a real server on loopback, a real browser, a small real run."""

import http.client
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines import InputError
from pipelines.app import server_command
from pipelines.cli import main
from pipelines.explore import Explorer, matching, open_to_read
from pipelines.page import sentence_case
from pipelines.ratings import rate, read_ratings, summary
from tests.browsing import HOSTILE, KIND, LONG, Watched, chromium, hostile_run

ROOT = Path(__file__).resolve().parents[1]
IDLE = """() =>
    document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning" &&
    !document.querySelector("[data-testid=stSpinner]")"""


@pytest.fixture(autouse=True)
def _main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest leaves its script as `__main__`; a process that a later test spawns would run it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, name = hostile_run(tmp_path_factory.getbasetemp())
    return runs / name


@pytest.fixture(scope="module")
def explorer(run: Path) -> Explorer:
    return Explorer(open_to_read(run.name, run.parent))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process of `fcr app`."""
    pytest.importorskip("streamlit", reason="needs streamlit (extra `app`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipelines", "app", "--headless", f"--port={port}"]
    log = tmp_path_factory.mktemp("app") / "log"
    with (
        open(log, "wb") as out,
        subprocess.Popen(
            [*command, f"--run={run.name}", f"--runs={run.parent}"], stdout=out, stderr=out,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(log.parent)},
        ) as process,
    ):  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    link.request("GET", "/_stcore/health")
                    assert link.getresponse().status == 200
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", process.pid
            assert process.poll() is None, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            process.terminate()


class App(Watched):
    def settle(self) -> None:
        """Wait until Streamlit has shown what the last click made."""
        self.page.wait_for_timeout(150)  # a click takes a moment to reach the server
        self.page.wait_for_function(IDLE, timeout=120_000)

    def turn_to(self, name: str) -> None:
        if not self.page.get_by_role("heading", name=name, level=1, exact=True).is_visible():
            self.page.get_by_role("link", name=name).click()
        self.page.get_by_role("heading", name=name, level=1, exact=True).wait_for(timeout=120_000)
        self.settle()

    def until(self, act: Callable[[], Any], done: Callable[[], bool]) -> None:
        """Do it again until it has worked: a click on what is just being redrawn is lost."""
        for _ in range(10):
            act()
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if done():
                    return
                self.page.wait_for_timeout(100)
        raise AssertionError("what was clicked never worked")

    def call_oneself(self, name: str, rated: str) -> None:
        field = self.page.get_by_label("Your name or initials")
        field.fill(name)
        field.press("Enter")
        self.page.get_by_text(f"{rated} articles rated by {name}").wait_for()
        self.settle()

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found


@pytest.fixture
def visit(browser: Any, server: tuple[str, int]) -> Iterator[Callable[..., App]]:
    """Opens the app; what went wrong is told at the end."""
    apps = []

    def start(page: str = "Article", **options: Any) -> App:
        app = App(browser, server[0], **options)
        app.page.goto(server[0])
        app.page.get_by_role("heading", level=1).wait_for(timeout=120_000)
        app.turn_to(page)
        apps.append(app)
        return app

    yield start
    for app in apps:
        assert app.faults == []
        app.context.close()


def test_an_article_with_its_captions(visit: Callable[..., App], run: Path) -> None:
    app = visit()
    assert app.broken_images() == []
    written = pl.read_parquet(run / "caption-items/captions.parquet")
    chosen = app.page.locator(".fcr-id").inner_text()
    caption = written.filter(pl.col("article_id") == chosen)["caption"].item()
    assert app.texts(".fcr-said h3")[:2] == ["pretrained", "fine-tuned"]
    assert app.texts(".fcr-said blockquote")[1] == sentence_case(caption)
    maps = app.page.locator(".fcr-said").nth(1).locator(".fcr-words li")
    assert maps.all_inner_texts() == caption.split()
    assert maps.locator("img").count() == len(caption.split())
    assert len(app.texts(".fcr-strip[aria-label='Nearest by clip'] li")) == 8


def test_hostile_names_are_text(visit: Callable[..., App], run: Path, explorer: Explorer) -> None:
    app = visit()
    for article_id, name in zip(explorer.ids, HOSTILE, strict=False):
        app.page.get_by_label("Search").fill(article_id)
        app.page.get_by_label("Search").press("Enter")
        app.page.get_by_text("One article matches").wait_for()
        app.page.locator(".fcr-id", has_text=article_id).wait_for()
        app.settle()
        shown = app.page.locator(".fcr-article h2").inner_text()
        assert shown == name or (name == LONG and shown.startswith(LONG[:90]) and "10,000" in shown)
        if name == LONG:
            assert app.sideways() == []
    kinds = app.page.get_by_label("Category")
    kinds.click()
    app.until(lambda: kinds.fill("<i>"), lambda: app.texts("[role=option]") == [KIND])
    assert app.page.title() == f"fcr {run.name}"
    assert app.page.locator("script:not([src]):has-text('owned')").count() == 0


def test_a_photo_of_ones_own(visit: Callable[..., App], run: Path, explorer: Explorer) -> None:
    app = visit()
    app.page.get_by_text("Your own photo", exact=True).click()
    field = app.page.locator("input[type=file]")
    written = explorer.results.written
    assert written is not None
    article_id, caption = written.select("article_id", "caption").row(-1)
    cached = {p: p.stat().st_mtime_ns for p in (run.parent / ".cache").rglob("*") if p.is_file()}
    field.set_input_files(explorer.catalog.photo(article_id))
    # The page that is left shows its own captions and neighbours for a moment longer.
    app.page.get_by_alt_text("Your photo", exact=True).wait_for(timeout=120_000)
    app.settle()
    assert app.texts("[data-testid=stAlert]") == []
    same = app.texts(".fcr-said blockquote")[1]
    assert same == sentence_case(caption), "the same photo, the same words"
    assert len(app.texts(".fcr-strip[aria-label='Nearest by clip'] li")) == 8
    assert app.broken_images() == []
    now = {p: p.stat().st_mtime_ns for p in (run.parent / ".cache").rglob("*") if p.is_file()}
    assert now == cached, "an upload leaves a trace in the run's cache"
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 200_000
    for name, content, said in (
        ("bomb.png", bomb.getvalue(), "more than 89,478,485 pixels"),
        ("broken.jpg", b"no picture at all", "can't be used"),
    ):
        field.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        app.page.get_by_text(said).wait_for()


def test_a_customer(visit: Callable[..., App], explorer: Explorer) -> None:
    app = visit("Customer")
    user = explorer.customers[0]
    lists = explorer.lists(user)
    before, later = explorer.bought(user)
    assert [*before, *later]
    assert app.broken_images() == []
    hits = {key: sum(i in dict(later) for i in ids) for key, ids in lists.items()}
    best = max(hits.values())
    assert len(app.texts(".fcr-reasons > li")) == 12
    assert len(app.texts(".fcr-reasons > .fcr-hit")) == best
    assert app.page.locator(".fcr-row").count() == len(lists) == 5
    assert app.page.locator(".fcr-row > .fcr-hit").count() == sum(hits.values())
    option = app.page.get_by_role("option", name="itemknn")
    app.until(app.page.get_by_label("Recommender", exact=True).click, option.is_visible)
    option.click()
    app.page.locator(".fcr-because").first.wait_for()
    assert "of the score" in app.texts(".fcr-because")[0]


def test_ratings_are_kept_and_gone_on_with(
    visit: Callable[..., App], run: Path, explorer: Explorer
) -> None:
    def by_ada() -> pl.DataFrame:
        return read_ratings(run).filter(pl.col("rater") == "Ada")

    app = visit("Rate captions")
    app.call_oneself("Ada", "0 of 16")
    groups = app.page.get_by_role("radiogroup", name="Stars of caption")
    texts = app.texts(".fcr-said blockquote")
    assert groups.count() == len(texts)
    for number in range(len(texts)):
        star = groups.nth(number).get_by_text("4" if number else "2", exact=True)
        app.until(
            star.click, lambda text=texts[number]: text in map(sentence_case, by_ada()["caption"])
        )
    app.page.get_by_text("1 of 16 articles rated by Ada").wait_for()
    kept = by_ada()
    captions = explorer.results.captions
    assert captions is not None
    first = captions.filter(pl.col("article_id") == captions["article_id"][0])
    assert set(kept["captioner"]) == set(first["captioner"])
    stars = {texts[0]: 2, **dict.fromkeys(texts[1:], 4)}
    rated = {sentence_case(text): n for text, n in kept.select("caption", "rating").iter_rows()}
    assert rated == stars
    assert kept["blinded"].all()
    app.page.get_by_text("1 rater").wait_for()
    app = visit("Rate captions")
    app.call_oneself("Ada", "1 of 16")
    ids = captions["article_id"].unique(maintain_order=True)
    assert app.page.get_by_label("Article to rate").input_value() == f"2. {ids[1]}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(visit: Callable[..., App], scheme: str) -> None:
    app = visit(color_scheme=scheme)
    for page in ("Article", "Customer", "Rate captions") if scheme == "light" else ("Article",):
        app.turn_to(page)
        assert app.grave() == []


def test_it_fits_a_phone(visit: Callable[..., App]) -> None:
    app = visit(viewport={"width": 390, "height": 844})
    wide = "e => e.scrollWidth - e.clientWidth"
    assert app.page.locator("[data-testid=stMain]").evaluate(wide) == 0
    assert app.sideways() == []


def test_only_this_machine_is_served(server: tuple[str, int]) -> None:
    address, pid = server
    listening = [
        link.laddr
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        for link in process.net_connections(kind="inet")
        if link.status == psutil.CONN_LISTEN
    ]
    assert {place.ip for place in listening} == {"127.0.0.1"}
    port = int(address.rpartition(":")[2])
    assert port in {place.port for place in listening}
    status = {}
    for host in (f"127.0.0.1:{port}", f"rebound.example:{port}"):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Host": host}
        link.request("GET", "/_stcore/stream", headers={**upgrade, **key})
        status[host.partition(":")[0]] = link.getresponse().status
        link.close()
    assert status == {"127.0.0.1": 101, "rebound.example": 403}


def test_the_server_is_told_what_keeps_it_private(tmp_path: Path) -> None:
    command = server_command(run="x", runs=tmp_path, port=1234, headless=True)
    for option in ("server.address=127.0.0.1", "browser.gatherUsageStats=false",
                   "server.maxUploadSize=20", "server.port=1234"):  # fmt: skip
        assert f"--{option}" in command
    assert command[-2:] == [str(tmp_path), "x"]


def test_mistakes_cost_one_line(run: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["app", "--runs", str(tmp_path)])
    assert said.exit_code == 2
    assert "make it with `fcr demo` first" in said.output
    there = CliRunner().invoke(main, ["app", "--runs", str(run.parent), "--run", "nobody"])
    assert f"runs here: {run.name}" in there.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--runs", str(run.parent), "--run", run.name, "--port", port]
        busy = CliRunner().invoke(main, ["app", *options])
    assert busy.exit_code == 2
    assert "choose another with --port" in busy.output


def test_a_run_without_captions_says_what_makes_them(tmp_path: Path, run: Path) -> None:
    testing = pytest.importorskip("streamlit.testing.v1", reason="needs streamlit (extra `app`)")
    data = open_to_read(run.name, run.parent).data
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/run.json").write_text(f'{{"data": "{data}"}}')

    def script(runs: str, page: str) -> None:
        from pathlib import Path

        from pipelines import app_page

        app_page.look(getattr(app_page, page), Path(runs), "bare")

    for page, wanted in (("customer", "fcr recommend"), ("rating", "fcr caption-items")):
        app = testing.AppTest.from_function(script, kwargs={"runs": str(tmp_path), "page": page})
        app.run(timeout=120)
        assert not app.exception
        assert f"`{wanted} --run bare`" in app.info[0].value
    app = testing.AppTest.from_function(script, kwargs={"runs": str(tmp_path), "page": "article"})
    app.run(timeout=120)
    assert not app.exception
    assert app.header[0].value == "What captioners say"
    (data / "none").mkdir()
    (tmp_path / "bare/run.json").write_text(f'{{"data": "{data / "none"}"}}')
    app.run(timeout=120)
    assert "its articles are gone" in app.error[0].value.replace("\\", "")
    (data / "none").rmdir()


def test_the_best_caption_is_chosen(run: Path, explorer: Explorer) -> None:
    testing = pytest.importorskip("streamlit.testing.v1", reason="needs streamlit (extra `app`)")

    def script(runs: str, name: str) -> None:
        from pathlib import Path

        from pipelines import app_page

        app_page.look(app_page.rating, Path(runs), name)

    app = testing.AppTest.from_function(script, kwargs={"runs": str(run.parent), "name": run.name})
    app.run(timeout=120)
    app.sidebar.text_input[0].set_value("Grace").run(timeout=120)
    app.sidebar.radio[0].set_value("The best one").run(timeout=120)
    app.sidebar.toggle[0].set_value(False).run(timeout=120)
    (best,) = [radio for radio in app.radio if radio.label == "The best caption"]
    best.set_value("B").run(timeout=120)
    assert not app.exception
    kept = read_ratings(run).filter(pl.col("rater") == "Grace")
    captions = explorer.results.captions
    assert captions is not None
    said = captions.filter(pl.col("article_id") == captions["article_id"][0])
    second = said["caption"].unique(maintain_order=True)[1]
    assert kept.height == said.height
    assert kept["kind"].unique().to_list() == ["best"]
    assert kept.filter(pl.col("rating") == 1)["caption"].unique().to_list() == [second]
    assert not kept["blinded"].any()
    app.button[1].click().run(timeout=120)
    assert app.selectbox[0].value == captions["article_id"].unique(maintain_order=True)[1]


def test_ratings_replace_and_never_lose(tmp_path: Path) -> None:
    given = {"kind": "stars", "blinded": True}
    rate(tmp_path, rater=" A  B ", article_id="1", captions=[("x", 'a, "b"\nc', 2)], **given)
    rate(tmp_path, rater="A B", article_id="1", captions=[("x", 'a, "b"\nc', 5)], **given)
    assert read_ratings(tmp_path).select("rater", "caption", "rating").rows() == [
        ("A B", "a, \"b\"\nc", 5)
    ]  # fmt: skip
    workers = [
        threading.Thread(
            target=rate, args=(tmp_path,),
            kwargs={"rater": f"r{n}", "article_id": "1", "captions": [("x", "t", 3)], **given},
        )
        for n in range(12)
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert read_ratings(tmp_path).height == 13
    for wrong in ({"rater": " "}, {"captions": [("x", "t", 6)]}, {"kind": "thumbs"}):
        call: dict[str, Any] = {
            "rater": "r", "article_id": "1", "captions": [("x", "t", 3)], **given, **wrong
        }  # fmt: skip
        with pytest.raises(InputError):
            rate(tmp_path, **call)
    assert read_ratings(tmp_path).height == 13
    (tmp_path / "ratings/ratings.csv").write_text("something,else\n1,2\n")
    with pytest.raises(InputError, match="no table of ratings"):
        rate(tmp_path, rater="r", article_id="1", captions=[("x", "t", 3)], **given)


def test_a_summary_by_hand(tmp_path: Path) -> None:
    captions = pl.DataFrame(
        [("1", "a", "x"), ("2", "b", "x"), ("1", "c", "y"), ("2", "d", "y"), ("1", "c", "z")],
        ["article_id", "caption", "captioner"], orient="row",
    )  # fmt: skip
    for rater, article_id, said, kind in (
        ("A", "1", [("x", "a", 1), ("y", "c", 4)], "stars"),
        ("B", "1", [("x", "a", 3)], "stars"),
        ("A", "2", [("x", "b", 5), ("y", "an older text", 1)], "stars"),
        ("A", "1", [("x", "a", 0), ("y", "c", 1)], "best"),
    ):
        rate(tmp_path, rater=rater, article_id=article_id, captions=said, kind=kind, blinded=True)
    found = summary(read_ratings(tmp_path), captions, seed=0)
    assert found.select("captioner", "rated", "stars", "compared", "best").rows() == [
        ("y", 1, 4.0, 1, 1.0),
        ("x", 2, 3.5, 1, 0.0),  # articles 1 and 2: (1 + 3) / 2 and 5
        ("z", 0, None, 0, None),
    ]
    low, high = found.filter(pl.col("captioner") == "x").select("low", "high").row(0)
    assert (low, high) == (2.0, 5.0)


def test_matching_by_hand() -> None:
    articles = pl.DataFrame(
        {
            "article_id": ["1", "2", "3"],
            "prod_name": ["Red (a)", "Blue", None],
            "product_type_name": ["Dress", "Top", "Dress"],
            "detail_desc": [None, "with red dots", "plain"],
            "caption": ["a dress", None, "a red dress"],
            "verdict": ["right", None, "contradicting"],
            "cider-d": [0.5, None, 1.5],
        }
    )

    def ids(**filters: Any) -> list[str]:
        return matching(articles, **filters)["article_id"].to_list()

    assert ids() == ["1", "2", "3"]
    assert ids(words="RED") == ["1", "2", "3"]
    assert ids(words="red dots") == ["2"]
    assert ids(words="(a") == ["1"], "words are no patterns"
    assert ids(kinds=["Dress"], verdict="contradicting") == ["3"]
    assert ids(metric="cider-d", between=(0.4, 1.0)) == ["1"]


def test_reasons_are_those_of_the_lists(explorer: Explorer) -> None:
    user = next(u for u in explorer.customers if explorer.bought(u)[0])
    taken = {article_id for article_id, _ in explorer.bought(user)[0]}
    for (name, setting), ids in explorer.lists(user).items():
        found = explorer.explain(name, setting, user)
        assert found.same, name
        assert list(found.because) == ids
        reasons = [reason for by in found.because.values() for reason in by]
        assert bool(reasons) == (name != "mostpop")
        for by in found.because.values():
            assert sum(reason.share for reason in by) <= 1 + 1e-6
            assert [r.share for r in by] == sorted((r.share for r in by), reverse=True)
        if name in ("itemknn", "clip"):
            assert {reason.id for reason in reasons} <= taken
            assert {reason.kind for reason in reasons} == {"item"}
        if name == "userknn":
            assert {reason.kind for reason in reasons} == {"user"}


def test_other_settings_are_noticed(run: Path) -> None:
    opened = open_to_read(run.name, run.parent)
    config = replace(
        opened.config, recommend=replace(opened.config.recommend, itemknn_neighbours=1)
    )
    other = Explorer(replace(opened, config=config))
    assert not all(other.explain("itemknn", "-", user).same for user in other.customers)


def test_the_nearest_article_of_a_photo_is_its_own(explorer: Explorer) -> None:
    written = explorer.results.written
    assert written is not None
    article_id = written["article_id"][7]
    photo = explorer.catalog.photo(article_id)
    near = explorer.nearest_to_photo("hog", photo, "", k=3)
    assert near[0][0] == article_id
    assert near[0][1] == pytest.approx(1, abs=1e-5)
    assert [i for i, _ in explorer.nearest("hog", article_id, k=2)] == [i for i, _ in near[1:]]
    with pytest.raises(InputError, match="no text"):
        explorer.nearest_to_photo("sbert", photo, "")
