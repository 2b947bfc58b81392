"""SPICE 1.0 (Anderson et al., 2016): the scorer of spice-1.0.jar on Java 8 to 25 (java/FcrSpice).

SPICE parses captions with Stanford CoreNLP 3.6.0, which pycocoevalcap does not bring; where it
cannot be found, SPICE is unavailable and says how to get it.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.jvm import (
    LAUNCHERS,
    JavaError,
    clean_line,
    find_java,
    jar_folder,
    java_memory,
    java_version,
    run_java,
)

CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
NO_CORENLP = (
    "SPICE needs Stanford CoreNLP 3.6.0: download stanford-corenlp-full-2015-12-09.zip (384 MB) "
    "from https://nlp.stanford.edu/software/, unpack it, and set FCR_CORENLP to the folder"
)
OPENED = ("java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent")


def spice(
    corpus: Corpus,
    *,
    corenlp: Path | None = None,
    cache: Path | None = None,
    memory: str | None = None,
    timeout: float | None = None,
    threads: int | None = None,
) -> list[Score | Unavailable]:
    """Mean F-score of the captions' scene-graph tuples against the references'.

    `corenlp`: folder of `CORENLP_JARS` (default: FCR_CORENLP, else pycocoevalcap's spice/lib).
    `cache`: file of parses to read and extend, so that references are parsed once (default:
    FCR_SPICE_CACHE, else none is kept). `memory`: Java's -Xmx (default: FCR_JAVA_MEMORY, else 4g).
    `timeout`: seconds for the whole corpus (default: 600, and a fifth of a second a caption).
    Without Java or CoreNLP, or when Java fails, the answer is `Unavailable` with the reason.

    Raises `InputError` on a malformed `memory` and on a `corenlp` folder without the archives.
    """
    memory = java_memory(memory, "4g")
    pairs = zip(corpus.tokenized.hypotheses, corpus.tokenized.references, strict=True)
    lines = ["\t".join(map(clean_line, [hypothesis, *refs])) for hypothesis, refs in pairs]
    n_captions = sum(line.count("\t") + 1 for line in lines)
    kept = cache or (Path(path) if (path := os.environ.get("FCR_SPICE_CACHE")) else None)
    try:
        folder = jar_folder("spice")
        archives = [*_corenlp(corenlp, folder / "lib")]
        flags = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED]
        with tempfile.TemporaryDirectory() as scratch:
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
            out = run_java(
                # CoreNLP before spice-1.0.jar's other libraries, as its manifest has it.
                [LAUNCHERS, *archives, folder / "spice-1.0.jar"],
                "FcrSpice",
                [str(kept or Path(scratch) / "parses.tsv"), str(threads or os.cpu_count() or 1)],
                stdin="".join(f"{line}\n" for line in lines).encode("utf-8", "replace"),
                flags=flags if java_version(find_java()) >= 9 else (),
                memory=memory,
                timeout=timeout or 600 + 0.2 * n_captions,
            )
        values = _f_scores(out, len(lines))
    except (JavaError, OSError) as error:
        return [Unavailable("spice", str(error))]
    signature = corpus.signature("spice", "jar:1.0", "corenlp:3.6.0", "synsets:yes")
    return [Score("spice", float(values.mean()), values, signature)]


def _f_scores(answer: bytes, n: int) -> NDArray[np.float64]:
    """float64 (n,) from SpiceStats' JSON."""
    try:
        found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(answer)}
        return np.array([found[i] for i in range(n)], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise JavaError(f"the scorer's answer could not be read ({error!r})") from error


def _corenlp(given: Path | None, bundled: Path) -> list[Path]:
    """CoreNLP's two archives, from the first place that has them."""
    named = os.environ.get("FCR_CORENLP")
    for folder in (given, Path(named) if named else None):
        if folder is None:
            continue
        found = [folder / name for name in CORENLP_JARS]
        if missing := [jar.name for jar in found if not jar.exists()]:
            raise InputError(f"no {' and no '.join(missing)} in {folder}: {NO_CORENLP}")
        return found
    found = [bundled / name for name in CORENLP_JARS]
    if not all(jar.exists() for jar in found):
        raise JavaError(NO_CORENLP)
    return found
