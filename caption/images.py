"""The one door to photos: open a file as an RGB picture, or say in one sentence why not."""

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps

from caption import InputError

MAX_PIXELS = 89_478_485
"""Pictures with more pixels are refused before they are decoded (Pillow's own bomb limit)."""

_HEADERS = threading.Lock()
"""`warnings.catch_warnings` is not thread-safe; reading a header takes microseconds."""


class UnreadableImage(InputError):
    """A photo that cannot be used; `path` and `reason` say which and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"photo {path}: {reason}")
        self.path = path
        self.reason = reason


def open_image(path: Path, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode a photo as it should be seen: 8-bit RGB, upright by its EXIF tag.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is laid on white.

    at_least: (height, width) in pixels that the caller will resize to. A JPEG more than 1.5 times
        as large in both directions is decoded at 1/2, 1/4 or 1/8, which saves most of its time.
    Raises UnreadableImage: missing, not a picture, truncated, or above MAX_PIXELS.
    """
    if not path.is_file():
        raise UnreadableImage(path, "no such file")
    try:
        file = os.fspath(path)  # copies a photo of a store, whose failure is not the photo's
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if at_least is not None and image.format == "JPEG":
                # Turned by a quarter or not, both sides have to stay large enough.
                side = int(1.5 * max(at_least))
                image.draft(None, (side, side))
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(path, f"more than {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise about everything
        kind = "empty file" if path.stat().st_size == 0 else str(error) or type(error).__name__
        raise UnreadableImage(path, kind.replace(str(path), path.name)) from error


T = TypeVar("T")


def prepared_images(
    paths: Sequence[Path],
    prepare: Callable[[Image.Image], T],
    *,
    at_least: tuple[int, int] | None = None,
    workers: int = 2,
    ahead: int = 256,
) -> Generator[T | UnreadableImage, None, None]:
    """`prepare(open_image(p))` for every path, in order, or the reason why not.

    Threads work at most `ahead` photos ahead: Pillow decodes and resizes outside the GIL.
    """

    def one(path: Path) -> T | UnreadableImage:
        try:
            return prepare(open_image(path, at_least=at_least))
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor(max_workers=workers) as pool:
        pending: deque[Future[T | UnreadableImage]] = deque()
        try:
            for path in paths:
                pending.append(pool.submit(one, path))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow clips these to 255 when it converts; a 16-bit picture has to be scaled down.
        scale = 1.0 if image.mode == "F" else 1 / 257
        return image.convert("F").point(lambda value: value * scale).convert("L").convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
