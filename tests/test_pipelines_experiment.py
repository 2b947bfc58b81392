"""`fcr experiment` on a small drawn catalogue with captions of a rule, and its parts by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from pipelines import InputError, attribution, leaks
from pipelines.answers import contrast, shown
from pipelines.augment import TextSource
from pipelines.cells import ALL, COLD_ALONE, Bench, Ranks, Store
from pipelines.cli import main
from pipelines.config import Config, DemoConfig, ExperimentConfig, RecommendConfig, load_config
from pipelines.experiment import Trial, experiment
from pipelines.published import FIGURES, published, same_data
from pipelines.run import Run, open_run
from recsys.interactions import Interactions
from recsys.metrics import score_lists, score_slices
from recsys.recommenders import MostPop, Random
from recsys.recommenders.content import ContentRecommender, tfidf_vectors
from recsys.splits import Split, split_global_time, split_user_ratio

SETTINGS = ("none", "original", "caption", "fill", "shuffled", "shuffled-fill")
CONFIG = Config(
    demo=DemoConfig(articles=150, customers=200, purchases=6000),
    recommend=RecommendConfig(test_days=60),
    experiment=ExperimentConfig(
        settings=SETTINGS,
        encoders=("tfidf", "resbert"),
        others=("random", "mostpop"),
        seeds=(0, 1),
        mask=(0, 50, 100),
        depth=40,
        bootstrap=500,
        extremes=3,
    ),
)


def purchases(n_users: int = 40, n_items: int = 30, seed: int = 0) -> Interactions:
    """Random purchases over 100 days; the last five items are first sold on day 80."""
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(n_users):
        for _ in range(12):
            day = int(rng.integers(0, 100))
            item = int(rng.integers(0, n_items if day >= 80 else n_items - 5))
            rows.append((f"u{u:02}", f"i{item:02}", day * 86_400))
    frame = pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row")
    ids = [f"i{i:02}" for i in range(n_items)]
    return Interactions.from_frame(frame, time="time", item_ids=ids)


@pytest.fixture(scope="module")
def split() -> Split:
    return split_global_time(purchases(), last_days=20)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose catalogue is drawn; captions are written elsewhere: what a rule says of a photo
    (its own fields), for every article."""
    folder = tmp_path_factory.mktemp("experiment")
    with open_run(runs=folder, config=CONFIG, say=lambda _: None) as run:
        articles = run.catalog(purchases=False).articles
    said = pl.format(
        "a {} {} in {}",
        pl.col("colour_group_name").str.to_lowercase(),
        pl.col("product_type_name").str.to_lowercase(),
        pl.col("graphical_appearance_name").str.to_lowercase(),
    )
    table = articles.select(pl.col("article_id").cast(pl.Int64), said.alias("description"))
    table.write_csv(folder / "captions.csv")
    return folder


def run_experiment(
    home: Path, config: Config = CONFIG, **options: Any
) -> tuple[Path | None, list[str], dict[str, Any]]:
    said: list[str] = []
    with open_run(runs=home, config=config, say=said.append) as run:
        path = experiment(run, captions=home / "captions.csv", **options)
        name = path.parent.name if path else "experiment"
        manifest = run.workspace.manifest(name) or {}
    return path, said, manifest


@pytest.fixture(scope="module")
def finished(home: Path) -> tuple[Path, list[str], dict[str, Any]]:
    path, said, manifest = run_experiment(home)
    assert path is not None
    return path.parent, said, manifest


def test_the_plan_says_cells_and_time_and_runs_nothing(home: Path, finished: Any) -> None:
    config = load_config(None, ["experiment.seeds=[7]", "experiment.depth=41"])
    small = Config(demo=CONFIG.demo, recommend=CONFIG.recommend, experiment=config.experiment)
    before = sorted(home.rglob("*.parquet"))
    path, said, _ = run_experiment(home, small, plan_only=True)
    assert path is None
    assert any(line.startswith("plan: ") and " 0 are finished" in line for line in said)
    assert said[-1].startswith("estimate: about ")
    assert sorted(home.rglob("*.parquet")) == before
    _, said, _ = run_experiment(home, plan_only=True)
    assert said[-1] == "estimate: nothing to run, only the answers"


