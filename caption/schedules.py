"""How the learning rate runs over the updates of a training run."""

import math
from typing import Literal

Schedule = Literal["cosine", "annealing", "published", "linear", "constant"]


def learning_rate(
    step: int,
    *,
    schedule: Schedule,
    steps: int,
    peak: float,
    floor: float,
    warmup: float,
    period: int,
) -> float:
    """Rate of update `step` (0-based).

    Every schedule climbs linearly from 0 during its warm-up: a share of all `steps`, or that many
    updates where `warmup` is above 1. Then

    "cosine": half a cosine from `peak` to `floor` over what is left (arXiv 1608.03983, no restart).
    "annealing": half a cosine over `period` updates; `floor` from there on.
    "published": the same without an end: torch's CosineAnnealingLR, whose rate climbs back to the
        peak once `T_max = period` is over. Published fashion captioners were trained by it.
    "linear": a straight line from `peak` to `floor`.
    "constant": `peak`.
    """
    warm = warmup_steps(warmup, steps)
    if step < warm:
        return peak * (step + 1) / warm
    after = step - warm
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak + (floor - peak) * min(1.0, after / max(1, steps - warm))
    turn = after / max(1, steps - warm if schedule == "cosine" else period)
    if schedule != "published":
        turn = min(1.0, turn)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * turn))


def warmup_steps(warmup: float, steps: int) -> int:
    """Updates of the warm-up: a share of `steps`, or a number of them where it is above 1."""
    return round(warmup if warmup > 1 else warmup * steps)
