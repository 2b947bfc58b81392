"""One `Captioner` per family: photos in, sentences with log-probabilities out.

A family also says how it is trained: `encode_images` (the part that can be cached when it is
frozen), `text_rows` and `text_batch` (tokens, and which of them count), `loss`.
"""

import hashlib
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.decoding import Found, Session, beam_search, greedy_search, sample_search
from caption.trust import runs_code, trusted_code

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CAPTIONERS: dict[str, str] = {
    "blip-base": "Salesforce/blip-image-captioning-base",
    "blip-large": "Salesforce/blip-image-captioning-large",
    "blip2-opt-2.7b": "Salesforce/blip2-opt-2.7b",
    "blip2-opt-6.7b": "Salesforce/blip2-opt-6.7b",
    "blip2-flan-t5-xl": "Salesforce/blip2-flan-t5-xl",
    "blip2-flan-t5-xxl": "Salesforce/blip2-flan-t5-xxl",
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "llava-1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "vit-gpt2": "nlpconnect/vit-gpt2-image-captioning",
}
"""Short name -> checkpoint on the Hugging Face hub. Any local folder works as well."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")

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
    """Shifted: `labels[:, t]` is the token after `input_ids[:, t]` where it counts, else IGNORED.
    The last column is all IGNORED."""


@dataclass(frozen=True)
class Sampled:
    """One drawn caption; its log-probabilities are a gather over `logits` at the row's labels."""

    text: str
    row: TextRow
    """Labels mark every drawn token, the end included (`cut`: it was not reached)."""


