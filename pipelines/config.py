"""Configuration: frozen dataclasses, strict YAML over them, `a.b=value` overrides over that.

The defaults below are the demo's. A YAML preset names only what it changes; an unknown key or a
wrong type is refused with its full path and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen

from caption.reinforce import ReinforceConfig
from caption.retrieval import RetrievalConfig
from caption.train import TrainConfig
from pipelines import InputError

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
TextSetting = Literal["original", "caption", "fill", "both"]
DemoRow = Literal[
    "random", "mostpop", "userknn", "itemknn", "tfidf", "sbert", "resnet", "resbert", "clip"
]
Row = Literal[
    DemoRow, "hog", "itemknn-vectors", "content-to-als", "vbpr", "p3alpha", "rp3beta", "ease",
    "als", "bpr", "repurchase", "blend",
]  # fmt: skip
ROWS: tuple[DemoRow, ...] = typing.get_args(DemoRow)
"""What `all` stands for."""
ExperimentText = Literal[
    "none", "metadata", "original", "caption", "fill", "both", "shuffled", "shuffled-fill", "copy"
]
VectorRow = Literal["content", "itemknn-vectors", "content-to-als", "vbpr"]
EVERY_ROW: tuple[Row, ...] = typing.get_args(Row)
"""What `every` stands for."""


@dataclass(frozen=True)
class DemoConfig:
    """The drawn catalogue."""

    articles: Count = 2000
    """Number of articles drawn."""
    customers: Count = 2000
    """Number of customers drawn."""
    purchases: Count = 60_000
    """Number of purchase rows drawn, over two years."""


@dataclass(frozen=True)
class DataConfig:
    """How tables are read."""

    drop_bad_rows: bool = False
    """Drop (and count) purchases whose date can't be read instead of refusing the file."""


@dataclass(frozen=True)
class CaptionSplitConfig:
    """Described articles for training and for the test of captions.

    Parts are whole connected components over product_code and normalised description, so neither
    stands on two sides.
    """

    train: Annotated[int, Ge(-1)] = -1
    """Articles to train on; -1 takes all that are left."""
    validation: Count = 150
    """Articles whose loss chooses the checkpoint."""
    test: Count = 300
    """Articles kept from training, on which captions are scored."""


@dataclass(frozen=True)
class CaptionerConfig:
    """What is fine-tuned."""

    checkpoint: str = "demo"
    """`demo` (shipped), a short name (`blip-base`, `blip2-opt-2.7b`, `llava-1.5-7b` ...), a name on
    the hub, or a local folder."""
    compose: Literal["no", "clipcap", "encoder-decoder"] = "no"
    """Join an encoder and a decoder instead: by ClipCap's mapper, or by new cross-attention."""
    encoder: str = ""
    """With `compose`: the image encoder, a name on the hub or a folder."""
    decoder: str = ""
    """With `compose`: the language model, a name on the hub or a folder."""
    mapper: Literal["mlp", "transformer"] = "mlp"
    """ClipCap: what makes a prefix of the image embedding."""
    prefix_length: Count = 10
    """ClipCap: tokens of the prefix."""
    mapper_layers: Count = 8
    """ClipCap: layers of the Transformer mapper."""
    mapper_heads: Count = 8
    """ClipCap: attention heads of the Transformer mapper."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    quantize: Literal["", "4bit"] = ""
    """`4bit` holds frozen weights in four bits (QLoRA: CUDA and bitsandbytes)."""
    prompt: str = ""
    """Text that a caption continues or answers; empty: the family's own."""


@dataclass(frozen=True)
class GenerateConfig:
    """Writing captions."""

    beams: Count = 1
    """1 is greedy."""
    max_new_tokens: Count = 60
    """Longest caption, in tokens."""
    batch_size: Count = 64
    """Photos a batch."""
    shard_size: Count = 512
    """Photos between two points from which a killed run resumes."""


