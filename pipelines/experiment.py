"""`fcr experiment`: what the words are worth. The same recommenders, only the article text changes.

Every cell (recommender, encoder, text setting, seed) is measured on the same split and kept in the
cache by content; what reads no text runs once, what draws nothing runs under one seed. From the
cells follow the paired differences of every two settings, overall and by slice, the imputation
curve, and what caption quality explains.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipelines import InputError, leaks
from pipelines.answers import write_answers
from pipelines.augment import (
    TextSource,
    canonical,
    metadata_texts,
    nearest_copies,
    read_captions,
    seeded,
)
from pipelines.caption_items import STAGE as CAPTIONS
from pipelines.catalog import Catalog, fingerprints, interactions_of
from pipelines.cells import Bench, Ranks, Store
from pipelines.config import ExperimentConfig, RecommendConfig
from pipelines.ranking import NO_TEXT
from pipelines.recommend import plain_settings, split_purchases
from pipelines.rows import CONTENT_ROWS, embed, make_recommender, vector_recommender
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.train_captioner import known_parts
from pipelines.workspace import file_sha256, write_json

if TYPE_CHECKING:
    from recsys.encoders import Embeddings
    from recsys.interactions import Interactions
    from recsys.splits import Split

STAGE = "experiment"
TFIDF = "tfidf"
MACHINE = ("caption", "fill", "both", "shuffled", "shuffled-fill")
"""Settings that need captions."""
DRAWS = ("random", "als", "bpr", "vbpr", "content-to-als")
"""Recommenders whose seed decides their lists."""
SECONDS = {"sbert": 0.004, "clip-text": 0.004, "clip-image": 0.01, "resnet": 0.01, "hog": 0.003}
"""Rough seconds a distinct text or photo takes to encode on two cores (the demo's checkpoints; a
published one takes ten times that and more)."""
SECONDS_A_SCORE = 2e-8
"""Rough seconds a customer and article take to be ranked, where no cell of the row is finished."""


@dataclass(frozen=True)
class Line:
    """A recommender and the encoder of its vectors: a row of the table, whatever its text."""

    recommender: str
    encoder: str = ""
    reads_text: bool = False
    reads_photo: bool = False

    @property
    def label(self) -> str:
        """As it stands in tables: `sbert`, `vbpr sbert`, `itemknn`."""
        if not self.encoder:
            return self.recommender
        content = self.recommender == "content"
        return self.encoder if content else f"{self.recommender} {self.encoder}"


@dataclass(frozen=True)
class Cell:
    """One measurement: a line under a text setting and a seed."""

    line: Line
    setting: str
    seed: int
    """-1 where the seed decides nothing."""


class Trial:
    """Everything an experiment measures with, and its cells.

    Args:
        run: for its encoders, cache and seed.
        config: the experiment's settings; those it can't have are taken out by `experiment`.
        ranking: protocol and parameters of the recommenders.
        split: what is learned from and what is predicted.
        source: what texts are made of, in the order of the split's items.
        photos: per article its photo.
    """

    def __init__(
        self,
        run: Run,
        config: ExperimentConfig,
        ranking: RecommendConfig,
        split: Split,
        source: TextSource,
        photos: list[Path | None],
    ) -> None:
        self.run, self.config, self.ranking = run, config, ranking
        self.split, self.source, self.photos = split, source, photos
        self.bench = Bench(
            split,
            depth=max(config.depth, *config.k),
            exclude_seen=ranking.exclude_seen,
            cold_users=config.cold_users,
            seed=run.config.seed,
        )
        self.store = Store(run.workspace.cache / "experiment")
        self.purchases = 0
        """Rows of the data, before any sampling."""
        self.encoded = 0
        """Texts and photos that had to be encoded."""
        self._texts: dict[tuple[str, int], list[str | None]] = {}
        self._specs: dict[str, list[tuple[str, str, float]]] = {}

    @cached_property
    def lines(self) -> list[Line]:
        """Rows of the table."""
        found = [Line(name) for name in self.config.others]
        for recommender in self.config.recommenders:
            for encoder in self.config.encoders:
                kinds = [kind for kind, _, _ in self._parts(encoder)]
                text = any(kind in (TFIDF, "sbert", "clip-text") for kind in kinds)
                photo = any(kind not in (TFIDF, "sbert", "clip-text") for kind in kinds)
                found.append(Line(recommender, encoder, text, photo))
        return found

    def settings(self, line: Line) -> list[str]:
        """Settings whose every pair is compared for a line.

        A line that reads nothing but text has no `none`: it would have nothing to rank by.
        """
        if not line.reads_text:
            return [NO_TEXT]
        return [s for s in self.config.settings if s != "none" or line.reads_photo]

    def curve(self, line: Line) -> list[tuple[int, bool, str]]:
        """Points of the imputation curve: per cent masked, filled, setting."""
        if not line.reads_text:
            return []
        filled = (False, True) if self.source.captions else (False,)
        return [
            (percent, fill, canonical(f"mask-{percent}{'-fill' * fill}"))
            for fill in filled
            for percent in sorted(set(self.config.mask))
        ]

    def seeds(self, line: Line, setting: str) -> list[int]:
        """Seeds under which a line runs in a setting: one (-1) where they decide nothing."""
        draws = line.recommender in DRAWS or (setting != NO_TEXT and seeded(setting))
        return list(dict.fromkeys(self.config.seeds)) if draws else [-1]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell, in an order that reads each encoder's vectors once."""
        found: dict[Cell, None] = {}
        for line in sorted(self.lines, key=lambda line: line.encoder):
            curve = [setting for _, _, setting in self.curve(line)]
            for setting in dict.fromkeys([*self.settings(line), *curve]):
                for seed in self.seeds(line, setting):
                    found[Cell(line, setting, seed)] = None
        return list(found)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides a cell. Two settings differ in `texts`, and nowhere else."""
        line = cell.line
        drawn = cell.seed if line.recommender in DRAWS else None
        if line.encoder:
            parameters: Any = dict(self.ranking.parameters.get(line.recommender, {}))
        else:
            parameters = make_recommender(
                line.recommender, self.ranking, max(0, cell.seed)
            ).signature
        return {
            "data": self._data,
            "depth": self.bench.depth,
            "exclude_seen": self.ranking.exclude_seen,
            "cold_users": [len(self.bench.cold_users), self.run.config.seed],
            "recommender": line.recommender,
            "parameters": parameters,
            "seed": drawn,
            "encoder": self._parts(line.encoder) if line.encoder else None,
            "options": [line.encoder.partition("|")[2], self.run.config.encoders.precision],
            "photos": self._photos if line.reads_photo else None,
            "texts": self._text_digest(cell) if line.reads_text else None,
        }

    def texts(self, cell: Cell) -> list[str | None]:
        """(n,) article texts of a cell."""
        key = (cell.setting, cell.seed if seeded(cell.setting) else -1)
        if key not in self._texts:
            self._texts[key] = self.source.under(cell.setting, max(0, cell.seed))
        return self._texts[key]

    def finished(self) -> dict[Cell, Ranks]:
        """Cells that lie in the cache."""
        n = len(self.bench.pair_items)
        found = {
            cell: self.store.load(self.store.key(self.identity(cell)), n) for cell in self.cells
        }
        return {cell: ranks for cell, ranks in found.items() if ranks is not None}

    def measure(self) -> dict[Cell, Ranks]:
        """Every cell, those that are missing measured now and kept one by one."""
        found = self.finished()
        missing = [cell for cell in self.cells if cell not in found]
        vectors: tuple[Any, Any] = (None, None)
        with self.run.progress() as progress:
            for done, cell in enumerate(missing):
                key = (cell.line.encoder, cell.setting, cell.seed if seeded(cell.setting) else -1)
                if cell.line.encoder and vectors[0] != key:
                    vectors = (key, self._vectors(cell))
                found[cell] = self._measure(cell, vectors[1])
                self.store.save(self.store.key(self.identity(cell)), found[cell])
                progress("cells", done + 1, len(missing))
        return {cell: found[cell] for cell in self.cells}

    def _measure(self, cell: Cell, vectors: Embeddings | None) -> Ranks:
        seed, name = max(0, cell.seed), cell.line.recommender
        if not cell.line.encoder:
            return self.bench.measure(make_recommender(name, self.ranking, seed))
        assert vectors is not None
        if not vectors.valid.any():
            return self.bench.nothing()
        return self.bench.measure(vector_recommender(name, vectors, self.ranking, seed))

    def _vectors(self, cell: Cell) -> Embeddings:
        from recsys.encoders import Embeddings
        from recsys.recommenders.content import tfidf_vectors

        line = cell.line
        texts = self.texts(cell) if line.reads_text else None
        if texts is not None and not line.reads_photo and not any(texts):
            nothing = np.zeros((len(texts), 1), dtype=np.float32)
            return Embeddings(nothing, np.zeros(len(texts), dtype=bool), "no text")
        if line.encoder == TFIDF:
            assert texts is not None
            return Embeddings(*tfidf_vectors(texts), TFIDF)
        found = embed(self.run, line.encoder, texts, self.photos if line.reads_photo else None)
        self.encoded += found.counts["encoded"]
        return found

    def _parts(self, encoder: str) -> list[tuple[str, str, float]]:
        """(kind, digest of the checkpoint, weight) of an encoder's parts."""
        if encoder == TFIDF:
            return [(TFIDF, "", 1.0)]
        if encoder not in self._specs:
            from recsys.encoders import checkpoint_digest, parse_encoder, resolve_checkpoint

            names = self.run.config.encoders
            stock = {f: checkpoint(getattr(names, f), f) for f in ("sbert", "clip", "resnet")}
            self._specs[encoder] = [
                (
                    part.kind,
                    checkpoint_digest(resolve_checkpoint(part.checkpoint))
                    if part.checkpoint
                    else "",
                    part.weight,
                )
                for part in parse_encoder(encoder, stock).parts
            ]
        return self._specs[encoder]

    def _text_digest(self, cell: Cell) -> str:
        return hashlib.sha256(json.dumps(self.texts(cell)).encode()).hexdigest()

    @cached_property
    def _photos(self) -> str:
        return fingerprints(self.run.data, purchases=False)["images"]

    @cached_property
    def _data(self) -> str:
        """Content of the split: who took what when, and the ids behind the numbers."""
        digest = hashlib.sha256()
        for part in (self.split.train, self.split.test):
            for array in (part.event_ptr, part.event_items, part.event_times):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for ids in (self.split.train.user_ids, self.split.train.item_ids):
            digest.update("\n".join(ids.to_list()).encode())
        return digest.hexdigest()

    def plan(self) -> Iterator[str]:
        """What will be done and how long that takes, roughly, in lines for the user."""
        done = self.finished()
        left = [cell for cell in self.cells if cell not in done]
        texts = len({cell.setting for cell in self.cells if cell.line.reads_text})
        yield (
            f"plan: {len(self.lines)} rows, {texts} article texts, seeds "
            f"{', '.join(map(str, self.config.seeds))}: {len(self.cells)} cells of "
            f"{len(self.bench.users):,} customers and {self.bench.n_items:,} articles; "
            f"{len(done)} are finished, {len(left)} to run"
        )
        total = 0.0
        for line in self.lines:
            own = [cell for cell in left if cell.line == line]
            known = [ranks.seconds for cell, ranks in done.items() if cell.line == line]
            guess = 0.05 + SECONDS_A_SCORE * len(self.bench.users) * self.bench.n_items
            seconds = len(own) * (float(np.median(known)) if known else guess)
            new = self._new_inputs(line, own, done)
            seconds += sum(SECONDS.get(kind, 0.1) * n for kind, n in new.items())
            total += seconds
            if own:
                said = ", ".join(f"{n:,} by {kind}" for kind, n in new.items() if n)
                yield (
                    f"  {line.label}: {len(own)} cells, about {_time(seconds)}"
                    + f" (at most {said} to encode)" * bool(said)
                )
        yield (
            f"estimate: about {_time(total)} on two cores, plus the answers"
            if left
            else ("estimate: nothing to run, only the answers")
        )

    def _new_inputs(
        self, line: Line, left: Sequence[Cell], done: Mapping[Cell, Ranks]
    ) -> dict[str, int]:
        """Kind -> distinct texts or photos of cells to run that no finished cell has read."""
        if not line.encoder or line.encoder == TFIDF or not left:
            return {}
        finished = [cell for cell in done if cell.line.encoder == line.encoder]
        read = {text for cell in finished for text in self.texts(cell) if text}
        new = (
            {text for cell in left for text in self.texts(cell) if text} if line.reads_text else {}
        )
        photos = 0 if finished else sum(photo is not None for photo in self.photos)
        return {
            kind: len(set(new) - read) if kind in ("sbert", "clip-text") else photos
            for kind, _, _ in self._parts(line.encoder)
        }


