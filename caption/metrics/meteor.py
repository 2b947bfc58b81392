"""METEOR 1.5 (Denkowski and Lavie, 2014): meteor-1.5.jar as COCO's evaluation runs it.

Equal to pycocoevalcap's METEOR to the last bit, item by item and for the corpus (which is not the
mean of the items). What differs is the way there: one process that cannot hang, is started once per
corpus, loads only the paraphrases that can match, and scores on several threads (java/FcrMeteor).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.jvm import LAUNCHERS, JavaError, clean_line, jar_folder, java_memory, run_java

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TOKENS = 500
"""The aligner's cost grows faster than the square of a text's length."""


def meteor(
    corpus: Corpus,
    *,
    memory: str | None = None,
    timeout: float | None = None,
    threads: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[Score | Unavailable]:
    """METEOR of English captions: task rank, modules exact, stem, WordNet synonym, paraphrase.

    `memory`: Java's -Xmx (default: FCR_JAVA_MEMORY, else 1g). `timeout`: seconds for the whole
    corpus (default: 300, and a tenth of a second more an item). A text longer than `max_tokens`
    is cut there; the signature then counts such texts as `cut:`. Without Java, or when Java fails,
    the answer is `Unavailable` with the reason. Raises `InputError` on a malformed `memory`.
    """
    memory = java_memory(memory, "1g")
    hypotheses, references = corpus.tokenized.hypotheses, corpus.tokenized.references
    cut = 0
    lines = []
    for hypothesis, items in zip(hypotheses, references, strict=True):
        # The hypothesis loses double blanks as in pycocoevalcap.
        fields = [_clean(hypothesis).replace("  ", " "), *map(_clean, items)]
        for i, text in enumerate(fields):
            if text.count(" ") >= max_tokens and len(tokens := text.split()) > max_tokens:
                fields[i] = " ".join(tokens[:max_tokens])
                cut += 1
        lines.append("\t".join(fields))
    if timeout is None:
        timeout = 300 + 0.1 * len(lines)
    try:
        if corpus.backend == "pycocoevalcap":
            values = _original(lines)
        else:
            values = _launch(lines, memory, timeout, threads or min(os.cpu_count() or 1, 8))
    except JavaError as error:
        return [Unavailable("meteor", str(error))]
    definition = ["meteor", "jar:1.5", "lang:en", "norm:yes", *([f"cut:{cut}"] if cut else [])]
    signature = corpus.signature(*definition, package=corpus.backend)
    return [Score("meteor", values[-1], np.array(values[:-1]), signature)]


def _clean(text: str) -> str:
    """`|||` is METEOR's own separator: pycocoevalcap drops it from hypotheses alone."""
    return clean_line(text).replace("|||", "")


def _launch(lines: Sequence[str], memory: str, timeout: float, threads: int) -> list[float]:
    folder = jar_folder("meteor")
    out = run_java(
        [LAUNCHERS, folder / "meteor-1.5.jar"],
        "FcrMeteor",
        [str(folder / "data" / "paraphrase-en.gz"), str(threads)],
        stdin="".join(f"{line}\n" for line in lines).encode("utf-8", "replace"),
        memory=memory,
        timeout=timeout,
    )
    values = out.split()
    if len(values) != len(lines) + 1:
        raise JavaError(f"METEOR answered {len(values)} numbers, expected {len(lines) + 1}")
    return [float(value) for value in values]


def _original(lines: Sequence[str]) -> list[float]:
    """pycocoevalcap's own client, for comparison; it may hang where ours answers."""
    from pycocoevalcap.meteor.meteor import Meteor

    fields = [line.split("\t") for line in lines]
    references = {i: each[1:] for i, each in enumerate(fields)}
    hypotheses = {i: each[:1] for i, each in enumerate(fields)}
    usual = os.environ.get("JAVA_TOOL_OPTIONS")
    # It prints numbers as the locale does and can't read "0,5".
    os.environ["JAVA_TOOL_OPTIONS"] = f"{usual or ''} -Duser.language=en -Duser.country=US".strip()
    try:
        client = Meteor()
    finally:
        os.environ.pop("JAVA_TOOL_OPTIONS")
        if usual is not None:
            os.environ["JAVA_TOOL_OPTIONS"] = usual
    corpus, items = client.compute_score(references, hypotheses)
    return [*items, corpus]
