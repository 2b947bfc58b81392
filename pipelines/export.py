"""`fcr export`: what a run made, to hand over: the captioner with its model card, and the articles.

export/captioner/     adapter or whole model in the hub's layout, with README.md (model card)
export/articles.csv   the shop's own columns, descriptions filled, each generated one marked
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines import InputError
from pipelines.augment import article_texts
from pipelines.caption_items import STAGE as CAPTIONS
from pipelines.catalog import Catalog, fingerprints
from pipelines.results import Results, label, read_results
from pipelines.run import Run
from pipelines.tables import Column, Estimate, Missing, Table, plain_cell
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.train_captioner import fine_tuned
from pipelines.workspace import write_table, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

STAGE = "export"
TEXTS = ("fill", "caption", "both")
LICENCES = {"blip-": "bsd-3-clause", "blip2-": "mit", "llava": "llama2"}
"""Start of a checkpoint's name -> licence of its weights on the hub."""
OWN = "fine-tuned"
"""The run's own captioner in its tables."""


@dataclass(frozen=True)
class Exported:
    """What was handed over."""

    articles: Path
    captioner: Path | None
    """None where the run trained no captioner."""


def export(
    run: Run,
    *,
    merged: bool = False,
    text: str = "fill",
    drop_contradicting: bool = False,
    licence: str | None = None,
) -> Exported:
    """Write `export/` of the run.

    Args:
        run: an open run whose articles were captioned.
        merged: hand over the whole model even where an adapter was trained.
        text: `fill` (captions where the shop has no text), `caption` (everywhere) or `both`.
        drop_contradicting: leave a description out where it contradicts the article's own type,
            colour or pattern.
        licence: hub id of the weights' licence, for the model card; default: the base's where it is
            known, else `other`.

    Raises:
        InputError: nothing captioned yet, unknown text setting, a damaged artefact.
    """
    if text not in TEXTS:
        raise InputError(f"--text {text!r}: expected one of {', '.join(TEXTS)}")
    captions = run.workspace.stage_file(CAPTIONS, "captions.parquet")
    if captions is None:
        raise InputError(
            f"run {run.folder.name} has no captions to hand over: call `fcr caption-items --run "
            f"{run.folder.name}` first"
        )
    results = read_results(run.workspace)
    trained = run.workspace.manifest(TRAIN)
    inputs = {
        **{name: m["key"] for name, m in results.manifests.items() if name != STAGE},
        **fingerprints(run.data, purchases=False),
    }
    settings = {
        "merged": merged,
        "text": text,
        "drop_contradicting": drop_contradicting,
        "licence": licence,
    }
    with run.workspace.stage(
        STAGE, config=settings, inputs=inputs, seed=run.config.seed, say=run.say
    ) as stage:
        exported = Exported(
            stage.path("articles.csv"), None if trained is None else stage.path("captioner")
        )
        if stage.reused:
            return exported
        catalog = run.catalog(purchases=False)
        table = described_articles(
            catalog, pl.read_parquet(captions), text=text, drop_contradicting=drop_contradicting
        )
        write_table(exported.articles, table)
        counts = {str(k): int(n) for k, n in table["description_source"].value_counts().rows()}
        run.say(
            f"{counts.get('generated', 0) + counts.get('shop and generated', 0):,} of "
            f"{table.height:,} articles carry a generated description, each marked in "
            "description_source"
        )
        if exported.captioner is None:
            run.say("note: the run trained no captioner, so none is handed over")
        else:
            assert trained is not None
            _hand_over(run, trained["record"], exported.captioner, merged)
            card = model_card(run, results, merged=merged, licence=licence)
            write_text(exported.captioner / "README.md", card)
        stage.record.update(articles=table.height, sources=counts)
    return exported


