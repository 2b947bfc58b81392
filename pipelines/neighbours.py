"""Captioners that choose among the training part's texts: copy-nearest, consensus, retrieval."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.catalog import Catalog, fingerprints
from pipelines.rows import embed
from pipelines.run import Run, checkpoint, checkpoint_hash

if TYPE_CHECKING:
    from caption.records import CaptionSet
    from caption.retrieval import Retriever

RETRIEVAL = "retrieval"
NEIGHBOURS = ("copy-nearest", "consensus", RETRIEVAL)
STAGE = "train-retrieval"


@dataclass(frozen=True)
class Written:
    """Captions by article, and why others have none."""

    captions: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    """article_id -> text and its log-probability; None where the captioner knows none."""
    skipped: dict[str, str] = field(default_factory=dict)


def write(
    run: Run,
    label: str,
    items: Sequence[tuple[str, Path]],
    parts: CaptionSet,
    catalog: Catalog,
) -> Written:
    """Captions of `items` (article_id, photo) by a name of NEIGHBOURS, from the training part.

    An article of the training part is given no text of its own connected component over
    product_code and normalised description: neither its own nor its product's.

    Raises:
        InputError: fewer than two readable training photos, an encoder that can't be loaded.
    """
    train = parts.by_split("train").examples
    known, vectors = _embedded(run, [(e.id, e.image) for e in train])
    texts = [train[row].captions[0] for row in known]
    readable, asked = _embedded(run, items)
    skipped = "its photo can't be read"
    found = Written(
        skipped={items[row][0]: skipped for row in set(range(len(items))) - {*readable}}
    )
    if not len(readable):
        return found
    queries = [items[row] for row in readable]
    ids = [id for id, _ in queries]
    own = _own(parts, catalog, [train[row].id for row in known], ids)
    if label == RETRIEVAL:
        writer = retriever(run, parts)
        number = {text: i for i, text in enumerate(writer.texts)}
        barred = [sorted({number[texts[row]] for row in rows}) for rows in own]
        with run.progress() as progress:
            chosen = writer.choose(asked, barred, progress=progress)
        said = {id: (c.text, round(c.logprob, 4)) for id, c in zip(ids, chosen, strict=True)}
        found.captions.update(said)
        return found
    from caption.baselines import consensus, copy_nearest

    if label == "consensus":
        n = run.config.score.neighbours
        copied = consensus(vectors, texts, asked, ids, n, barred=own)
    else:
        copied = copy_nearest(vectors, texts, asked, ids, barred=own)
    found.captions.update({id: (text, None) for id, text in copied.items()})
    return found


def identity(run: Run, label: str, parts: CaptionSet) -> dict[str, Any]:
    """Settings and content hashes that decide what `write` says."""
    found: dict[str, Any] = {
        "encoder": run.config.score.encoder,
        "checkpoints": {
            family: checkpoint_hash(checkpoint(getattr(run.config.encoders, family), family))
            for family in ("clip", "resnet")
        },
        "parts": _digest(parts),
    }
    if label == "consensus":
        found["neighbours"] = run.config.score.neighbours
    if label == RETRIEVAL:
        found["retrieval"] = asdict(run.config.retrieval)
        found["seed"] = run.config.seed
    return found


def retriever(run: Run, parts: CaptionSet) -> Retriever:
    """The run's retrieval captioner; learned first where that has not been done."""
    from caption.retrieval import Retriever

    about = identity(run, RETRIEVAL, parts)
    inputs = fingerprints(run.data, purchases=False)
    with run.stage(STAGE, config=about, inputs=inputs) as stage:
        if stage.reused:
            return Retriever.load(stage.path("model"))
        started = time.process_time()

        train = parts.by_split("train").examples
        rows, vectors = _embedded(run, [(e.id, e.image) for e in train])
        known = [train[row] for row in rows]
        with run.progress() as progress:
            found = Retriever.fit(
                vectors,
                [e.captions[0] for e in known],
                replace(run.config.retrieval, seed=run.config.seed),
                categories=[e.category for e in known],
                progress=progress,
            )
        found.save(stage.path("model"))
        seconds = round(time.process_time() - started, 1)
        stage.record.update(train=len(known), texts=len(found.texts), cpu_seconds=seconds)
        run.say(
            f"{RETRIEVAL}: learned which of {len(found.texts):,} texts fit {len(known):,} photos "
            f"in {seconds / 60:.1f} CPU minutes"
        )
        return found


def _embedded(
    run: Run, items: Sequence[tuple[str, Path | None]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the photos that can be read, and their vectors."""
    found = embed(run, run.config.score.encoder, None, [photo for _, photo in items])
    rows = np.flatnonzero(found.valid)
    return rows, found.vectors[rows]


def _own(
    parts: CaptionSet, catalog: Catalog, known: Sequence[str], ids: Sequence[str]
) -> list[list[int]]:
    """For each id the places in `known` of its connected component; none unless it is known."""
    from caption.records import components, normalise_text
    from caption.sources import product_groups

    groups = product_groups(catalog.articles)
    train = parts.by_split("train").examples
    keys = [
        [*groups.get(e.id, ()), *(f"text:{normalise_text(c)}" for c in e.captions)] for e in train
    ]
    label = dict(zip((e.id for e in train), components(keys), strict=True))
    members: dict[int, list[int]] = {}
    for place, id in enumerate(known):
        members.setdefault(label[id], []).append(place)
    return [members.get(label.get(id, -1), []) for id in ids]


def _digest(parts: CaptionSet) -> str:
    about = [(e.id, e.split, e.captions) for e in parts.examples]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
