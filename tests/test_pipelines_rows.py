"""Rows over any encoder: what they read, their parameters, and the table they make."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from scipy import sparse

from pipelines import InputError
from pipelines.cli import main
from pipelines.config import EncoderConfig, RecommendConfig
from pipelines.rows import (
    check_parameters,
    families,
    make_recommender,
    modalities,
    reads_text,
    vector_recommender,
)
from recsys.encoders import Embeddings

SMALL = [
    "--set=demo.articles=80", "--set=demo.customers=120", "--set=demo.purchases=1500",
    "--set=recommend.bootstrap=20", "--set=recommend.parameters.vbpr.epochs=2",
]  # fmt: skip


def fcr(home: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return CliRunner().invoke(main, ["recommend", *SMALL, *arguments])


def test_rows_over_encoders_make_a_table(tmp_path: Path) -> None:
    models = ["--model=vbpr", "--model=content-to-als", "--model=itemknn-vectors"]
    encoders = {
        "vbpr": "resnet+0.5*sbert|zscore",
        "content-to-als": "tfidf",
        "itemknn-vectors": "hog",
    }
    chosen = [f"--set=recommend.parameters.{row}.encoder={name}" for row, name in encoders.items()]
    done = fcr(tmp_path, *models, *chosen)
    assert done.exit_code == 0, done.output
    table = pl.read_csv(tmp_path / "runs" / "demo" / "recommend" / "metrics.csv")
    rows = dict(table.select("recommender", "signature").unique().iter_rows())
    assert sorted(rows) == sorted(encoders)
    assert "+0.5*sbert[" in rows["vbpr"]
    assert "|zscore,l2|float32" in rows["vbpr"]
    assert "encoder=tfidf|svd:" in rows["content-to-als"]
    assert "encoder=1*hog[" in rows["itemknn-vectors"]
    settings = dict(table.select("recommender", "setting").unique().iter_rows())
    assert settings == {"vbpr": "original", "content-to-als": "original", "itemknn-vectors": "-"}
    assert "articles have no vector and are never recommended by this row" in done.output
    again = fcr(tmp_path, *models, *chosen)
    assert "reused" in again.output


def test_what_an_encoder_reads() -> None:
    assert modalities("tfidf") == {"text"}
    assert modalities("resnet+2*clip-text") == {"text", "image"}
    assert modalities("hog") == {"image"}
    assert families("resnet+2*clip-text|pca", EncoderConfig()) == ["clip", "resnet"]
    assert families("tfidf", EncoderConfig()) == []
    assert families("blip2-queries", EncoderConfig()) == []
    photo = RecommendConfig(parameters={"vbpr": {"encoder": "resnet"}})
    assert not reads_text("vbpr", photo)
    assert reads_text("vbpr", RecommendConfig())  # ResNet and sentence encoder
    assert not reads_text("als", photo)
    blended = {"blend": {"parts": ["vbpr", "mostpop"]}}
    assert reads_text("blend", RecommendConfig(parameters=blended))
    assert not reads_text("blend", RecommendConfig(parameters={**blended, **photo.parameters}))


def test_parameters_of_a_row_over_vectors() -> None:
    config = RecommendConfig(
        models=("vbpr",), parameters={"vbpr": {"encoder": "resbert", "factors": 8}}
    )
    check_parameters(config)
    vectors = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    found = Embeddings(vectors, np.ones(6, bool), "known", (3, 2))
    row = vector_recommender("vbpr", found, config, 9)
    assert (row.factors, row.seed, row.parts, row.encoder) == (8, 9, (3, 2), "known")  # type: ignore[attr-defined]
    words = Embeddings(sparse.csr_matrix(np.maximum(vectors, 0)), np.ones(6, bool), "tfidf")
    assert "encoder=tfidf|svd:4" in vector_recommender("vbpr", words, config, 0).signature
    assert "encoder=tfidf," in vector_recommender("itemknn-vectors", words, config, 0).signature
    assert vector_recommender("sbert", found, config, 0).name == "content"
    for wrong, message in (
        ({"encoder": "glove"}, "unknown encoder 'glove'"),
        ({"encoder": "sbert|sharp"}, "unknown option 'sharp'"),
        ({"factor": 8}, r"recommend.parameters.vbpr has no parameter 'factor'; did you mean"),
        ({"vectors": 8}, "has no parameter 'vectors'"),
        ({"learning_rate": "fast"}, "recommend.parameters.vbpr.learning_rate is 'fast'"),
    ):
        with pytest.raises((InputError, ValueError), match=message):
            check_parameters(RecommendConfig(models=("vbpr",), parameters={"vbpr": wrong}))
    with pytest.raises(InputError, match="has no parameter 'encoder'"):
        check_parameters(
            RecommendConfig(models=("sbert",), parameters={"sbert": {"encoder": "clip"}})
        )
    assert make_recommender("als", config, 3).seed == 3  # type: ignore[attr-defined]
