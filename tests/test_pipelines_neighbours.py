"""Captioners that choose among training texts: never an article's own; in tables like others."""

from pathlib import Path

import polars as pl
import pytest

from caption.records import normalise_text
from caption.retrieval import RetrievalConfig
from pipelines.caption_items import caption_items
from pipelines.config import CaptionSplitConfig, Config, DemoConfig, ScoreConfig
from pipelines.neighbours import NEIGHBOURS
from pipelines.run import Run, open_run
from pipelines.score_captions import score_captions
from pipelines.train_captioner import known_parts

CONFIG = Config(
    demo=DemoConfig(articles=120, customers=20, purchases=200),
    captions=CaptionSplitConfig(validation=10, test=20),
    retrieval=RetrievalConfig(members=1, epochs=4, components=16, hidden=16, dim=8),
    score=ScoreConfig(
        metrics=("cider-d",), encoder="hog", baselines=("consensus", "retrieval"), bootstrap=50
    ),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def written(run: Run, label: str) -> dict[str, str]:
    frame = pl.read_parquet(caption_items(run, captioner=label))
    assert frame.columns == ["article_id", "caption", "captioner", "logprob"]
    assert set(frame["captioner"]) == {label}
    assert frame["logprob"].is_null().all() == (label != "retrieval")
    return dict(zip(frame["article_id"], frame["caption"], strict=True))


@pytest.mark.parametrize("label", NEIGHBOURS)
def test_no_training_article_is_given_its_own_text_or_its_products(runs: Path, label: str) -> None:
    with open_run(runs=runs, config=CONFIG, say=lambda _: None) as run:
        captions = written(run, label)
        catalog = run.catalog(purchases=False)
        parts = known_parts(run, catalog)
    code = dict(catalog.articles.select("article_id", "product_code").iter_rows())
    train = parts.by_split("train").examples
    assert set(captions) >= {e.id for e in train}
    texts = {normalise_text(e.captions[0]) for e in train}
    of_product: dict[str, set[str]] = {}
    for e in train:
        of_product.setdefault(code[e.id], set()).add(normalise_text(e.captions[0]))
    assert any(len([e for e in train if code[e.id] == c]) > 1 for c in of_product)
    for e in train:
        own = normalise_text(captions[e.id])
        assert own in texts
        assert own not in of_product[code[e.id]]


def test_a_baseline_says_what_the_captioner_of_its_name_says(runs: Path) -> None:
    with open_run(runs=runs, config=CONFIG, say=lambda _: None) as run:
        alone = {label: written(run, label) for label in ("retrieval", "consensus")}
        scores = pl.read_csv(score_captions(run))
        both = pl.read_parquet(run.folder / "score-captions" / "captions.parquet")
    # The captioner that wrote last, the checkpoint it is compared with, and the other baseline.
    assert sorted(scores["captioner"]) == ["consensus", "pretrained", "retrieval"]
    for label, captions in alone.items():
        own = both.filter(pl.col("captioner") == label)
        assert own.height == 20
        assert all(captions[i] == text for i, text in own.select("article_id", "caption").rows())
