"""Figures published for the systems of configs/README.md, and whether a run's compare with them.

R1: fashion captioning with BLIP on FACAD (a study group's final project). R2: ClipCap on Flickr30k
(course project). R3: "Comparative analysis of fashion captioning and multimodal fashion
recommendation" (master thesis); its MAP is Elliot's, the mean of the precision at 1..k. R4: a
homework on vision-language models, whose data is not named. R5: BLIP-base on Flickr30k (group
project). Whether a run followed a protocol is read from what the run recorded of itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.config import load_config

METRICS = ("ndcg@5", "ndcg@12", "map_elliot@5", "map_elliot@12")
THESIS = "thesis-published"
"""The preset that repeats R3's recommendation."""
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
    """Whether an experiment measures as the thesis does, so that its figures may stand beside."""
    recommend = manifest["config"]["recommend"]
    experiment = manifest["config"]["experiment"]
    return (
        recommend["split"]["method"] == "user-ratio"
        and "map_elliot" in experiment["metrics"]
        and experiment["earliest"] > 0
    )


def ranking_differing(
    preset: str, config: Mapping[str, Any], articles: int, purchases: int
) -> list[str]:
    """What a run did otherwise than a published benchmark; empty where figures may be compared.

    Args:
        preset: the preset of the benchmark's protocol.
        config: what the run's stage recorded: `recommend` and, for an experiment, `experiment`.
        articles: rows of the run's articles.csv.
        purchases: rows of its transactions_train.csv.
    """
    found = [] if same_data(articles, purchases) else ["H&M’s whole tables, not this run’s"]
    theirs, ours = _protocol(asdict(load_config(preset))), _protocol(config)
    other = [
        f"{key} {_said(value)}" + (f", not {_said(ours[key])}" if ours[key] is not None else "")
        for key, value in theirs.items()
        if value != ours[key] and (value is not None or key.startswith("purchases"))
    ]
    return found + other


def _protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what is predicted, for whom and from what."""
    recommend, experiment = config["recommend"], config.get("experiment", {})
    split = recommend["split"]
    by_time = split["method"] == "time"
    days = recommend["test_days"] if by_time and split["cutoff"] is None else None
    return {
        "split": split["method"],
        "first day of the test": _day(split["cutoff"]) if by_time else None,
        "days of the test": days,
        "share of the test": split["test"] if split["method"] in ("user-ratio", "random") else None,
        "left out of the test": split["drop_cold"],
        "purchases from": _day(split["first"] or experiment.get("first")),
        "purchases until": _day(split["last"] or experiment.get("last")),
        "earliest purchases": experiment.get("earliest", 0),
        "at least": (split["core"], split["min_user"], split["min_item"]),
        "bought articles left out": recommend["exclude_seen"],
    }


def _day(value: Any) -> str | None:
    return None if value is None else str(value)


def _said(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Trial:
    """One published line of caption scores, and what it was computed from."""

    system: str
    """R1 to R5, as in configs/README.md."""
    line: str
    """What the publication calls it."""
    captioner: Literal["fine-tuned", "pretrained", "reinforced"]
    """Which of a run's captioners it is the counterpart of."""
    preset: str
    """The preset that repeats its settings; "" where fcr has none."""
    dataset: str
    """Name as of `fcr data prepare`; "" where the publication names none."""
    split: str
    """Policy of `fcr data prepare`; "" where it was not published."""
    sizes: tuple[int, int, int] | None
    """Articles or photos to train, validate and test; None where not published."""
    figures: Mapping[str, float]
    """Caption metric -> value, as a share of one where it is a share."""