def test_what_is_written_says_what_was_asked(finished: Any) -> None:
    folder, said, manifest = finished
    metrics = pl.read_csv(folder / "metrics.csv")
    settings = metrics.select("row", "setting").unique(maintain_order=True).rows()
    text_only = [("tfidf", s) for s in SETTINGS if s != "none"]
    both = [("resbert", s) for s in SETTINGS]
    assert settings == [("random", "-"), ("mostpop", "-"), *text_only, *both]
    assert {"all", "cold", "warm", "head", "history 0", "cold alone", "no human text"} <= set(
        metrics["slice"]
    )
    ends = metrics.filter(pl.col("low").is_not_null())
    assert (ends["low"] <= ends["value"]).all()
    assert (ends["value"] <= ends["high"]).all()
    # Only what draws has several seeds.
    several = metrics.filter(pl.col("n_seeds") > 1).select("row", "setting").unique().rows()
    drawn = {(row, s) for row in ("tfidf", "resbert") for s in ("shuffled", "shuffled-fill")}
    assert set(several) == {("random", "-"), *drawn}
    differences = pl.read_csv(folder / "differences.csv", infer_schema_length=None)
    of_all = differences.filter(slice="all", metric="ndcg@12")
    assert of_all.height == 10 + 15  # pairs of five settings, and of six
    assert (of_all["tests"] == 25).all()
    assert (of_all["p_holm"] >= of_all["p"]).all()
    value = dict(
        metrics.filter(row="resbert", slice="all", metric="ndcg@12")
        .select("setting", "value")
        .rows()
    )
    for row in of_all.filter(row="resbert").iter_rows(named=True):
        assert row["difference"] == pytest.approx(value[row["setting"]] - value[row["against"]])
    curve = pl.read_csv(folder / "curve.csv", infer_schema_length=None).filter(slice="all")
    ends_of = {
        (r["row"], r["percent"], r["filled"]): r["value"] for r in curve.iter_rows(named=True)
    }
    assert ends_of["resbert", 0, False] == pytest.approx(value["original"])
    assert ends_of["resbert", 0, True] == pytest.approx(value["fill"])
    assert ends_of["resbert", 100, False] == pytest.approx(value["none"])
    assert ends_of["resbert", 100, True] == pytest.approx(value["caption"])
    assert ends_of["tfidf", 100, False] == 0
    record = manifest["record"]
    assert record["stamp"] == ""
    assert any(s["verdict"] in ("shown", "no effect shown") for s in record["sentences"])
    assert any("customers would show" in s["text"] for s in record["sentences"])
    assert all("effect" in line or "shown" in line for line in said[-len(record["sentences"]) :])


def test_articles_helped_and_hurt_have_their_moves(finished: Any) -> None:
    folder, _, _ = finished
    found = json.loads((folder / "extremes.json").read_text())
    assert (found["row"], found["setting"], found["against"]) == ("resbert", "caption", "none")
    for item in found["articles"]:
        gain = np.mean(
            [
                sum(sign / np.log2(1 + rank) for sign, rank in ((-1, before), (1, after)) if rank)
                for before, after in item["moves"]
            ]
        )
        assert item["change"] == pytest.approx(gain)
        assert (item["change"] > 0) == (item["side"] == "helped")


