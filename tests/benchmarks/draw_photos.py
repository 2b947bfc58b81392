"""Small photos for the articles of a drawn catalogue, so that rows of photos have something to do.

    python tests/benchmarks/draw_photos.py FOLDER

Every photo is a different patch of smooth noise: enough to measure what encoding and searching
105,542 photos costs, and nothing else.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines.catalog import image_path  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    ids = pl.read_csv(folder / "articles.csv", columns=["article_id"], infer_schema=False)
    paths = [image_path(folder, id) for id in ids["article_id"]]
    for place in sorted({path.parent for path in paths}):
        place.mkdir(parents=True, exist_ok=True)

    def draw(number: int) -> None:
        noise = np.random.default_rng(number).integers(0, 256, (6, 4, 3), dtype=np.uint8)
        photo = Image.fromarray(noise).resize((64, 96), Image.Resampling.BICUBIC)
        photo.save(paths[number], quality=85)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(draw, range(len(paths)), chunksize=1000))
    print(f"{len(paths):,} photos in {folder / 'images'}")


if __name__ == "__main__":
    main()
