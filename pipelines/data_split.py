"""How a caption set is cut into parts: without leaks, as its publisher did, at random, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caption.records import CaptionExample, CaptionSet, component_split
from caption.sources import Source, same_photos, split_leak_free
from pipelines import InputError

EIGHTY_TEN_TEN = {"train": 0.8, "validation": 0.1, "test": 0.1}
POLICIES = ("leak-free", "given", "random", "in-order")

Sizes = Mapping[str, float | int]
"""Part -> count (int), share (float) or -1, the rest."""


@dataclass(frozen=True)
class Protocol:
    """How a set is cut into parts."""

    split: str
    """leak-free: no product, text or photo on two sides; given: the publisher's parts; random: by
    example; in-order: train first, then test, then validation."""
    sizes: Sizes | None = None
    """Part -> count or share; None: all of what is given, else 80/10/10."""


def parse_size(text: str) -> Sizes | int:
    """`1000`, or `train=10000,validation=1000,test=0.1`.

    Raises:
        InputError: anything else.
    """
    try:
        if "=" not in text:
            total = int(text)
            if total < 1:
                raise ValueError
            return total
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): _number(value.strip()) for name, value in pairs}
    except ValueError:
        raise InputError(
            f"--size {text!r}: expected a number of examples, or parts like "
            "train=10000,validation=1000,test=2000 (counts, shares such as 0.1, one -1 for the "
            "rest)"
        ) from None


def cut(source: Source, protocol: Protocol, total: int | None, seed: int) -> CaptionSet:
    """The source's examples with the protocol's parts; those that fit none are left out.

    total: draw so many examples altogether, in the protocol's proportions.

    Raises:
        InputError: the parts don't fit the examples, or none are given.
    """
    captions = source.captions
    n = len(captions)
    if total is not None and total > n:
        raise InputError(f"--size {total}: the set has only {n:,} examples")
    if protocol.split == "given":
        return _given(captions, protocol.sizes, total, seed)
    sizes = protocol.sizes or EIGHTY_TEN_TEN
    if total is not None:
        sizes = scaled(total, sizes)
    if protocol.split == "leak-free":
        photos = same_photos(captions)
        groups = {
            e.id: [*source.groups.get(e.id, ()), *([photos[e.id]] if e.id in photos else [])]
            for e in captions.examples
        }
        cut_set = split_leak_free(captions, groups, sizes, seed)
    elif protocol.split == "random":
        cut_set = captions.with_splits(component_split([[]] * n, sizes, seed))
    else:
        counts = scaled(total or n, sizes)
        order = [p for p in ("train", "test", "validation") for _ in range(counts.get(p, 0))]
        cut_set = captions.with_splits([*order, *[""] * (n - len(order))])
    return CaptionSet(captions.name, tuple(e for e in cut_set.examples if e.split))


def scaled(total: int, weights: Sizes) -> dict[str, int]:
    """`total` dealt in proportion to the weights; what rounding leaves goes to the largest."""
    whole = sum(weights.values())
    counts = {part: int(total * weight / whole) for part, weight in weights.items()}
    largest = max(counts, key=lambda part: counts[part])
    counts[largest] += total - sum(counts.values())
    return counts


def _given(captions: CaptionSet, sizes: Sizes | None, total: int | None, seed: int) -> CaptionSet:
    by_part: dict[str, list[CaptionExample]] = {}
    for e in captions.examples:
        if e.split:
            by_part.setdefault(e.split, []).append(e)
    if not by_part:
        raise InputError(
            f"{captions.name}: the files name no parts: get the publisher's split files, or use "
            "--split leak-free"
        )
    if sizes is None and total is None:
        return CaptionSet(captions.name, tuple(e for part in by_part.values() for e in part))
    have = {part: len(examples) for part, examples in by_part.items()}
    wanted = scaled(min(total, sum(have.values())), have) if total else sizes
    assert wanted is not None
    chosen: list[CaptionExample] = []
    for part, size in wanted.items():
        if part not in by_part:
            raise InputError(f"--size: the files name no part {part!r}; they name {sorted(have)}")
        if size > have[part]:
            raise InputError(f"part {part!r} has {have[part]:,} examples, {size:,} were asked for")
        drawn = component_split([[]] * have[part], {part: size}, seed)
        chosen += [e for e, s in zip(by_part[part], drawn, strict=True) if s]
    return CaptionSet(captions.name, tuple(chosen))


def _number(value: str) -> float | int:
    return float(value) if "." in value else int(value)