@dataclass(frozen=True)
class ScoreConfig:
    """Scoring and auditing captions."""

    metrics: tuple[str, ...] = (
        "bleu",
        "rouge-l",
        "cider-d",
        "meteor",
        "attributes",
        "category",
        "verbatim",
    )
    """Caption metrics; one that can't run here is reported as unavailable with its reason. Besides
    those named here: `spice`, `clipscore`, `diversity`."""
    baselines: tuple[Literal["most-frequent", "copy-nearest", "consensus", "retrieval"], ...] = (
        "most-frequent",
        "copy-nearest",
        "consensus",
    )
    """Captioners without a language model that stand in the same table (retrieval learns first)."""
    encoder: str = "resnet"
    """Image encoder whose nearest training photos copy-nearest and consensus use, and whose vectors
    retrieval learns from; `hog` needs no weights."""
    neighbours: Count = 20
    """Nearest training photos among which consensus chooses."""
    bootstrap: Count = 2000
    """Resamples of the bootstrap behind every interval."""


@dataclass(frozen=True)
class EncoderConfig:
    """Checkpoints of the encoders: `demo` (shipped), a name on the hub, or a local folder."""

    sbert: str = "demo"
    """Sentence encoder (hub: sentence-transformers/all-MiniLM-L6-v2)."""
    clip: str = "demo"
    """CLIP (hub: openai/clip-vit-base-patch32)."""
    resnet: str = "demo"
    """ResNet (hub: microsoft/resnet-50)."""
    batch_size: Count = 64
    """Texts or photos a batch."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of the encoders; `auto` takes bfloat16 where this machine is faster with it, so
    that vectors differ a little between machines."""


@dataclass(frozen=True)
class SplitConfig:
    """Which interactions are learned from and which are predicted."""

    method: Literal["time", "leave-last-out", "user-ratio", "random"] = "time"
    """`time`: one moment for everybody; `leave-last-out`: everybody's last ones; `user-ratio`:
    everybody's latest share; `random`: drawn pairs. All but `time` let a recommender learn from
    other people's future."""
    cutoff: date | None = None
    """With `time`: first day of the test window; none takes the last `recommend.test_days`."""
    validation_days: Natural = 0
    """With `time`: days before the test window that are kept from training."""
    n: Count = 1
    """With `leave-last-out`: interactions kept of everybody who has more."""
    test: Share = 0.2
    """With `user-ratio` and `random`: share of the test."""
    validation: Share = 0.0
    """With `user-ratio` and `random`: share kept from training; with `leave-last-out` anything
    above 0 keeps another n."""
    measure: Literal["test", "validation"] = "test"
    """The part that is measured: choose settings on `validation`, report `test`."""
    drop_cold: Literal["no", "users", "items", "both"] = "no"
    """Leave test interactions of users or items that have none in training out of the measure."""
    first: date | None = None
    """Before splitting, leave out interactions before this day."""
    last: date | None = None
    """Before splitting, leave out interactions after this day."""
    core: Natural = 0
    """Before splitting, keep the k-core: every user has k items and every item k users."""
    min_user: Count = 1
    """Before splitting, keep users with so many items (once; after `min_item`)."""
    min_item: Count = 1
    """Before splitting, keep items with so many users (once)."""


