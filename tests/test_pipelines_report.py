"""The report: what it says, that nothing in it can run or load, and what it needs to be redrawn."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines import InputError, plots
from pipelines.conclusions import conclusions, opening
from pipelines.config import CaptionSplitConfig, Config, RecommendConfig, ReportConfig
from pipelines.page import sentence_case
from pipelines.recommend import recommend
from pipelines.report import TEMPLATES, report
from pipelines.report_recommend import better
from pipelines.results import read_results
from pipelines.run import Run, open_run
from pipelines.tables import Column, Estimate, Missing, Table, number
from pipelines.workspace import Workspace, atomic_file, write_json, write_text

HOSTILE = '<script>alert(\'x\')</script>" onerror="alert(1)" | =1+1'
RIGHT_TO_LEFT = "\u202eevil \u05e9\u05dc\u05d5\u05dd"
TEXTS = (".html", ".csv", ".md", ".tex", ".svg")
LONG = "long " * 2000
CONFIG = Config(
    captions=CaptionSplitConfig(validation=15, test=30),
    recommend=RecommendConfig(
        models=("random", "mostpop", "tfidf"), text=("original", "fill"), bootstrap=200
    ),
    report=ReportConfig(gallery=30, customers=4),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn shop whose texts attack whoever prints them."""
    from pipelines.drawing import write_catalogue
    from pipelines.purchases import write_purchases

    folder = tmp_path_factory.mktemp("shop")
    drawn = write_catalogue(folder, 150, 3, workers=1)
    write_purchases(folder, drawn.traits, n_customers=120, n_purchases=4000, seed=3)
    articles = pl.read_csv(folder / "articles.csv", infer_schema=False)
    names, texts = articles["prod_name"].to_list(), articles["detail_desc"].to_list()
    for i in range(len(names)):
        names[i] = (HOSTILE, RIGHT_TO_LEFT, LONG, f"=1+{i}", names[i])[i % 5]
        texts[i] = texts[i] and f"{texts[i]} {HOSTILE}"
    articles.with_columns(pl.Series("prod_name", names), pl.Series("detail_desc", texts)).write_csv(
        folder / "articles.csv"
    )
    return folder


