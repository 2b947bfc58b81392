"""The drawn catalogue: same bytes for a seed, H&M's layout, believable shares, words and photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipelines import InputError
from pipelines.drawing import (
    COLD_DAYS,
    WINDOW_DAYS,
    describe,
    draw_articles,
    draw_photo,
    web_caption,
    write_catalogue,
)
from pipelines.wording import COLOURS, GARMENTS, PATTERNS

COLUMNS = [
    "article_id",
    "product_code",
    "prod_name",
    "product_type_no",
    "product_type_name",
    "product_group_name",
    "graphical_appearance_no",
    "graphical_appearance_name",
    "colour_group_code",
    "colour_group_name",
    "perceived_colour_value_id",
    "perceived_colour_value_name",
    "perceived_colour_master_id",
    "perceived_colour_master_name",
    "department_no",
    "department_name",
    "index_code",
    "index_name",
    "index_group_no",
    "index_group_name",
    "section_no",
    "section_name",
    "garment_group_no",
    "garment_group_name",
    "detail_desc",
]
CODED = (
    ("product_type_no", "product_type_name", "product_group_name"),
    ("graphical_appearance_no", "graphical_appearance_name"),
    ("colour_group_code", "colour_group_name"),
    ("perceived_colour_value_id", "perceived_colour_value_name"),
    ("perceived_colour_master_id", "perceived_colour_master_name"),
    ("department_no", "department_name"),
    ("index_code", "index_name", "index_group_no", "index_group_name"),
    ("section_no", "section_name"),
    ("garment_group_no", "garment_group_name"),
)


@pytest.fixture(scope="module")
def drawn():
    return draw_articles(3000, seed=7)


def row_of(kind: str, **changes: object) -> dict[str, object]:
    """A plain trait row of a type, its traits the first that the type allows."""
    garment = GARMENTS[kind]
    row = {
        "article_id": "0123456001", "product_code": "123456", "garment_type": kind,
        "colour": "Dark Blue", "pattern": "solid", "length": garment.lengths[0],
        "neckline": garment.necklines[0], "sleeve": garment.sleeves[0], "details": "",
        "fabric": garment.fabrics[0], "fit": "regular", "occasion": "everyday",
        "season": "summer", "quality": 0.5, "style": "classic", "price": 0.02,
    }  # fmt: skip
    return row | changes


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def silhouette(photo: Image.Image) -> np.ndarray:
    """Pixels clearly off the background, whose colour the top row tells."""
    pixels = np.asarray(photo, np.float32)
    return np.abs(pixels - np.median(pixels[:3], axis=(0, 1))).max(axis=2) > 45


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_articles_have_hm_columns_and_valid_ids(drawn):
    articles, traits = drawn.articles, drawn.traits
    assert articles.columns == COLUMNS
    assert articles.height == traits.height == 3000
    assert articles["article_id"].n_unique() == 3000
    assert articles["article_id"].str.contains(r"^0[1-9]\d{8}$").all()
    assert (articles["article_id"].str.slice(1, 6) == articles["product_code"]).all()
    assert articles["article_id"].equals(traits["article_id"])
    assert (articles["product_type_name"] == traits["garment_type"]).all()
    assert (articles["colour_group_name"] == traits["colour"]).all()
    assert articles.drop("detail_desc").null_count().sum_horizontal().item() == 0
    assert traits.null_count().sum_horizontal().item() == 0


def test_every_code_means_one_name(drawn):
    for code, *names in CODED:
        pairs = drawn.articles.select(code, *names).unique()
        assert pairs[code].n_unique() == pairs.height, code


def test_category_values_are_those_of_real_hm(drawn, shared):
    real = pl.read_csv(shared / "hm-sample" / "articles.csv", infer_schema_length=0)
    for columns in CODED:
        ours = drawn.articles.select(pl.col(columns).cast(pl.String)).unique()
        unknown = ours.join(real.select(columns).unique(), on=columns, how="anti")
        assert unknown.height == 0, unknown.to_dicts()


def test_shares_of_a_catalogue(drawn):
    traits = drawn.traits
    per_product = traits.group_by("product_code").len()["len"]
    assert 1.7 < per_product.mean() < 2.6
    assert 0.16 < 1 - traits["has_description"].mean() < 0.24
    assert 0.003 < 1 - traits["has_image"].mean() < 0.02
    assert traits["arrival"].is_between(0, WINDOW_DAYS - 1).all()
    assert 0.05 < (traits["arrival"] >= WINDOW_DAYS - COLD_DAYS).mean() < 0.20
    assert 0.2 < (traits["arrival"] == 0).mean() < 0.45
    assert traits["price"].is_between(0.005, 0.2).all()
    assert traits["quality"].is_between(0, 1).all()
    assert set(traits["garment_type"]) == set(GARMENTS)
    assert len(GARMENTS) >= 13
    assert set(traits["colour"]) == set(COLOURS)
    assert len(COLOURS) == 18
    assert set(traits["pattern"]) == set(PATTERNS)
    assert len(PATTERNS) >= 8


def test_variants_share_one_text_and_differ_in_colour(drawn):
    products = drawn.articles.group_by("product_code").agg(
        pl.len(),
        pl.col("detail_desc").n_unique().alias("texts"),
        pl.col("colour_group_name").n_unique().alias("colours"),
        pl.col("graphical_appearance_name").n_unique().alias("patterns"),
        pl.col("detail_desc").first(),
    )
    assert (products["texts"] == 1).all()
    assert (products["patterns"] == 1).all()
    assert (products["colours"] == products["len"]).all()
    described = products.drop_nulls("detail_desc")
    assert described["detail_desc"].n_unique() > 0.97 * described.height
    words = {word for colour in COLOURS.values() for word in colour[6]}
    named = pl.col("detail_desc").map_elements(
        lambda text: any(f" {word} " in f" {text.lower()} " for word in words),
        return_dtype=pl.Boolean,
    )
    shares = described.group_by(pl.col("len") == 1).agg(named.mean().alias("share"))
    share = dict(shares.iter_rows())
    assert 0.2 < share[True] < 0.45
    assert share[False] == 0


def test_first_articles_do_not_depend_on_n(drawn):
    few = draw_articles(150, seed=7)
    assert few.articles.equals(drawn.articles.head(150))
    assert few.traits.equals(drawn.traits.head(150))
    assert not few.articles.equals(draw_articles(150, seed=8).articles)


@pytest.mark.parametrize(("n", "seed"), [(0, 1), (200_001, 1), (10, -1)])
def test_impossible_catalogues_are_refused(n, seed):
    with pytest.raises(InputError, match="expected"):
        draw_articles(n, seed)


def test_files_are_the_same_for_any_number_of_workers(tmp_path):
    seen: list[tuple[int, int]] = []
    drawn = write_catalogue(
        tmp_path / "a", 90, 3, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    write_catalogue(tmp_path / "b", 90, 3, workers=1, progress=None)
    one, two = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one == two
    pictured = drawn.traits.filter("has_image")["article_id"].to_list()
    assert {name for name in one if name.endswith(".jpg")} == {
        f"images/{article_id[:3]}/{article_id}.jpg" for article_id in pictured
    }
    assert seen == [(done, len(pictured)) for done in range(len(pictured) + 1)]
    sizes = [len(data) for name, data in one.items() if name.endswith(".jpg")]
    assert 3000 < np.mean(sizes) < 6000
    back = pl.read_csv(tmp_path / "a" / "articles.csv", schema=drawn.articles.schema)
    assert back.equals(drawn.articles)


def test_a_half_written_folder_is_finished(tmp_path):
    folder = tmp_path / "catalogue"
    write_catalogue(folder, 40, 5, workers=1, progress=None)
    whole = contents(folder)
    photos = sorted(folder.rglob("*.jpg"))
    for lost in photos[10:]:
        lost.unlink()
    (folder / "articles.csv").unlink()
    (photos[0].parent / f".{photos[0].stem}.99").write_bytes(b"half a photo")
    for kept in photos[:10]:
        os.utime(kept, (1, 1))
    seen: list[tuple[int, int]] = []
    write_catalogue(folder, 40, 5, workers=1, progress=lambda *at: seen.append(at))
    assert contents(folder) == whole
    assert seen[0] == (10, len(photos))
    assert all(kept.stat().st_mtime == 1 for kept in photos[:10])


def test_another_seed_replaces_and_foreign_catalogues_are_left_alone(tmp_path):
    ours, fresh, foreign = (tmp_path / name for name in ("ours", "fresh", "foreign"))
    write_catalogue(ours, 12, 1, workers=1, progress=None)
    write_catalogue(ours, 12, 2, workers=1, progress=None)
    write_catalogue(fresh, 12, 2, workers=1, progress=None)
    assert contents(ours) == contents(fresh)
    foreign.mkdir()
    (foreign / "articles.csv").write_text("article_id\n")
    with pytest.raises(InputError, match="choose another folder"):
        write_catalogue(foreign, 12, 2, workers=1, progress=None)
    assert contents(foreign) == {"articles.csv": b"article_id\n"}


@pytest.mark.parametrize("kind", GARMENTS)
def test_a_photo_shows_the_visible_traits_only(kind):
    row = row_of(kind)
    photo = draw_photo(row, 1)
    assert photo.mode == "RGB"
    assert photo.size == (128, 192)
    assert photo.tobytes() == draw_photo(row, 1).tobytes()
    assert photo.tobytes() != draw_photo(row, 2).tobytes()
    hidden = {"fabric": GARMENTS[kind].fabrics[1], "occasion": "party", "season": "winter",
              "quality": 0.9, "style": "street", "price": 0.1, "product_code": "9"}  # fmt: skip
    assert photo.tobytes() == draw_photo(row | hidden, 1).tobytes()
    shape = silhouette(photo)
    assert 0.08 < shape.mean() < 0.60
    assert not shape[:2].any()
    assert not shape[-2:].any()
    red = draw_photo(row | {"colour": "Red"}, 1)
    assert overlap(shape, silhouette(red)) > 0.85
    blue, other = (np.asarray(p, np.float32)[shape].mean(axis=0) for p in (photo, red))
    assert blue[2] > blue[0]
    assert other[0] > 2 * other[2]
    for detail in GARMENTS[kind].details:
        assert np.isfinite(np.asarray(draw_photo(row | {"details": detail}, 1))).all()


def test_every_pattern_length_neckline_and_sleeve_changes_the_photo():
    for kind, garment in GARMENTS.items():
        for trait, values in (
            ("pattern", garment.patterns), ("length", garment.lengths),
            ("neckline", garment.necklines), ("sleeve", garment.sleeves),
        ):  # fmt: skip
            photos = {draw_photo(row_of(kind, **{trait: value}), 4).tobytes() for value in values}
            assert len(photos) == len(values), (kind, trait)


def test_types_have_different_outlines():
    kinds = ("T-shirt", "Trousers", "Dress", "Bag", "Sneakers", "Boots", "Hat/beanie", "Scarf")
    shapes = [silhouette(draw_photo(row_of(kind), 1)) for kind in kinds]
    for i, first in enumerate(shapes):
        for second in shapes[:i]:
            assert overlap(first, second) < 0.75


def test_photos_come_in_any_size():
    row = row_of("Dress")
    large = draw_photo(row, 1, size=(256, 384))
    assert large.size == (256, 384)
    small = silhouette(draw_photo(row, 1))
    again = silhouette(large.resize((128, 192), Image.Resampling.BOX))
    assert overlap(small, again) > 0.85


def test_descriptions_keep_their_length_and_hardly_repeat(drawn):
    rng = np.random.default_rng(0)
    for row in drawn.traits.head(300).iter_rows(named=True):
        text = describe(row, rng)
        assert 8 <= len(text.split()) <= 30, text
        assert text[0].isupper() or text.startswith("7/8"), text
        assert text.endswith("."), text
        assert "  " not in text
        nouns = GARMENTS[row["garment_type"]].nouns
        assert any(noun.lower() in text.lower() for noun in nouns), text
    row = row_of("Dress", pattern="floral", details="tie belt, flounce")
    texts = [describe(row, rng) for _ in range(200)]
    assert len(set(texts)) > 190
    assert describe(row, np.random.default_rng(3)) == describe(row, np.random.default_rng(3))
    # what a photo cannot show stands in some texts, not in all
    fabric = np.mean([row["fabric"] in text for text in texts])
    assert 0.5 < fabric < 0.98
    assert 0.03 < np.mean(["beach" in t or "sunny" in t for t in [
        describe(row | {"occasion": "holiday"}, rng) for _ in range(200)]]) < 0.4  # fmt: skip


def test_two_writers_agree_as_little_as_people_do(drawn):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    rng = np.random.default_rng(1)
    rows = drawn.traits.unique("product_code", keep="first", maintain_order=True).head(500)

    def plain(text: str) -> list[str]:
        return [text.lower().replace(",", "").replace(".", "")]

    pairs = [(plain(describe(r, rng)), plain(describe(r, rng))) for r in rows.to_dicts()]
    references = {i: pair[0] for i, pair in enumerate(pairs)}
    hypotheses = {i: pair[1] for i, pair in enumerate(pairs)}
    scores, _ = bleu.Bleu(4).compute_score(references, hypotheses, verbose=0)
    assert 0.10 < scores[3] < 0.35


def test_web_captions_name_colour_and_type_in_another_style(drawn):
    rng = np.random.default_rng(0)
    for row in drawn.traits.head(300).iter_rows(named=True):
        text = web_caption(row, rng)
        assert text == text.lower()
        assert not text.endswith(".")
        assert any(noun in text for noun in GARMENTS[row["garment_type"]].alt), text
        assert any(word in text for word in COLOURS[row["colour"]][6]), text
        assert row["fabric"] not in text