def test_a_second_experiment_encodes_nothing_and_measures_only_what_is_new(
    home: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another depth asks for new cells on the same articles; loading an encoder would fail."""

    def forbidden(*_: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("recsys.encoders.load", forbidden)
    deeper = load_config(None, ["experiment.depth=41", "experiment.name=deeper"]).experiment
    base = CONFIG.experiment
    other = ExperimentConfig(
        **{**{f: getattr(base, f) for f in base.__dataclass_fields__}, "depth": deeper.depth,
           "name": deeper.name}
    )  # fmt: skip
    config = Config(demo=CONFIG.demo, recommend=CONFIG.recommend, experiment=other)
    path, said, manifest = run_experiment(home, config)
    assert path is not None
    assert path.parent.name == "experiment-deeper"
    assert manifest["record"]["encoded"] == 0
    assert "encoded 0 texts and photos anew" in said
    assert any(" 0 are finished" in line for line in said)
    _, said, _ = run_experiment(home, config)
    assert any("nothing changed, reused" in line for line in said)


def trial_of(home: Path, run: Run) -> Trial:
    from pipelines.experiment import _prepare

    return _prepare(run, run.config.experiment, home / "captions.csv")[0]


def test_two_settings_differ_in_their_texts_and_nowhere_else(home: Path, finished: Any) -> None:
    with open_run(runs=home, config=CONFIG, say=lambda _: None) as run:
        trial = trial_of(home, run)
        by_line: dict[Any, list[dict[str, Any]]] = {}
        for cell in trial.cells:
            by_line.setdefault(cell.line, []).append(trial.identity(cell))
        for line, identities in by_line.items():
            rest = [{k: v for k, v in i.items() if k != "texts"} for i in identities]
            drawn = line.label == "random"
            assert drawn or all(other == rest[0] for other in rest)
            assert len({i["texts"] for i in identities}) == (
                len(identities) if line.reads_text else 1
            )
        # Where the texts are the same, so is the cell: no setting reaches anything else.
        same = TextSource(
            trial.source.article_ids,
            [trial.source.captions[i] for i in trial.source.article_ids],
            trial.source.captions,
        )
        twin = Trial(run, trial.config, trial.ranking, trial.split, same, trial.photos)
        keys = {
            cell.setting: twin.store.key(twin.identity(cell))
            for cell in twin.cells
            if cell.line.label == "tfidf" and cell.setting in ("original", "caption", "fill")
        }
        assert len(keys) == 3
        assert len(set(keys.values())) == 1


def test_a_killed_experiment_keeps_its_finished_cells(home: Path, finished: Any) -> None:
    """kill -9 half-way; the next call runs what is left, and the answers are those of one go."""
    options = ["--runs", str(home), "--captions", str(home / "captions.csv")]
    changes = {
        "demo.articles": 150, "demo.customers": 200, "demo.purchases": 6000,
        "recommend.test_days": 60, "experiment.encoders": "[tfidf]", "experiment.depth": 30,
        "experiment.bootstrap": 200, "experiment.name": "killed", "experiment.mask": "[20,40,60]",
    }  # fmt: skip
    sets = [f"--set={key}={value}" for key, value in changes.items()]
    cells = home / ".cache/experiment"
    before = set(cells.glob("*.parquet"))
    command = [sys.executable, "-m", "pipelines", "experiment", *options, *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(set(cells.glob("*.parquet")) - before) < 4 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = set(cells.glob("*.parquet")) - before
    assert len(kept) >= 4
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    done = CliRunner().invoke(main, ["experiment", *options, *sets])
    assert done.exit_code == 0, done.output
    assert f" {len(kept)} are finished" in done.output
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    first = (home / "demo/experiment-killed/differences.csv").read_bytes()
    for path in set(cells.glob("*.parquet")) - before:
        path.unlink()
    (home / "demo/experiment-killed/manifest.json").unlink()
    again = CliRunner().invoke(main, ["experiment", *options, *sets])
    assert " 0 are finished" in again.output
    assert (home / "demo/experiment-killed/differences.csv").read_bytes() == first


def test_a_leak_stops_the_run_and_is_stamped_where_allowed(home: Path, finished: Any) -> None:
    options = [
        "experiment", "--runs", str(home), "--captions", str(home / "captions.csv"),
        "--set=demo.articles=150", "--set=demo.customers=200", "--set=demo.purchases=6000",
        "--set=recommend.split.method=user-ratio", "--set=experiment.encoders=[tfidf]",
        "--set=experiment.settings=[original,fill]", "--set=experiment.mask=[]",
        "--set=experiment.bootstrap=100", "--set=experiment.name=leaky",
    ]  # fmt: skip
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "on or after" in errors[0]
    assert "--allow-leaks" in errors[0]
    assert not (home / "demo/experiment-leaky/differences.csv").exists()
    done = CliRunner().invoke(main, [*options, "--allow-leaks"])
    assert done.exit_code == 0, done.output
    assert "warning: LEAK: " in done.output
    done = CliRunner().invoke(main, ["report", "--runs", str(home), *options[5:8]])
    assert done.exit_code == 0, done.output
    tables = list((home / "demo/report/tables").glob("experiment-leaky-*.md"))
    stamped = [t.stem for t in tables if "LEAK" in t.read_text()]
    assert {"experiment-leaky-values", "experiment-leaky-differences"} <= set(stamped)
    page = (home / "demo/report/report.html").read_text()
    assert "What the words are worth" in page
    assert "experiment-curve-resbert-all" in page
    plain = home / "demo/report/tables/experiment-values.md"
    assert "LEAK" not in plain.read_text()


# ---------------------------------------------------------------------------------------- parts


def test_ranks_give_the_same_metrics_as_the_lists(split: Split) -> None:
    """On every slice: a cell keeps nothing but ranks."""
    bench = Bench(split, depth=15, exclude_seen=False, cold_users=1000, seed=0)
    recommender = Random(seed=3)
    found = bench.measure(recommender)
    lists, _ = recommender.recommend(bench.users, 15, exclude_seen=False)
    bands = {"even": np.arange(split.train.n_items) % 2 == 0}
    users = {"first": np.arange(len(bench.users)) < 10}
    values = bench.values(found, ("ndcg", "map", "map_elliot"), (5, 12), items=bands, users=users)
    wanted = score_lists(lists, bench.truth, ("ndcg", "map", "map_elliot"), (5, 12))
    for name, score in wanted.items():
        np.testing.assert_array_equal(values[ALL, name], score.per_user)
    sliced = score_slices(lists, bench.truth, ("ndcg",), (12,), items=bands, users=users)
    for part, by_name in sliced.items():
        np.testing.assert_array_equal(values[part, "ndcg@12"], by_name["ndcg@12"].per_user)


def test_cold_articles_ranked_alone(split: Split) -> None:
    """The content recommender's narrowed search gives what filtering its whole ranking gives."""
    texts = [f"word{i % 7} thing{i % 3}" for i in range(split.train.n_items)]
    bench = Bench(split, depth=4, exclude_seen=False, cold_users=1000, seed=0)
    assert bench.cold.sum() == 5
    vectors, valid = tfidf_vectors(texts)
    recommender = ContentRecommender(vectors, valid)
    found = bench.measure(recommender)
    asked = np.isin(bench.pair_users, bench.cold_users) & bench.cold[bench.pair_items]
    assert asked.any()
    assert ((found.cold >= 0) == asked).all()
    whole, _ = recommender.recommend(bench.users, split.train.n_items, exclude_seen=False)
    for pair in np.flatnonzero(asked):
        listed = whole[bench.pair_users[pair]]
        alone = listed[(listed >= 0) & bench.cold[np.maximum(listed, 0)]].tolist()
        rank = alone.index(bench.pair_items[pair]) + 1
        assert found.cold[pair] == (rank if rank <= 4 else 0)
    # A recommender that knows no cold article hits none, among them or not.
    popular = bench.measure(MostPop())
    values = bench.values(popular, ("ndcg",), (4,), items={}, users={})
    assert np.nansum(values[COLD_ALONE, "ndcg@4"]) == 0
    few = Bench(split, depth=4, exclude_seen=False, cold_users=3, seed=0)
    assert len(few.cold_users) == 3


def test_cells_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ranks = Ranks(np.array([1, 0], np.int32), np.array([-1, 3], np.int32), 1.5)
    key = store.key({"a": 1})
    assert store.load(key, 2) is None
    store.save(key, ranks)
    found = store.load(key, 2)
    assert found is not None
    assert (found.ranks.tolist(), found.cold.tolist(), found.seconds) == ([1, 0], [-1, 3], 1.5)
    assert store.load(key, 3) is None
    (tmp_path / f"{key}.parquet").write_bytes(b"half")
    assert store.load(key, 2) is None
    assert store.key({"a": 2}) != key


def test_a_pair_is_turned_round_where_it_stands_so() -> None:
    row = {
        "setting": "b",
        "against": "a",
        "difference": 1.0,
        "low": 0.5,
        "high": 2.0,
        "p_holm": 0.01,
    }
    frame = pl.DataFrame([row])
    assert contrast(frame, "b", "a") == [row]
    (turned,) = contrast(frame, "a", "b")
    assert (turned["difference"], turned["low"], turned["high"]) == (-1, -2, -0.5)
    assert shown(turned)
    assert not shown({**turned, "p_holm": 0.2})
    assert not shown({**turned, "high": 0.1})


def test_earliest_purchases_and_dates(tmp_path: Path) -> None:
    from pipelines.experiment import _chosen

    rows = [
        ("a", "x", 1),
        ("a", "y", 2),
        ("a", "z", 3),
        ("b", "x", 9),
        ("b", "y", 10),
        ("c", "z", 5),
    ]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "day"], orient="row").with_columns(
        time=pl.lit(date(2020, 1, 1)) + pl.duration(days="day")
    )
    found = Interactions.from_frame(frame, time="time")
    said: list[str] = []
    run = Run(None, CONFIG, tmp_path, False, said.append)  # type: ignore[arg-type]

    def kept(**options: Any) -> list[tuple[str, str]]:
        chosen = _chosen(found, ExperimentConfig(**options), run)
        users = chosen.user_ids.gather(chosen.event_users)
        return list(zip(users, chosen.item_ids.gather(chosen.event_items), strict=True))

    # Everybody's first, then two seconds.
    assert kept(earliest=5) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "z")]
    assert kept(earliest=3) == [("a", "x"), ("b", "x"), ("c", "z")]
    assert kept(first=date(2020, 1, 3), last=date(2020, 1, 6)) == [
        ("a", "y"),
        ("a", "z"),
        ("c", "z"),
    ]
    assert len(kept(earliest=100)) == 6
    assert "all are kept" in said[-1]
    with pytest.raises(InputError, match="no purchase lies between"):
        kept(first=date(2021, 1, 1))


