"""One `Captioner` per family: photos in, sentences with log-probabilities out.

A family also says how it is trained: `encode_images` (the part that can be cached when it is
frozen), `text_rows` and `text_batch` (tokens, and which of them count), `loss`.
"""

import hashlib
import json
import re
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.decoding import beam_search, greedy_search

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CAPTIONERS: dict[str, str] = {
    "blip-base": "Salesforce/blip-image-captioning-base",
    "blip-large": "Salesforce/blip-image-captioning-large",
}
"""Short name -> checkpoint on the Hugging Face hub. Any local folder works as well."""

IGNORED = -100
"""Label of tokens that do not count in the loss: pads, prompts, image tokens."""


@dataclass(frozen=True)
class Generated:
    """One caption and the sum of its tokens' natural-log probabilities (its end included)."""

    text: str
    logprob: float


@dataclass(frozen=True)
class TextRow:
    """One caption as tokens; `labels[i]` is `ids[i]` where it counts in the loss, else IGNORED."""

    ids: list[int]
    labels: list[int]
    cut: bool
    """The caption was longer than the cap; its end is then not taught as an end."""


@dataclass(frozen=True)
class TextBatch:
    """Padded rows: int64 tensors of shape (n, T)."""

    input_ids: "torch.Tensor"
    labels: "torch.Tensor"


