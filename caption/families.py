"""Captioners with a language model made for one photo: BLIP, BLIP-2, vision encoder-decoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.captioners import Captioner, Checkpoint, TextBatch, tidy, working_dtype
from caption.decoding import BlipSession, CachedSession, Session
from caption.preprocess import load_image_processor, picture_size, pixels_of
from caption.trust import checked

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class BlipCaptioner(Captioner):
    """BLIP: a vision transformer and a BERT decoder with cross-attention (arXiv 2201.12086)."""

    family = "blip"

    def __init__(self, name: str, model: Any, processor: Any, prompt: str) -> None:
        self.name = name
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        size = processor.image_processor.size
        self.image_size = (int(size["height"]), int(size["width"]))
        text = model.config.text_config
        self.prompt = prompt
        self.start = [
            text.bos_token_id,
            *self.tokenizer(prompt, add_special_tokens=False).input_ids,
        ]
        self.ends = (text.sep_token_id,)
        self.pad = text.pad_token_id
        self.room = text.max_position_embeddings

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "BlipCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import BertTokenizerFast, BlipForConditionalGeneration, BlipProcessor
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        model = checkpoint.weights(BlipForConditionalGeneration)
        images = BlipImageProcessorPil.from_pretrained(checkpoint.folder)
        tokenizer = BertTokenizerFast.from_pretrained(checkpoint.folder)
        check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        processor = BlipProcessor(images, tokenizer)
        return cls(checkpoint.name, model, processor, prompt_of(cls, checkpoint))

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return pixels_of(image, self.processor.image_processor)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        features: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return features

    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        return BlipSession(
            self.model.text_decoder,
            features,
            room,
            prompt=learned_prompt(self.model),
            prefix=learned_prefix(self.model),
        )

    def logits(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        if hasattr(self.model, "virtual_tokens"):
            return super().logits(features, batch)
        # The network's own forward: it knows dropout of attention and gradient checkpointing.
        logits: torch.Tensor = self.model.text_decoder(
            input_ids=batch.input_ids, encoder_hidden_states=features, use_cache=False
        ).logits
        return logits.float()

    def text_of(self, tokens: Sequence[int]) -> str:
        return tidy(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def add_words(self, words: Sequence[str]) -> None:
        import torch
        from transformers import AddedToken

        pieces = [self.tokenizer(w, add_special_tokens=False).input_ids for w in words]
        first = self.model.config.text_config.vocab_size
        # Tokens may not fill the whole embedding: new ones are appended to the tokenizer's end.
        start = len(self.tokenizer)
        self.tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=True) for w in words])
        if len(self.tokenizer) != start + len(words):
            raise InputError("add_words: some of the words are tokens already, or stand twice")
        self.source = None
        decoder = self.model.text_decoder
        size = max(first, len(self.tokenizer))
        decoder.resize_token_embeddings(size, mean_resizing=False)
        self.model.config.text_config.vocab_size = size
        embeddings = decoder.get_input_embeddings().weight
        bias = decoder.cls.predictions.bias
        with torch.no_grad():
            for row, own in enumerate(pieces, start=start):
                embeddings[row] = embeddings[own].mean(0)
                bias[row] = bias[own].mean()
        self.model.tie_weights()

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class TextLike(Captioner):
    """What families share whose language side is a model of transformers fed with embeddings."""

    def add_words(self, words: Sequence[str]) -> None:
        raise InputError(
            f"add_words: the {self.family} captioner {self.name!r} writes with a pretrained "
            "tokenizer of sub-words, which already spells every word; leave extend_vocabulary at 0"
        )

    def _caption_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of the captions as they stand behind the prompt.

        Tokenised together with it, because many tokenizers join a word to the space before it.
        """
        lead = self._lead
        before = self._tokens(lead) if lead else []
        space = "" if not lead or lead[-1].isspace() else " "
        encoded = self._tokens_of([lead + space + text.strip() for text in texts])
        if any(ids[: len(before)] != before for ids in encoded):
            return self._tokens_of([space + text.strip() for text in texts])
        return [ids[len(before) :] for ids in encoded]

    @property
    def _lead(self) -> str:
        """The text that a caption directly follows."""
        return self.prompt

    def _tokens(self, text: str) -> list[int]:
        return self._tokens_of([text])[0] if text else []

    def _tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded.input_ids]

    def _in_front(self, context: "torch.Tensor | None", n: int) -> "torch.Tensor | None":
        """Learned prompt embeddings, if any, before the context (n, P, D)."""
        import torch

        learned = learned_prompt(self.model)
        if learned is None:
            return context
        spread = learned.expand(n, -1, -1)
        return spread if context is None else torch.cat([spread.to(context.dtype), context], 1)


