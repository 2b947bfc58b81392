"""The retrieval captioner: its n-gram vectors against CIDEr-D, its choice by hand, its files."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from caption import InputError
from caption.metrics.cider import CiderReward
from caption.metrics.ngrams import DocumentFrequencies
from caption.retrieval import RetrievalConfig, Retriever
from caption.textbank import TextBank

COLOURS = {"red": (0.8, 0.1, 0.1), "green": (0.1, 0.6, 0.2), "blue": (0.1, 0.2, 0.8)}
ENDS = ("with long sleeves and a collar", "with short sleeves and a collar", "with a belt")
TINY = RetrievalConfig(
    members=2, epochs=30, components=4, hidden=16, dim=8, kin=5, support=6, learning_rate=1e-2
)


def catalogue(n: int, seed: int) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors that are one colour each; the text names it."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[i] for i in rng.integers(0, 3, n)]
    vectors = np.array([COLOURS[name] for name in names], np.float32)
    vectors += rng.normal(0, 0.02, vectors.shape).astype(np.float32)
    ends = rng.integers(0, 3, n)
    return vectors, [f"a {name} dress {ENDS[i]}" for name, i in zip(names, ends, strict=True)]


@pytest.fixture(scope="module")
def learned() -> Retriever:
    return Retriever.fit(*catalogue(120, 1), TINY)


def test_products_of_texts_are_cider_d() -> None:
    rng = np.random.default_rng(5)
    words = np.array([f"w{i}" for i in range(30)])
    # Without repeats CIDEr-D clips nothing, which is all that the products leave out.
    texts = [" ".join(rng.permutation(words)[: rng.integers(1, 12)]) for _ in range(25)]
    counts = rng.integers(1, 4, len(texts))
    documents = [[text] for text, n in zip(texts, counts, strict=True) for _ in range(n)]
    alike = TextBank.of(texts, counts).alike(np.arange(len(texts)))
    reward = CiderReward([[text] for text in texts], DocumentFrequencies.of(documents))
    for i, text in enumerate(texts):
        others = [j for j in range(len(texts)) if j != i]
        scores = reward([texts[j] for j in others], [i] * len(others))
        np.testing.assert_allclose(10 * alike[others, i], scores, atol=1e-5, err_msg=text)


def test_targets_are_shares_of_the_kin() -> None:
    texts = ["a red hat", "a red hat with a veil", "blue jeans", "blue jeans with a zip"]
    numbers, shares = TextBank.of(texts, np.ones(4, np.int64)).targets(2, 3.0)
    assert [set(row) for row in numbers.tolist()] == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert all(shares[i][numbers[i] == i] > 0.5 for i in range(4))


def test_new_photos_get_a_text_of_their_colour(learned: Retriever) -> None:
    vectors, texts = catalogue(40, 3)
    for chosen, text in zip(learned.choose(vectors), texts, strict=True):
        assert chosen.text in learned.texts
        assert chosen.text.split()[1] == text.split()[1]
        assert chosen.logprob < 0


def test_barred_texts_are_neither_written_nor_heard(learned: Retriever) -> None:
    vectors, _ = catalogue(6, 4)
    free = learned.choose(vectors)
    barred = [[learned.texts.index(chosen.text)] for chosen in free]
    for before, after in zip(free, learned.choose(vectors, barred), strict=True):
        assert before.text != after.text
    everything = [range(len(learned.texts))] * 6
    with pytest.raises(InputError, match="every text is barred"):
        learned.choose(vectors, everything)


def test_the_consensus_of_the_probable_beats_the_most_probable() -> None:
    """By hand: two kindred texts of .3 each outvote a lonely one of .4."""
    torch = pytest.importorskip("torch")
    texts = ["something else entirely", "a red dress with a belt", "a red dress with a zip"]
    networks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(1, 3, bias=False))])
    networks.register_buffer("counts", torch.ones(3, dtype=torch.int64))
    with torch.no_grad():
        networks[0][0].weight.copy_(torch.log(torch.tensor([[0.4], [0.31], [0.29]])))
    retriever = Retriever(texts, ["dress"] * 3, RetrievalConfig(), networks)
    (chosen,) = retriever.choose([[1.0]])
    # Each of the two is vouched for by the other's probability.
    assert chosen.text == texts[2]
    assert chosen.logprob == pytest.approx(np.log(0.29), abs=1e-6)
    # The category of the third is the less probable one, and weighed heavily enough that decides.
    heavy = RetrievalConfig(category_weight=1.0)
    (chosen,) = Retriever(texts, ["dress", "dress", "skirt"], heavy, networks).choose([[1.0]])
    assert chosen.text == texts[1]


def test_equal_calls_and_saved_files_give_equal_bytes(learned: Retriever, tmp_path: Path) -> None:
    again = Retriever.fit(*catalogue(120, 1), TINY)
    learned.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "retriever.json",
        "weights.safetensors",
    ]
    for name in ("retriever.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    vectors, _ = catalogue(20, 6)
    loaded = Retriever.load(tmp_path / "a")
    assert loaded.texts == learned.texts
    assert loaded.choose(vectors) == learned.choose(vectors)


def test_wrong_input(learned: Retriever, tmp_path: Path) -> None:
    vectors, texts = catalogue(6, 4)
    with pytest.raises(InputError, match="5 texts, 5 categories: expected as many"):
        Retriever.fit(vectors, texts[:5], TINY)
    with pytest.raises(InputError, match="1 distinct texts"):
        Retriever.fit(vectors, ["same"] * 6, TINY)
    with pytest.raises(InputError, match="all finite"):
        Retriever.fit(vectors * np.nan, texts, TINY)
    with pytest.raises(InputError, match="vectors have 2 dimensions"):
        learned.choose(vectors[:, :2])
    with pytest.raises(InputError, match="5 lists of barred texts for 6 vectors"):
        learned.choose(vectors, [[]] * 5)
    (tmp_path / "retriever.json").write_text("{}")
    with pytest.raises(InputError, match="is no retrieval captioner"):
        Retriever.load(tmp_path)
