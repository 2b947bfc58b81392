"""METEOR end to end, ours against pycocoevalcap's, on one corpus in one run.

    python tests/benchmarks/bench_meteor.py [--items 10000] [--references 5] [--repeat 1]
        [--texts FILE.gz ...]

Both sides get the same tokenized captions and start their own Java; seconds include that start.
CPU seconds, of Java and Python together, tell more on a machine that is busy with other things.
Memory is the peak of the largest process, Java's or Python's. Without `--texts` captions are drawn
as in bench_caption_metrics (which no paraphrase table knows); with files of one caption a line,
where line i of every file describes item i, they are real, and line i of the first is the caption.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from bench_caption_metrics import draw

from caption.metrics import Corpus, Score
from caption.metrics.meteor import meteor


def main() -> None:
    """Run both sides in processes of their own and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--side", choices=("fcr", "pycocoevalcap"))
    args = parser.parse_args()
    if args.side:
        return one_side(args)
    found = {}
    for side in ("pycocoevalcap", "fcr"):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        runs = []
        for _ in range(args.repeat):
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        found[side] = min(runs, key=lambda run: run["seconds"])
    ours, theirs = found["fcr"], found["pycocoevalcap"]
    equal = ours["value"] == theirs["value"] and ours["items"] == theirs["items"]
    report = {
        "benchmark": "meteor",
        "items": args.items,
        "references": args.references,
        "texts": "given" if args.texts else "drawn",
        "fcr_seconds": ours["seconds"],
        "pycocoevalcap_seconds": theirs["seconds"],
        "ratio": round(theirs["seconds"] / ours["seconds"], 2),
        "fcr_cpu_seconds": ours["cpu"],
        "pycocoevalcap_cpu_seconds": theirs["cpu"],
        "cpu_ratio": round(theirs["cpu"] / ours["cpu"], 2),
        "fcr_mb": ours["megabytes"],
        "pycocoevalcap_mb": theirs["megabytes"],
        "equal": equal,
        "value": ours["value"],
    }
    print(json.dumps(report))
    sys.exit(not equal)


def one_side(args: argparse.Namespace) -> None:
    """Score the corpus with `args.side`; print seconds, peak memory and every value."""
    hypotheses, references = corpus(args.texts, args.items, args.references)
    ids = tuple(map(str, range(len(hypotheses))))
    start = time.perf_counter()
    (score,) = meteor(Corpus(ids, hypotheses, references, tokenizer="none", backend=args.side))
    seconds = time.perf_counter() - start
    if not isinstance(score, Score) or score.per_item is None:
        sys.exit(f"METEOR did not run: {score}")
    gc.collect()  # ends pycocoevalcap's Java, whose use is counted only then
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu": round(sum(u.ru_utime + u.ru_stime for u in usage), 2),
                "megabytes": max(u.ru_maxrss for u in usage) // 1024,
                "value": score.value,
                "items": score.per_item.tolist(),
            }
        )
    )


def corpus(texts: list[Path], n: int, n_references: int) -> tuple[list[str], list[list[str]]]:
    """Hypotheses and references, tokenized."""
    if not texts:
        return draw(n, n_references)
    columns = []
    for path in texts:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = [line.strip().lower() for line in file][: n + 1]
        columns.append([line.replace(".", "").replace(",", "").strip() for line in lines])
    # The caption of the next item stands for a machine's: near enough to match here and there.
    pairs = zip(*columns, strict=True)
    references = [list(refs[:n_references]) for refs in pairs]
    hypotheses = [references[i + i % 3 % 2][0] for i in range(len(references) - 1)]
    return hypotheses, references[:-1]


if __name__ == "__main__":
    main()
