"""`fcr recommend` on tables of interactions, `fcr score-recommendations`, `fcr similar`."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from pipelines.config import EVERY_ROW, load_config
from pipelines.ranking import NO_TEXT, Row, _recall
from pipelines.recommend import Columns, recommend_files
from pipelines.rows import CONTENT_ROWS
from recsys import readers
from recsys.recommenders import MostPop
from recsys.recommenders.content import ContentRecommender

DAY = 86_400


def fcr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def fails(*arguments: str | Path) -> str:
    """The one line a mistake gives."""
    done = fcr(*arguments)
    assert done.exit_code == 2, done.output
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.output
    return errors[0]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three users over 40 days; the last 28 (from day 12 on) hold four events.

    Before: a is taken by u1, u2, u3, b by u1 and u2, c by u3. After: u1 takes c, u2 takes c and
    the cold d, u4 (cold) takes a.
    """
    rows = [
        ("u1", "a", 0, 5), ("u2", "a", 1, 4), ("u3", "a", 2, 1), ("u1", "b", 3, 5),
        ("u2", "b", 4, 5), ("u3", "c", 11, 5), ("u1", "c", 12, 5), ("u2", "c", 20, 4),
        ("u2", "d", 30, 3), ("u4", "a", 39, 5),
    ]  # fmt: skip
    frame = pl.DataFrame(rows, ["user_id", "item_id", "day", "stars"], orient="row")
    path = tmp_path / "taken.csv"
    frame.with_columns(time=pl.col("day") * DAY).drop("day").write_csv(path)
    return path


def metric(path: Path, row: str, name: str, k: int) -> float:
    frame = pl.read_csv(path)
    found = frame.filter(recommender=row, metric=name, k=k)
    assert len(found) == 1
    return float(found["value"][0])