def experiment(
    run: Run,
    *,
    captions: Path | None = None,
    plan_only: bool = False,
    allow_leaks: bool = False,
) -> Path | None:
    """Compare text settings on the run's articles and purchases.

    Args:
        run: an open run.
        captions: captions written elsewhere (`augment.read_captions`); None takes the run's.
        plan_only: say what would be done, and how long it takes; compute nothing.
        allow_leaks: go on although the leak audit fails; every table is stamped then.

    Returns:
        path of `differences.csv`; beside it `metrics.csv`, `curve.csv`, `attribution.csv`,
        `extremes.json`, `settings.csv`, `leaks.json`, `split.json` (see `pipelines.answers`). None
        with `plan_only`.

    Raises:
        InputError: bad tables or settings, a leak, a checkpoint that can't be loaded.
    """
    config, ranking = run.config.experiment, run.config.recommend
    _check(config)
    stage_name = f"{STAGE}-{config.name}" if config.name else STAGE
    inputs = _inputs(run, captions)
    settings = {
        "experiment": json.loads(json.dumps(asdict(config), default=str)),
        "recommend": plain_settings(ranking),
        "encoders": asdict(run.config.encoders),
        "allow_leaks": allow_leaks,
    }
    if plan_only:
        trial, _, _ = _prepare(run, config, captions)
        for line in trial.plan():
            run.say(line)
        return None
    with run.stage(stage_name, config=settings, inputs=inputs) as stage:
        if not stage.reused:
            trial, catalog, checks = _prepare(run, config, captions)
            stamp = leaks.refuse(checks, allow=allow_leaks)
            if stamp:
                run.say(f"warning: {stamp}")
            write_json(stage.path("leaks.json"), {"checks": [c.as_dict() for c in checks]})
            for line in trial.plan():
                run.say(line)
            found = trial.measure()
            run.say(f"encoded {trial.encoded:,} texts and photos anew")
            stage.record.update(stamp=stamp, cells=len(found), purchases=trial.purchases)
            write_answers(trial, found, catalog, stage, learned=_learned(run, captions))
            stage.record["encoded"] = trial.encoded
        for sentence in stage.record["sentences"]:
            run.say(f"{sentence['verdict']}: {sentence['text']}")
        if stage.record["stamp"]:
            run.say(f"warning: {stage.record['stamp']}")
        return stage.path("differences.csv")


