"""A training step with a frozen encoder: `caption.train` against a plain transformers loop.

    python tests/benchmarks/bench_training.py [--steps 8] [--width 384] [--layers 6] [--side 384]
        [--batch 8] [--repeat 2] [--method lora|decoder]

One BLIP with random weights, drawn photos. The plain loop is what a tutorial writes: processor,
forward through encoder and decoder, backward into what learns, AdamW. Ours holds encoder outputs.
Both see the same captions in the same order from the same start, so their losses have to agree.
Runs take turns; of each the median step counts, of several runs the fastest. CPU seconds of the
process stand beside the wall's, because they tell more on a busy machine. The time to fill our
cache is printed, with the number of steps after which it is paid back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.utils import logging

from caption.adapt import AdaptConfig, adapt
from caption.captioners import IGNORED, load_captioner
from caption.records import CaptionExample, CaptionSet
from caption.train import TrainConfig, train
from caption.training_data import UpdateOrder

WORDS = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("ado", "ime", "uro", "eli", "oka", "isu")]


def main() -> None:
    """Run both sides and print one JSON line."""
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("steps", 8), ("width", 384), ("layers", 6), ("side", 384), ("batch", 8), ("repeat", 2),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method", choices=("decoder", "lora"), default="lora")
    args = parser.parse_args()
    config = TrainConfig(
        AdaptConfig(args.method, dropout=0.0),
        steps=args.steps,
        batch_size=args.batch,
        schedule="constant",
        warmup=0.0,
        learning_rate=1e-4,
        weight_decay=0.0,
        precision="float32",
        evaluate_every=args.steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        blip = make_blip(root / "blip", args.width, args.layers, args.side)
        captions = draw(root / "photos", 4 * args.batch, args.side)
        found = {"plain": [], "fcr": []}
        for _ in range(args.repeat):
            found["plain"].append(plain(blip, captions, config))
            found["fcr"].append(ours(blip, captions, config, root / "out"))
    report = {"benchmark": "training step, frozen encoder", **vars(args), "threads": threads()}
    for side, runs in found.items():
        report[f"{side}_step_ms"] = round(1000 * min(run["step"] for run in runs), 1)
        report[f"{side}_step_cpu_ms"] = round(1000 * min(run["cpu"] for run in runs), 1)
    report["ratio"] = round(report["plain_step_ms"] / report["fcr_step_ms"], 2)
    report["ratio_cpu"] = round(report["plain_step_cpu_ms"] / report["fcr_step_cpu_ms"], 2)
    losses = [np.array(found[side][0]["losses"]) for side in ("plain", "fcr")]
    report["largest_loss_difference"] = float(np.abs(losses[0] - losses[1]).max())
    fill = min(run["fill"] for run in found["fcr"])
    saved = (report["plain_step_ms"] - report["fcr_step_ms"]) / 1000
    report["cache_seconds"] = round(fill, 2)
    report["paid_back_after_steps"] = round(fill / saved, 1)
    print(json.dumps(report))


def ours(blip: Path, captions: CaptionSet, config: TrainConfig, out: Path) -> dict[str, object]:
    """Seconds a step between the reports of progress, which come once a step."""
    captioner = load_captioner(blip, device="cpu")
    marks, spent, losses = [], [], []
    start = time.perf_counter()

    def note(what: str, done: int, total: int) -> None:
        if what.startswith("training"):
            marks.append(time.perf_counter())
            spent.append(time.process_time())
            losses.append(float(what.rpartition(" ")[2]))

    held_out = CaptionSet("held out", captions.examples[:1])
    train(captioner, captions, held_out, out, config, note)
    step = statistics.median(np.diff(marks))
    return {
        "step": step,
        "cpu": statistics.median(np.diff(spent)),
        "losses": losses,
        "fill": marks[0] - start - step,
    }


def plain(blip: Path, captions: CaptionSet, config: TrainConfig) -> dict[str, object]:
    """The tutorial's loop: photos through the processor and the whole network at every step."""
    processor = BlipProcessor(
        BlipImageProcessorPil.from_pretrained(blip), BertTokenizerFast.from_pretrained(blip)
    )
    captioner = load_captioner(blip, device="cpu")
    adapt(captioner, config.adapt, seed=config.seed)
    network = captioner.model.train()
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=config.learning_rate,
        weight_decay=0.0,
        fused=True,
    )
    order = UpdateOrder(
        len(captions), steps=config.steps, batch_size=config.batch_size, seed=config.seed
    )
    marks, spent, losses = [], [], []
    for step in range(config.steps):
        chosen = [captions.examples[row] for row in order.rows(step)]
        photos = [Image.open(e.image).convert("RGB") for e in chosen if e.image is not None]
        inputs = processor(
            images=photos, text=[e.captions[0] for e in chosen], padding=True, return_tensors="pt"
        )
        labels = inputs.input_ids.masked_fill(inputs.attention_mask == 0, IGNORED)
        inputs["input_ids"][:, 0] = network.config.text_config.bos_token_id
        loss = network(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(float(loss.detach()), 3))
        marks.append(time.perf_counter())
        spent.append(time.process_time())
    return {
        "step": statistics.median(np.diff(marks)),
        "cpu": statistics.median(np.diff(spent)),
        "losses": losses,
    }


def make_blip(folder: Path, width: int, layers: int, side: int) -> Path:
    """A BLIP of random weights; encoder and decoder are equally deep and wide."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = BertTokenizerFast(vocab=vocabulary, bos_token="[DEC]")  # noqa: S106
    shape = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "initializer_range": 0.02, "projection_dim": 256,
    }  # fmt: skip
    text = {
        **shape, "vocab_size": len(vocabulary), "encoder_hidden_size": width,
        "max_position_embeddings": 64, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3,
        "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    vision = {**shape, "image_size": side, "patch_size": 16}
    network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    network.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def draw(folder: Path, n: int, side: int) -> CaptionSet:
    """Photos of noise and captions of 16 words: what is learned is not the question here."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    examples = []
    for i in range(n):
        path = folder / f"{i}.jpg"
        pixels = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side + side // 2)).save(path)
        words = [WORDS[k] for k in rng.integers(0, len(WORDS), 16)]
        examples.append(CaptionExample(str(i), path, (" ".join(words),)))
    return CaptionSet("drawn", tuple(examples))


def threads() -> int:
    """Threads torch computes with."""
    return int(torch.get_num_threads())


if __name__ == "__main__":
    main()