class Captioner(ABC):
    """A network that describes photos. Pixels are float32 (n, 3, H, W), normalised by `preprocess`.

    Generation is deterministic: greedy, or beam search without sampling.
    """

    family: ClassVar[str]
    name: str
    model: Any
    """The transformers module; `adapt` changes it in place."""
    tokenizer: Any
    image_size: tuple[int, int]
    """(height, width) that `preprocess` resizes to."""

    @abstractmethod
    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        """An RGB picture of any size -> (3, H, W) as the network expects it."""

    @abstractmethod
    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """(n, 3, H, W) -> (n, L, D): what the language side sees; differentiable."""

    @abstractmethod
    def decode(
        self, features: "torch.Tensor", *, beams: int, max_new_tokens: int
    ) -> list[Generated]:
        """Captions for encoded images (n, L, D), in order."""

    @abstractmethod
    def text_rows(self, texts: Sequence[str], max_tokens: int) -> list[TextRow]:
        """Training texts as token rows of at most `max_tokens` tokens."""

    @abstractmethod
    def text_batch(self, rows: Sequence[TextRow]) -> TextBatch:
        """Rows padded to the longest of them, on the captioner's device."""

    @abstractmethod
    def loss(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        """Mean cross-entropy in nats over the tokens that count."""

    @abstractmethod
    def add_words(self, words: Sequence[str]) -> None:
        """Add whole words to the vocabulary, each starting as the mean of its former pieces."""

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Write model, tokenizer and image processor into an existing folder."""

    def generate(
        self, pixels: NDArray[np.float32], *, beams: int = 1, max_new_tokens: int = 50
    ) -> list[Generated]:
        """Captions for a batch of pictures (n, 3, H, W), in order; greedy when beams is 1.

        A caption may be empty: callers must not keep it silently. The text of a picture does not
        depend on the batch it is in (float32).
        """
        import torch

        if beams < 1 or max_new_tokens < 1:
            raise InputError(
                f"beams={beams}, max_new_tokens={max_new_tokens}: both have to be at least 1"
            )
        if len(pixels) == 0:
            return []
        self.model.eval()
        with torch.inference_mode():
            features = self.encode_images(torch.from_numpy(pixels).to(self.device))
            return self.decode(features, beams=beams, max_new_tokens=max_new_tokens)

    def save(self, folder: Path) -> None:
        """Write a folder that `load_captioner` reads; safetensors; replaces an older one whole."""
        with _quiet():
            replace_folder(Path(folder), self._save)

    def fingerprint(self) -> str:
        """SHA-256 over weights, tokenizer and picture size; equal means equal captions."""
        import torch

        digest = hashlib.sha256(f"{self.family} {self.image_size}".encode())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device


class BlipCaptioner(Captioner):
    """BLIP: a vision transformer and a BERT decoder with cross-attention (arXiv 2201.12086)."""

    family = "blip"

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name = name
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        size = processor.image_processor.size
        self.image_size = (int(size["height"]), int(size["width"]))

    @classmethod
    def load(cls, name: str, folder: Path, dtype: str) -> "BlipCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import BertTokenizerFast, BlipForConditionalGeneration, BlipProcessor
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        model, info = BlipForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(
                f"its weights lack {len(info['missing_keys'])} tensors of BLIP's captioning "
                f"network, e.g. {sorted(info['missing_keys'])[0]}: another class of checkpoint"
            )
        images = BlipImageProcessorPil.from_pretrained(folder)
        tokenizer = BertTokenizerFast.from_pretrained(folder)
        if len(tokenizer) > model.config.text_config.vocab_size or len(tokenizer) < 10:
            raise ValueError(
                f"its tokenizer has {len(tokenizer)} tokens, its network "
                f"{model.config.text_config.vocab_size}: the tokenizer is missing or another one"
            )
        return cls(name, model, BlipProcessor(images, tokenizer))

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        # What BlipImageProcessorPil does, without its per-call overhead.
        from PIL.Image import Resampling

        p = self.processor.image_processor
        height, width = self.image_size
        resized = image.convert("RGB").resize((width, height), Resampling(p.resample))
        mean = np.asarray(p.image_mean, dtype=np.float32)
        scale = np.float32(p.rescale_factor) / np.asarray(p.image_std, dtype=np.float32)
        offset = mean / np.asarray(p.image_std, dtype=np.float32)
        pixels = np.asarray(resized, dtype=np.float32) * scale - offset
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        features: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return features

    def decode(
        self, features: "torch.Tensor", *, beams: int, max_new_tokens: int
    ) -> list[Generated]:
        text = self.model.config.text_config
        ends = {"bos": text.bos_token_id, "eos": text.sep_token_id}
        room = min(max_new_tokens, text.max_position_embeddings - 1)
        decoder = self.model.text_decoder
        if beams == 1:
            tokens, logprobs = greedy_search(decoder, features, **ends, max_new_tokens=room)
        else:
            tokens, logprobs = beam_search(
                decoder, features, **ends, pad=text.pad_token_id, beams=beams, max_new_tokens=room
            )
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Generated(tidy(t), p) for t, p in zip(texts, logprobs, strict=True)]

    def text_rows(self, texts: Sequence[str], max_tokens: int) -> list[TextRow]:
        text = self.model.config.text_config
        room = min(max_tokens, text.max_position_embeddings)
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        rows = []
        for pieces in encoded:
            whole = [text.bos_token_id, *pieces, text.sep_token_id]
            ids = whole[:room]
            rows.append(TextRow(ids, [IGNORED, *ids[1:]], cut=len(whole) > room))
        return rows

    def text_batch(self, rows: Sequence[TextRow]) -> TextBatch:
        import torch

        longest = max(len(r.ids) for r in rows)
        pad = self.model.config.text_config.pad_token_id
        # Pads stand on the right: under the causal mask no counted token can see them.
        ids = [r.ids + [pad] * (longest - len(r.ids)) for r in rows]
        labels = [r.labels + [IGNORED] * (longest - len(r.labels)) for r in rows]
        device = self.device
        return TextBatch(torch.tensor(ids, device=device), torch.tensor(labels, device=device))

    def loss(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        # The decoder shifts labels itself.
        loss: torch.Tensor = self.model.text_decoder(
            input_ids=batch.input_ids, encoder_hidden_states=features, labels=batch.labels
        ).loss
        return loss

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


FAMILIES: dict[str, Callable[[str, Path, str], Captioner]] = {"blip": BlipCaptioner.load}
"""`model_type` of a checkpoint's config.json -> how it is loaded."""


def load_captioner(
    name_or_folder: str | Path,
    *,
    adapter: Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> Captioner:
    """Load a captioner for generation or training.

    name_or_folder: a key of CAPTIONERS, or a local folder as `Captioner.save` or transformers
        writes it.
    adapter: folder of a LoRA adapter trained on exactly this captioner; it is merged.
    device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1".
    dtype: "float32", "bfloat16" or "float16" for the weights.
    Raises InputError: unknown name, unreachable hub, folder that is no captioner, adapter of
    another base.
    """
    import torch
    from safetensors import SafetensorError

    name = str(name_or_folder)
    folder = _from_hub(name) if name in CAPTIONERS else Path(name)
    family = FAMILIES[_model_type(folder)]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with _quiet():
            captioner = family(name, folder, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(f"captioner folder {folder} cannot be loaded: {error}") from error
    if adapter is not None:
        _merge_adapter(captioner, Path(adapter))
    captioner.model.to(device).eval()
    return captioner


def tidy(text: str) -> str:
    """Undo WordPiece's spacing: "a t - shirt , 3 / 4 sleeves" -> "a t-shirt, 3/4 sleeves"."""
    text = re.sub(r"(?<=\w) ?([-/'’]) ?(?=\w)", r"\1", " ".join(text.split()))
    text = re.sub(r"(?<=\d) ([.,]) (?=\d)", r"\1", text)
    text = re.sub(r" ([.,;:!?%)\]])", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder beside `folder`, then put it in its place."""
    new, old = (folder.with_name(f".{folder.name}.{x}") for x in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        write(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _from_hub(name: str) -> Path:
    """The checkpoint's folder in the hub's cache, downloaded first where the hub can be reached."""
    from huggingface_hub import constants, get_session, snapshot_download

    checkpoint = CAPTIONERS[name]
    files = ["*.json", "*.txt", "*.safetensors"]
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=files, local_files_only=True))
    except OSError:
        pass  # not in the cache
    try:
        # Asked once and briefly: the download's own retries take the best part of a minute.
        get_session().head(constants.ENDPOINT, timeout=5)
        return Path(snapshot_download(checkpoint, allow_patterns=files))
    except Exception as error:  # every HTTP library brings its own
        raise InputError(
            f"captioner {name!r} is the checkpoint {checkpoint} of the Hugging Face hub, which is "
            f"not in the local cache and could not be fetched ({error}). Fetch it where there is a "
            f"network (`hf download {checkpoint} --local-dir FOLDER`) and name that FOLDER instead"
        ) from error


def _model_type(folder: Path) -> str:
    known = f"expected one of {sorted(CAPTIONERS)} or a folder with config.json and weights"
    if not folder.is_dir():
        raise InputError(f"no captioner {str(folder)!r}; {known}")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} is an adapter, not a captioner: name its base and this adapter")
    try:
        config = json.loads((folder / "config.json").read_text())
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"folder {folder} is not a captioner ({error}); {known}") from error
    if model_type not in FAMILIES:
        raise InputError(
            f"folder {folder} holds a {model_type!r} network; captioners here are of the types "
            f"{sorted(FAMILIES)}"
        )
    return str(model_type)


def _merge_adapter(captioner: Captioner, adapter: Path) -> None:
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter} is not an adapter: it has no adapter_config.json")
    base = adapter / "base.json"
    if base.is_file():
        trained_on = json.loads(base.read_text())
        if trained_on["fingerprint"] != captioner.fingerprint():
            raise InputError(
                f"adapter {adapter} was trained on {trained_on['name']!r}, whose weights differ "
                f"from those of {captioner.name!r}; load it on the captioner it was trained on"
            )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for a property that transformers renamed.
            warnings.simplefilter("ignore", FutureWarning)
            merged = PeftModel.from_pretrained(captioner.model, str(adapter)).merge_and_unload()
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise InputError(
            f"adapter {adapter} does not fit captioner {captioner.name!r}: {error}"
        ) from error
    captioner.model = merged


class _quiet:
    """Silence transformers' progress bars and load reports for a moment."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level = logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bars:
            logging.enable_progress_bar()
