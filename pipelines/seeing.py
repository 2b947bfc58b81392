"""`fcr attention` and `fcr zero-shot`: what the run's networks see in the photos."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipelines import InputError
from pipelines.caption_items import STAGE as CAPTIONS
from pipelines.caption_items import load
from pipelines.catalog import fingerprints
from pipelines.results import drawn
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.train_captioner import known_parts
from pipelines.workspace import Stage, write_json

if TYPE_CHECKING:
    from caption.records import CaptionExample

ATTENTION, ZERO_SHOT = "attention", "zero-shot"
TILE, QUALITY = 96, 72
"""Pixels of an overlay's width, and JPEG quality: a page holds hundreds of them."""
MOST_WORDS = 40
"""Words of a caption that get an overlay."""
NO_VALUE = re.compile(r"unknown|undefined|other\b.*|", re.IGNORECASE)
"""Values that name nothing."""


def attention(run: Run) -> Path:
    """Where the run's captioner looked, word by word: test captions at random, best and worst.

    Best and worst are by CLIPScore.

    Returns:
        path of `maps.json`: {"captioner", "clip", "items": [{article_id, why, caption, clipscore,
        words: [{word, file, map}]}]}; `file` is an overlay below `overlays/`.

    Raises:
        InputError: no captions yet, a captioner without attention maps.
    """
    captions = run.workspace.stage_file(CAPTIONS, "captions.parquet")
    manifest = run.workspace.manifest(CAPTIONS)
    if captions is None or manifest is None:
        raise InputError(
            f"run {run.folder.name} has no captions: call `fcr caption-items --run "
            f"{run.folder.name}` first"
        )
    config = run.config.seeing
    clip = checkpoint(run.config.encoders.clip, "clip")
    inputs = {
        **fingerprints(run.data, purchases=False),
        "captions": manifest["files"]["captions.parquet"],
        "captioner": manifest["inputs"]["captioner"],
        "clip": checkpoint_hash(clip),
    }
    settings = {"shown": config.shown, "extremes": config.extremes}
    with run.stage(ATTENTION, config=settings, inputs=inputs) as stage:
        if not stage.reused:
            _look(run, stage, pl.read_parquet(captions), clip)
    return stage.path("maps.json")


def zero_shot(run: Run) -> Path:
    """Classify the catalogue's photos by CLIP and prompt templates: type, colour and pattern.

    Returns:
        path of `accuracies.json`: {"clip", "fields": {column: {n, classes, commonest, templates:
        [{template, value, low, high, right, n}]}}}.

    Raises:
        InputError: no photos, a CLIP that can't be loaded.
    """
    from caption.metrics.clipscore import load_clip
    from caption.zeroshot import TEMPLATES
    from caption.zeroshot import zero_shot as classify

    config = run.config.seeing
    checkpoint_name = checkpoint(run.config.encoders.clip, "clip")
    inputs = {
        **fingerprints(run.data, purchases=False),
        "clip": checkpoint_hash(checkpoint_name),
    }
    settings = {"photos": config.zero_shot, "templates": TEMPLATES}
    with run.stage(ZERO_SHOT, config=settings, inputs=inputs) as stage:
        result = stage.path("accuracies.json")
        if stage.reused:
            return result
        catalog = run.catalog(purchases=False)
        paths = catalog.photos()
        known = [row for row, path in enumerate(paths) if path is not None]
        if not known:
            raise InputError(f"no article of {run.data} has a photo to classify")
        rng = np.random.default_rng(run.config.seed)
        rows = sorted(rng.permutation(known)[: config.zero_shot].tolist())
        try:
            clip = load_clip(checkpoint_name)
        except OSError as error:
            said = str(error).splitlines()[0]
            raise InputError(f"CLIP {checkpoint_name} can't be loaded ({said})") from error
        photos = clip.images([paths[row] for row in rows])
        seen = ~np.isnan(photos[:, 0])
        fields: dict[str, Any] = {}
        for column, templates in TEMPLATES.items():
            if column not in catalog.articles.columns:
                continue
            labels = catalog.articles[column].fill_null("")[rows].to_list()
            named = [not NO_VALUE.fullmatch(label.strip()) for label in labels]
            used = np.flatnonzero(seen & np.array(named))
            own = [labels[i] for i in used]
            if len(set(own)) < 2:
                continue
            found = classify(clip, photos[used], own, templates)
            fields[column] = {
                "n": len(own),
                "classes": len(found.classes),
                "commonest": asdict(found.commonest),
                "templates": [asdict(accuracy) for accuracy in found.accuracies],
            }
            best = max(found.accuracies, key=lambda a: a.value)
            run.say(
                f"zero-shot {column}: {best.value:.1%} [{best.low:.1%}, {best.high:.1%}] of "
                f"{len(own):,} photos by {best.template!r}, {len(found.classes)} classes; "
                f"{found.commonest.template}: {found.commonest.value:.1%}"
            )
        write_json(result, {"clip": clip.name, "fields": fields})
        stage.record.update(photos=int(seen.sum()), unreadable=int((~seen).sum()))
    return result


