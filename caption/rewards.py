"""What a caption is worth: rewards for `reinforce`, each a number for every caption of an item.

>>> rewards = build_rewards(["als", "sls"], examples, texts)
>>> rewards["als"](["a red dress"], [0])  # caption 0 is of examples[0]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.records import CaptionExample

if TYPE_CHECKING:
    import polars as pl

Reward = Callable[[Sequence[str], Sequence[int]], NDArray[np.float64]]
"""Captions and the rows of their items -> float64 (n_captions,)."""


def build_rewards(
    names: Sequence[str],
    examples: Sequence[CaptionExample],
    training: Sequence[CaptionExample],
    *,
    articles: pl.DataFrame | None = None,
    clip: str | Path | None = None,
    min_count: int = 10,
) -> dict[str, Reward]:
    """Rewards over `examples`, by name; see `REWARDS` for their definitions.

    training: what vocabularies, category words and document frequencies are learned from, so that
        the same caption is worth the same whichever part its item is in.
    articles: the table that `truth` audits against (`caption.audit`).
    clip: checkpoint that `clipscore` asks; default as for the metric.
    min_count: training texts that a word must stand in to be an attribute or to name a category.

    Raises InputError: unknown name, or what a reward needs is missing.
    """
    unknown = sorted(set(names) - set(REWARDS))
    if unknown:
        raise InputError(f"unknown reward {unknown[0]!r}: expected some of {sorted(REWARDS)}")
    return {
        name: REWARDS[name](_Sources(examples, training, articles, clip, min_count))
        for name in dict.fromkeys(names)
    }


def weighted_sum(
    parts: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]
) -> NDArray[np.float64]:
    """Sum over names of weight times part."""
    total: NDArray[np.float64] = np.sum([weights[n] * parts[n] for n in weights], axis=0)
    return total


class _Sources:
    """What rewards are built from."""

    def __init__(
        self,
        examples: Sequence[CaptionExample],
        training: Sequence[CaptionExample],
        articles: pl.DataFrame | None,
        clip: str | Path | None,
        min_count: int,
    ) -> None:
        self.examples, self.training = examples, training
        self.articles, self.clip, self.min_count = articles, clip, min_count

    @property
    def texts(self) -> list[str]:
        return [text for example in self.training for text in example.captions]


def _als(sources: _Sources) -> Reward:
    """Attribute-level semantics: share of the caption's attributes that the reference has too."""
    from caption.attributes import Vocabulary, build_vocabulary

    given = [word for e in sources.training for word in e.attributes]
    if given:
        words = dict.fromkeys(word.lower().replace("-", "") for word in given)
        vocabulary = Vocabulary(tuple(words), "words")
    else:
        found = build_vocabulary(sources.texts, min_count=sources.min_count)
        if not found.words:
            raise InputError(
                f"reward 'als': no noun or adjective stands in {sources.min_count} training texts; "
                "lower min_count or train on more"
            )
        # Tagging every sampled caption takes longer than a training step; looking words up does
        # not, and finds the same attributes but where a noun is used as another part of speech.
        vocabulary = replace(found, tagger="words")
    meant = [
        frozenset(a.lower().replace("-", "") for a in e.attributes)
        if e.attributes
        else vocabulary.attributes([" ".join(e.captions)])[0]
        for e in sources.examples
    ]

    def reward(captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        said = vocabulary.attributes(captions)
        shares = [
            len(own & meant[i]) / len(own) if own else 0.0
            for own, i in zip(said, items, strict=True)
        ]
        return np.array(shares, np.float64)

    return reward


def _sls(sources: _Sources) -> Reward:
    """Sentence-level semantics: 1 where the caption's words name the item's category."""
    from caption.categories import CategoryMap

    known = [e for e in sources.training if e.category]
    if not known:
        raise InputError("reward 'sls' needs examples with a category; these have none")
    words = CategoryMap.fit(
        [e.captions[0] for e in known], [e.category for e in known], min_count=sources.min_count
    )

    def reward(captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        named = (
            words.find(text) == sources.examples[i].category != ""
            for text, i in zip(captions, items, strict=True)
        )
        return np.fromiter(named, np.float64, len(captions))

    return reward


def _cider_d(sources: _Sources) -> Reward:
    """CIDEr-D against the item's references; document frequencies of the training texts."""
    from caption.metrics.cider import CiderReward
    from caption.metrics.ngrams import DocumentFrequencies
    from caption.metrics.tokenizer import tokenize_corpus

    # The tokenizer of Python on both sides: a Java process a step would take seconds.
    learned = tokenize_corpus([], [e.captions for e in sources.training], "python").references
    own = tokenize_corpus([], [e.captions for e in sources.examples], "python").references
    score = CiderReward(own, DocumentFrequencies.of(learned))

    def reward(captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        return score(tokenize_corpus(captions, [], "python").hypotheses, items)

    return reward


def _clipscore(sources: _Sources) -> Reward:
    """CLIPScore, 2.5 max(cos, 0), of the caption with the item's photo; 0 without a photo."""
    from caption.metrics.clipscore import PREFIX, PUBLISHED, WEIGHT, load_clip

    chosen = str(sources.clip or os.environ.get("FCR_CLIP") or PUBLISHED)
    try:
        clip = load_clip(chosen)
    except OSError as error:
        said = str(error).splitlines()[0]
        raise InputError(f"reward 'clipscore': cannot load {chosen} ({said})") from error
    photos = np.nan_to_num(clip.images([e.image for e in sources.examples]))

    def reward(captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        # A run that was killed asks for later captions first, and has to go on in the same bytes.
        texts = clip.texts([PREFIX + text for text in captions], remember=False)
        cosines = np.einsum("nd,nd->n", photos[list(items)], texts, dtype=np.float64)
        scores: NDArray[np.float64] = WEIGHT * np.maximum(cosines, 0)
        return scores

    return reward


def _truth(sources: _Sources) -> Reward:
    """Audited truth: mean over the article's fields of 1 (right), 0 (silent), -1 (contradicting).

    0 where the article claims nothing that a photo can show.
    """
    import polars as pl

    from caption.audit import audit_captions

    if sources.articles is None:
        raise InputError("reward 'truth' needs the table of articles to audit against")
    ids = [e.id for e in sources.examples]
    rows = pl.DataFrame({"article_id": ids}).join(
        sources.articles.unique("article_id", keep="first", maintain_order=True),
        on="article_id",
        how="left",
        maintain_order="left",
    )

    def reward(captions: Sequence[str], items: Sequence[int]) -> NDArray[np.float64]:
        # An audit has one caption an article: each sampled caption gets an article of its own.
        numbers = [str(i) for i in range(len(captions))]
        own = rows[list(items)].with_columns(pl.Series("article_id", numbers))
        texts = pl.DataFrame({"article_id": numbers, "caption": list(captions)})
        marks = {"right": 1.0, "silent": 0.0, "contradicting": -1.0}
        per_item = audit_captions(texts, own, n_worst=0).per_item
        means = (
            per_item.with_columns(pl.col("verdict").replace_strict(marks, return_dtype=pl.Float64))
            .group_by("article_id")
            .agg(pl.col("verdict").mean())
        )
        values = np.zeros(len(captions))
        values[means["article_id"].cast(pl.Int64).to_numpy()] = means["verdict"].to_numpy()
        return values

    return reward


REWARDS: dict[str, Callable[[_Sources], Reward]] = {
    "als": _als,
    "sls": _sls,
    "cider-d": _cider_d,
    "clipscore": _clipscore,
    "truth": _truth,
}
"""`als` and `sls` are the published pair; each builder's docstring is its definition."""