@pytest.fixture(scope="module")
def runs(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole run, `shop`, whose report is drawn."""
    folder = tmp_path_factory.mktemp("runs")
    with opened(folder, shop) as (run, _):
        write_captions(run)
        recommend(run)
        report(run)
    return folder


@contextmanager
def opened(runs: Path, data: Path, **changes: object) -> Iterator[tuple[Run, list[str]]]:
    said: list[str] = []
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    with open_run(run="shop", data=data, runs=runs, config=config, say=said.append) as run:
        yield run, said


class Page(HTMLParser):
    """What a browser would find: elements, attributes that load something, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "svg"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def html(runs: Path) -> str:
    return (runs / "shop" / "report" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def table(runs: Path, name: str) -> list[dict[str, str]]:
    path = runs / "shop" / "report" / "tables" / f"{name}.csv"
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_number_of_the_tables_is_the_artefact_s(runs: Path, page: Page) -> None:
    scores = json.loads((runs / "shop/score-captions/fine-tuned/scores.json").read_text())
    row = next(r for r in table(runs, "captions") if r["captioner"] == "fine-tuned")
    assert float(row["cider-d"]) == scores["cider-d"]["value"]
    assert float(row["cider-d_low"]) == scores["cider-d"]["low"]
    assert f"{scores['cider-d']['value']:.3f}" in page.said
    metrics = pl.read_csv(runs / "shop/recommend/metrics.csv")
    found = {
        (r["recommender"], r["text"]): float(r["ndcg@12"]) for r in table(runs, "recommendations")
    }
    wanted = metrics.filter((pl.col("metric") == "ndcg") & (pl.col("k") == 12))
    assert found == {
        (r["recommender"], "reads no text" if r["setting"] == "-" else r["setting"]): r["value"]
        for r in wanted.iter_rows(named=True)
    }
    assert scores["cider-d"]["signature"] in page.said


def test_an_unavailable_metric_shows_its_reason_and_no_number(runs: Path, page: Page) -> None:
    for row in table(runs, "captions"):
        assert row["meteor"] == ""
        assert row["meteor_unavailable"] == "no Java here"
    assert page.said.count("no Java here") >= 5


def test_the_opening_says_what_was_found(runs: Path, shop: Path, page: Page) -> None:
    opening = page.said[: page.said.index("Captioners on articles kept from training")]
    assert "improved the captions: on 30 articles kept from training, CIDEr-D went from" in opening
    assert "contradict the article’s own" in opening
    assert "Of 3 recommenders," in opening
    assert "Filling missing descriptions with captions" in opening
    articles = pl.read_csv(shop / "articles.csv", infer_schema=False)
    written = pl.read_parquet(runs / "shop/caption-items/captions.parquet")["article_id"]
    empty = articles.filter(pl.col("detail_desc").is_null())["article_id"]
    filled = int(empty.is_in(written.implode()).sum())
    assert 0 < filled < 150
    assert f"{filled} of 150 articles" in opening


def test_the_opening_paragraph_is_plain(runs: Path, page: Page, html: str) -> None:
    results = read_results(Workspace.known("shop", runs))
    said = opening(results, is_demo=False)
    assert said in page.said
    assert html.index('class="opening"') < html.index('class="lead"')
    assert "Filling missing descriptions with captions" in said
    assert "one run on one shop" in said
    for jargon in ("NDCG", "CIDEr", "MAP", "Holm", "p-value"):
        assert jargon not in said
    empty = replace(results, differences=None, scores={}, audit={})
    assert opening(empty, is_demo=True) == ""
    rows = results.differences
    assert rows is not None
    metric = results.ranking_metric()
    for sign, word in ((1.0, "better for 1"), (-1.0, "worse for 1")):
        sure = rows.with_columns(
            difference=pl.lit(sign), low=pl.lit(sign - 0.5), high=pl.lit(sign + 0.5),
            p_holm=pl.lit(0.001),
        )  # fmt: skip
        assert sure.filter(pl.col("metric") == metric).height == 1
        text = opening(replace(results, differences=sure), is_demo=True)
        assert word in text
        assert "not by chance" in text
        assert "drawn catalogue" in text


def test_every_stage_says_what_it_cost(runs: Path, page: Page) -> None:
    rows = {row["stage"]: row for row in table(runs, "costs")}
    assert list(rows)[-1] == "all stages"
    stages = [row for name, row in rows.items() if name != "all stages"]
    assert len(stages) == 4
    for row in rows.values():
        assert float(row["seconds"]) >= 0
        assert bool(row["energy_wh"]) != bool(row.get("energy_wh_unavailable"))
    total = sum(float(row["seconds"]) for row in stages)
    assert float(rows["all stages"]["seconds"]) == pytest.approx(total)
    assert "Energy, Wh" in page.said


def test_the_page_is_self_contained_and_small(html: str, page: Page) -> None:
    assert len(html.encode()) < 10_000_000
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), value
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_product_texts_are_text(html: str, page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert HOSTILE.split(" |")[0] in page.said
    assert RIGHT_TO_LEFT in page.said
    assert "(9,999 characters)" in page.said
    assert "long " * 500 not in html


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "aria-labelledby"):
            value = attributes.get(name)
            if value and not value.startswith("data:"):
                assert value.removeprefix("#") in ids
    for tag, attributes in page.tags:
        assert tag != "img" or attributes["alt"]
        assert tag != "th" or attributes["scope"] in ("row", "col")


def test_files_beside_the_page(runs: Path) -> None:
    folder = runs / "shop" / "report"
    names = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert {"captions", "recommendations", "text-settings", "audit", "gallery", "costs"} <= names
    for ending in ("md", "tex"):
        assert names == {path.stem for path in (folder / "tables").glob(f"*.{ending}")}
    for row in (*table(runs, "gallery"), *table(runs, "audit-worst")):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())
    gallery = (folder / "tables" / "gallery.md").read_text(encoding="utf-8").splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in gallery if line.startswith("|")]
    assert len(set(bars)) == 1
    assert "<script" not in "\n".join(gallery)
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert {"recommendations.svg", "learning-curve.svg"} <= set(figures)
    drawn = [name.removesuffix(".svg") for name in figures if name.endswith(".svg")]
    assert figures == sorted(f"{name}.{ending}" for name in drawn for ending in ("svg", "png"))
    with Image.open(folder / "figures/recommendations.png") as picture:
        assert picture.width > 900
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_same_run_gives_the_same_bytes_and_is_reused(runs: Path, shop: Path) -> None:
    folder = runs / "shop" / "report"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in TEXTS}
    with opened(runs, shop) as (run, said):
        report(run)
        assert any("reused" in line for line in said)
        (folder / "manifest.json").unlink()
        report(run)
    assert before == {path: path.read_bytes() for path in before}