def _look(run: Run, stage: Stage, captions: pl.DataFrame, clip_name: str) -> None:
    from caption.metrics.clipscore import PREFIX, WEIGHT, load_clip

    label = str(captions["captioner"][0])
    said = dict(captions.select("article_id", "caption").iter_rows())
    test = known_parts(run, run.catalog(purchases=False)).by_split("test").examples
    examples = [e for e in test if e.id in said and e.image is not None]
    if not examples:
        raise InputError("no test article has a caption: there is nothing to look at")
    try:
        clip = load_clip(clip_name)
    except OSError as error:
        line = str(error).splitlines()[0]
        raise InputError(f"CLIP {clip_name} can't be loaded ({line})") from error
    photos = clip.images([e.image for e in examples])
    texts = clip.texts([PREFIX + said[e.id] for e in examples])
    scores = WEIGHT * np.maximum(np.einsum("nd,nd->n", photos, texts, dtype=np.float64), 0)
    config = run.config.seeing
    order = [int(i) for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])]
    n = min(config.extremes, len(order) // 2)
    row = {e.id: i for i, e in enumerate(examples)}
    chosen = [
        *(("drawn", row[i]) for i in drawn(row, config.shown, run.config.seed)),
        *(("best", i) for i in order[:n]),
        *(("worst", i) for i in reversed(order[len(order) - n :])),
    ]
    shutil.rmtree(stage.path("overlays"), ignore_errors=True)
    captioner = load(run, label)
    items = []
    with run.progress() as progress:
        for done, (why, i) in enumerate(chosen, start=1):
            example = examples[i]
            score = None if np.isnan(scores[i]) else round(float(scores[i]), 4)
            words = _draw(captioner, example, said[example.id], stage.folder)
            items.append(
                {"article_id": example.id, "why": why, "caption": said[example.id]}
                | {"clipscore": score, "words": words}
            )
            progress("attention maps", done, len(chosen))
    write_json(stage.path("maps.json"), {"captioner": label, "clip": clip.name, "items": items})
    stage.record.update(captioner=label, items=len(items), scored=len(order))


def _draw(
    captioner: Any, example: CaptionExample, caption: str, folder: Path
) -> list[dict[str, Any]]:
    """One overlay a word, as a small JPEG."""
    from caption.attention import attention_maps, overlay, seen_part
    from caption.images import open_image

    assert example.image is not None
    image = open_image(example.image)
    maps = attention_maps(captioner, image, text=caption)
    small = seen_part(captioner, image).copy()
    small.thumbnail((TILE, TILE * 3 // 2))
    place = folder / "overlays" / example.id
    place.mkdir(parents=True, exist_ok=True)
    words = []
    for number, (word, seen) in enumerate(maps[:MOST_WORDS]):
        name = f"{number:02d}.jpg"
        overlay(small, seen).save(place / name, quality=QUALITY, optimize=True)
        cells = [[round(float(x), 4) for x in row] for row in seen]
        words.append({"word": word, "file": f"overlays/{example.id}/{name}", "map": cells})
    return words
