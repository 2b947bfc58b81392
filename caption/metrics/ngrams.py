"""N-grams of a corpus as integers: one sort per order gives BLEU's counts and CIDEr-D's products.

Texts are laid out item by item, the hypothesis first, then its references. A stable order of all
n-gram occurrences by (n-gram, position) then puts equal n-grams of one text, of one item and of the
whole corpus side by side, so term frequencies, clipped matches and document frequencies are lengths
of runs, and no dictionary is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

MAX_ORDER = 4

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WHITESPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


@dataclass(frozen=True)
class Texts:
    """Texts as word numbers."""

    words: NDArray[np.int32]
    """int32 (n_words,) numbers below `n_vocabulary`, text after text."""
    lengths: Ints
    """int64 (n_texts,) words of each text."""
    spelled: pl.Series
    """(n_words,) the same words as strings."""

    @cached_property
    def n_vocabulary(self) -> int:
        return int(self.words.max(initial=-1)) + 1

    @cached_property
    def vocabulary(self) -> pl.Series:
        """(n_vocabulary,) the string of each number."""
        first = np.zeros(self.n_vocabulary, np.int64)
        first[self.words[::-1]] = np.arange(len(self.words))[::-1]
        return self.spelled.gather(first)


@dataclass(frozen=True)
class Layout:
    """Which item a text belongs to; the first text of an item is its hypothesis."""

    items: Ints
    """int64 (n_texts,) ascending from 0."""
    heads: Ints
    """int64 (n_items,) position of each item's first text."""

    @classmethod
    def of(cls, n_references: Sequence[int] | Ints) -> Layout:
        per_item = np.asarray(n_references, np.int64) + 1
        items = np.repeat(np.arange(len(per_item)), per_item)
        return cls(items, np.cumsum(per_item) - per_item)


@dataclass(frozen=True)
class Grams:
    """Every distinct (n-gram, text) pair of one order, ascending by n-gram, then by text."""

    keys: Ints
    """int64 (n_grams,) ascending: number of the (n-1)-gram before the last word, times the size of
    the vocabulary, plus the last word. An n-gram's number is its place in this array."""
    gram: NDArray[np.int32]
    """int32 (n_pairs,)."""
    text: NDArray[np.int32]
    """int32 (n_pairs,)."""
    count: NDArray[np.int32]
    """int32 (n_pairs,) occurrences of the n-gram in the text."""


@dataclass(frozen=True)
class Matches:
    """What BLEU and CIDEr-D need to know of a corpus; `n` columns are orders 1 to `MAX_ORDER`."""

    layout: Layout
    lengths: Ints
    """int64 (n_texts,) words of each text."""
    clipped: Ints
    """int64 (n_items, n) hypothesis n-grams found in a reference, at most as often as there."""
    dots: Floats
    """float64 (n_texts, n) sum of min(hypothesis, reference) * reference weights; 0 at heads."""
    squares: Floats
    """float64 (n_texts, n) squared norm of the tf-idf vector of each text."""


def encode(texts: Sequence[str], *, any_whitespace: bool = True) -> Texts:
    """Number the words of `texts`: those of `str.split()`, or of `str.split(" ")` when False."""
    import polars as pl

    series = pl.Series(texts, dtype=pl.String)
    if any_whitespace:
        joined = " ".join(texts)
        found = [char for char in _WHITESPACE if char in joined]
        if found:
            series = series.str.replace_all("[" + "".join(found) + "]", " ")
    split = series.str.split(" ")
    lengths = split.list.len().to_numpy().astype(np.int64)
    spelled = split.explode()
    if any_whitespace and (empty := (spelled == "").to_numpy()).any():
        text = np.repeat(np.arange(len(texts)), lengths)
        lengths = np.bincount(text[~empty], minlength=len(texts))
        spelled = spelled.filter(pl.Series(~empty))
    numbers = spelled.cast(pl.Categorical(pl.Categories.random())).to_physical()
    return Texts(numbers.to_numpy().astype(np.int32), lengths, spelled)


def translate(words: pl.Series, vocabulary: pl.Enum) -> Ints:
    """int64 (n_words,) place of each word in `vocabulary`, -1 where it has none."""
    import polars as pl

    found = words.cast(vocabulary, strict=False).to_physical()
    return found.cast(pl.Int64).fill_null(-1).to_numpy().copy()  # writable


def grams(words: NDArray[np.int32], lengths: Ints, n_vocabulary: int) -> Iterator[Grams]:
    """Yield the `Grams` of orders 1 to `MAX_ORDER`; each order extends the numbers of the last."""
    text_of = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    at = np.arange(len(words))
    prefix = np.zeros(len(words), np.int32)
    for order in range(1, MAX_ORDER + 1):
        at = at[at + order <= ends[at]]
        key = prefix[at].astype(np.int64) * n_vocabulary + words[at + order - 1]
        key, where = _sort(key, at, len(words))
        new_gram = _changes(key)
        gram = np.cumsum(new_gram, dtype=np.int32) - np.int32(1)
        prefix[where] = gram
        text = text_of[where]
        new_pair = new_gram | _changes(text)
        heads = np.flatnonzero(new_pair)
        count = np.diff(heads, append=len(where)).astype(np.int32)
        yield Grams(key[new_gram], gram[heads], text[heads], count)


