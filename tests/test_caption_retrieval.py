"""The retrieval captioner: its n-gram vectors against CIDEr-D, its choice by hand, its files."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from caption import InputError
from caption.metrics.cider import CiderReward
from caption.metrics.ngrams import DocumentFrequencies
from caption.retrieval import HEIGHT, WIDTH, RetrievalConfig, Retriever, prepare
from caption.textbank import TextBank

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (30, 50, 200)}
ENDS = ("with long sleeves and a collar", "with short sleeves and a collar", "with a belt")
TINY = RetrievalConfig(
    vector_epochs=30, photo_epochs=2, components=4, hidden=16, channels=2, dim=8, kin=5, support=6,
    vector_rate=1e-2,
)  # fmt: skip


def catalogue(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], list[str]]:
    """Photos of one colour each; the vector is the colour, the text names it."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[i] for i in rng.integers(0, 3, n)]
    photos = np.stack([prepare(Image.new("RGB", (40, 60), COLOURS[name])) for name in names])
    vectors = np.array([COLOURS[name] for name in names], np.float32) / np.float32(255)
    vectors += rng.normal(0, 0.02, vectors.shape).astype(np.float32)
    texts = [
        f"a {name} dress {ENDS[i]}" for name, i in zip(names, rng.integers(0, 3, n), strict=True)
    ]
    return vectors, photos, texts


@pytest.fixture(scope="module")
def learned() -> Retriever:
    return Retriever.fit(*catalogue(120, 1), TINY, validation=catalogue(30, 2))


def test_prepare_stretches_to_one_size() -> None:
    picture = prepare(Image.new("RGB", (40, 60), (1, 2, 3)))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    assert (picture == (1, 2, 3)).all()


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
    vectors, photos, texts = catalogue(40, 3)
    for chosen, text in zip(learned.choose(vectors, photos), texts, strict=True):
        assert chosen.text in learned.texts
        assert chosen.text.split()[1] == text.split()[1]
        assert chosen.logprob < 0


def test_barred_texts_are_neither_written_nor_heard(learned: Retriever) -> None:
    vectors, photos, _ = catalogue(6, 4)
    free = learned.choose(vectors, photos)
    barred = [[learned.texts.index(chosen.text)] for chosen in free]
    for before, after in zip(free, learned.choose(vectors, photos, barred), strict=True):
        assert before.text != after.text
    everything = [range(len(learned.texts))] * 6
    with pytest.raises(InputError, match="every text is barred"):
        learned.choose(vectors, photos, everything)


def test_the_consensus_of_the_probable_beats_the_most_probable() -> None:
    """By hand: two kindred texts of .3 each outvote a lonely one of .4."""
    torch = pytest.importorskip("torch")
    texts = ["something else entirely", "a red dress with a belt", "a red dress with a zip"]
    networks = torch.nn.ModuleDict()
    networks.register_buffer("counts", torch.ones(3, dtype=torch.int64))
    network = torch.nn.Sequential(torch.nn.Linear(1, 3, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.log(torch.tensor([[0.4], [0.31], [0.29]])))
    networks["vectors"] = network
    retriever = Retriever(texts, RetrievalConfig(), networks, 0.0)
    photo = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    (chosen,) = retriever.choose([[1.0]], photo)
    # Each of the two is vouched for by the other's probability.
    assert chosen.text == texts[2]
    assert chosen.logprob == pytest.approx(np.log(0.29), abs=1e-6)


def test_equal_calls_and_saved_files_give_equal_bytes(learned: Retriever, tmp_path: Path) -> None:
    again = Retriever.fit(*catalogue(120, 1), TINY, validation=catalogue(30, 2))
    learned.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "retriever.json",
        "weights.safetensors",
    ]
    for name in ("retriever.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    vectors, photos, _ = catalogue(20, 6)
    loaded = Retriever.load(tmp_path / "a")
    assert loaded.texts == learned.texts
    assert loaded.choose(vectors, photos) == learned.choose(vectors, photos)


def test_the_photo_network_alone_learns_colours() -> None:
    from dataclasses import replace

    config = replace(TINY, vector_epochs=0, photo_epochs=12, channels=4)
    learned = Retriever.fit(*catalogue(200, 1), config)
    vectors, photos, texts = catalogue(30, 3)
    chosen = learned.choose(np.zeros_like(vectors), photos)
    right = [c.text.split()[1] == t.split()[1] for c, t in zip(chosen, texts, strict=True)]
    assert np.mean(right) > 0.9


def test_wrong_input(learned: Retriever, tmp_path: Path) -> None:
    vectors, photos, texts = catalogue(6, 4)
    with pytest.raises(InputError, match="5 texts: expected as many"):
        Retriever.fit(vectors, photos, texts[:5], TINY)
    with pytest.raises(InputError, match="1 distinct texts"):
        Retriever.fit(vectors, photos, ["same"] * 6, TINY)
    with pytest.raises(InputError, match="all finite"):
        Retriever.fit(vectors * np.nan, photos, texts, TINY)
    with pytest.raises(InputError, match="nothing would learn"):
        Retriever.fit(vectors, photos, texts, RetrievalConfig(vector_epochs=0, photo_epochs=0))
    with pytest.raises(InputError, match="vectors have 2 dimensions"):
        learned.choose(vectors[:, :2], photos)
    with pytest.raises(InputError, match="6 vectors, 5 photos"):
        learned.choose(vectors, photos[:5])
    (tmp_path / "retriever.json").write_text("{}")
    with pytest.raises(InputError, match="is no retrieval captioner"):
        Retriever.load(tmp_path)