# -------------------------------------------------------------------------------------- leaks


def test_leaks_of_time(split: Split) -> None:
    assert not leaks.future_purchases(split).leak
    within = split_user_ratio(purchases(), test=0.2)
    found = leaks.future_purchases(within)
    times = within.train.event_times
    assert times is not None
    assert within.test.event_times is not None
    assert found.count == int((times >= within.test.event_times.min()).sum()) > 0
    assert found.leak
    assert "x.csv" in leaks.future_purchases(split, captions_file="x.csv").found
    undated = split_user_ratio(purchases())
    bare = Split(
        Interactions(undated.train.user_ids, undated.train.item_ids, undated.train.event_ptr,
                     undated.train.event_items),
        undated.test, None, undated.report,
    )  # fmt: skip
    assert leaks.future_purchases(bare).leak


def test_cold_articles_that_others_bought_are_a_leak(split: Split) -> None:
    everything = purchases()
    assert not leaks.cold_articles(split, everything).leak
    # The customers who bought item 0 are sampled away before the split: it looks cold.
    cut = split.train.moment(split.cutoff) if split.cutoff else 0
    times = everything.event_times
    assert times is not None
    sampled = everything.select((everything.event_items != 0) | (times >= cut), reason="sampled")
    found = leaks.cold_articles(split_global_time(sampled, last_days=20), everything)
    assert found.leak
    assert found.count == 1
    assert "i00" in found.found


