"""Figures published for the settings of `configs/thesis-published.yaml`, and when ours compare.

Source: "Comparative analysis of fashion captioning and multimodal fashion recommendation" (master
thesis), the tables of recommendation on H&M. Its MAP is Elliot's (mean of the precision at 1..k).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = ("ndcg@5", "ndcg@12", "map_elliot@5", "map_elliot@12")
ARTICLES, PURCHASES = 105_542, 31_788_324
"""Rows of H&M's own tables."""

# row -> METRICS on the original articles, and on those with 404 descriptions added.
FIGURES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "random": ((0.00005, 0.00007, 0.00005, 0.00004), (0.00006, 0.00008, 0.00005, 0.00005)),
    "mostpop": ((0.00538, 0.00640, 0.00439, 0.00373), (0.00534, 0.00634, 0.00437, 0.00371)),
    "userknn": ((0.01198, 0.01355, 0.00558, 0.00379), (0.01214, 0.01370, 0.00564, 0.00384)),
    "itemknn": ((0.05760, 0.06421, 0.03557, 0.02534), (0.05762, 0.06423, 0.03560, 0.02537)),
    "vbpr resnet": ((0.02414, 0.02882, 0.01213, 0.00917), (0.02414, 0.02881, 0.01220, 0.00921)),
    "vbpr blip2-vision": (
        (0.02167, 0.02631, 0.01092, 0.00840),
        (0.02141, 0.02606, 0.01080, 0.00834),
    ),
    "vbpr sbert": ((0.02509, 0.02986, 0.01270, 0.00955), (0.02471, 0.02950, 0.01246, 0.00924)),
    "vbpr resbert": ((0.02427, 0.02892, 0.01220, 0.00922), (0.02425, 0.02887, 0.01226, 0.00923)),
    "vbpr clip": ((0.02455, 0.02917, 0.01241, 0.00934), (0.02466, 0.02925, 0.01254, 0.00943)),
    "vbpr blip2-queries": (
        (0.02451, 0.02912, 0.01247, 0.00939),
        (0.02465, 0.02914, 0.01240, 0.00933),
    ),
}
"""Row as it is called here -> published figures under `original` and under `fill`."""


def published(row: str, setting: str, metric: str) -> float | None:
    """The published figure of a row, None where there is none. A row that reads no text has one for
    each data set; the one of the original articles is given."""
    if row not in FIGURES or metric not in METRICS or setting not in ("original", "fill", "-"):
        return None
    return FIGURES[row][setting == "fill"][METRICS.index(metric)]


def same_data(articles: int, purchases: int) -> bool:
    """Whether a run was given the tables the figures were computed from: H&M's, whole."""
    return (articles, purchases) == (ARTICLES, PURCHASES)


def is_thesis(manifest: Mapping[str, Any]) -> bool:
    """Whether an experiment follows the thesis' protocol, so that its figures may stand beside."""
    recommend = manifest["config"]["recommend"]
    experiment = manifest["config"]["experiment"]
    return (
        recommend["split"]["method"] == "user-ratio"
        and "map_elliot" in experiment["metrics"]
        and experiment["earliest"] > 0
    )