def _prepare(
    run: Run, config: ExperimentConfig, captions_file: Path | None
) -> tuple[Trial, Catalog, list[leaks.Check]]:
    catalog = run.catalog()
    ranking = run.config.recommend
    everything = interactions_of(catalog)
    split = split_purchases(_chosen(everything, config, run), ranking, run)
    ids = catalog.articles["article_id"].to_list()
    human = catalog.articles["detail_desc"].to_list()
    captions = _captions(run, captions_file, ids)
    photos = catalog.photos()
    # A copied text may only come from where the captioner learned: both see the same descriptions.
    copies = _copies(run, catalog, photos) if "copy" in config.settings else {}
    source = TextSource(ids, human, captions, metadata_texts(catalog.articles), copies)
    lost = [s for s in config.settings if s in MACHINE and not captions]
    lost += ["copy"] if "copy" in config.settings and not copies else []
    if lost:
        run.say(f"note: text settings {', '.join(lost)} are left out: the run has no such texts")
        config = replace(config, settings=tuple(s for s in config.settings if s not in lost))
    if not config.settings:
        raise InputError(
            "no text setting is left: write captions with `fcr caption-items`, or give --captions"
        )
    trial = Trial(run, config, ranking, split, source, photos)
    # Numbers of articles and texts have to stand in one order.
    if split.train.item_ids.to_list() != ids:
        at = {article_id: i for i, article_id in enumerate(ids)}
        rows = [at[i] for i in split.train.item_ids]
        trial = _reordered(trial, rows)
    trial.purchases = int(everything.n_events)
    # The day on which the data begin is the protocol's; who is new is judged from there.
    known = _chosen(everything, replace(config, last=None, earliest=0), run)
    checks = _audit(run, catalog, trial, known, captions_file)
    return trial, catalog, checks


