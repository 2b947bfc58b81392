"""Zero-shot classification: CLIP names what a photo shows by which sentence fits it best.

A class becomes a sentence through a template ("a photo of a {}"), a photo gets the class whose
sentence has the highest cosine (Radford et al. 2021). Accuracy depends on the template, so every
one is reported, and the ensemble of all: the mean of a class's unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.audit import wilson
from caption.metrics.clipscore import Clip

TEMPLATES: dict[str, tuple[str, ...]] = {
    "product_type_name": ("{}", "a photo of a {}", "A photo depicts a {}", "a {} for sale"),
    "colour_group_name": ("{}", "a photo of a {} garment", "something in {}", "{} clothes"),
    "graphical_appearance_name": (
        "{}",
        "a photo of a garment with {} pattern",
        "clothes in {} fabric",
    ),
}
"""Column of the article table -> templates; `{}` takes the value in small letters."""
ENSEMBLE = "all of them"


@dataclass(frozen=True)
class Accuracy:
    """How often one template names the right class."""

    template: str
    value: float
    low: float
    """95 % Wilson interval."""
    high: float
    right: int
    n: int


@dataclass(frozen=True)
class ZeroShot:
    """What one set of classes gave."""

    classes: tuple[str, ...]
    accuracies: tuple[Accuracy, ...]
    """One a template, then the ensemble."""
    commonest: Accuracy
    """Of always naming the commonest class."""
    predicted: NDArray[np.int64]
    """(n,) class of each photo by the ensemble."""


def zero_shot(
    clip: Clip, photos: NDArray[np.float32], labels: Sequence[str], templates: Sequence[str]
) -> ZeroShot:
    """Classify photos among the labels that occur.

    photos: (n, dim) unit vectors of `clip.images`, without NaN. labels: (n,) what each shows.
    templates: sentences with one `{}`.

    Raises InputError: no photos, other numbers of labels, fewer than two classes, a template
    without `{}`.
    """
    if not len(photos) or len(photos) != len(labels):
        raise InputError(
            f"{len(photos)} photos with {len(labels)} labels: expected one each, at least one"
        )
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise InputError(f"template {wrong[:1]}: expected sentences with one {{}} for the class")
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise InputError(f"all photos are labelled {classes[0]!r}: there is nothing to tell apart")
    number = {name: i for i, name in enumerate(classes)}
    truth = np.array([number[label] for label in labels])
    vectors = [
        clip.texts([template.format(_said(name)) for name in classes]) for template in templates
    ]
    mean = np.mean(vectors, axis=0)
    both = [*vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True)]
    chosen = [(photos @ texts.T).argmax(1) for texts in both]
    found = [
        _accuracy(name, int((guess == truth).sum()), len(truth))
        for name, guess in zip((*templates, ENSEMBLE), chosen, strict=True)
    ]
    counts = np.bincount(truth)
    top = int(counts.argmax())
    common = _accuracy(f"always {classes[top]}", int(counts[top]), len(truth))
    return ZeroShot(classes, tuple(found), common, chosen[-1])


def _accuracy(template: str, right: int, n: int) -> Accuracy:
    low, high = wilson(right, n)
    return Accuracy(template, right / n, low, high, right, n)


def _said(name: str) -> str:
    """A class as a sentence has it: "Jumpsuit/Playsuit" -> "jumpsuit or playsuit"."""
    return name.lower().replace("/", " or ")
