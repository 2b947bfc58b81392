"""What a reward does not measure of captions, watched while a captioner learns from it.

A captioner that is paid for attributes may learn to list them, to repeat itself or to say the same
of every photo. Each point of a run's history holds length, repetition and variety beside rewards.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from caption.records import write_atomically


@dataclass(frozen=True)
class MonitorConfig:
    """Bounds within which captions of the validation photos have to stay, against the start's."""

    action: Literal["stop", "warn"] = "stop"
    """What crossing a bound does; either way the weights of such a point are not kept."""
    shortest: float = 0.6
    """Mean length in words, as a share of the start's."""
    longest: float = 1.6
    """Mean length in words, as a share of the start's."""
    repetition: float = 0.05
    """Rise of the share of a caption's word pairs that it has said before."""
    distinct: float = 0.5
    """Different captions, as a share of the start's."""
    clipscore: float = 0.9
    """CLIPScore, as a share of the start's; watched where there is a CLIP to ask."""


class Point(NamedTuple):
    """One look at captions: the drawn ones since the last point, or greedy ones of validation."""

    step: int
    split: str
    """"train" (drawn) or "validation" (greedy)."""
    reward: float
    """Mean weighted sum."""
    baseline: float | None
    """Mean of what rewards were compared with."""
    loss: float | None
    """Mean cross-entropy on human captions, nats a token; None where none was computed."""
    parts: dict[str, float]
    """Mean of each reward by itself; with "clipscore" where there is a CLIP to ask."""
    length: float
    """Words a caption."""
    repetition: float
    """Share of a caption's word pairs that it has said before."""
    distinct: float
    """Different captions over captions."""


def alarm(now: Point, start: Point, config: MonitorConfig) -> str | None:
    """Which bound validation captions have crossed since the start, in one sentence; or None."""
    long = now.length / max(start.length, 1e-9)
    if not config.shortest <= long <= config.longest:
        return (
            f"captions have {now.length:.1f} words, {start.length:.1f} at the start (bounds "
            f"{config.shortest:g} to {config.longest:g} times that)"
        )
    if now.repetition > start.repetition + config.repetition:
        return (
            f"captions repeat {now.repetition:.1%} of their word pairs, {start.repetition:.1%} at "
            f"the start (bound {config.repetition:+.1%})"
        )
    if now.distinct < start.distinct * config.distinct:
        return (
            f"{now.distinct:.1%} of the captions differ, {start.distinct:.1%} at the start (bound "
            f"{config.distinct:g} times that)"
        )
    seen, before = now.parts.get("clipscore"), start.parts.get("clipscore")
    if seen is not None and before is not None and seen < before * config.clipscore:
        return (
            f"CLIPScore fell to {seen:.3f} from {before:.3f} at the start (bound "
            f"{config.clipscore:g} times that)"
        )
    return None


def repetition(text: str) -> float:
    """Share of a text's word pairs that stand in it before; 0 of a text without a pair."""
    words = text.lower().split()
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def looks(texts: Sequence[str]) -> tuple[float, float, float]:
    """Mean words, mean repetition, share of different texts."""
    length = sum(len(text.split()) for text in texts) / len(texts)
    repeated = sum(map(repetition, texts)) / len(texts)
    return length, repeated, len(set(texts)) / len(texts)


def mean_point(points: Sequence[Point], step: int) -> Point:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known else None

    names = points[0].parts
    return Point(
        step,
        "train",
        float(np.mean([p.reward for p in points])),
        mean([p.baseline for p in points]),
        mean([p.loss for p in points]),
        {name: float(np.mean([p.parts[name] for p in points])) for name in names},
        *np.mean([[p.length, p.repetition, p.distinct] for p in points], axis=0).tolist(),
    )


def write_history(path: Path, history: Sequence[Point]) -> None:
    """One row a point; a column a reward, named `reward:als`."""
    names = sorted({name for point in history for name in point.parts})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = [f for f in Point._fields if f != "parts"]
    writer.writerow([*plain, *(f"reward:{name}" for name in names)])
    for point in history:
        row = point._asdict()
        writer.writerow([*(row[f] for f in plain), *(point.parts.get(n) for n in names)])
    write_atomically(path, text.getvalue().encode())