def _reordered(trial: Trial, rows: Sequence[int]) -> Trial:
    old = trial.source
    source = replace(
        old,
        article_ids=[old.article_ids[i] for i in rows],
        human=[old.human[i] for i in rows],
        metadata=[old.metadata[i] for i in rows],
    )
    photos = [trial.photos[i] for i in rows]
    return Trial(trial.run, trial.config, trial.ranking, trial.split, source, photos)


def _audit(
    run: Run, catalog: Catalog, trial: Trial, everything: Interactions, captions_file: Path | None
) -> list[leaks.Check]:
    checks = []
    source, learned = trial.source, _learned(run, captions_file)
    if learned:
        codes = dict(catalog.articles.select("article_id", "product_code").iter_rows())
        checks += leaks.caption_split(known_parts(run, catalog), codes)
        judged: set[str] = set()
        scored = run.workspace.stage_file("score-captions", "references.parquet")
        if scored is not None:
            judged = set(pl.read_parquet(scored)["article_id"])
        checks.append(leaks.judged_captions(sorted(judged), learned))
        human = {a: t for a, t in zip(source.article_ids, source.human, strict=True) if t}
        if set(trial.config.settings) & set(MACHINE):
            checks.append(leaks.repeated_captions(source.captions, human, learned))
    name = captions_file.name if captions_file else ""
    checks.append(leaks.future_purchases(trial.split, captions_file=name))
    checks.append(leaks.cold_articles(trial.split, everything))
    return checks