def described_articles(
    catalog: Catalog, captions: pl.DataFrame, *, text: str, drop_contradicting: bool = False
) -> pl.DataFrame:
    """The shop's table with descriptions, and where each of them comes from.

    Args:
        catalog: the tables; its columns are kept, in their order, `detail_desc` changed.
        captions: article_id, caption, captioner, logprob.
        text: one of `TEXTS`.
        drop_contradicting: see `export`.

    Returns:
        the articles with five more columns: description_source (`shop`, `generated`, `shop and
        generated`, or empty), description_captioner, and audit_type, audit_colour, audit_pattern
        (`right`, `silent`, `contradicting`, empty where the article itself says nothing or nothing
        was generated). Generated texts begin with a capital, and never like a spreadsheet formula.
    """
    from caption.audit import audit_captions

    articles = catalog.articles
    known = captions.join(articles.select("article_id"), on="article_id", how="semi")
    verdicts = audit_captions(known.select("article_id", "caption"), articles).per_item
    wide = verdicts.pivot("field", index="article_id", values="verdict")
    if drop_contradicting:
        wrong = verdicts.filter(pl.col("verdict") == "contradicting")["article_id"]
        known = known.filter(~pl.col("article_id").is_in(wrong.unique().implode()))
    written = {i: plain_cell(_sentence(c)) for i, c in known.select("article_id", "caption").rows()}
    ids, human = articles["article_id"].to_list(), articles["detail_desc"].to_list()
    texts = article_texts(ids, human, written, text)
    sources = [_source(i, h, t, written) for i, h, t in zip(ids, human, texts, strict=True)]
    table = articles.with_columns(
        pl.Series("detail_desc", texts, pl.String),
        pl.Series("description_source", sources, pl.String),
    ).join(
        known.select("article_id", description_captioner="captioner"),
        on="article_id",
        how="left",
        maintain_order="left",
    )
    fields = [f for f in ("type", "colour", "pattern") if f in wide.columns]
    table = table.join(wide, on="article_id", how="left", maintain_order="left")
    generated = pl.col("description_source").str.contains("generated")
    own = [pl.when(generated).then(pl.col(f)).otherwise(None).alias(f"audit_{f}") for f in fields]
    return table.with_columns(
        pl.when(generated)
        .then(pl.col("description_captioner"))
        .otherwise(None)
        .alias("description_captioner"),
        *own,
    ).drop(fields)


def model_card(run: Run, results: Results, *, merged: bool, licence: str | None) -> str:
    """README.md of the captioner in the hub's format: metadata, data, settings, scores, limits."""
    from huggingface_hub import ModelCardData

    from caption.captioners import CAPTIONERS

    trained = results.manifests[TRAIN]
    record, settings = trained["record"], trained["config"]["train"]
    base = str(record["checkpoint"])
    adapter = record["saved"] == "adapter" and not merged
    name = f"{run.folder.name}-captioner"
    data = ModelCardData(
        base_model=CAPTIONERS.get(base),
        language="en",
        library_name="peft" if adapter else "transformers",
        license=licence or _licence(base),
        pipeline_tag="image-to-text",
        tags=["image-captioning", "fashion", "fcr", *(["lora"] if adapter else [])],
        model_name=name,
        eval_results=_eval_results(run, results.scores.get(OWN, {})) or None,
    )
    sizes = record["sizes"]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"Writes product descriptions from photos of fashion articles. {_base_line(base, adapter)} "
        f"{record['trainable']:,} of {record['total']:,} weights learned.",
        "",
        "## Use",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from PIL import Image",
        "",
        "from caption.captioners import load_captioner",
        "",
        (
            f'captioner = load_captioner("{_named(base)}", adapter=Path("."))'
            if adapter
            else 'captioner = load_captioner(".")'
        ),
        'photo = captioner.preprocess(Image.open("photo.jpg").convert("RGB"))',
        "print(captioner.generate(np.stack([photo]))[0].text)",
        "```",
        "",
        "## Data",
        "",
        f"{sizes['train']:,} articles of `{_data_name(run)}` with a photo and a description; "
        f"{sizes['validation']:,} chose the checkpoint, {sizes['test']:,} were kept for the test. "
        "No product code and no description stands in two of the parts. Splitting by article "
        "instead would let colour variants share their text between training and test.",
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings, indent=1, sort_keys=True),
        "```",
        "",
        f"Seed {trained['seed']}; best weights after step {record['best_step']}; "
        f"fcr {trained['packages'].get('fcr', 'unknown')}, "
        f"transformers {trained['packages'].get('transformers', 'unknown')}, "
        f"torch {trained['packages'].get('torch', 'unknown')}.",
        "",
        "## Scores",
        "",
        _scores(results, sizes["test"]),
        "",
        "## Limits",
        "",
        *_limits(results),
        "",
    ]
    return "\n".join(lines)