def test_leaks_of_captions() -> None:
    from caption.records import CaptionExample, CaptionSet

    def parts(*rows: tuple[str, str, str]) -> CaptionSet:
        examples = [CaptionExample(i, None, (text,), split=part) for i, text, part in rows]
        return CaptionSet("s", tuple(examples))

    codes = {"a": "1", "b": "2", "c": "3", "d": "1"}
    clean = parts(("a", "one", "train"), ("b", "two", "test"), ("c", "three", "validation"))
    assert not any(c.leak for c in leaks.caption_split(clean, codes))
    texts, products = leaks.caption_split(
        parts(("a", "A top.", "train"), ("b", "a top", "test"), ("d", "x", "test")), codes
    )
    assert (texts.leak, texts.count) == (True, 1)
    assert (products.leak, products.count) == (True, 1)
    assert leaks.judged_captions(["a", "b"], {"b"}).leak
    assert not leaks.judged_captions(["a"], {"b"}).leak
    human = {f"a{i}": f"text {i}" for i in range(40)}
    captions = {i: f"said of {i}" for i in human} | {"a0": "Text 0.", "a1": "text 1"}
    learned = {f"a{i}" for i in range(20)}
    assert leaks.repeated_captions(captions, human, learned).leak
    # As many among the articles it did not learn from: stock phrases.
    captions |= {"a30": "text 30", "a31": "text 31"}
    assert not leaks.repeated_captions(captions, human, learned).leak


