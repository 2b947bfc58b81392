"""Which category a caption speaks of: by its words, by a linear probe, or by a fine-tuned BERT.

`CategoryMap` learns from described items which words name which category; it is cheap enough for a
reward during training. The classifiers answer "would a reader know the category from this text?".
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.attributes import read_json, words_of, write_json
from caption.trust import checked

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> float32 (n, dim) sentence embeddings."""


@dataclass(frozen=True)
class CategoryMap:
    """Words and pairs of neighbouring words -> the category they name, and how surely."""

    words: dict[str, tuple[str, float]]
    """word or pair -> (category, share of the texts with it that are of that category)"""

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        categories: Sequence[str],
        *,
        min_count: int = 10,
        min_precision: float = 0.5,
    ) -> Self:
        """Keep what stands in at least `min_count` texts, of which one category has the share.

        Of categories of different size the small ones count as much as the large: shares are taken
        of rates within categories, so that "in" does not name the largest.
        """
        sizes = Counter(categories)
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for text, category in zip(texts, categories, strict=True):
            for term in set(_terms(text)):
                seen[term][category] += 1
        words = {}
        for term, counts in sorted(seen.items()):
            if counts.total() < min_count:
                continue
            rates = {category: n / sizes[category] for category, n in sorted(counts.items())}
            best = max(rates, key=rates.__getitem__)
            share = rates[best] / sum(rates.values())
            if share >= min_precision:
                words[term] = (best, round(share, 6))
        return cls(words)

    def find(self, caption: str) -> str:
        """The category that the caption's surest word names; "" where none does.

        Of equally sure ones a pair ("vest top") comes before a word, then the first in the text.
        """
        best = ("", 0.0)
        for term in _terms(caption):
            category, share = self.words.get(term, best)
            if share > best[1]:
                best = (category, share)
        return best[0]

    def save(self, path: Path) -> None:
        """Write JSON."""
        write_json(path, {"words": self.words})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `InputError` on anything else."""
        words = read_json(path, ("words",))["words"]
        return cls(
            {term: (str(category), float(share)) for term, (category, share) in words.items()}
        )


class CategoryClassifier(Protocol):
    """What category accuracy asks of a classifier."""

    signature: str

    def predict(self, texts: Sequence[str]) -> list[str]:
        """A category for every text."""
        ...


class LinearProbe:
    """A linear support-vector machine over TF-IDF of words and pairs, or sentence embeddings."""

    def __init__(
        self,
        classes: Sequence[str],
        weights: NDArray[np.float32],
        bias: NDArray[np.float32],
        features: Encode,
        signature: str,
        terms: Sequence[str] = (),
        idf: Sequence[float] = (),
    ) -> None:
        self.classes = list(classes)
        # safetensors writes memory as it lies: scikit-learn's is column by column.
        self.weights = np.ascontiguousarray(weights)  # (n_classes, dim)
        self.bias = np.ascontiguousarray(bias)  # (n_classes,)
        self.signature = signature
        self._features = features
        self._terms, self._idf = list(terms), list(idf)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        categories: Sequence[str],
        *,
        encode: Encode | None = None,
        encoder: str = "",
        seed: int = 0,
    ) -> Self:
        """Train on described items; `encode` gives embeddings (named `encoder`), else TF-IDF.

        Raises `InputError` on fewer than two categories.
        """
        from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
            TfidfVectorizer,
        )
        from sklearn.svm import LinearSVC  # type: ignore[import-untyped]

        classes = _classes(texts, categories)
        terms: list[str] = []
        idf: list[float] = []
        if encode is None:
            tfidf = TfidfVectorizer(
                analyzer=_terms,
                min_df=2 if len(texts) > 100 else 1,
                sublinear_tf=True,
                max_features=50_000,
            )
            rows: Any = tfidf.fit_transform(texts)
            terms, idf = list(tfidf.get_feature_names_out()), tfidf.idf_.tolist()
            features, name = _tfidf(terms, idf), "tfidf"
        else:
            rows, features, name = encode(texts), encode, f"embeddings-{encoder or 'given'}"
        machine = LinearSVC(random_state=seed, dual="auto", C=1.0)
        machine.fit(rows, [classes.index(category) for category in categories])
        weights, bias = machine.coef_, machine.intercept_
        if len(classes) == 2:  # one row, positive for the second class
            weights, bias = np.vstack([-weights, weights]), np.concatenate([-bias, bias])
        signature = f"probe:{name}-{len(classes)}-classes-{len(texts)}-texts"
        return cls(
            classes,
            weights.astype(np.float32),
            bias.astype(np.float32),
            features,
            signature,
            terms,
            idf,
        )

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The category with the highest score for every text."""
        if not len(texts):
            return []
        scores = self._features(texts) @ self.weights.T + self.bias  # (n, n_classes)
        return [self.classes[i] for i in np.asarray(scores).argmax(1)]

    def save(self, folder: Path) -> None:
        """Write weights.safetensors and probe.json."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f"weights.{os.getpid()}.tmp"
        save_file({"weights": self.weights, "bias": self.bias}, scratch)
        os.replace(scratch, folder / "weights.safetensors")
        content = {"classes": self.classes, "signature": self.signature}
        write_json(folder / "probe.json", content | {"terms": self._terms, "idf": self._idf})

    @classmethod
    def load(cls, folder: Path, encode: Encode | None = None) -> Self:
        """Read what `save` wrote; a probe over embeddings needs its `encode` again."""
        from safetensors.numpy import load_file

        content = read_json(folder / "probe.json", ("classes", "signature", "terms", "idf"))
        if encode is None and not content["terms"]:
            raise InputError(f"{folder} is a probe over embeddings: give the encoder it used")
        arrays = load_file(folder / "weights.safetensors")
        features = encode or _tfidf(content["terms"], content["idf"])
        return cls(
            content["classes"],
            arrays["weights"],
            arrays["bias"],
            features,
            content["signature"],
            content["terms"],
            content["idf"],
        )


class BertClassifier:
    """A fine-tuned encoder with a classification head (any sequence-classification checkpoint)."""

    def __init__(self, model: Any, tokenizer: Any, signature: str, device: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.signature = signature
        self.device = device

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        categories: Sequence[str],
        *,
        checkpoint: str | Path = "bert-base-uncased",
        epochs: int = 3,
        learning_rate: float = 2e-5,
        batch_size: int = 32,
        max_length: int = 64,
        seed: int = 0,
        device: str = "auto",
    ) -> Self:
        """Fine-tune all weights with AdamW and cross-entropy on the logits."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        classes = _classes(texts, categories)
        checked(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # the new head, and dropout
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                checkpoint,
                num_labels=len(classes),
                id2label=dict(enumerate(classes)),
                label2id={name: i for i, name in enumerate(classes)},
                problem_type="single_label_classification",
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
            place = _device(device)
            model.to(place).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
            labels = torch.tensor([classes.index(category) for category in categories])
            order = np.random.default_rng(seed)
            for _ in range(epochs):
                rows = order.permutation(len(texts))
                for start in range(0, len(rows), batch_size):
                    batch = rows[start : start + batch_size]
                    inputs = tokenizer(
                        [texts[i] for i in batch],
                        padding=True,
                        truncation=True,
                        max_length=max_length,
                        return_tensors="pt",
                    ).to(place)
                    loss = model(**inputs, labels=labels[batch].to(place)).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
        model.eval()
        signature = f"bert:{Path(checkpoint).name}-{len(classes)}-classes-{len(texts)}-texts"
        return cls(model, tokenizer, signature, place)

    def predict(self, texts: Sequence[str], batch_size: int = 64) -> list[str]:
        """The category with the highest logit, in eval mode: dropout off."""
        import torch

        self.model.eval()
        found: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                inputs = self.tokenizer(
                    list(texts[start : start + batch_size]),
                    padding=True,
                    truncation=True,
                    max_length=self.model.config.max_position_embeddings,
                    return_tensors="pt",
                ).to(self.device)
                best = self.model(**inputs).logits.argmax(-1).tolist()
                found += [self.model.config.id2label[i] for i in best]
        return found

    def save(self, folder: Path) -> None:
        """Write a transformers folder (safetensors) with the labels in its config."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / "classifier.json", {"signature": self.signature})

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Self:
        """Read what `save` wrote. Raises `InputError` on anything else."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        signature = read_json(folder / "classifier.json", ("signature",))["signature"]
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            checked(folder), trust_remote_code=False
        )
        place = _device(device)
        return cls(
            model.to(place).eval(),
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            signature,
            place,
        )


def _terms(text: str) -> list[str]:
    """Pairs of neighbouring words, then words."""
    words = [word for word in words_of(text) if word[0].isalnum()]
    return [*(f"{a} {b}" for a, b in pairwise(words)), *words]


def _tfidf(terms: Sequence[str], idf: Sequence[float]) -> Encode:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(analyzer=_terms, vocabulary=list(terms), sublinear_tf=True)
    tfidf.idf_ = np.asarray(idf)
    transform: Encode = tfidf.transform
    return transform


def _classes(texts: Sequence[str], categories: Sequence[str]) -> list[str]:
    if len(texts) != len(categories):
        raise InputError(f"{len(texts)} texts for {len(categories)} categories: expected as many")
    classes = sorted(set(categories))
    if len(classes) < 2:
        raise InputError(f"{len(classes)} categories: expected at least two to tell apart")
    return classes


def _device(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