def match(
    words: NDArray[np.int32],
    lengths: Ints,
    n_vocabulary: int,
    layout: Layout,
    frequencies: DocumentFrequencies | None = None,
    vocabulary: Ints | None = None,
) -> Matches:
    """Compare every hypothesis with its references.

    `frequencies` weighs n-grams by another corpus than this one; `vocabulary` int64 (n_vocabulary,)
    then gives each word's number there, -1 where it has none.
    """
    n_texts, n_items = len(layout.items), len(layout.heads)
    is_head = np.zeros(n_texts, bool)
    is_head[layout.heads] = True
    clipped = np.zeros((n_items, MAX_ORDER), np.int64)
    dots = np.zeros((n_texts, MAX_ORDER))
    squares = np.zeros((n_texts, MAX_ORDER))
    lookup = None if frequencies is None else frequencies.lookup(n_vocabulary, vocabulary)
    for order, g in enumerate(grams(words, lengths, n_vocabulary)):
        from_head = is_head[g.text]
        starts = np.flatnonzero(_changes(g.gram) | _changes(layout.items[g.text]))
        sizes = np.diff(starts, append=len(g.gram))
        # The hypothesis comes first in its run, so a run that ends with it has no reference.
        if lookup is None:
            referenced = ~from_head[starts + sizes - 1]
            df = np.bincount(g.gram[starts[referenced]], minlength=len(g.keys))
            idf = np.log(n_items) - np.log(np.maximum(1, df))
        else:
            idf = lookup.idf(g.keys)
        weight = g.count * idf[g.gram]
        squares[:, order] = np.bincount(g.text, weight * weight, minlength=n_texts)

        shared = from_head[starts] & (sizes > 1)
        first, n_refs = starts[shared], sizes[shared] - 1
        refs = spans(first + 1, n_refs)
        mine = np.repeat(weight[first], n_refs)
        dots[:, order] = np.bincount(
            g.text[refs], np.minimum(mine, weight[refs]) * weight[refs], minlength=n_texts
        )
        if len(refs):
            most = np.maximum.reduceat(g.count[refs], np.cumsum(n_refs) - n_refs)
            kept = np.minimum(g.count[first], most)
            items = layout.items[g.text[first]]
            clipped[:, order] = np.bincount(items, kept, minlength=n_items)
    return Matches(layout, lengths, clipped, dots, squares)


def spans(starts: Ints, sizes: Ints) -> Ints:
    """int64 (sizes.sum(),) `starts[i], starts[i] + 1, ...`, `sizes[i]` of them, for every i."""
    return np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many reference lists of a corpus each n-gram stands."""

    vocabulary: pl.Series
    """(n_vocabulary,) words; a word's number is its place."""
    keys: tuple[Ints, ...]
    """One `Grams.keys` an order."""
    counts: tuple[Ints, ...]
    """int64 (n_grams,) for each order: reference lists that hold the n-gram."""
    n_documents: int

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Count over tokenized `references`, one list an item."""
        texts = encode([ref for refs in references for ref in refs])
        items = np.repeat(np.arange(len(references)), [len(refs) for refs in references])
        keys, counts = [], []
        for g in grams(texts.words, texts.lengths, texts.n_vocabulary):
            once = _changes(g.gram) | _changes(items[g.text])
            keys.append(g.keys)
            counts.append(np.bincount(g.gram[once], minlength=len(g.keys)))
        return cls(texts.vocabulary, tuple(keys), tuple(counts), len(references))

    @cached_property
    def words(self) -> pl.Enum:
        """The vocabulary, ready for `translate`."""
        import polars as pl

        return pl.Enum(self.vocabulary)

    def lookup(self, n_vocabulary: int, vocabulary: Ints | None) -> _Lookup:
        """Translate another corpus' keys, order by order."""
        words = np.arange(n_vocabulary) if vocabulary is None else vocabulary
        return _Lookup(self, n_vocabulary, words)


class _Lookup:
    """Follows the orders of `grams`, translating its numbers into those of the frequencies."""

    def __init__(self, of: DocumentFrequencies, n_vocabulary: int, words: Ints) -> None:
        self.of, self.n_vocabulary, self.words = of, n_vocabulary, words
        self.prefix = np.zeros(1, np.int64)
        self.order = 0

    def idf(self, keys: Ints) -> Floats:
        """float64 (n_grams,) log(n_documents / max(1, document frequency))."""
        table, counts = self.of.keys[self.order], self.of.counts[self.order]
        prefix, word = np.divmod(keys, max(1, self.n_vocabulary))
        prefix, word = self.prefix[prefix], self.words[word]
        wanted = np.where((prefix < 0) | (word < 0), -1, prefix * len(self.of.vocabulary) + word)
        place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
        known = table[place] == wanted if len(table) else np.zeros(len(keys), bool)
        self.prefix, self.order = np.where(known, place, -1), self.order + 1
        df = np.ones(len(keys), np.int64)
        df[known] = counts[place[known]]
        idf: Floats = np.log(self.of.n_documents) - np.log(df)
        return idf


def _sort(key: Ints, at: Ints, n: int) -> tuple[Ints, Ints]:
    """`key` ascending and `at` along with it; equal keys keep their order (`at` ascends)."""
    bits = max(1, n).bit_length()
    if int(key.max(initial=0)).bit_length() + bits <= 63:
        packed = (key << bits) | at  # one plain sort of integers, 17 times faster than argsort
        packed.sort()
        return packed >> bits, packed & ((1 << bits) - 1)
    order = np.argsort(key, kind="stable")
    return key[order], at[order]


def _changes(values: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """True where a value differs from the one before, and at the start."""
    out = np.empty(len(values), bool)
    out[:1] = True
    np.not_equal(values[1:], values[:-1], out=out[1:])
    return out
