"""`fcr report`: everything a run holds as one HTML page, with its tables and figures as files.

It reads run directories and draws; it computes no score.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.catalog import fingerprints, read_catalog
from pipelines.conclusions import CAVEAT, conclusions, opening
from pipelines.page import Page, clip
from pipelines.report_captions import audit, captions, gallery, training
from pipelines.report_experiment import experiment_hashes, experiment_stages, experiments
from pipelines.report_published import published_captions, published_ranking
from pipelines.report_recommend import customers, ranking, reach, texts
from pipelines.report_seeing import reinforcement, seeing
from pipelines.results import STAGES, manifest_hashes, read_results
from pipelines.run import Run
from pipelines.tables import Column, Estimate, Missing, Table, Value
from pipelines.workspace import atomic_file, file_sha256, write_text

STAGE = "report"
TEMPLATES = Path(__file__).with_name("templates")


def report(run: Run) -> Path:
    """Draw what the run holds; a stage that is absent is named with the command that makes it.

    Returns:
        path of `report.html` (self-contained, no network, below 10 MB); beside it `tables/`
        (CSV, Markdown, LaTeX) and `figures/` (SVG, PNG).

    Raises:
        InputError: bad tables, or an artefact that is not what its stage wrote.
    """
    results = read_results(run.workspace)
    purchases = results.recommendations is not None and run.config.report.customers > 0
    inputs = {
        **manifest_hashes(run.workspace),
        **experiment_hashes(run.workspace),
        **{f"data {k}": v for k, v in fingerprints(run.data, purchases=purchases).items()},
        **template_hashes(),
    }
    with run.stage(
        STAGE, config={**asdict(run.config.report), "run": run.folder.name}, inputs=inputs
    ) as stage:
        path = stage.path("report.html")
        if stage.reused:
            return path
        catalog = read_catalog(
            run.data, purchases=purchases, drop_bad_rows=run.config.data.drop_bad_rows
        )
        page = Page(results, catalog, run)
        html = _render(page)
        write_tables(stage.path("tables"), page.tables)
        _empty(stage.path("figures"))
        for name, drawing in page.figures.items():
            write_text(stage.path(f"figures/{name}.svg"), drawing)
            with atomic_file(stage.path(f"figures/{name}.png")) as handle:
                handle.write(drawing.png())
        write_text(path, html)
        stage.record.update(
            bytes=len(html.encode()), tables=len(page.tables), photos_left_out=page.photos.left_out
        )
    return path


def render(template: str, **facts: Any) -> str:
    """A page of `templates/` with its style, its script and the hash that allows the script."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        style=style, script=script, script_hash=digest, **facts
    )


