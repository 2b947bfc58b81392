"""BLEU, ROUGE-L, CIDEr-D, the tokenizer and the reward, against pycocoevalcap on one corpus.

    python tests/benchmarks/bench_caption_metrics.py [--items 10000] [--references 5] [--repeat 3]

Every side runs in a process of its own, which also gives its peak memory; seconds are the best of
`--repeat`. Texts are drawn from a seed: about 15 words, Zipf's law over 20,000 words, references of
an item sharing two thirds of their words.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from caption.metrics import Backend, Corpus, Score
from caption.metrics.bleu import bleu
from caption.metrics.cider import CiderReward, cider_d
from caption.metrics.jvm import JavaError
from caption.metrics.rouge import rouge_l
from caption.metrics.tokenizer import tokenize_java, tokenize_python

SEED = 0


def draw(n_items: int, n_references: int) -> tuple[list[str], list[list[str]]]:
    """Hypotheses and references of tokenized words."""
    rng = np.random.default_rng(SEED)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = np.array(["".join(three) for three in itertools.product(syllables, repeat=3)])
    words = rng.permutation(words)[:20_000]
    weights = 1 / np.arange(1, len(words) + 1)
    cumulative = np.cumsum(weights) / weights.sum()
    texts = []
    for start in range(0, n_items, 10_000):
        size = min(10_000, n_items - start)
        base = np.searchsorted(cumulative, rng.random((size, 1, 21)))
        own = np.searchsorted(cumulative, rng.random((size, n_references + 1, 21)))
        mixed = words[np.where(rng.random(own.shape) < 2 / 3, base, own)]
        lengths = rng.integers(9, 22, mixed.shape[:2])
        for item, sizes in zip(mixed, lengths, strict=True):
            texts.append([" ".join(row[:n]) for row, n in zip(item, sizes, strict=True)])
    return [t[0] for t in texts], [t[1:] for t in texts]


def raw(texts: list[str]) -> list[str]:
    """Tokenized words as a person might have typed them."""
    return [f"{text.capitalize()}, {text.rsplit(' ', 1)[-1]}." for text in texts]


def best(
    repeat: int, run: Callable[..., Any], prepare: Callable[[], Any] | None = None
) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of processor time, and what `run` returned last.

    `prepare` makes what `run` is given, outside the measured time.
    """
    seconds, work, out = float("inf"), float("inf"), None
    for _ in range(repeat):
        given = () if prepare is None else (prepare(),)
        start, busy = time.perf_counter(), time.process_time()
        out = run(*given)
        seconds = min(seconds, time.perf_counter() - start)
        work = min(work, time.process_time() - busy)
    return seconds, work, out


def measure(side: str, n_items: int, n_references: int, repeat: int) -> dict[str, Any]:
    """What a child process does: one side of the comparison, as JSON."""
    hypotheses, references = draw(n_items, n_references)
    texts = [text for refs in references for text in refs] + hypotheses
    typed = raw(texts)
    ids = tuple(map(str, range(n_items)))

    def tokenized() -> Corpus:
        backend: Backend = "pycocoevalcap" if side == "original" else "fcr"
        corpus = Corpus(ids, hypotheses, references, tokenizer="none", backend=backend)
        assert len(corpus.tokenized.hypotheses) == n_items  # before the clock starts
        return corpus

    if side == "jar":
        one = best(repeat, lambda: tokenize_java(["a"]))[0]
        return {"tokenizer": best(repeat, lambda: tokenize_java(typed))[0] - one, "start": one}
    if side == "python":
        from caption.metrics import tokenizer

        def cold() -> list[str]:
            tokenizer._WORDS.clear()
            return tokenize_python(typed)

        wall, cpu, _ = best(repeat, cold)
        return {"tokenizer": wall, "cpu": cpu}
    if side == "reward":
        reward = CiderReward(references)
        rng = np.random.default_rng(SEED)
        rows = rng.integers(0, n_items, (20, 320))
        batches = [([hypotheses[i] for i in row], row) for row in rows]
        wall, cpu, _ = best(repeat, lambda: [reward(*batch) for batch in batches])
        return {"wall": rows.size / wall, "cpu": rows.size / cpu}
    start = _peak()
    *ngrams, found = best(repeat, lambda corpus: [*bleu(corpus), *cider_d(corpus)], tokenized)
    peak = _peak()
    *lcs, rouge = best(repeat, rouge_l, tokenized)
    scores = {s.name: s for s in (*found, *rouge) if isinstance(s, Score)}
    return {
        "bleu+cider-d": ngrams,
        "rouge-l": lcs,
        "corpus": start,
        "peak": peak,
        "values": {name: score.value for name, score in scores.items()},
    }


def _peak() -> float:
    """Highest resident memory of this process so far, MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = (options.items, options.references, options.repeat)
    if options.side:
        try:
            print(json.dumps(measure(options.side, *size)))
        except JavaError as error:
            print(json.dumps({"unavailable": str(error)}))
        return

    def child(side: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--side", side]
        command += [f"--items={size[0]}", f"--references={size[1]}", f"--repeat={size[2]}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    ours, theirs = child("ours"), child("original")
    print(f"{size[0]:,} items x {size[1]} references, best of {size[2]}")
    for name in ("bleu+cider-d", "rouge-l"):
        (wall, cpu), (new_wall, new_cpu) = theirs[name], ours[name]
        print(
            f"{name:13} {wall:8.2f} s -> {new_wall:7.3f} s  {wall / new_wall:6.1f} x"
            f"   (processor {cpu:.2f} s -> {new_cpu:.3f} s  {cpu / new_cpu:.1f} x)"
        )
    print(
        f"peak memory   {theirs['peak']:8.0f} MB -> {ours['peak']:5.0f} MB  "
        f"({ours['peak'] / theirs['peak']:.2f}; of it {ours['corpus']:.0f} MB before scoring)"
    )
    largest = max(abs(ours["values"][name] - value) for name, value in theirs["values"].items())
    print(f"largest difference of a corpus value: {largest:.1e}")
    jar, python = child("jar"), child("python")
    if "tokenizer" in jar:
        print(
            f"tokenizer     {jar['tokenizer']:8.2f} s (jar, and {jar['start']:.2f} s of start) -> "
            f"{python['tokenizer']:.2f} s (Python, {python['cpu']:.2f} s of processor time)"
            f"  {jar['tokenizer'] / python['tokenizer']:.1f} x"
        )
    else:
        print(f"tokenizer     {python['tokenizer']:.2f} s (Python); jar: {jar['unavailable']}")
    reward = child("reward")
    print(
        f"reward        {reward['wall']:,.0f} captions/s ({reward['cpu']:,.0f} a second of "
        "processor time), in batches of 320"
    )


if __name__ == "__main__":
    main()