class Captioner(ABC):
    """A network that describes photos. Pixels are float32, normalised by `preprocess`.

    A family says how a photo is seen (`preprocess`, `encode_images`) and how its decoder is fed
    (`open_session`); searching, sampling, training rows, log-probabilities and the loss follow from
    that. Generation is deterministic: greedy, or beam search without sampling.
    """

    family: ClassVar[str]
    """Name of the family, as in the adapt table."""
    default_prompt: ClassVar[str] = ""
    cacheable: ClassVar[bool] = True
    """`encode_images` computes something worth keeping; False: it returns the pixels."""
    name: str
    model: Any
    """The transformers module; `adapt` changes it in place."""
    tokenizer: Any
    image_size: tuple[int, int]
    """(height, width) that `preprocess` resizes to."""
    prompt: str = ""
    """Text that a caption continues or answers; never part of the caption."""
    start: list[int]
    """Tokens every row begins with; not counted in the loss."""
    ends: tuple[int, ...]
    """Tokens that end a caption; the first is the one that is taught."""
    pad: int
    room: int
    """Most tokens of a row."""
    source: Path | None = None
    """Folder of the checkpoint while the weights are still those in it."""
    quantize: str | None = None
    """"4bit" where the weights were loaded so."""

    @abstractmethod
    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        """An RGB picture of any size -> float32 of one shape a captioner: mostly (3, H, W)."""

    @abstractmethod
    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Preprocessed pictures (n, ...) -> features (n, L, D): what the language side sees.

        Differentiable. Where `cacheable` is False, the pixels themselves.
        """

    @abstractmethod
    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        """Begin to write about encoded photos; at most `room` tokens a row will be fed.

        keep: what was fed is needed again; False where all tokens are fed at once.
        """

    @abstractmethod
    def add_words(self, words: Sequence[str]) -> None:
        """Add whole words to the vocabulary, each starting as the mean of its former pieces.

        Raises InputError where the family has no way to.
        """

    @abstractmethod
    def _save(self, folder: Path) -> None:
        """Write model, tokenizer and image processor into an existing folder."""

    def generate(
        self, pixels: NDArray[np.float32], *, beams: int = 1, max_new_tokens: int = 50
    ) -> list[Generated]:
        """Captions for a batch of preprocessed pictures (n, ...), in order; greedy at 1 beam.

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

    def decode(
        self, features: "torch.Tensor", *, beams: int, max_new_tokens: int
    ) -> list[Generated]:
        """Captions for encoded images (n, L, D), in order."""
        new = self._new_tokens(max_new_tokens)
        session = self.open_session(features, len(self.start) + new)
        if beams == 1:
            found = greedy_search(
                session, self._starts(len(features)), ends=self.ends, max_new_tokens=new
            )
        else:
            found = beam_search(
                session,
                self._starts(len(features)),
                ends=self.ends,
                beams=beams,
                max_new_tokens=new,
            )
        return [Generated(self.text_of(f.tokens), f.logprob) for f in found]

    def sample(
        self,
        features: "torch.Tensor",
        *,
        n_samples: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[list[Sampled]]:
        """`n_samples` captions drawn from softmax(logits / temperature) for each encoded image.

        The same arguments draw the same captions. Raises InputError on counts below 1 or a
        temperature that is not positive.
        """
        import torch

        if n_samples < 1 or max_new_tokens < 1 or not temperature > 0:
            raise InputError(
                f"n_samples={n_samples}, max_new_tokens={max_new_tokens}, temperature="
                f"{temperature}: expected counts of at least 1 and a positive temperature"
            )
        new = self._new_tokens(max_new_tokens)
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            found = sample_search(
                self.open_session(features, len(self.start) + new),
                self._starts(len(features)),
                ends=self.ends,
                max_new_tokens=new,
                n_samples=n_samples,
                temperature=temperature,
                seed=seed,
            )
        self.model.train(training)
        drawn = [self._sampled(f) for f in found]
        return [drawn[i : i + n_samples] for i in range(0, len(drawn), n_samples)]

    def text_of(self, tokens: Sequence[int]) -> str:
        """Tokens of a caption as text, spaces tidied."""
        return " ".join(self.tokenizer.decode(list(tokens), skip_special_tokens=True).split())

    def text_rows(self, texts: Sequence[str], max_tokens: int) -> list[TextRow]:
        """Training texts as token rows of at most `max_tokens` tokens beside the prompt.

        A row is `start`, the caption and its end; the labels of `start` are IGNORED.
        """
        room = min(max_tokens - 1 + len(self.start), self.room)
        rows = []
        for pieces in self._caption_tokens(texts):
            whole = [*self.start, *pieces, self.ends[0]]
            ids = whole[:room]
            labels = [IGNORED] * len(self.start) + ids[len(self.start) :]
            rows.append(TextRow(ids, labels, cut=len(whole) > room))
        return rows

    def text_batch(self, rows: Sequence[TextRow]) -> TextBatch:
        """Rows padded on the right to the longest of them, on the captioner's device.

        Under the causal mask no counted token can see a pad.
        """
        import torch

        longest = max(len(r.ids) for r in rows)
        ids = [r.ids + [self.pad] * (longest - len(r.ids)) for r in rows]
        labels = [r.labels[1:] + [IGNORED] * (longest + 1 - len(r.labels)) for r in rows]
        device = self.device
        return TextBatch(torch.tensor(ids, device=device), torch.tensor(labels, device=device))

    def logits(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        """Teacher-forced float32 (n, T, V): position t predicts `batch.labels[:, t]`.

        Meaningless where that label is IGNORED. Differentiable.
        """
        ids = batch.input_ids
        return self.open_session(features, ids.shape[1], keep=False).feed(ids)

    def loss(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        """Mean cross-entropy in nats over the tokens that count."""
        import torch

        logits = self.logits(features, batch)[:, :-1]  # the last position predicts nothing
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels[:, :-1].flatten(), ignore_index=IGNORED
        )

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass (less memory, about a third more time)."""
        kind = (
            "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        )
        if not on:  # transformers renamed it
            getattr(self.model, f"{kind}_checkpointing_disable")()
            return
        if getattr(getattr(self.model, "virtual_tokens", None), "prefix", None) is not None:
            raise InputError(
                "a learned prefix lives in the decoder's cache, which gradient checkpointing "
                "switches off; use method 'prompt' or smaller batches"
            )
        if not self.model.supports_gradient_checkpointing:
            raise InputError(f"{self.name}: {type(self.model).__name__} can't checkpoint gradients")
        getattr(self.model, f"{kind}_checkpointing_enable")({"use_reentrant": False})

    def save(self, folder: Path) -> None:
        """Write a folder that `load_captioner` reads; safetensors; replaces an older one whole.

        Raises InputError while adapters are attached: they are saved by `save_adapter`.
        """
        from caption.bottleneck import is_attached

        attached = [n for n, _ in self.model.named_parameters() if is_attached(n)]
        if attached:
            raise InputError(
                f"{self.name}: adapters are attached ({attached[0]} ...); save them by "
                "save_adapter and load them with their base, or merge them first"
            )

        def write(new: Path) -> None:
            self._save(new)
            if self.prompt != self.default_prompt:
                (new / "captioner.json").write_text(json.dumps({"prompt": self.prompt}))

        with quiet():
            replace_folder(Path(folder), write)

    def fingerprint(self) -> str:
        """SHA-256 over weights, tokenizer, picture size and prompt; equal means equal captions."""
        import torch

        digest = hashlib.sha256(f"{self.family} {self.image_size}{self.prompt}".encode())
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

    def _caption_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Captions as tokens, without start and end."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded.input_ids]

    def _new_tokens(self, most: int) -> int:
        return max(1, min(most, self.room - len(self.start)))

    def _starts(self, n: int) -> "torch.Tensor":
        import torch

        return torch.tensor([self.start] * n, device=self.device)

    def _sampled(self, found: Found) -> Sampled:
        new = found.tokens if found.end is None else [*found.tokens, found.end]
        labels = [IGNORED] * len(self.start) + new
        row = TextRow([*self.start, *new], labels, cut=found.end is None)
        return Sampled(self.text_of(found.tokens), row)


@dataclass(frozen=True)
class Checkpoint:
    """What a family is loaded from: a folder of transformers' layout, and how."""

    name: str
    folder: Path
    dtype: str
    prompt: str | None
    """None: the family's default."""
    device: str
    quantize: str | None
    trusted: bool = False
    """Code that the folder brings may run."""

    def weights(self, network: Any, *, unused: str = "(?!)") -> Any:
        """The folder's weights as a `network` (a class with from_pretrained), none missing.

        unused: pattern of tensors that may be missing, because nothing here computes with them.
        """
        options: dict[str, Any] = {"dtype": self.dtype, "output_loading_info": True}
        if self.trusted:
            options["trust_remote_code"] = True
        if any(self.folder.glob("*.safetensors")):
            options["use_safetensors"] = True
        if self.quantize is not None:
            options |= {"quantization_config": _four_bit(), "device_map": {"": self.device}}
        model, info = network.from_pretrained(self.folder, **options)
        missing = sorted(x for x in info["missing_keys"] if not re.fullmatch(unused, x))
        if missing:
            raise ValueError(
                f"its weights lack {len(missing)} tensors of a {network.__name__}, e.g. "
                f"{missing[0]}: another class of checkpoint"
            )
        return model


def load_captioner(
    name_or_folder: str | Path,
    *,
    adapter: Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    quantize: Literal["4bit"] | None = None,
    prompt: str | None = None,
) -> Captioner:
    """Load a captioner for generation or training.

    name_or_folder: a key of CAPTIONERS, a checkpoint of the hub ("owner/name"), or a local folder
        as `Captioner.save` or transformers writes it.
    adapter: folder of an adapter trained on exactly this captioner. Low-rank ones are merged (not
        into 4-bit weights); prompts, prefixes and bottlenecks stay attached.
    device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1".
    dtype: "float32", "bfloat16" or "float16" for the weights.
    quantize: "4bit" holds the linear layers in 4 bits (NF4, for QLoRA; needs bitsandbytes).
    prompt: text that a caption continues (BLIP, BLIP-2) or answers (chat); default the family's.
    Raises InputError: unknown name, unreachable hub, folder that is no captioner, adapter of
    another base, 4-bit weights where they can't be had.
    """
    import torch

    from caption.adapt import adapter_prompt, load_adapter
    from caption.chat import ChatCaptioner

    name = str(name_or_folder)
    hub = name in CAPTIONERS or (_HUB_NAME.fullmatch(name) and not Path(name).exists())
    folder = _from_hub(name) if hub else Path(name)
    trusted = runs_code(folder)
    model_type = _model_type(folder, trusted)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if quantize is not None:
        _check_four_bit(quantize)
    if adapter is not None and prompt is None:
        prompt = adapter_prompt(Path(adapter))
    if prompt is None:
        prompt = _saved_prompt(folder)
    checkpoint = Checkpoint(name, folder, dtype, prompt, device, quantize, trusted)
    try:
        with quiet():
            captioner: Captioner = families().get(model_type, ChatCaptioner).load(checkpoint)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged weights, a pickle, and code that is trusted raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"captioner folder {folder} cannot be loaded: {said}") from error
    captioner.source, captioner.quantize = folder, quantize
    if adapter is not None:
        load_adapter(captioner, Path(adapter))
    if quantize is None:
        captioner.model.to(device)
    else:
        for module in captioner.model.modules():
            # bitsandbytes' packed product on a CPU: only for widths that are multiples of 64, and
            # it changes the weights' layout when captions are written between updates.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    captioner.model.eval()
    return captioner


def families() -> dict[str, Any]:
    """`model_type` of a checkpoint's config.json -> the class of its captioner.

    Every type of transformers' AutoModelForImageTextToText that is not named here takes the general
    path of chat checkpoints.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from caption.chat import ChatCaptioner, LlavaCaptioner
    from caption.clipcap import ClipCap
    from caption.families import Blip2Captioner, BlipCaptioner, EncoderDecoderCaptioner

    return dict.fromkeys(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, ChatCaptioner) | {
        "blip": BlipCaptioner,
        "blip-2": Blip2Captioner,
        "clipcap": ClipCap,
        "llava": LlavaCaptioner,
        "vision-encoder-decoder": EncoderDecoderCaptioner,
    }


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

    checkpoint = CAPTIONERS.get(name, name)
    files = ["*.json", "*.txt", "*.jinja", "*.model", "*.safetensors"]
    if trusted_code():
        files.append("*.py")

    def fetch(**more: Any) -> Path:
        folder = Path(snapshot_download(checkpoint, allow_patterns=files, **more))
        if not any(folder.glob("*.safetensors")):  # older repositories; read as plain tensors only
            files.append("pytorch_model*.bin*")
            folder = Path(snapshot_download(checkpoint, allow_patterns=files, **more))
        return folder

    try:
        return fetch(local_files_only=True)
    except OSError:
        pass  # not in the cache
    try:
        # Asked once and briefly: the download's own retries take the best part of a minute.
        get_session().head(constants.ENDPOINT, timeout=5)
        return fetch()
    except Exception as error:  # every HTTP library brings its own
        raise InputError(
            f"captioner {name!r} is the checkpoint {checkpoint} of the Hugging Face hub, which is "
            f"not in the local cache and could not be fetched ({error}). Fetch it where there is a "
            f"network (`hf download {checkpoint} --local-dir FOLDER`) and name that FOLDER instead"
        ) from error


def _saved_prompt(folder: Path) -> str | None:
    file = folder / "captioner.json"
    return json.loads(file.read_text())["prompt"] if file.is_file() else None


def _model_type(folder: Path, trusted: bool) -> str:
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
    if model_type not in families() and not trusted:
        raise InputError(
            f"folder {folder} holds a {model_type!r} network, which writes no text about pictures; "
            "expected blip, blip-2, clipcap, llava, vision-encoder-decoder or another class of "
            "transformers' AutoModelForImageTextToText with a chat template"
        )
    return str(model_type)


def _check_four_bit(quantize: str) -> None:
    from importlib.util import find_spec

    if quantize != "4bit":
        raise InputError(f"quantize={quantize!r}: expected '4bit' or nothing")
    if not find_spec("bitsandbytes"):
        raise InputError(
            "quantize='4bit' needs the package bitsandbytes (`pip install bitsandbytes`); without "
            "it use the method lora, with dtype='bfloat16' where memory is short"
        )


def _four_bit() -> Any:
    """NF4 with double quantisation and bfloat16 arithmetic, as QLoRA (arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )


def working_dtype(module: Any) -> Any:
    """The dtype a network computes in: that of its first floating weight (4-bit ones are bytes)."""
    return next(p.dtype for p in module.parameters() if p.is_floating_point())


class quiet:
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