_R1 = ("bleu-4", "meteor", "rouge-l", "cider-d", "spice")
_R3 = (*_R1, "attribute-map", "attribute-mar", "category-accuracy")
_R3_FIGURES = {
    # Model -> on H&M pretrained, fine-tuned; on FACAD pretrained, fine-tuned; in per cent.
    "blip2-opt-2.7b": (
        (0.3, 5.3, 14.8, 7.0, 8.0, 37.2, 11.4, 53.0),
        (40.8, 33.5, 63.4, 275.2, 44.7, 70.8, 65.4, 83.5),
        (0.3, 4.6, 12.6, 4.3, 6.4, 17.4, 7.9, 52.0),
        (3.7, 10.1, 19.7, 36.4, 10.3, 24.6, 22.5, 69.9),
    ),
    "blip2-opt-6.7b": (
        (0.3, 5.5, 15.3, 7.3, 8.3, 38.3, 11.6, 53.8),
        (41.4, 33.9, 63.8, 281.3, 45.4, 70.8, 66.0, 83.8),
        (0.3, 4.6, 12.9, 4.1, 6.4, 17.7, 7.8, 51.4),
        (3.5, 9.8, 19.1, 34.4, 9.8, 23.3, 21.2, 69.0),
    ),
    "blip2-flan-t5-xl": (
        (0.3, 5.1, 15.0, 6.3, 8.0, 38.9, 10.8, 56.5),
        (0.2, 4.4, 10.6, 6.6, 7.3, 37.0, 10.3, 51.7),
        (0.2, 4.2, 12.9, 3.2, 6.4, 17.6, 7.2, 52.2),
        (0.1, 3.3, 8.2, 2.3, 5.8, 18.5, 6.3, 45.7),
    ),
    "blip2-flan-t5-xxl": (
        (0.3, 5.3, 15.5, 7.0, 8.4, 38.0, 11.2, 58.0),
        (0.4, 5.6, 16.6, 7.2, 8.7, 38.2, 11.9, 56.0),
        (0.2, 4.2, 12.8, 3.1, 6.4, 18.4, 7.4, 53.1),
        (0.1, 3.3, 9.2, 2.3, 5.4, 17.7, 5.5, 41.6),
    ),
    "llava-1.5-7b": (
        (0.5, 7.4, 14.5, 0.8, 5.3, 15.2, 13.0, 32.0),
        (23.4, 32.8, 46.0, 24.2, 34.6, 53.1, 71.3, 82.9),
        (0.2, 6.8, 12.0, 0.1, 4.1, 9.8, 8.7, 45.1),
        (1.5, 11.2, 15.4, 1.2, 7.4, 14.7, 27.9, 65.5),
    ),
    "llava-1.5-13b": (
        (0.4, 7.4, 14.2, 1.2, 5.8, 17.8, 13.8, 31.0),
        (22.9, 32.3, 45.5, 22.0, 34.9, 54.0, 70.8, 83.5),
        (0.2, 6.5, 12.4, 0.8, 4.5, 9.9, 8.5, 44.2),
        (0.7, 8.3, 12.6, 0.1, 3.7, 8.4, 16.3, 27.4),
    ),
}
_FACAD_PARTS = (10_000, 1_000, 2_000)


def _trials() -> Iterator[Trial]:
    weights = ("decoder", "decoder and last six encoder layers")
    for n, scores in enumerate(
        (
            (0.0171, 0.0873, 0.1816, 0.2448, 0.0909),
            (0.0168, 0.0864, 0.1797, 0.2355, 0.0889),
            (0.0200, 0.0888, 0.1820, 0.2592, 0.0916),
            (0.0190, 0.0883, 0.1818, 0.2504, 0.0912),
        ),
        start=1,
    ):
        paid = n % 2 == 0
        yield Trial(
            "R1",
            f"BLIP-large, {weights[n > 2]}{', reinforced' if paid else ''}",
            "reinforced" if paid else "fine-tuned",
            f"r1-facad-blip-{n}",
            "facad",
            "given",
            _FACAD_PARTS,
            dict(zip(_R1, scores, strict=True)),
        )
    for line, preset, cider, spice in (
        ("ClipCap, batch 60, prefix 5", "", 1.2224, 0.2796),
        ("ClipCap, batch 10, prefix 40", "r2-clipcap-mlp", 1.3029, 0.3134),
    ):
        figures = {"cider-d": cider, "spice": spice}
        yield Trial("R2", line, "fine-tuned", preset, "flickr30k", "", None, figures)
    for model, (hm, hm_tuned, facad, facad_tuned) in _R3_FIGURES.items():
        for dataset, split, before, after in (
            ("hm", "random", hm, hm_tuned),
            ("facad", "", facad, facad_tuned),
        ):
            for captioner, values in (("pretrained", before), ("fine-tuned", after)):
                yield Trial(
                    "R3",
                    f"{model}, {captioner}",
                    "pretrained" if captioner == "pretrained" else "fine-tuned",
                    f"r3-{dataset}-{model}-published",
                    dataset,
                    split,
                    None,
                    {name: x / 100 for name, x in zip(_R3, values, strict=True)},
                )
    for line, known in (
        ("CNN-C", (2.1, 7.2, 16.3, 20.8, 6.5, 4.9, 10.8)),
        ("SRFC", (6.8, 13.2, 24.2, 42.1, 13.4, 9.5, 18.2)),
    ):
        names = (*_R1, "attribute-map", "category-accuracy")
        figures = {name: x / 100 for name, x in zip(names, known, strict=True)}
        yield Trial("R3", line, "fine-tuned", "", "facad", "", None, figures)
    for line, preset, cider, clipscore in (
        ("LoRA, rank 16", "r4-lora16", 0.907, 0.733),
        ("LoRA, rank 8", "r4-lora8", 0.872, 0.727),
        ("adapters", "r4-adapter", 0.843, 0.714),
        ("prompt tuning", "r4-prompt", 0.863, 0.726),
    ):
        figures = {"cider-d": cider, "clipscore": clipscore}
        yield Trial("R4", f"ViT and GPT-2, {line}", "fine-tuned", preset, "", "", None, figures)
    yield Trial(
        "R5",
        "BLIP-base",
        "fine-tuned",
        "r5-blip-flickr30k",
        "flickr30k",
        "random",
        (10_170, 1_271, 1_272),
        {"bleu-4": 0.225, "cider-d": 1.17},
    )