class Blip2Captioner(TextLike):
    """BLIP-2: a frozen vision transformer, a Q-Former, and OPT or FlanT5 (arXiv 2301.12597).

    Features are the Q-Former's outputs (n, queries, D). OPT continues the projected queries, its
    BOS and the prompt; T5 reads queries and prompt in its encoder, and only the caption is written
    by its decoder.
    """

    family = "blip-2"

    def __init__(self, name: str, model: Any, processor: Any, prompt: str) -> None:
        self.name, self.model, self.processor, self.prompt = name, model, processor, prompt
        self.tokenizer = processor.tokenizer
        self.image_size = picture_size(processor.image_processor)
        text = model.config.text_config
        self.seq2seq = not model.config.use_decoder_only_language_model
        own = model.language_model.generation_config
        self.ends = end_tokens(text.eos_token_id, own.eos_token_id, model.generation_config)
        self.pad = first_token(text.pad_token_id, self.ends[0])
        with_special = list(self.tokenizer(prompt).input_ids)
        if self.seq2seq:
            self.read = with_special  # by T5's encoder, behind the queries
            self.start = [first_token(text.decoder_start_token_id, self.pad)]
            self.room = 512  # relative positions: no limit of the network's own
        else:
            self.read = []
            self.start = with_special or [text.bos_token_id]
            self.room = text.max_position_embeddings - model.config.num_query_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "Blip2Captioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor

        model = checkpoint.weights(Blip2ForConditionalGeneration)
        images = load_image_processor(checkpoint.folder)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
        processor = Blip2Processor(
            images, tokenizer, num_query_tokens=model.config.num_query_tokens
        )
        check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings, spare=1)
        return cls(checkpoint.name, model, processor, prompt_of(cls, checkpoint))

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return pixels_of(image, self.processor.image_processor)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        model = self.model
        seen = model.vision_model(pixel_values=pixels.to(model.dtype)).last_hidden_state
        queries: torch.Tensor = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=seen,
        ).last_hidden_state
        return queries.to(seen.dtype)

    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        language = self.model.language_model
        embed = language.get_input_embeddings()
        bridge = self.model.language_projection
        seen = bridge(features.to(working_dtype(bridge)))  # (n, queries, D)
        seen = seen.to(embed.weight.dtype)
        n = len(features)
        if not self.seq2seq:

            def write(x: Any, cache: Any, last: int, _: Any) -> Any:
                return language(
                    inputs_embeds=x,
                    past_key_values=cache,
                    use_cache=cache is not None,
                    logits_to_keep=last,
                ).logits

            cache = new_cache(self.model, n, keep=keep)
            return CachedSession(write, embed, cache, context=self._in_front(seen, n))
        if self.read:
            read = embed(torch.tensor(self.read, device=features.device))
            seen = torch.cat([seen, read.expand(n, -1, -1)], 1)
        seen = self._in_front(seen, n)  # T5 is prompted where it reads
        states = language.get_encoder()(inputs_embeds=seen).last_hidden_state

        def answer(x: Any, cache: Any, last: int, states: Any) -> Any:
            return language(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                decoder_inputs_embeds=x,
                past_key_values=cache,
                use_cache=cache is not None,
            ).logits[:, -last:]

        cache = new_cache(self.model, n, keep=keep, cross=True)
        return CachedSession(answer, embed, cache, seen=states)

    @property
    def _lead(self) -> str:
        return "" if self.seq2seq else self.prompt

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class EncoderDecoderCaptioner(TextLike):
    """A vision encoder and a text decoder with cross-attention (ViT + GPT-2 and the like).

    Features are the encoder's states (n, L, D); a projection to the decoder's width, where the
    network has one, belongs to the text side.
    """

    family = "vision-encoder-decoder"

    def __init__(self, name: str, model: Any, images: Any, tokenizer: Any, prompt: str) -> None:
        self.name, self.model, self.images, self.prompt = name, model, images, prompt
        self.tokenizer = tokenizer
        self.image_size = picture_size(images)
        decoder, own = model.config.decoder, model.generation_config
        self.ends = end_tokens(
            own.eos_token_id,
            model.config.eos_token_id,
            decoder.eos_token_id,
            tokenizer.eos_token_id,
        )
        begin = first_token(
            own.decoder_start_token_id,
            getattr(model.config, "decoder_start_token_id", None),
            tokenizer.bos_token_id,
            decoder.bos_token_id,
        )
        self.pad = first_token(own.pad_token_id, tokenizer.pad_token_id, self.ends[0])
        self.start = [begin, *self._tokens(prompt)]
        self.room = int(decoder.max_position_embeddings)

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "EncoderDecoderCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import AutoTokenizer, VisionEncoderDecoderModel

        model = checkpoint.weights(VisionEncoderDecoderModel, unused=r"encoder\.pooler\..*")
        if getattr(model.encoder, "pooler", None) is not None:
            model.encoder.pooler = None  # untrained where it is missing, and never asked
        images = load_image_processor(checkpoint.folder)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
        check_tokenizer(tokenizer, model.config.decoder.vocab_size)
        return cls(checkpoint.name, model, images, tokenizer, prompt_of(cls, checkpoint))

    @classmethod
    def from_parts(
        cls, encoder: str | Path, decoder: str | Path, *, seed: int = 0
    ) -> "EncoderDecoderCaptioner":
        """Join a pretrained picture encoder (ViT, DeiT, Swin, CLIP, timm ...) and a GPT-2 or BERT.

        Folders or names of the hub. The cross-attention between them is new (drawn from `seed`)
        and has to be learned: "full", or "decoder" where the encoder stays as it is.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers import VisionEncoderDecoderModel as Network

        checked(decoder)
        eyes = vision_tower(encoder)
        images = load_image_processor(Path(encoder))
        tokenizer = AutoTokenizer.from_pretrained(decoder, trust_remote_code=False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(decoder, trust_remote_code=False)
            config.is_decoder = config.add_cross_attention = True
            text = AutoModelForCausalLM.from_pretrained(
                decoder, config=config, trust_remote_code=False
            )
            model = Network(encoder=eyes, decoder=text)
        end = tokenizer.eos_token_id if tokenizer.sep_token is None else tokenizer.sep_token_id
        begin = first_token(tokenizer.cls_token_id, tokenizer.bos_token_id, end)
        pad = first_token(tokenizer.pad_token_id, end)
        for config in (model.config, model.generation_config):
            config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = (
                begin,
                end,
                pad,
            )
        return cls(f"{encoder}+{decoder}", model.eval(), images, tokenizer, "")

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return pixels_of(image, self.images)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        encoder = self.model.encoder
        states: torch.Tensor = encoder(pixel_values=pixels.to(encoder.dtype)).last_hidden_state
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states  # a ConvNet's map

    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        model, n = self.model, len(features)
        features = features.to(model.dtype)
        bridge = getattr(model, "enc_to_dec_proj", None)
        seen = features if bridge is None else bridge(features)

        def write(x: Any, cache: Any, last: int, seen: Any) -> Any:
            return model.decoder(
                inputs_embeds=x,
                encoder_hidden_states=seen,
                past_key_values=cache,
                use_cache=cache is not None,
            ).logits[:, -last:]

        cache = new_cache(model, n, keep=keep, cross=True)
        embed = model.decoder.get_input_embeddings()
        return CachedSession(write, embed, cache, context=self._in_front(None, n), seen=seen)

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.images.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def vision_tower(name: str | Path) -> Any:
    """A picture encoder by folder or hub name; of CLIP-like pairs, the half that sees."""
    from transformers import AutoConfig, AutoModel

    checked(name)
    model = AutoModel.from_pretrained(name, trust_remote_code=False)
    return (
        model.vision_model
        if hasattr(AutoConfig.from_pretrained(name, trust_remote_code=False), "vision_config")
        else model
    )


def check_tokenizer(tokenizer: Any, vocabulary: int, *, spare: int = 0) -> None:
    """Raise ValueError when a tokenizer cannot be the one of a network with so many tokens.

    spare: tokens without an embedding that a processor adds.
    """
    if len(tokenizer) > vocabulary + spare or len(tokenizer) < 10:
        raise ValueError(
            f"its tokenizer has {len(tokenizer)} tokens, its network {vocabulary}: the tokenizer "
            "is missing or another one"
        )


def prompt_of(family: type[Captioner], checkpoint: Checkpoint) -> str:
    """The prompt asked for, or the family's own."""
    return family.default_prompt if checkpoint.prompt is None else checkpoint.prompt