@dataclass(frozen=True)
class RecommendConfig:
    """The recommendation benchmark."""

    models: Annotated[tuple[Row, ...], MinLen(1)] = ROWS
    """Rows of the table."""
    text: Annotated[tuple[TextSetting, ...], MinLen(1)] = ("fill",)
    """Which text an article has; rows that read no text run once."""
    metrics: Annotated[tuple[str, ...], MinLen(1)] = ("ndcg", "map")
    """Measures: any of ndcg, ndcg_all, map, map_r, map_hits, map_elliot, precision, recall,
    hit_rate, mrr; and of the lists alone novelty, popularity, diversity, coverage, gini."""
    k: Annotated[tuple[Count, ...], MinLen(1)] = (5, 12)
    """Cut-offs of every metric."""
    test_days: Count = 28
    """The last days of purchases are the test; everything before is training."""
    split: SplitConfig = field(default_factory=SplitConfig)
    exclude_seen: bool = False
    """Leave out what a customer bought before (people re-buy clothes, so the default keeps it)."""
    userknn_neighbours: Count = 10
    """Neighbours of UserKNN."""
    itemknn_neighbours: Count = 20
    """Neighbours of ItemKNN."""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other parameters of a row: `recommend.parameters.ease.l2=200`; those of `blend` are `parts`
    (names of rows), `weights`, `by` and `depth`. `vbpr`, `content-to-als` and `itemknn-vectors`
    have an `encoder`: `tfidf` or names as of `score.encoder`, such as `resnet+0.5*sbert|pca`."""
    diversity: str = "resnet"
    """Image encoder that says how unlike two articles are, where `diversity` is measured."""
    list_length: Count = 12
    """Length of the written lists; at least the largest k."""
    bootstrap: Count = 1000
    """Resamples of users behind every interval."""


@dataclass(frozen=True)
class ExperimentConfig:
    """What the words are worth: the same recommenders while only the article text changes.

    Split, filters, `exclude_seen`, neighbours and parameters are those of `recommend`.
    """

    name: str = ""
    """Keeps an experiment apart from others of the run, in its folder `experiment-NAME`."""
    settings: Annotated[tuple[ExperimentText, ...], MinLen(1)] = typing.get_args(ExperimentText)
    """Texts that are compared, each pair; see `fcr experiment --help`."""
    recommenders: Annotated[tuple[VectorRow, ...], MinLen(1)] = ("content",)
    """Recommenders over the articles' vectors; each runs with each encoder."""
    encoders: Annotated[tuple[str, ...], MinLen(1)] = ("tfidf", "sbert", "resbert", "clip")
    """`tfidf` or encoders (names as of `score.encoder`); those that read no text run once."""
    others: tuple[Row, ...] = ("random", "mostpop", "itemknn")
    """Rows that read neither text nor photo, to compare with; each runs once."""
    seeds: Annotated[tuple[Natural, ...], MinLen(1)] = (0, 1, 2, 3, 4)
    """Seeds of masks, placebos and of recommenders that draw; what draws nothing runs once."""
    mask: tuple[Annotated[int, Ge(0), Le(100)], ...] = (0, 20, 40, 60, 80, 100)
    """Per cent of the human descriptions taken away, alone and with captions in their place: the
    imputation curve."""
    metrics: Annotated[tuple[str, ...], MinLen(1)] = ("ndcg", "map")
    """Measures of relevance, as in `recommend.metrics`."""
    k: Annotated[tuple[Count, ...], MinLen(1)] = (12,)
    """Cut-offs; pairs of settings are compared at the largest."""
    depth: Count = 100
    """Ranks looked at for rank moves and attribution; at least the largest k."""
    cold_users: Natural = 2000
    """At most so many customers, drawn by seed, for whom only articles never bought before are
    ranked."""
    bootstrap: Count = 10_000
    """Resamples of customers behind every interval and p-value."""
    contrasts: tuple[tuple[ExperimentText, ExperimentText], ...] = (
        ("caption", "none"),
        ("caption", "original"),
        ("fill", "original"),
    )
    """Pairs (with, against) whose change is explained article by article; the first that is there
    gives the articles helped and hurt most."""
    extremes: Natural = 10
    """Articles shown that were helped most, and hurt most."""
    first: date | None = None
    """Leave out purchases before this day."""
    last: date | None = None
    """Leave out purchases after this day."""
    earliest: Natural = 0
    """Keep only so many purchases, each customer's earliest ones; 0 keeps all."""


@dataclass(frozen=True)
class SeeingConfig:
    """Attention maps and zero-shot classification."""

    shown: Natural = 4
    """Test captions drawn at random whose attention maps are drawn."""
    extremes: Natural = 3
    """Test captions with the highest CLIPScore, and as many with the lowest."""
    zero_shot: Count = 2000
    """Photos, drawn at random, that CLIP classifies."""


@dataclass(frozen=True)
class ReportConfig:
    """The report."""

    gallery: Natural = 24
    """Photos in the gallery."""
    customers: Natural = 4
    """Customers shown with their lists."""


