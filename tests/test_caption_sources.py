"""H&M tables to caption sets, and photos of every kind to RGB."""

import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from caption import InputError
from caption.images import UnreadableImage, open_image, prepared_images
from caption.records import normalise_text
from caption.sources import coco_captions, hm_captions, split_hm


def articles(*rows: tuple[str, str, str, str | None]) -> pl.DataFrame:
    columns = ["article_id", "product_code", "product_type_name", "detail_desc"]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def photo(folder: Path, article_id: str) -> None:
    path = folder / article_id[:3] / f"{article_id}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 12), "red").save(path)


def test_articles_need_a_description_and_a_photo(tmp_path: Path) -> None:
    frame = articles(
        ("0200000002", "02", "Dress", "A  dress.\n"),
        ("0100000001", "01", "Shirt", "A shirt."),
        ("0100000003", "01", "Shirt", None),
        ("0100000004", "01", "Shirt", "No photo."),
    )
    for id in ("0200000002", "0100000001", "0100000003"):
        photo(tmp_path, id)
    found = hm_captions(frame, tmp_path)
    assert [(e.id, e.captions, e.category) for e in found.examples] == [
        ("0100000001", ("A shirt.",), "Shirt"),
        ("0200000002", ("A dress.",), "Dress"),
    ]
    found.save(tmp_path / "set.json")
    assert coco_captions(tmp_path / "set.json") == found
    with pytest.raises(InputError, match="detail_desc"):
        hm_captions(frame.drop("detail_desc"), tmp_path)
    with pytest.raises(InputError, match="3 have one"):
        hm_captions(frame, tmp_path / "nowhere")


def test_real_articles_do_not_leak(shared: Path) -> None:
    frame = pl.read_csv(shared / "hm-sample" / "articles.csv", infer_schema=False)
    frame = frame.filter(pl.col("article_id").str.slice(0, 3).is_in(["050", "055", "060", "065"]))
    found = hm_captions(frame, shared / "hm-sample" / "images")
    split = split_hm(found, frame, {"train": 0.7, "test": 0.3}, seed=3)
    assert len(split) == len(found) > 800
    codes = dict(frame.select("article_id", "product_code").iter_rows())
    sides = [split.by_split(s).examples for s in ("train", "test")]
    texts = [{normalise_text(e.captions[0]) for e in side} for side in sides]
    assert not texts[0] & texts[1]
    assert not {codes[e.id] for e in sides[0]} & {codes[e.id] for e in sides[1]}


def grey16() -> Image.Image:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    return Image.fromarray(ramp)


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half.save(tmp_path / "alpha.png")
    assert open_image(tmp_path / "alpha.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (4, 4), 99).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (99, 99, 99)
    Image.new("RGB", (4, 4), "blue").convert("P").save(tmp_path / "palette.png")
    assert open_image(tmp_path / "palette.png").getpixel((0, 0)) == (0, 0, 255)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert open_image(tmp_path / "cmyk.jpg").mode == "RGB"
    grey16().save(tmp_path / "deep.png")
    deep = np.asarray(open_image(tmp_path / "deep.png"))
    assert deep[0, 0, 0] == 0
    assert deep[-1, -1, 0] == 255
    assert abs(int(deep[16, 0, 0]) - 128) <= 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (20, 40)


def test_large_jpegs_are_decoded_smaller_but_large_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 8, 3), dtype=np.uint8))
    coarse.resize((800, 1200), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=90)
    small = open_image(tmp_path / "x.jpg", at_least=(96, 64))
    assert small.size == (200, 300)
    assert open_image(tmp_path / "x.jpg").size == (800, 1200)
    whole = open_image(tmp_path / "x.jpg").resize((64, 96), Image.Resampling.BICUBIC)
    drafted = small.resize((64, 96), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(whole, float) - np.asarray(drafted, float)).mean() < 2


def bomb() -> bytes:
    """The header of a PNG of 10^10 pixels: decoding it would take 30 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_unusable_photos_say_why(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cases = {
        "truncated.jpg": (good.read_bytes()[:2000], "truncated"),
        "text.jpg": (b"not a picture", "cannot identify"),
        "empty.jpg": (b"", "empty"),
        "bomb.png": (bomb(), "pixels"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=words) as error:
            open_image(tmp_path / name)
        assert name in str(error.value)
    for missing in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(UnreadableImage, match="no such file"):
            open_image(missing)


def test_photos_are_prepared_in_order_with_the_unreadable_in_their_place(tmp_path: Path) -> None:
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i}.png")
        if i != 7:
            Image.new("RGB", (2, 2), (i, i, i)).save(paths[-1])
    prepared = list(
        prepared_images(paths, lambda x: np.asarray(x)[0, 0, 0].item(), workers=3, ahead=4)
    )
    assert isinstance(prepared[7], UnreadableImage)
    assert [p for p in prepared if isinstance(p, int)] == [i for i in range(20) if i != 7]