def test_refusing_leaks_names_every_one() -> None:
    good = leaks.Check("n", "q", 0, "fine", False)
    bad = [leaks.Check("n", "q", 1, text, True) for text in ("first", "second")]
    assert leaks.refuse([good], allow=False) == ""
    with pytest.raises(InputError, match=r"\(1\) first; \(2\) second.*--allow-leaks"):
        leaks.refuse([good, *bad], allow=False)
    assert leaks.refuse([good, *bad], allow=True) == "LEAK: first; second"


# -------------------------------------------------------------------------------- attribution


def test_regression_against_a_planted_slope_and_a_hand_computed_one() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        quality, popularity = rng.normal(3, 2, 60), rng.integers(0, 50, 60).astype(float)
        noise = rng.normal(0, 1, 60) * (0.5 + np.abs(quality))  # differs from article to article
        change = 0.7 * quality + 0.3 * np.log1p(popularity) + noise
        found = attribution.regress(change, quality, popularity)
        inside += found.low <= 0.7 * found.sd <= found.high
        wanted = np.linalg.lstsq(
            np.column_stack([np.ones(60), quality, np.log1p(popularity)]), change, rcond=None
        )[0][1]
        assert found.slope == pytest.approx(wanted * quality.std(ddof=1))
    assert 180 <= inside <= 200
    gone = np.where(np.arange(60) < 45, np.nan, change)
    assert np.isnan(attribution.regress(gone, quality, popularity).slope)
    assert np.isnan(attribution.regress(change, np.ones(60), popularity).slope)


def test_caption_quality_is_not_judged_where_the_captioner_learned() -> None:
    n = 30
    articles = pl.DataFrame(
        {
            "article_id": [f"a{i}" for i in range(n)],
            "detail_desc": [f"A red top number {i}" for i in range(n)],
            "product_type_name": ["T-shirt"] * n,
            "colour_group_name": ["Red"] * n,
            "perceived_colour_master_name": ["Red"] * n,
            "graphical_appearance_name": ["Solid"] * n,
        }
    )
    ids = articles["article_id"].to_list()
    captions = dict.fromkeys(ids, "a red t-shirt") | {"a0": "a blue t-shirt", "a1": "nothing"}
    found, judged = attribution.caption_qualities(captions, articles, ids, {"a2", "a3"})
    assert judged == [i for i in ids if i not in ("a2", "a3")]
    assert set(found["cider-d"]) == set(judged)
    assert found["audit"]["a0"] < found["audit"]["a2"]
    assert found["audit"]["a1"] == 0