@dataclass(frozen=True)
class Config:
    """Everything a run can be told."""

    seed: Natural = 0
    """Seed of every random choice."""
    demo: DemoConfig = field(default_factory=DemoConfig)
    data: DataConfig = field(default_factory=DataConfig)
    captions: CaptionSplitConfig = field(default_factory=CaptionSplitConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    recommend: RecommendConfig = field(default_factory=RecommendConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    seeing: SeeingConfig = field(default_factory=SeeingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def load_config(file: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by a YAML file, changed by `a.b=value` overrides.

    Args:
        file: a YAML file, or the name of a preset that comes with fcr (`hm-small`). Its `like:
            NAME` puts it over another.
        overrides: `section.key=value`; the value is read as YAML.

    Raises:
        InputError: file missing or not YAML, unknown key, wrong type.
    """
    changes: dict[str, Any] = {}
    where = "--set"
    if file is not None:
        path = find_file(file)
        where = str(path)
        changes = _over_base(path, ())
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise InputError(f"--set {override!r} is not of the form section.key=value")
        put(changes, key.strip().split("."), _parse(text, f"--set {key}"))
    return from_mapping(changes, where)


def from_mapping(changes: Mapping[str, Any], where: str = "configuration") -> Config:
    """A Config from nested mappings that name only what differs from the defaults.

    Raises:
        InputError: unknown key or wrong type, with its full path.
    """
    import pydantic

    _check_keys(Config, changes, (), where)
    try:
        return pydantic.TypeAdapter(Config).validate_python(dict(changes))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: {path} is {first['input']!r}: {first['msg'].lower()}. "
            f"`fcr config` prints every key with its default"
        ) from error


def describe() -> list[tuple[str, str, str]]:
    """Every key as (full path, default, what it means), read from the dataclasses' docstrings."""
    return list(_describe(Config, ()))


def find_file(file: Path | str) -> Path:
    """A YAML file, or the preset of this name.

    Raises:
        InputError: neither is there.
    """
    from pipelines.workspace import packaged

    path = Path(file)
    if path.is_file():
        return path
    presets = packaged("configs")
    preset = presets / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent == Path() and preset.is_file():
        return preset
    names = sorted(p.stem for p in presets.glob("*.yaml"))
    raise InputError(
        f"config {file} does not exist: give a YAML file or one of the presets "
        f"{', '.join(names) or '(none)'}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds, as nested mappings.

    Raises:
        InputError: not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text: {error}") from error
    changes = _parse(text, str(path))
    if changes is None:
        return {}
    if not isinstance(changes, dict):
        raise InputError(f"{path}: expected `section:` lines with keys below, got {changes!r:.60}")
    return changes


def _parse(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except Exception as error:  # its own, and whatever int(), date() and dict() say: 2001-99-99
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{where}{line}: not YAML: {getattr(error, 'problem', None) or error}"
        ) from error


def _over_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's settings over those of the preset that its `like:` names."""
    changes = read_yaml(path)
    base = changes.pop("like", None)
    if base is None:
        return changes
    below = find_file(str(base))
    if below in (*above, path):
        raise InputError(f"{path}: like: {base} leads back to itself")
    return _merged(_over_base(below, (*above, path)), changes)


def _merged(below: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in over.items():
        held = merged.get(key)
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            value = _merged(held, value)
        merged[key] = value
    return merged


def put(changes: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set `changes[keys[0]][keys[1]]...`, making mappings on the way."""
    for key in keys[:-1]:
        below = changes.get(key)
        if not isinstance(below, dict):
            below = changes[key] = {}
        changes = below
    changes[keys[-1]] = value


def _check_keys(kind: type, changes: Mapping[str, Any], path: tuple[str, ...], where: str) -> None:
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key, value in changes.items():
        full = ".".join((*path, str(key)))
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            elsewhere = [p for p, _, _ in describe() if p.split(".")[-1] == key]
            hint = near[0] if near else (elsewhere[0] if elsewhere else None)
            if hint and hint in names:
                hint = ".".join((*path, hint))
            raise InputError(
                f"{where}: unknown key {full!r}"
                + (f"; did you mean {hint!r}?" if hint else f"; valid keys: {', '.join(names)}")
            )
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {full} is {value!r}: expected keys below it")
            _check_keys(typing.cast(type, hints[key]), value, (*path, str(key)), where)


def _describe(kind: type, path: tuple[str, ...]) -> typing.Iterator[tuple[str, str, str]]:
    import ast
    import inspect
    import textwrap

    hints = typing.get_type_hints(kind)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    meaning = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            meaning[before.target.id] = " ".join(str(after.value.value).split())
    for entry in dataclasses.fields(kind):
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint) and not isinstance(hint, types.GenericAlias):
            yield from _describe(typing.cast(type, hint), (*path, entry.name))
            continue
        factory = entry.default_factory
        default = entry.default if factory is dataclasses.MISSING else factory()
        yield ".".join((*path, entry.name)), repr(default), meaning.get(entry.name, "")