def _hand_over(run: Run, record: Mapping[str, Any], folder: Path, merged: bool) -> None:
    """The captioner's files, without paths of this machine in them."""
    saved = run.folder / TRAIN / record["saved"]
    captioner = fine_tuned(run)  # checks every file against its manifest
    assert captioner is not None
    shutil.rmtree(folder, ignore_errors=True)
    if record["saved"] == "adapter" and merged:
        captioner.save(folder)
        return
    shutil.copytree(saved, folder)
    public = _public(str(record["checkpoint"]))
    for name, key in (("base.json", "name"), ("adapter_config.json", "base_model_name_or_path")):
        with contextlib.suppress(FileNotFoundError):
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            if content.get(key):
                content[key] = public
                write_text(folder / name, json.dumps(content, indent=1) + "\n")


def _public(base: str) -> str:
    """A checkpoint's name without the folders of this machine."""
    from caption.captioners import CAPTIONERS

    if base in CAPTIONERS:
        return base
    return "demo/blip" if _shipped(base) else Path(base).name


def _named(base: str) -> str:
    from caption.captioners import CAPTIONERS

    return base if base in CAPTIONERS else f"FOLDER OF {_public(base)}"


def _shipped(base: str) -> bool:
    """The demo's checkpoint, from whichever installation."""
    return Path(base).parts[-2:] == ("demo", "blip")


def _data_name(run: Run) -> str:
    return "fcr-demo-catalogue" if run.is_demo else run.data.name


def _base_line(base: str, adapter: bool) -> str:
    from caption.captioners import CAPTIONERS

    kind = "An adapter for" if adapter else "Fine-tuned from"
    if base in CAPTIONERS:
        return f"{kind} `{CAPTIONERS[base]}`."
    return f"{kind} `{_public(base)}`."


def _licence(base: str) -> str:
    if _shipped(base):
        return "mit"
    return next((i for start, i in LICENCES.items() if base.startswith(start)), "other")


def _eval_results(run: Run, scores: Mapping[str, Estimate | Missing]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-to-text",
            dataset_type=_data_name(run),
            dataset_name=_data_name(run),
            dataset_split="test",
            metric_type=name,
            metric_name=label(name),
            metric_value=round(score.value, 4),
        )
        for name, score in scores.items()
        if isinstance(score, Estimate)
    ]


def _scores(results: Results, n_test: int) -> str:
    if not (scores := results.scores.get(OWN, {})):
        return "Not scored: `fcr score-captions` writes the scores."
    columns = (Column("metric", "Metric"), Column("value", "Value"), Column("how", "Signature"))
    rows = [[label(name), s, results.signatures.get(name, "")] for name, s in scores.items()]
    note = "In brackets 95 % intervals (bootstrap over articles)."
    return Table("scores", f"{n_test:,} test articles", columns, rows, note).markdown().rstrip()


def _limits(results: Results) -> list[str]:
    from caption.audit import VERDICTS

    lines = []
    for field, rates in results.audit.get(OWN, {}).items():
        shares = ", ".join(f"{rates[r]['value']:.1%} {r}" for r in VERDICTS if r in rates)
        lines.append(f"- Against the test articles' own {field}: {shares}.")
    return [
        *lines,
        "- It knows the manner of the texts it learned from, and names what photos of that shop "
        "show; materials, fits and sizes that a photo does not show are guessed.",
        "- Have every description checked, or at least audited against the article's own fields, "
        "before customers see it: a wrong colour or type is a wrong promise.",
        "- English only. What it says of people in photos was not examined.",
    ]


def _source(
    article_id: str, human: str | None, text: str | None, written: Mapping[str, str]
) -> str | None:
    if not text:
        return None
    if text == human:
        return "shop"
    return "generated" if text == written.get(article_id) else "shop and generated"


def _sentence(caption: str) -> str:
    """A first letter in upper case: captioners with a lower-case vocabulary lose it."""
    return caption[:1].upper() + caption[1:]