def test_customers_show_what_they_bought_and_what_was_listed(runs: Path, page: Page) -> None:
    lists = pl.read_parquet(runs / "shop/recommend/recommendations.parquet")
    users = [a for tag, a in page.tags if tag == "article" and a.get("class") == "customer"]
    assert 1 <= len(users) <= CONFIG.report.customers
    known = set(lists["user_id"])
    assert sum(user in page.said for user in known) == len(users)
    assert page.said.count("Bought before") == len(users)


def test_absent_stages_are_named_with_their_command(tmp_path: Path, shop: Path) -> None:
    with opened(tmp_path, shop) as (run, _):
        path = report(run)
        for stage in ("train-captioner", "caption-items", "score-captions", "recommend"):
            assert f"fcr {stage} --run shop" in Page(path.read_text(encoding="utf-8")).said
        before = path.read_bytes()
        fewer = replace(CONFIG.recommend, models=("mostpop",))
        run = replace(run, config=replace(CONFIG, recommend=fewer))
        recommend(run)
        report(run)
    html = path.read_text(encoding="utf-8")
    assert html.encode() != before
    said = Page(html).said
    assert "mostpop ranks the next purchases best" in said
    assert "Only one text setting was run" in said


def test_stages_of_other_captions_are_named(runs: Path, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "shop", tmp_path / "shop")
    with opened(tmp_path, shop) as (run, _):
        said = Page(report(run).read_text(encoding="utf-8")).said
        assert "were computed from other captions" not in said
        with _stage(run, "caption-items", version=2) as (folder, record):
            written = pl.read_parquet(folder / "captions.parquet")
            with atomic_file(folder / "captions.parquet") as handle:
                written.with_columns(caption=pl.lit("a shirt")).write_parquet(handle)
            record["captioner"] = "fine-tuned"
        said = Page(report(run).read_text(encoding="utf-8")).said
        assert "of recommend were computed from other captions than the run holds now" in said
        assert "fcr recommend --run shop" in said


def test_a_changed_artefact_is_refused(runs: Path, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "shop", tmp_path / "shop")
    (tmp_path / "shop/score-captions/consensus/scores.json").write_text("{}")
    with (
        opened(tmp_path, shop) as (run, _),
        pytest.raises(InputError, match="fcr score-captions"),
    ):
        report(run)