def _empty(folder: Path) -> None:
    """A new folder in place of what stands there; raises OSError where that can't be had."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def write_tables(folder: Path, tables: Iterable[Table]) -> None:
    """Every table as CSV, Markdown and LaTeX, in place of what the folder held."""
    _empty(folder)
    for table in tables:
        write_text(folder / f"{table.name}.csv", table.csv())
        write_text(folder / f"{table.name}.md", table.markdown())
        write_text(folder / f"{table.name}.tex", table.latex())


def template_hashes() -> dict[str, str]:
    """Template -> sha256: a page is drawn anew when its template changed."""
    return {path.name: file_sha256(path) for path in sorted(TEMPLATES.iterdir()) if path.is_file()}


def _render(page: Page) -> str:
    results = page.results
    return render(
        "report.html.j2",
        run=page.run.folder.name,
        data=page.run.data.name,
        is_demo=page.run.is_demo,
        missing=[s for s in STAGES if s not in results.manifests and s != "catalogue"],
        stale=results.stale(),
        opening=opening(results, is_demo=page.run.is_demo),
        conclusions=conclusions(results, reach(page)),
        caveat=CAVEAT,
        captions=captions(page),
        training=training(page),
        audit=audit(page),
        gallery=gallery(page),
        reinforcement=reinforcement(page),
        seeing=seeing(page),
        ranking=ranking(page),
        texts=texts(page),
        experiments=experiments(page),
        customers=customers(page),
        published_captions=published_captions(page),
        published_ranking=published_ranking(page),
        findings=_findings(page),
        costs=_costs(page),
        facts=_facts(page),
        photos_left_out=page.photos.left_out,
    )


def _findings(page: Page) -> list[str]:
    """What is worth knowing about the data, said once however many stages saw it."""
    found = [str(finding) for finding in page.catalog.findings]
    for stage in STAGES:
        record = page.results.record(stage)
        lines = (*record.get("findings", ()), *record.get("lines", ()))
        # The audit has its own section.
        found += [str(line) for line in lines if not str(line).startswith("audit of ")]
    captions = page.results.record("caption-items")
    for key, said in (("without_photo", "have no photo"), ("skipped", "have a photo not readable")):
        if captions.get(key):
            found.append(f"{captions[key]:,} articles {said} and get no caption")
    return [clip(line) for line in dict.fromkeys(found)]


def _costs(page: Page) -> Table:
    known = _manifests(page)
    rows: list[list[Value]] = [
        [
            name,
            float(m["seconds"]),
            float(m["peak_memory_mb"]),
            _energy(m),
            m["created"][:16].replace("T", " ") + " UTC",
        ]
        for name, m in known.items()
    ]
    if len(rows) > 1:
        watts = [cell.value for row in rows if isinstance(cell := row[3], Estimate)]
        rows.append(
            [
                "all stages",
                sum(float(m["seconds"]) for m in known.values()),
                max(float(m["peak_memory_mb"]) for m in known.values()),
                Estimate(sum(watts)) if watts else Missing("of no stage"),
                None,
            ]
        )
    return page.table(
        Table(
            "costs",
            "What each stage took",
            (
                Column("stage", "Stage"),
                Column("seconds", "Seconds", decimals=1),
                Column("peak_memory_mb", "Peak memory, MB", decimals=0),
                Column("energy_wh", "Energy, Wh", decimals=2),
                Column("created", "Finished"),
            ),
            rows,
            "Resumed stages count their last call. Memory is the process’s peak. "
            + _watched(known),
        )
    )


def _manifests(page: Page) -> dict[str, dict[str, Any]]:
    """Every finished stage's manifest, those of experiments too."""
    found = dict(page.results.manifests)
    for name in experiment_stages(page.run.workspace):
        manifest = page.run.workspace.manifest(name)
        if manifest is not None:
            found[name] = manifest
    return found


def _energy(manifest: dict[str, Any]) -> Estimate | Missing:
    energy = manifest.get("energy", {"unavailable": "not recorded when this stage ran"})
    if "wh" in energy:
        return Estimate(float(energy["wh"]))
    return Missing(str(energy.get("unavailable", "not measured")))


def _watched(manifests: dict[str, dict[str, Any]]) -> str:
    """How the energy was measured."""
    parts = sorted({m["energy"]["by"] for m in manifests.values() if "by" in m.get("energy", {})})
    if not parts:
        return ""
    load = any("load" in part.lower() for part in parts)
    return (
        f"Energy is that of the whole machine by codecarbon: {'; '.join(parts)}"
        + (", where “load” is an estimate from how busy the processor is" if load else "")
        + ". What a stage took before it was watched is taken to be like the rest."
    )


def _facts(page: Page) -> dict[str, Any]:
    manifests = _manifests(page)
    packages: dict[str, str] = {}
    for manifest in manifests.values():
        packages |= manifest["packages"]
    ordered = sorted(manifests.values(), key=lambda m: m["created"])
    versions = Table(
        "versions",
        "Versions",
        (Column("package", "Package"), Column("version", "Version")),
        [[name, version] for name, version in sorted(packages.items())],
    )
    config = {name: m["config"] for name, m in manifests.items()}
    return {
        "commands": list(dict.fromkeys(m["command"] for m in ordered)),
        "seeds": sorted({m["seed"] for m in manifests.values()}),
        "python": sorted({m["python"] for m in manifests.values()}),
        "git": sorted({m["git"] for m in manifests.values() if m["git"]}),
        "versions": page.table(versions),
        "config": json.dumps(config, indent=2, ensure_ascii=False),
        "inputs": json.dumps({n: m["inputs"] for n, m in manifests.items()}, indent=2),
    }
