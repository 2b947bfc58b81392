"""Catalogue captioning against a plain `model.generate` loop with its processor, in one run.

    python tests/benchmarks/bench_captions.py [--size tiny|base] [--photos 96] [--beams 1]
        [--batch 16] [--repeat 3] [--checkpoint FOLDER]

Both sides read the same JPEGs from disk, take the same batches, and have to write the same
captions. The sides take turns; the best time of each counts. "tiny" is the shipped checkpoint of
the demo (or --checkpoint), "base" a network of BLIP-base's size with random weights, whose captions
all run to --max-new-tokens. Prints one JSON line.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("tiny", "base"), default="tiny")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "data" / "demo" / "blip")
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(compare(args, Path(scratch))))


def compare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import polars as pl

    from caption.captioners import load_captioner

    folder = args.checkpoint if args.size == "tiny" else _base(scratch / "base")
    captioner = load_captioner(folder, dtype=args.dtype)
    items = _photos(scratch / "photos", args.photos)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    cpu: dict[str, list[float]] = {"plain": [], "ours": []}

    def clock(side: str, run: Callable[[], Any]) -> Any:
        began, busy = time.perf_counter(), time.process_time()
        result = run()
        seconds[side].append(time.perf_counter() - began)
        cpu[side].append(time.process_time() - busy)
        return result

    for turn in range(args.repeat):
        theirs = clock("plain", lambda: _plain(captioner, [p for _, p in items], args))
        out = scratch / f"out{turn}"
        result = clock("ours", partial(_ours, captioner, items, out, args))
        ours = dict(pl.read_parquet(result.captions)["article_id", "caption"].iter_rows())
        wrong = [
            id for (id, _), text in zip(items, theirs, strict=True) if ours.get(id, "") != text
        ]
    plain, own = (min(seconds[side]) for side in ("plain", "ours"))
    return {
        "size": args.size,
        "beams": args.beams,
        "batch": args.batch,
        "photos": len(items),
        "device": str(captioner.device),
        "dtype": args.dtype,
        "plain_per_second": round(len(items) / plain, 2),
        "ours_per_second": round(len(items) / own, 2),
        "ratio": round(plain / own, 2),
        "ratio_of_cpu_seconds": round(min(cpu["plain"]) / min(cpu["ours"]), 2),
        "different_captions": len(wrong),
        "distinct_captions": len(set(theirs)),
    }


def _ours(captioner: Any, items: list[Any], out: Path, args: argparse.Namespace) -> Any:
    from caption.generate import caption_catalogue

    return caption_catalogue(
        captioner,
        items,
        out,
        beams=args.beams,
        batch_size=args.batch,
        max_new_tokens=args.max_new_tokens,
    )


def _plain(captioner: Any, paths: list[Path], args: argparse.Namespace) -> list[str]:
    """What a reader of transformers' documentation writes."""
    import torch
    from PIL import Image

    from caption.captioners import tidy

    texts: list[str] = []
    for start in range(0, len(paths), args.batch):
        photos = [Image.open(path).convert("RGB") for path in paths[start : start + args.batch]]
        inputs = captioner.processor(images=photos, return_tensors="pt").to(captioner.device)
        with torch.inference_mode():
            ids = captioner.model.generate(
                pixel_values=inputs.pixel_values.to(captioner.model.dtype),
                num_beams=args.beams,
                max_new_tokens=args.max_new_tokens,
                do_sample=False,
            )
        texts += [tidy(t) for t in captioner.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return texts


def _photos(folder: Path, n: int) -> list[tuple[str, Path]]:
    """Photos of a drawn catalogue."""
    from pipelines.drawing import write_catalogue

    write_catalogue(folder, n + n // 2, seed=0)
    paths = sorted((folder / "images").rglob("*.jpg"))[:n]
    return [(path.stem, path) for path in paths]


def _base(folder: Path) -> Path:
    """BLIP-base's shape (vision 12 x 768, text 12 x 768, 384 pixels) with random weights."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    pieces = special + [f"w{i}" for i in range(30524 - len(special))]
    tokenizer = BertTokenizerFast(vocab={p: i for i, p in enumerate(pieces)}, bos_token="[DEC]")  # noqa: S106
    shape = {"initializer_range": 0.05}
    text = {"vocab_size": 30524, "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(
        text_config={**shape, **text, "pad_token_id": 0, "encoder_hidden_size": 768},
        vision_config={**shape, "image_size": 384, "patch_size": 16},
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 384, "width": 384})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