def test_a_small_table_by_hand(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = fcr(
        "recommend", "--interactions", table, "--time", "time", "--model", "mostpop",
        "--exclude-seen", "--out", out, "--set", "recommend.k=[1,2]",
        "--set", "recommend.metrics=[ndcg,recall,coverage]",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {
        "differences.csv", "manifest.json", "metrics.csv", "recommendations.parquet", "slices.csv",
        "split.json", "user_metrics.parquet",
    }  # fmt: skip
    split = json.loads((out / "split.json").read_text())
    assert split["cutoff"] == "1970-01-13T00:00:00"
    assert "test from 1970-01-13" in done.output
    assert (split["cold_test_users"], split["cold_test_items"], split["test_users"]) == (1, 1, 3)
    # Best sellers without what was taken: u1 and u2 get c (d has no buyer), u4 gets a, b, c.
    lists = pl.read_parquet(out / "recommendations.parquet")
    assert {u: f["article_id"].to_list() for (u,), f in lists.group_by("user_id")} == {
        "u1": ["c"], "u2": ["c"], "u4": ["a", "b", "c"],
    }  # fmt: skip
    result = out / "metrics.csv"
    assert metric(result, "mostpop", "recall", 1) == pytest.approx((1 + 1 / 2 + 1) / 3)
    ideal = 1 + 1 / math.log2(3)
    assert metric(result, "mostpop", "ndcg", 2) == pytest.approx((1 + 1 / ideal + 1) / 3)
    assert metric(result, "mostpop", "coverage", 1) == 2 / 4
    slices = pl.read_csv(out / "slices.csv").filter(metric="recall", k=1)
    by_slice = {r["slice"]: (r["value"], r["n_users"]) for r in slices.iter_rows(named=True)}
    assert by_slice["cold"] == (0.0, 1)  # u2's d
    assert by_slice["warm"] == (1.0, 3)
    assert by_slice["history 0"] == (1.0, 1)
    assert by_slice["history 1-4"] == (0.75, 2)
    again = fcr(
        "recommend", "--interactions", table, "--time", "time", "--model", "mostpop",
        "--exclude-seen", "--out", out, "--set", "recommend.k=[1,2]",
        "--set", "recommend.metrics=[ndcg,recall,coverage]",
    )  # fmt: skip
    assert "nothing changed, reused" in again.output


def test_every_row_runs_and_repeats_itself(table: Path, tmp_path: Path) -> None:
    wide = pl.DataFrame(
        [(f"u{u}", f"i{(u * s + s) % 23}", u % 7 + s) for u in range(40) for s in range(1, 9)],
        ["user_id", "item_id", "time"], orient="row",
    )  # fmt: skip
    wide.write_parquet(tmp_path / "wide.parquet")
    config = load_config(None, [
        "recommend.split.method=user-ratio", "recommend.split.validation=0.2",
        "recommend.parameters.blend.parts=[rp3beta, repurchase, mostpop]",
        "recommend.parameters.blend.weights=[1, 2, 1]", "recommend.parameters.bpr.factors=4",
        "recommend.parameters.bpr.iterations=5", "recommend.bootstrap=20",
        "recommend.metrics=[ndcg, map_elliot, novelty, gini]",
    ])  # fmt: skip
    said: list[str] = []
    done = [
        recommend_files(
            tmp_path / "wide.parquet", columns=Columns(time="time"), config=config,
            models=("every",), out=tmp_path / name, say=said.append,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    frame = pl.read_csv(done[0])
    wanted = [name for name in EVERY_ROW if name not in CONTENT_ROWS]
    assert frame["recommender"].unique(maintain_order=True).to_list() == wanted
    assert done[0].read_bytes() == done[1].read_bytes()
    blend = frame.filter(recommender="blend")["signature"][0]
    assert "blend(1 rp3beta(" in blend
    assert "+ 2 repurchase(" in blend
    assert any(line.startswith("validation: ") for line in said)
    assert any(line.startswith("ease needs 0.00 GB") for line in said)
    assert said.index(next(s for s in said if s.startswith("ease needs"))) < said.index("random")
    assert any("clip" in line and "left out" in line for line in said)


@pytest.mark.parametrize(
    ("settings", "users"),
    [
        (["recommend.split.method=leave-last-out"], 3),  # u4 has one event, which stays in train
        (["recommend.split.cutoff=1970-01-21"], 2),
        (["recommend.split.validation_days=2"], 3),
        (["recommend.split.validation_days=2", "recommend.split.measure=validation"], 1),
        (["recommend.split.drop_cold=both"], 2),
        (["recommend.split.min_item=2"], 3),
        (["recommend.split.method=random", "recommend.split.test=0.5"], None),
    ],
)
def test_splits(table: Path, tmp_path: Path, settings: list[str], users: int | None) -> None:
    more = [f"--set={setting}" for setting in settings]
    time = [] if "random" in settings[0] else ["--time", "time"]
    done = fcr(
        "recommend", "--interactions", table, *time, "--model=mostpop", "--out", tmp_path / "o",
        *more,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    split = json.loads((tmp_path / "o/split.json").read_text())
    if users is not None:
        assert split["test_users"] == users
    fixed = "cutoff=1970" in settings[0]
    assert split["cutoff"] == (
        "1970-01-21T00:00:00" if fixed
        else None if "method" in settings[0] or "measure" in settings[-1]
        else "1970-01-13T00:00:00"
    )  # fmt: skip


def test_memory_is_said_before_a_large_file_is_read(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("recommend", "--interactions", table, "--time=time", "--model=mostpop")
    monkeypatch.setattr(readers, "BYTES_A_ROW", 10**8)
    done = fcr(*call, "--out", tmp_path / "said")
    assert done.output.startswith("reading the interactions needs 1.1 GB of memory; ")
    monkeypatch.setattr(readers, "BYTES_A_ROW", 10**14)
    assert "needs 1,100,000.0 GB of memory" in fails(*call, "--out", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "users"),
    [
        # From day 12 on only u2 has two events; until day 19 the last 8 days hold u3's and u1's.
        (["recommend.split.first=1970-01-13", "recommend.split.method=leave-last-out"], 1),
        (["recommend.split.last=1970-01-20", "recommend.test_days=8"], 2),
    ],
)
def test_days_are_chosen_before_splitting(
    table: Path, tmp_path: Path, settings: list[str], users: int
) -> None:
    more = [f"--set={setting}" for setting in settings]
    out = tmp_path / "out"
    done = fcr(
        "recommend", "--interactions", table, "--time=time", "--model=mostpop", "--out", out, *more
    )
    assert done.exit_code == 0, done.output
    split = json.loads((out / "split.json").read_text())
    assert split["test_users"] == users
    assert split["dropped"]["outside the dates asked for"] > 0
    assert "dates:" in pl.read_csv(out / "metrics.csv")["signature"][0]


def test_days_that_nobody_bought_on(table: Path, tmp_path: Path) -> None:
    call = ("recommend", "--interactions", table, "--time=time", "--out", tmp_path / "out")
    assert "recommend.split.first (1980-01-01)" in fails(
        *call, "--set=recommend.split.first=1980-01-01"
    )


def test_the_recall_of_an_approximate_search_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((700, 8)).astype(np.float32)
    content = ContentRecommender(vectors, method="hnsw")
    content.index.top_k(content.vectors[:50], 5, method="hnsw")
    said = _recall(Row("sbert", "original", content))
    assert said.startswith("sbert (original): the search is approximate: hnsw found ")
    assert _recall(Row("sbert", "original", ContentRecommender(vectors))) == ""
    assert _recall(Row("mostpop", NO_TEXT, MostPop())) == ""


def test_files_split_elsewhere_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("u1\ta\t5\nu1\tb\t4\nu2\ta\t2\n")
    (tmp_path / "test.tsv").write_text("u1\tc\t5\nu2\tb\t4\n")
    done = fcr(
        "recommend", "--train", tmp_path / "train.tsv", "--test", tmp_path / "test.tsv",
        "--columns", "who,what,stars", "--user", "who", "--item", "what", "--rating", "stars",
        "--min-rating", "4", "--model", "mostpop", "--exclude-seen", "--out", tmp_path / "o",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    split = json.loads((tmp_path / "o/split.json").read_text())
    assert split["method"] == "fixed files"
    assert split["dropped"] == {"rated below 4": 1}
    assert split["cold_test_users"] == 1
    assert metric(tmp_path / "o/metrics.csv", "mostpop", "ndcg", 5) == pytest.approx(
        1 / math.log2(3) / 2
    )  # u1 has seen both known items; u2 gets a, then b


def test_a_trec_run_scores_as_the_run_itself(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    common: list[str | Path] = ["recommend", "--interactions", table, "--time=time", "--out", out]
    assert fcr(*common, "--model=itemknn", "--model=mostpop").exit_code == 0
    lists = pl.read_parquet(out / "recommendations.parquet").filter(recommender="mostpop")
    lines = lists.select(
        pl.format("{} Q0 {} {} {} tag", "user_id", "article_id", "rank", "score")
    ).to_series()
    (tmp_path / "run.trec").write_text("\n".join(lines))
    qrels = "u1 0 c 1\nu1 0 b 0\nu2 0 c 1\nu2 0 d 2\nu4 0 a 1\n"
    (tmp_path / "test.qrels").write_text(qrels)
    done = fcr(
        "score-recommendations", "--recommendations", tmp_path / "run.trec",
        "--test", tmp_path / "test.qrels", "--out", tmp_path / "scores", "--k", "5,12",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    names = ["metric", "k", "value", "low", "high", "n_users"]
    ours = pl.read_csv(out / "metrics.csv").filter(recommender="mostpop").select(names)
    assert pl.read_csv(tmp_path / "scores/metrics.csv").select(names).equals(ours)
    per_user = pl.read_parquet(tmp_path / "scores/user_metrics.parquet")
    assert per_user["user_id"].to_list() == ["u1", "u2", "u4"]


def test_movielens(shared: Path, tmp_path: Path) -> None:
    done = fcr(
        "recommend", "--interactions", shared / "recsys/ml-100k/ml-100k.inter", "--time=timestamp",
        "--model=itemknn", "--model=mostpop", "--model=random", "--exclude-seen",
        "--set=recommend.split.method=user-ratio", "--set=recommend.bootstrap=50",
        "--core=10", "--out", tmp_path / "o",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    split = json.loads((tmp_path / "o/split.json").read_text())
    # 97,953 of the 100,000 ratings are in the 10-core (943 users, 1,152 items).
    assert split["train_events"] + split["test_events"] == 97_953
    values = [
        metric(tmp_path / "o/metrics.csv", row, "ndcg", 12)
        for row in ("itemknn", "mostpop", "random")
    ]
    assert values == sorted(values, reverse=True)
    kept = fcr(
        "recommend", "--interactions", shared / "recsys/ml-100k/ml-100k.inter", "--time=timestamp",
        "--model=random", "--set=recommend.bootstrap=10", "--out", tmp_path / "kept",
    )  # fmt: skip
    note = "nobody takes again in the test part what they took before"
    assert note in " ".join(kept.output.split())
    assert note not in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--interactions", "{}", "--model=clip"], "needs articles"),
        (["--interactions", "{}"], "--time"),
        (["--interactions", "gone.csv", "--time=time"], "gone.csv"),
        (["--interactions", "{}", "--time=when"], "no column 'when'"),
        (["--train", "{}"], "--train F and --test F together"),
        (["--interactions", "{}", "--train", "{}"], "either"),
        (["--interactions", "{}", "--data=x"], "--data"),
        (["--time=time"], "--time goes with"),
        (["--out=x"], "--out goes with"),
        (["--interactions", "{}", "--time=time", "--core=9"], "no interaction is left"),
        (["--train", "{}", "--test", "{}", "--core=2"], "before splitting"),
        (["--interactions", "{}", "--time=time", "--set=recommend.metrics=[ndgc]"], "'ndgc'"),
        (["--interactions", "{}", "--time=time", "--set=recommend.metrics=[diversity]"], "photos"),
        (
            ["--interactions", "{}", "--time=time", "--model=ease",
             "--set=recommend.parameters.ease.l3=2"],
            "recommend.parameters.ease has no parameter 'l3'",
        ),
        (
            ["--interactions", "{}", "--time=time", "--set=recommend.parameters.userknn.k=few"],
            "recommend.parameters.userknn.k is 'few'",
        ),
        (
            ["--interactions", "{}", "--time=time", "--model=blend",
             "--set=recommend.parameters.blend.parts=[magic]"],
            "recommend.parameters.blend.parts",
        ),
        (
            ["--interactions", "{}", "--time=time", "--set=recommend.split.measure=validation"],
            "keeps none",
        ),
        (
            ["--interactions", "{}", "--time=time", "--set=recommend.split.cutoff=2030-01-01"],
            "choose a moment inside",
        ),
    ],
)  # fmt: skip
def test_mistakes(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in fails("recommend", *(a.format(table) for a in arguments))
    assert [p.name for p in tmp_path.iterdir()] == ["taken.csv"]


def test_similar_articles(tmp_path: Path) -> None:
    """Three photos of upright bars, one of them brighter, and one of flat bars."""
    from PIL import Image

    data = tmp_path / "shop"
    lines = [
        "article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
        "colour_group_name,detail_desc"
    ]
    y, x = np.mgrid[:96, :64]
    bars = [(x // 4) % 2, (x // 4) % 2 * 0.7, (y // 4) % 2, (x // 4) % 2 * 0.9, None]
    for i, bar in enumerate(bars, start=1):
        name = f"01{i:08}"
        lines.append(f"{name},{name[:7]},Thing {i},Top,Stripe,Red,A thing.")
        if bar is not None:
            (data / "images" / name[:3]).mkdir(parents=True, exist_ok=True)
            pixels = (255 * np.repeat(bar[..., None], 3, axis=2)).astype(np.uint8)
            Image.fromarray(pixels).save(data / f"images/{name[:3]}/{name}.jpg", quality=95)
    (data / "articles.csv").write_text("\n".join(lines))
    runs: list[str | Path] = ["--runs", tmp_path / "runs", "--data", data, "--encoder", "hog"]
    done = fcr("similar", "0100000001", "--k", "9", *runs)
    assert done.exit_code == 0, done.output
    found = [line.split() for line in done.output.splitlines() if line.startswith("01")]
    assert [line[0][-1] for line in found] == ["1", "4", "2", "3"]
    assert found[1][2:4] == ["Thing", "4"]
    scores = [float(line[1]) for line in found[1:]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9 > 0.5 > scores[2]
    assert fcr("similar", "100000001", *runs).exit_code == 0  # the zero in front is the shop's
    assert "there is no article" in fails("similar", "77", *runs)
    assert "no readable photo" in fails("similar", "0100000005", *runs)


def test_mistakes_of_saved_lists(table: Path, tmp_path: Path) -> None:
    given: list[str | Path] = ["score-recommendations", "--out", tmp_path / "o", "--test", table]
    assert "there is no file" in fails(*given, "--recommendations", "gone.csv")
    lists = tmp_path / "lists.csv"
    lists.write_text("user_id,item_id,rank\nu1,a,1\n")
    assert "expected whole numbers" in fails(*given, "--recommendations", lists, "--k", "five")
    assert "unknown metric" in fails(*given, "--recommendations", lists, "--metrics", "bleu")
    assert not (tmp_path / "o").exists()