TRIALS = tuple(_trials())
"""Every published line of caption scores."""

ANCHORS: tuple[tuple[str, str, str, float], ...] = (
    ("Kaggle H&M, winners (.036 to .038)", "kaggle-hm", "map@12", 0.037),
    ("RelBench rel-hm, LightGBM", "relbench-rel-hm", "map@12", 0.0038),
    ("RelBench rel-hm, GraphSAGE", "relbench-rel-hm", "map@12", 0.0080),
    ("RelBench rel-hm, ID-GNN", "relbench-rel-hm", "map@12", 0.0281),
    ("RelBench rel-hm, fine-tuned KumoRFM", "relbench-rel-hm", "map@12", 0.0314),
)
"""Rows of other benchmarks on H&M: (row, the preset of their protocol, metric, value)."""

NAMES = {
    "hm": "H&M", "facad": "FACAD", "flickr30k": "Flickr30k", "flickr8k": "Flickr8k",
    "demo": "the drawn demo catalogue", "": "data not named",
}  # fmt: skip
NEUTRAL = {
    *("train.workers", "train.cache_gb", "train.tensorboard", "train.country", "train.seed"),
    *("train.evaluate_every", "train.generate", "train.keep", "train.accumulate"),
    *("train.gradient_checkpointing", "train.precision", "captioner.dtype"),
    *("generate.batch_size", "generate.shard_size"),
}
"""Settings that decide how a result is computed or watched, not what was published."""


@dataclass(frozen=True)
class Protocol:
    """What a run recorded of how its captions were made and scored."""

    dataset: str
    split: str
    sizes: tuple[int, int, int] | None
    config: Mapping[str, Any]
    """Sections `captioner`, `train`, `generate` and `reinforce`, those that are known."""
    tokenizer: str
    """As the signatures name it."""


def differing(trial: Trial, ours: Protocol) -> list[str]:
    """What a run did otherwise than a published line; empty where the figures may be compared.

    Settings are compared with those of the line's preset. What was not published can't be known to
    be the same, and is named.
    """
    found = []
    if trial.dataset != ours.dataset:
        found.append(f"{_name(trial.dataset)}, not {_name(ours.dataset)}")
    elif trial.split != ours.split:
        theirs = f"split {trial.split}" if trial.split else "split not published"
        found.append(f"{theirs}, not {ours.split}" if trial.split else theirs)
    elif trial.sizes is not None and trial.sizes != ours.sizes:
        said = "none" if ours.sizes is None else "/".join(f"{n:,}" for n in ours.sizes)
        found.append(f"parts of {'/'.join(f'{n:,}' for n in trial.sizes)}, not {said}")
    if not ours.tokenizer.startswith("ptb"):
        found.append(f"PTB tokenizer, not {ours.tokenizer or 'unknown'}")
    if not trial.preset:
        return [*found, "settings that no preset repeats"]
    sections = {
        "pretrained": ("captioner", "generate"),
        "fine-tuned": ("captioner", "train", "generate"),
        "reinforced": ("captioner", "train", "reinforce", "generate"),
    }[trial.captioner]
    absent = [section for section in sections if not ours.config.get(section)]
    if absent:
        return [*found, f"no {trial.captioner} captioner here"]
    wanted = asdict(load_config(trial.preset))
    theirs_flat = dict(_flat({s: wanted[s] for s in sections}))
    ours_flat = dict(_flat({s: ours.config.get(s, {}) for s in sections}))
    other = [
        key
        for key, value in theirs_flat.items()
        if key not in NEUTRAL and ours_flat.get(key, _UNKNOWN) != value
    ]
    if "captioner.checkpoint" in other:
        found.append(
            f"{theirs_flat['captioner.checkpoint']}, "
            f"not {ours_flat.get('captioner.checkpoint', 'an unknown checkpoint')}"
        )
        other.remove("captioner.checkpoint")
    if other:
        found.append(
            f"other {', '.join(other[:3])}"
            + f" and {len(other) - 3} more settings" * (len(other) > 3)
        )
    return found


_UNKNOWN = object()


def _name(dataset: str) -> str:
    return NAMES.get(dataset, dataset)


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in value.items():
        if isinstance(below, Mapping):
            yield from _flat(below, f"{path}{key}.")
        else:
            yield f"{path}{key}", list(below) if isinstance(below, tuple) else below