def _check(config: ExperimentConfig) -> None:
    from recsys.metrics import RELEVANCE_METRICS

    if not re.fullmatch(r"([a-z0-9][a-z0-9-]{0,40})?", config.name):
        raise InputError(
            f"experiment.name is {config.name!r}: expected small letters, digits and '-', because "
            "it becomes a folder's name"
        )
    unknown = [m for m in config.metrics if m not in RELEVANCE_METRICS]
    if unknown:
        raise InputError(
            f"experiment.metrics: unknown metric {unknown[0]!r}; expected any of "
            f"{', '.join(RELEVANCE_METRICS)}"
        )
    reading = [name for name in config.others if name in (*CONTENT_ROWS, "blend")]
    if reading:
        raise InputError(
            f"experiment.others: {reading[0]} is built on vectors or other rows: name encoders in "
            "experiment.encoders, and here rows that read neither text nor photo"
        )


def _inputs(run: Run, captions: Path | None) -> dict[str, str]:
    inputs = fingerprints(run.data)
    if captions is not None:
        if not captions.is_file():
            raise InputError(f"captions file {captions} does not exist")
        inputs["captions"] = file_sha256(captions)
    elif (manifest := run.workspace.manifest(CAPTIONS)) is not None:
        inputs["captions"] = manifest["files"]["captions.parquet"]
    if (trained := run.workspace.manifest(TRAIN)) is not None:
        inputs["parts"] = trained["files"]["captions.json"]
    for family, name in asdict(run.config.encoders).items():
        if isinstance(name, str):
            inputs[f"encoder {family}"] = checkpoint_hash(checkpoint(name, family))
    return inputs