def end_tokens(*known: Any) -> tuple[int, ...]:
    """All tokens that end a text, the first known one first; arguments as configurations hold it.

    Raises ValueError when none is known.
    """
    ends: dict[int, None] = {}
    for one in known:
        one = getattr(one, "eos_token_id", one)
        for token in one if isinstance(one, (list, tuple)) else [one]:
            if token is not None:
                ends[int(token)] = None
    if not ends:
        raise ValueError("neither its network nor its tokenizer names a token that ends a text")
    return tuple(ends)


def first_token(*known: int | None) -> int:
    """The first token that is not None. Raises ValueError when there is none."""
    for token in known:
        if token is not None:
            return int(token)
    raise ValueError("its configuration names neither the token a text starts with nor the pad")


def new_cache(model: Any, n: int, *, keep: bool, cross: bool = False) -> Any:
    """A cache for `n` rows, holding the learned prefix if there is one; None when not needed.

    keep: more tokens will follow the first ones. cross: the decoder has cross-attention.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    prefix = learned_prefix(model)
    if not keep and prefix is None:
        return None
    own = DynamicCache()
    if prefix is not None:  # (layers, 2, heads, P, D / heads)
        for number, (keys, values) in enumerate(prefix):
            own.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), number)
    return EncoderDecoderCache(own, DynamicCache()) if cross else own


def learned_prompt(model: Any) -> "torch.Tensor | None":
    """Virtual tokens (P, D) that were attached to a network by `adapt`."""
    return getattr(getattr(model, "virtual_tokens", None), "prompt", None)


def learned_prefix(model: Any) -> "torch.Tensor | None":
    """Keys and values (layers, 2, heads, P, D / heads) that were attached by `adapt`."""
    return getattr(getattr(model, "virtual_tokens", None), "prefix", None)
