"""Pixels as a checkpoint's image processor makes them, without its overhead a photo."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def load_image_processor(folder: Path) -> Any:
    """The checkpoint's own image processor, computing with Pillow."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)


def picture_size(processor: Any) -> tuple[int, int]:
    """(height, width) of the pictures a processor makes; raises ValueError where it varies."""
    size = dict(processor.size)
    if getattr(processor, "do_center_crop", None) and processor.crop_size:
        size = dict(processor.crop_size)
    if not size.get("height") or not size.get("width"):
        raise ValueError(f"its image processor has no fixed picture size: {size}")
    return int(size["height"]), int(size["width"])


def pixels_of(image: "Image", processor: Any) -> NDArray[np.float32]:
    """An RGB picture -> (3, H, W): resized, cropped and normalised by the processor's settings."""
    from PIL.Image import Resampling

    p = processor
    if getattr(p, "do_pad", None):
        return _by_processor(image, p)  # pads before it resizes; rare
    image = image.convert("RGB")
    resample = Resampling(p.resample)
    size = dict(p.size) if p.do_resize else {}
    if size.get("height") and size.get("width"):
        image = image.resize((int(size["width"]), int(size["height"])), resample)
    elif {k for k, v in size.items() if v} == {"shortest_edge"}:
        edge, short = int(size["shortest_edge"]), min(image.size)
        width, height = (edge if x == short else int(edge * x / short) for x in image.size)
        image = image.resize((width, height), resample)
    elif size:
        return _by_processor(image, p)
    if getattr(p, "do_center_crop", None):
        height, width = int(p.crop_size["height"]), int(p.crop_size["width"])
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    scale = np.float32(p.rescale_factor if p.do_rescale else 1.0)
    mean: Any = np.float32(0)
    std: Any = np.float32(1)
    if p.do_normalize:
        mean = np.asarray(p.image_mean, dtype=np.float32)
        std = np.asarray(p.image_std, dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32) * (scale / std) - mean / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _by_processor(image: "Image", processor: Any) -> NDArray[np.float32]:
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    return np.ascontiguousarray(pixels, dtype=np.float32)