def _captions(run: Run, file: Path | None, ids: Sequence[str]) -> dict[str, str]:
    if file is not None:
        found, notes = read_captions(file, ids)
        for note in notes:
            run.say(f"note: {note}")
        return found
    written = run.workspace.stage_file(CAPTIONS, "captions.parquet")
    if written is None:
        run.say(
            "note: this run has no captions; write some with `fcr train-captioner` and "
            "`fcr caption-items`, or give --captions FILE"
        )
        return {}
    return dict(pl.read_parquet(written).select("article_id", "caption").iter_rows())


def _copies(run: Run, catalog: Catalog, photos: list[Path | None]) -> dict[str, str]:
    try:
        parts = known_parts(run, catalog).by_split("train")
    except InputError as error:
        run.say(f"note: {error}")
        return {}
    found = embed(run, run.config.score.encoder, None, photos)
    frame = catalog.articles
    return nearest_copies(
        frame["article_id"].to_list(),
        frame["product_code"].to_list(),
        frame["detail_desc"].to_list(),
        found.vectors,
        found.valid,
        [e.id for e in parts.examples],
    )


def _learned(run: Run, captions_file: Path | None) -> set[str]:
    """Articles from whose description the writer of the captions learned."""
    from caption.records import CaptionSet

    manifest = run.workspace.manifest(CAPTIONS)
    parts = run.workspace.stage_file(TRAIN, "captions.json")
    if captions_file is not None or manifest is None or parts is None:
        return set()
    if manifest["record"].get("captioner") != "fine-tuned":
        return set()
    return {e.id for e in CaptionSet.load(parts).examples if e.split == "train"}


def _chosen(found: Interactions, config: ExperimentConfig, run: Run) -> Interactions:
    """Purchases within the dates, then each customer's earliest ones up to the number wanted."""
    if config.first or config.last:
        times = found.require_times("experiment.first and experiment.last")
        kept = np.ones(found.n_events, dtype=bool)
        if config.first:
            kept &= times >= found.moment(config.first)
        if config.last:
            kept &= times <= found.moment(config.last)
        found = found.select(kept, reason="outside experiment.first .. experiment.last")
        if not found.n_events:
            raise InputError(
                f"no purchase lies between {config.first or 'the start'} and "
                f"{config.last or 'the end'}: change experiment.first and experiment.last"
            )
    if config.earliest and config.earliest >= found.n_events:
        run.say(
            f"note: experiment.earliest keeps {config.earliest:,} purchases, and there are only "
            f"{found.n_events:,}: all are kept"
        )
    elif config.earliest:
        times = found.require_times("experiment.earliest")
        order = np.lexsort((times, found.event_users))
        place = np.empty(found.n_events, dtype=np.int64)
        place[order] = np.arange(found.n_events) - found.event_ptr[found.event_users]
        # Everybody's first purchase comes before anybody's second; ties by customer.
        chosen = np.lexsort((found.event_users, place))[: config.earliest]
        kept = np.zeros(found.n_events, dtype=bool)
        kept[chosen] = True
        found = found.select(kept, reason="beyond each customer's earliest")
    return found


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