def test_gains_and_extremes_by_hand(split: Split) -> None:
    bench = Bench(split, depth=10, exclude_seen=False, cold_users=10, seed=0)
    ranks = np.zeros(len(bench.pair_items), np.int32)
    item = int(bench.pair_items[0])
    pairs = np.flatnonzero(bench.pair_items == item)
    ranks[pairs[0]] = 3
    gain = attribution.gains(bench, [Ranks(ranks, ranks, 0.0)])
    assert gain[item] == pytest.approx(0.5 / len(pairs))
    assert np.isnan(gain[np.setdiff1d(np.arange(bench.n_items), bench.pair_items)]).all()
    assert attribution.extremes(np.array([0.0, 2, -1, np.nan, 3]), 2) == ([4, 1], [2])


# ------------------------------------------------------------------------------------ presets


def test_presets_say_their_protocols() -> None:
    old, new = load_config("thesis-published"), load_config("thesis-corrected")
    assert old.recommend.split.method == "user-ratio"
    assert old.experiment.earliest == 2_000_000
    assert "map_elliot" in old.experiment.metrics
    assert (new.recommend.split.method, new.experiment.metrics) == ("time", ("ndcg", "map"))
    assert "shuffled" in new.experiment.settings
    relbench = load_config("relbench-rel-hm")
    assert relbench.recommend.split.cutoff == date(2020, 9, 14)
    # Seven days, the first of them the cut-off.
    assert relbench.experiment.last == date(2020, 9, 20)
    assert load_config("kaggle-hm").recommend.test_days == 7


def test_published_figures_stand_beside_the_same_data_only() -> None:
    assert published("itemknn", "-", "ndcg@12") == 0.06421
    assert published("vbpr sbert", "fill", "map_elliot@12") == 0.00924
    assert published("vbpr sbert", "caption", "ndcg@12") is None
    assert published("content sbert", "original", "ndcg@12") is None
    assert all(len(side) == 4 for pair in FIGURES.values() for side in pair)
    assert same_data(105_542, 31_788_324)
    assert not same_data(105_542, 31_443)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experiment.metrics=[ndgc]", "unknown metric 'ndgc'"),
        ("experiment.others=[clip]", "built on vectors"),
        ("experiment.name=../x", "small letters"),
        ("experiment.settings=[original,captions]", "experiment.settings"),
    ],
)
def test_bad_settings_are_refused(home: Path, override: str, expected: str) -> None:
    arguments = ["experiment", "--runs", str(home), "--set", override]
    done = CliRunner().invoke(main, [*arguments, *(f"--set=demo.{k}={v}" for k, v in (
        ("articles", 150), ("customers", 200), ("purchases", 6000)))])  # fmt: skip
    assert done.exit_code == 2
    assert expected in done.output


def test_the_protocols_first_day_is_where_the_data_begin(
    home: Path, finished: Any, tmp_path: Path
) -> None:
    """RelBench leaves the first year out: that is no sampling, and no leak."""
    options = [
        "experiment", "--runs", str(home), "--plan", "--captions", str(home / "captions.csv"),
        "--config", "relbench-rel-hm", "--set=demo.articles=150", "--set=demo.customers=200",
        "--set=demo.purchases=6000", "--set=experiment.encoders=[tfidf]",
    ]  # fmt: skip
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    assert "outside experiment.first .. experiment.last" in done.output
    with open_run(runs=home, config=CONFIG, say=lambda _: None) as run:
        from pipelines.experiment import _prepare

        later = ExperimentConfig(
            settings=("original",), encoders=("tfidf",), mask=(), first=date(2020, 1, 1)
        )
        _, _, checks = _prepare(run, later, home / "captions.csv")
        assert not [check for check in checks if check.leak]
        sampled = ExperimentConfig(
            settings=("original",), encoders=("tfidf",), mask=(), earliest=600
        )
        _, _, checks = _prepare(run, sampled, home / "captions.csv")
    assert {check.name for check in checks if check.leak} == {"cold articles"}
