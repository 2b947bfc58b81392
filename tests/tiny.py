"""Tiny untrained checkpoints of every captioner family, as `save_pretrained` writes them.

`tiny_captioner(family, folder)` fills `folder` and returns it; `load_captioner(folder)` reads it.
Pictures are 32 x 16 (BLIP) or 32 x 32 pixels. The same seed writes the same weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.tiny_blip import COLOURS, WORDS, draw_photos, make_blip

__all__ = ["FAMILIES", "draw_photos", "tiny_captioner"]

WIDTH = {"hidden_size": 32, "intermediate_size": 64}
VISION = {
    **WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 16,
    "initializer_range": 0.05,
}


def tiny_captioner(family: str, folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint of one of FAMILIES with random weights, in `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        FAMILIES[family](folder)
    return folder


def _blip(folder: Path) -> None:
    make_blip(folder, seed=torch.initial_seed())


def _blip2(folder: Path, text: dict[str, Any], tokenizer: Any) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor

    processor = Blip2Processor(_square_images("Blip"), tokenizer, num_query_tokens=4)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={
            **WIDTH,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "encoder_hidden_size": 32,
            "vocab_size": 20,
            "initializer_range": 0.05,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_()  # zeros in a new network
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _blip2_opt(folder: Path) -> None:
    tokenizer = _byte_bpe("</s>", bos="</s>", eos="</s>", pad="<pad>", add_bos=True)
    text = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer) + 1,  # Blip2Processor adds <image>
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "init_std": 0.1,
        "dropout": 0.0,
    }
    _blip2(folder, text, tokenizer)


def _blip2_t5(folder: Path) -> None:
    tokenizer = _metaspace("<pad>", "</s>", "<unk>", add_eos=True)
    text = {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "vocab_size": len(tokenizer) + 1,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.eos_token_id,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "dropout_rate": 0.0,
        "initializer_factor": 1.0,
    }
    _blip2(folder, text, tokenizer)


def _encoder_decoder(folder: Path) -> None:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessorPil,
        ViTModel,
    )

    tokenizer = _gpt2_tokenizer()
    vit = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    gpt2 = GPT2LMHeadModel(
        GPT2Config(**_gpt2(tokenizer), is_decoder=True, add_cross_attention=True)
    )
    model = VisionEncoderDecoderModel(encoder=vit, decoder=gpt2)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _clipcap(folder: Path, mapper: str) -> None:
    from caption.clipcap import ClipCap

    clip, gpt2 = clipcap_parts(folder)
    more = {"prefix_length": 4, "mapper_layers": 2, "mapper_heads": 2}
    ClipCap.from_parts(clip, gpt2, mapper=mapper, seed=torch.initial_seed(), **more).save(folder)  # type: ignore[arg-type]


def clipcap_parts(folder: Path) -> tuple[Path, Path]:
    """A tiny CLIP and a tiny GPT-2 in `folder`/clip and `folder`/gpt2."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        GPT2Config,
        GPT2LMHeadModel,
    )

    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=16))
    clip.save_pretrained(folder / "clip")
    _square_images("CLIP").save_pretrained(folder / "clip")
    tokenizer = _gpt2_tokenizer()
    GPT2LMHeadModel(GPT2Config(**_gpt2(tokenizer))).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    return folder / "clip", folder / "gpt2"


LLAMA = {
    **WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}


def _llava(folder: Path) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _metaspace("<pad>", "</s>", "<unk>", bos="<s>", add_eos=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    processor = LlavaProcessor(
        _square_images("Llava"),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    text = {**LLAMA, **_roles(tokenizer), "model_type": "llama", "vocab_size": len(tokenizer)}
    vision = {**VISION, "model_type": "clip_vision_model"}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def _idefics3(folder: Path) -> None:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokenizer = _metaspace("<pad>", "</s>", "<unk>", bos="<s>", add_eos=False)
    extra = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_special_tokens({"additional_special_tokens": extra})
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    template = (
        "{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    text = {**LLAMA, **_roles(tokenizer), "model_type": "llama", "vocab_size": len(tokenizer)}
    config = Idefics3Config(
        vision_config={**VISION, "patch_size": 8},
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _roles(tokenizer: Any) -> dict[str, int]:
    return {f"{x}_token_id": getattr(tokenizer, f"{x}_token_id") for x in ("bos", "eos", "pad")}


def _gpt2(tokenizer: Any) -> dict[str, Any]:
    return {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.1,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _square_images(kind: str) -> Any:
    import transformers

    sizes: dict[str, Any] = {"size": {"height": 32, "width": 32}}
    if kind in ("CLIP", "Llava"):
        sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return getattr(transformers, f"{kind}ImageProcessorPil")(**sizes)


SENTENCES = [f"a {colour} {x} with long sleeves" for colour in COLOURS for x in WORDS] + [
    "a pink t-shirt"
]


def _gpt2_tokenizer() -> Any:
    return _byte_bpe("<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>")


def _byte_bpe(*special: str, add_bos: bool = False, **roles: str) -> Any:
    """Byte-level BPE, as GPT-2 and OPT have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([*special, *roles.values()]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if add_bos:
        bos = roles["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    named = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def _metaspace(pad: str, eos: str, unk: str, *, bos: str | None = None, add_eos: bool) -> Any:
    """SentencePiece-like BPE, as LLaMA and T5 have it: spaces belong to the next word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = [x for x in (pad, eos, unk, bos) if x]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=names, show_progress=False)
    prompts = ["USER: ASSISTANT: Describe the clothing item in this photo. End Question Answer?"]
    tokenizer.train_from_iterator([*SENTENCES, *prompts], trainer)
    ends = (f"{bos} $A" if bos else "$A") + (f" {eos}" if add_eos else "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=ends,
        special_tokens=[(x, tokenizer.token_to_id(x)) for x in (bos, eos) if x],
    )
    roles = {"pad_token": pad, "eos_token": eos, "unk_token": unk}
    if bos:
        roles["bos_token"] = bos
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "blip": _blip,
    "blip-2-opt": _blip2_opt,
    "blip-2-t5": _blip2_t5,
    "llava": _llava,
    "vision-encoder-decoder": _encoder_decoder,
    "clipcap-mlp": lambda folder: _clipcap(folder, "mlp"),
    "clipcap-transformer": lambda folder: _clipcap(folder, "transformer"),
    "idefics3": _idefics3,
}
"""Name of a tiny checkpoint -> what writes it."""