def test_photos_stop_at_the_budget(
    runs: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.page.PHOTO_BUDGET", 20_000)
    shutil.copytree(runs / "shop", tmp_path / "shop")
    with opened(tmp_path, shop, report=ReportConfig(gallery=29, customers=0)) as (run, _):
        html = report(run).read_text(encoding="utf-8")
    photos = re.findall(r"data:image/jpeg;base64,[^\"]*", html)
    assert 0 < sum(map(len, photos)) <= 20_000
    assert "photos are not shown" in html


def test_effects_are_said_as_sure_as_they_are(runs: Path) -> None:
    results = read_results(Workspace(runs / "shop"))
    assert results.differences is not None
    row = results.differences.filter(pl.col("metric") == "ndcg@12").to_dicts()[0]

    def sentence(**changes: float) -> tuple[str, str]:
        frame = pl.DataFrame([{**row, **changes}], schema=results.differences.schema)
        found = conclusions(replace(results, differences=frame))[-1]
        return found.certainty, f"{found.sentence} {found.evidence}"

    sure, said = sentence(difference=0.02, low=0.01, high=0.03, p_holm=0.002)
    assert sure == "shown"
    assert "changed NDCG@12: it raised it for tfidf." in said
    assert "+0.0200, 95 % interval [+0.0100, +0.0300], adjusted p 0.002" in said
    sure, said = sentence(difference=0.02, low=-0.01, high=0.05, p_holm=0.3, detectable=0.0421)
    assert sure == "not shown"
    assert "no effect is shown" in said
    assert "customers would show a change of 0.0421, up to" in said
    # Nobody's lists changed: no width, and no claim that the effect is zero.
    sure, said = sentence(difference=0.0, low=0.0, high=0.0, p_holm=1.0, detectable=0.0)
    assert sure == "not shown"
    assert "NDCG@12 is the same for each of" in said
    assert "four times out of five" not in said
    # An interval beyond zero is not enough once the p-value is corrected for all comparisons.
    assert sentence(difference=0.02, low=0.001, high=0.03, p_holm=0.2)[0] == "not shown"


def test_a_collapsed_captioner_is_called_so(runs: Path) -> None:
    from pipelines.score_captions import _collapsed

    several = {"fine-tuned": {str(i): f"text {i % 3}" for i in range(300)}}
    varied = {"fine-tuned": {str(i): f"text {i}" for i in range(300)}}
    assert _collapsed(varied) == {}
    collapsed = _collapsed(several)
    assert "3 distinct captions for 300 photos" in collapsed["fine-tuned"]
    results = read_results(Workspace(runs / "shop"))
    manifest = dict(results.manifests["score-captions"])
    manifest["record"] = {**manifest["record"], "collapsed": collapsed}
    stages = {**results.manifests, "score-captions": manifest}
    said = [c.sentence + c.evidence for c in conclusions(replace(results, manifests=stages))]
    assert any("stock phrase" in s and "3 distinct captions" in s for s in said)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_script_runs_in_a_browser(runs: Path) -> None:
    path = runs / "shop" / "report" / "report.html"
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '<th scope="col"><button type="button">' in done.stdout
    assert 'type="search"' in done.stdout
    assert "Refused" not in done.stderr


def write_captions(run: Run, *, reason: str = "no Java here") -> None:
    """The caption stages' artefacts, made by their own writers from captions of a rule."""
    from caption.metrics import Unavailable
    from caption.metrics import score_captions as measure
    from pipelines import score_captions as stage_of
    from pipelines.train_captioner import caption_parts

    catalog = run.catalog(purchases=False)
    parts = caption_parts(run, catalog)
    train, test = parts.by_split("train"), parts.by_split("test")
    with _stage(run, "train-captioner") as (folder, record):
        parts.save(folder / "captions.json")
        lines = ["step,epoch,split,loss"]
        for step in range(0, 50, 10):
            lines += [f"{step},{step / 25},train,{4 / (1 + step / 9)}"]
            lines += [f"{step},{step / 25},validation,{4 / (1 + step / 11) + step / 200}"]
        write_text(folder / "history.csv", "\n".join(lines) + "\n")
        record.update(trainable=1234, total=56789, first_loss=4.0, best_loss=0.86, best_step=30)
    rows = catalog.articles.filter(
        pl.Series([photo is not None for photo in catalog.photos()])
    ).to_dicts()
    rng = np.random.default_rng(0)
    colours = [row["colour_group_name"] for row in rows]
    captions = []
    for row in rows:
        colour = row["colour_group_name"] if rng.random() < 0.8 else str(rng.choice(colours))
        human = (row["detail_desc"] or "").split(".")[0]
        tail = human if rng.random() < 0.6 else f"{row['product_type_name']} in soft jersey"
        captions.append(f"{colour} {tail}. {HOSTILE if rng.random() < 0.3 else ''}")
    ids = [row["article_id"] for row in rows]
    written = pl.DataFrame({"article_id": ids, "caption": captions}).with_columns(
        captioner=pl.lit("fine-tuned"), logprob=pl.lit(-1.0)
    )
    with _stage(run, "caption-items") as (folder, record):
        with atomic_file(folder / "captions.parquet") as handle:
            written.write_parquet(handle)
        record.update(captioner="fine-tuned", without_photo=catalog.articles.height - len(ids))
    by_id = dict(zip(ids, captions, strict=True))
    kinds = {row["article_id"]: row["product_type_name"] for row in rows}
    hypotheses = {
        "fine-tuned": {e.id: by_id[e.id] for e in test.examples},
        "pretrained": {e.id: f"a photo of a {kinds[e.id].lower()}" for e in test.examples},
        "most-frequent": dict.fromkeys(
            (e.id for e in test.examples), train.examples[0].captions[0]
        ),
        "copy-nearest": {
            e.id: train.examples[i % len(train)].captions[0] for i, e in enumerate(test.examples)
        },
        "consensus": {
            e.id: train.examples[3 * i % len(train)].captions[0]
            for i, e in enumerate(test.examples)
        },
    }
    references = {e.id: list(e.captions) for e in test.examples}
    with _stage(run, "score-captions") as (folder, record):
        scores = {}
        for name, texts in hypotheses.items():
            found = measure(texts, references, ("bleu", "cider-d"))
            scores[name] = {**found, "meteor": Unavailable("meteor", reason)}
            stage_of._write_scores(folder / name, list(texts), scores[name], 200, 0)
        stage_of._write_texts(folder, hypotheses, references)
        pairs = stage_of._compare("fine-tuned", scores, 200, 0)
        write_json(folder / "comparisons.json", {"pairs": pairs})
        _audit(folder, catalog.articles, written, hypotheses)
        record.update(captioner="fine-tuned", test=len(test), lines=["warning: a line of scoring"])


def _audit(
    folder: Path,
    articles: pl.DataFrame,
    written: pl.DataFrame,
    hypotheses: dict[str, dict[str, str]],
) -> None:
    from caption.audit import audit_captions

    frames = {"catalogue": written.select("article_id", "caption")}
    for name, texts in hypotheses.items():
        frames[name] = pl.DataFrame({"article_id": list(texts), "caption": list(texts.values())})
    audits = {name: audit_captions(frame, articles) for name, frame in frames.items()}
    rates = {name: audit.rates for name, audit in audits.items()}
    # A share of nothing has no value.
    write_json(folder / "audit.json", json.loads(json.dumps(rates).replace("NaN", "null")))
    items = [a.per_item.with_columns(captioner=pl.lit(name)) for name, a in audits.items()]
    with atomic_file(folder / "audit.parquet") as handle:
        pl.concat(items).write_parquet(handle)


@contextmanager
def _stage(run: Run, name: str, **config: int) -> Iterator[tuple[Path, dict[str, object]]]:
    with run.workspace.stage(name, config=config, inputs={}, seed=0, say=run.say) as stage:
        yield stage.folder, stage.record


def test_tables_escape_for_their_readers_and_mark_the_best() -> None:
    table = Table(
        "t",
        "A | title",
        (
            Column("name", "Name"),
            Column("up", "Up", better="high"),
            Column("down", "Down", decimals=1, better="low"),
            Column("gone", "Gone"),
        ),
        [
            ["=cmd()|x", Estimate(0.5, 0.25, 0.75), 3, Missing("no | reason")],
            [" @sum\nnext", 0.25, -1.25, 1.0],
            ["50 % of A&B_c \\ <b>", None, float("nan"), None],
        ],
    )
    rows = list(csv.reader(table.csv().splitlines()))
    assert rows[0] == ["name", "up", "up_low", "up_high", "down", "gone", "gone_unavailable"]
    assert rows[1] == ["'=cmd()|x", "0.5", "0.25", "0.75", "3", "", "no | reason"]
    parsed = list(csv.DictReader(table.csv().splitlines(keepends=True)))
    assert parsed[1]["name"] == "' @sum\nnext"
    assert parsed[2]["up"] == parsed[2]["down"] == ""
    shown = table.shown()
    assert [cell.best for row in shown for cell in row[1:3]] == [
        True,
        False,
        False,
        True,
        *[False] * 2,
    ]
    assert (shown[0][1].text, shown[0][1].detail) == ("0.500", "[0.250, 0.750]")
    assert shown[1][2].text == "−1.2"
    assert shown[2][1].text == "–"
    markdown = table.markdown().splitlines()
    assert markdown[4] == (
        r"| =cmd()\|x | **0.500 \[0.250, 0.750\]** | 3 | unavailable no \| reason |"
    )
    assert markdown[6].startswith(r"| 50 % of A&amp;B\_c \\ &lt;b&gt; |")
    latex = table.latex()
    assert r"50 \% of A\&B\_c \textbackslash{} \textless{}b\textgreater{}" in latex
    assert r"\textbf{0.500} {\scriptsize [0.250, 0.750]}" in latex
    assert latex.count(r"\\") == 4


def tex_faults(source: str) -> list[str]:
    """What would stop pdflatex or put cells into the wrong column."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    text = "\n".join(lines)
    plain = re.sub(r"\\[\\&%$#_{}]", "", text)
    faults = []
    if plain.count("{") != plain.count("}"):
        faults.append("braces don't match")
    open_: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            open_.append(name)
        elif not open_ or open_.pop() != name:
            faults.append(f"end of {name}")
    faults += [f"{name} is not ended" for name in open_]
    commands = set(re.findall(r"\\([A-Za-z]+)", plain))
    known = {
        "begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule",
        "endhead", "textbf", "scriptsize", "textbackslash", "textasciitilde", "textasciicircum",
        "textless", "textgreater", "textbar", "textwidth", "to", "ge", "le",
    }  # fmt: skip
    faults += [f"unknown command {name}" for name in sorted(commands - known)]
    faults += [f"bare {sign}" for sign in "#_^~" if sign in plain]
    (spec,) = re.findall(r"\\begin\{(?:tabular|longtable)\}\{(.*)\}", text)
    columns = len(re.sub(r"p\{[^}]*\}", "p", spec))
    for line in lines:
        if line.endswith(r" \\") and not line.startswith(r"\label"):
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            if cells != columns or line.lstrip().startswith(("[", "*")):
                faults.append(f"{cells} cells of {columns}: {line[:80]}")
    return faults


def test_the_latex_of_every_table_can_be_set(runs: Path) -> None:
    files = sorted((runs / "shop/report/tables").glob("*.tex"))
    assert len(files) > 10
    for path in files:
        source = path.read_text(encoding="utf-8")
        assert tex_faults(source) == [], path.name
        assert "booktabs" in source
        assert r"\toprule" in source
    tables = {path.stem: path.read_text(encoding="utf-8") for path in files}
    assert r"\textbf{" in tables["recommendations"]
    assert "{\\scriptsize [" in tables["recommendations"]
    assert "p{" in tables["gallery"], "columns of long texts break their lines"
    assert (
        r"\begin{longtable}" in tables["published-captions"]
        or len(table(runs, "published-captions")) <= 45
    )


@given(st.text(max_size=60), st.integers(1, 50))
def test_no_text_breaks_latex(text: str, rows: int) -> None:
    made = Table("t", text, (Column("a", "A"), Column("b", text)), [[text, text]] * rows, text)
    assert tex_faults(made.latex()) == []


@given(st.text(max_size=30))
def test_no_text_becomes_a_formula_or_breaks_a_table(text: str) -> None:
    table = Table("t", text, (Column("a", "A"), Column("b", "B")), [[text, text]])
    (row,) = csv.DictReader(io.StringIO(table.csv(), newline=""))
    assert not row["a"].lstrip().startswith(("=", "+", "-", "@"))
    line = [line for line in table.markdown().split("\n") if line.startswith("|")]
    assert len(line) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line[2])) == 3


def test_captions_are_shown_as_sentences() -> None:
    assert sentence_case("a dress. with a v-neck at 3.5 cm! new") == (
        "A dress. With a v-neck at 3.5 cm! New"
    )
    assert sentence_case("“soft” top, e.g.") == "“Soft” top, e.g."
    assert sentence_case("") == ""
    assert sentence_case("\u05e9\u05dc\u05d5\u05dd") == "\u05e9\u05dc\u05d5\u05dd"


def test_numbers_have_real_signs_and_no_signed_zero() -> None:
    assert number(-0.5, 2) == "−0.50"
    assert number(0.5, 2, signed=True) == "+0.50"
    assert number(-0.0001, 2, signed=True) == "0.00"
    assert number(12345.678, 1) == "12,345.7"


def test_figures_have_the_same_bytes_twice_and_follow_the_page() -> None:
    values = {"one": {"a": Estimate(0.1, 0.0, 0.3)}, "two": {"b": Estimate(-0.2, -0.3, -0.1)}}

    def draw() -> str:
        return plots.intervals(values, ["a", "b"], "x", zero=True, detectable={"a": 0.2})

    assert draw() == draw()
    inside = plots.themed(draw(), "fig", 'what "it" <shows>')
    assert 'aria-label="what &quot;it&quot; &lt;shows&gt;"' in inside
    assert "http" not in inside
    assert not re.search(r"#[0-9a-f]{6}\b", inside)
    assert set(re.findall(r'\bid="([^-"]*)-', inside)) == {"fig"}
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', inside))
    assert used <= set(re.findall(r'\bid="([^"]*)"', inside))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme: str) -> None:
    """WCAG 2: 4.5:1 for text, 3:1 for what figures draw."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    block = light if theme == "light" else dark[: dark.index("* {")]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "card", "wash"):
        for text in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in (f"c{i}" for i in range(1, 7)):
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)
    for mark in ("good", "c2", "c3", "c6"):
        assert contrast(colours["on-colour"], colours[mark]) >= 4.5, mark
    if theme == "light":
        assert [colours[f"c{i}"] for i in range(1, 7)] == list(plots.PALETTE)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_runs_stand_side_by_side(runs: Path, shop: Path) -> None:
    from pipelines.compare_runs import compare_runs

    shutil.copytree(runs / "shop", runs / "again", ignore=shutil.ignore_patterns(".lock"))
    changed = replace(CONFIG, recommend=replace(CONFIG.recommend, models=("tfidf", "itemknn")))
    with open_run(run="again", data=shop, runs=runs, config=changed, say=lambda _: None) as again:
        recommend(again)
    both = [Workspace.known(name, runs) for name in ("shop", "again")]
    lines: list[str] = []
    path = compare_runs(both, "both", say=lines.append)
    html = path.read_text(encoding="utf-8")
    assert HOSTILE not in html
    with open(path.parent / "tables/differences.csv", encoding="utf-8", newline="") as handle:
        differing = {row["what"]: row for row in csv.DictReader(handle)}
    models = differing["recommend.recommend.models"]
    assert models["again"] == '["tfidf", "itemknn"]'
    assert not any(what.startswith("score-captions") for what in differing)
    with open(
        path.parent / "tables/ranking-differences.csv", encoding="utf-8", newline=""
    ) as handle:
        found = [row for row in csv.DictReader(handle) if row["metric"] == "NDCG@12"]
    values = (
        pl.read_csv(runs / "again/recommend/metrics.csv"),
        pl.read_csv(runs / "shop/recommend/metrics.csv"),
    )
    for row in found:
        name, _, setting = row["row"].partition(" · ")
        is_row = (
            (pl.col("recommender") == name)
            & (pl.col("setting") == (setting or "-"))
            & (pl.col("metric") == "ndcg")
            & (pl.col("k") == 12)
        )
        new, old = (v.filter(is_row)["value"][0] for v in values)
        assert float(row["difference"]) == pytest.approx(new - old, abs=1e-12)
        assert float(row["difference_low"]) <= new - old <= float(row["difference_high"])
    assert {row["row"].partition(" · ")[0] for row in found} == {"tfidf"}
    compare_runs(both, "both", say=lines.append)
    assert "reused" in lines[-1]
    with pytest.raises(InputError, match="no run 'nobody' in"):
        Workspace.known("nobody", runs)
    with pytest.raises(InputError, match="two or more, each once"):
        compare_runs(both[:1], "both")


def test_only_metrics_of_hits_have_a_best_end() -> None:
    ends = {m: better(f"{m}@12") for m in ("ndcg", "map_r", "gini", "popularity", "coverage")}
    assert ends == {"ndcg": "high", "map_r": "high", "gini": "", "popularity": "", "coverage": ""}
