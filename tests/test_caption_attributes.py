"""Attribute words, category maps and classifiers: by hand, on real text, and with a tiny BERT."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from caption import InputError
from caption.attributes import TAGGERS, Vocabulary, build_vocabulary, words_of
from caption.categories import BertClassifier, CategoryMap, LinearProbe
from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.attributes import attributes, category_accuracy

needs_hanta = pytest.mark.skipif(
    importlib.util.find_spec("HanTa") is None, reason="needs HanTa: pip install hanta"
)
KINDS = {"dress": "Dress", "hat": "Hat", "jeans": "Trousers"}


def described(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts in three categories, each named by a word, among words that name none."""
    rng = np.random.default_rng(seed)
    nouns = rng.choice(list(KINDS), n, p=[0.6, 0.3, 0.1])
    texts = [
        f"a {rng.choice(['red', 'blue', 'soft'])} {noun} in {rng.choice(['cotton', 'wool'])}"
        for noun in nouns
    ]
    return texts, [KINDS[noun] for noun in nouns]


def corpus_of(hypotheses: list[str], references: list[list[str]], **more: object) -> Corpus:
    ids = tuple(str(i) for i in range(len(hypotheses)))
    return Corpus(ids, hypotheses, references, **more)  # type: ignore[arg-type]


def test_words_of() -> None:
    assert words_of("A T-shirt, women's (5/6)!") == (
        ["a", "t-shirt", ",", "women's", "(", "5", "/", "6", ")", "!"]
    )


@needs_hanta
def test_hanta_finds_nouns_and_adjectives() -> None:
    (found,) = TAGGERS["hanta"]("")(
        ["A long-sleeved red T-shirt in soft cotton with a printed motif."]
    )
    assert found == ["longsleeved", "red", "tshirt", "soft", "cotton", "printed", "motif"]
    assert TAGGERS["hanta"]("")(["", "?!"]) == [[], []]


@needs_hanta
def test_vocabulary_counts_repeats_and_survives_a_file(tmp_path: Path) -> None:
    texts = ["a red dress"] * 9 + ["a red hat in cotton"] * 3 + ["running"]
    vocabulary = build_vocabulary(texts)
    assert vocabulary.words == ("red",)  # 12 times; dress 9
    assert build_vocabulary(texts, min_count=3).words == ("red", "dress", "cotton", "hat")
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    assert vocabulary.attributes(["Red shoes", "red, RED", ""]) == [{"red"}, {"red"}, set()]
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.json"]


@needs_hanta
def test_part_of_speech_matters_only_to_a_tagger() -> None:
    texts = ["the dress ties at the waist"] * 10
    assert "ties" not in build_vocabulary(texts).words
    assert "the" not in build_vocabulary(texts).words
    assert "the" in build_vocabulary(texts, tagger="words").words


@pytest.mark.parametrize("name", ["stanza", "spacy"])
def test_a_tagger_that_is_not_installed_says_how_to_get_it(name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=f"pip install {name}"):
        build_vocabulary(["a"], tagger=name)
    (answer, *_) = attributes(corpus_of(["a"], [["a"]]), vocabulary=None)
    assert isinstance(answer, Unavailable)


def test_spacy_tags_with_the_pipeline_that_is_named(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    example = pytest.importorskip("spacy.training").Example
    nouns, others = ["dress", "hat", "shirt", "sock"], ["a", "in", "with", "the"]
    pipeline = spacy.blank("en")
    pipeline.add_pipe("morphologizer")
    pos = {
        "red": "ADJ",
        "soft": "ADJ",
        **dict.fromkeys(nouns, "NOUN"),
        **dict.fromkeys(others, "X"),
    }
    texts = [f"{a} {b} {c}" for a in others for b in ("red", "soft") for c in nouns]
    examples = [
        example.from_dict(
            pipeline.make_doc(t), {"pos": [pos[w] for w in t.split()], "morphs": [""] * 3}
        )
        for t in texts
    ]
    pipeline.initialize(lambda: examples)
    for _ in range(10):
        pipeline.update(examples)
    pipeline.to_disk(tmp_path / "model")
    vocabulary = build_vocabulary(texts, tagger=f"spacy:{tmp_path / 'model'}")
    assert set(vocabulary.words) == {"red", "soft"}  # 16 times each, a noun only 8
    assert vocabulary.attributes(["a red hat"]) == [{"red"}]
    with pytest.raises(InputError, match="has no pipeline 'nowhere'"):
        build_vocabulary(["a"], tagger="spacy:nowhere")


def test_unknown_tagger_and_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown tagger 'nltk': expected one of hanta"):
        build_vocabulary(["a"], tagger="nltk")
    (tmp_path / "v.json").write_text('{"words": ["a"')
    with pytest.raises(InputError, match="cannot read"):
        Vocabulary.load(tmp_path / "v.json")
    (tmp_path / "v.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object with words, tagger, min_count"):
        Vocabulary.load(tmp_path / "v.json")


def test_attribute_scores_by_hand() -> None:
    vocabulary = Vocabulary(("red", "blue", "cotton", "dress", "hat", "soft"), "words", 1)
    corpus = corpus_of(
        ["a red cotton dress", "blue hat hat", "it is", "unknown words", "soft"],
        [
            ["a red dress in wool", "soft red dress"],
            ["a red dress"],
            ["a hat"],
            ["things"],
            ["soft"],
        ],
    )
    scores = {score.name: score for score in attributes(corpus, vocabulary=vocabulary)}
    by_item = {name: s.per_item.tolist() for name, s in scores.items() if isinstance(s, Score)}  # type: ignore[union-attr]
    assert by_item["attribute-map"] == pytest.approx([2 / 3, 0, 0, 0, 1])
    assert by_item["attribute-mar"] == pytest.approx([2 / 3, 0, 0, 0, 1])
    assert by_item["attribute-f1"] == pytest.approx([2 / 3, 0, 0, 1, 1])
    one = scores["attribute-map"]
    assert isinstance(one, Score)
    assert one.value == pytest.approx(1 / 3)
    assert one.signature.startswith("attribute-map|tagger:words|vocab:6-min-1|refs:1-2|")


def test_attributes_need_a_vocabulary() -> None:
    for answer in attributes(corpus_of(["a"], [["a"]])):
        assert isinstance(answer, Unavailable)
        assert "is not given" in answer.reason


@needs_hanta
def test_attributes_from_training_captions() -> None:
    training = ["a red dress"] * 20
    (precision, *_) = attributes(corpus_of(["red hat"], [["red dress"]], training=training))
    assert isinstance(precision, Score)
    assert precision.value == 1.0  # hat is no word of the training captions


def test_category_map() -> None:
    texts, categories = described(400)
    found = CategoryMap.fit(texts, categories)
    assert found.words["jeans"] == ("Trousers", 1.0)  # the rarest, yet named
    assert "in" not in found.words
    assert "red" not in found.words
    assert found.find("Blue jeans, and a hat") == "Trousers"
    assert found.find("something else") == ""
    assert found.find("") == ""


def test_a_pair_names_what_its_words_do_not(tmp_path: Path) -> None:
    texts = ["vest top"] * 20 + ["top"] * 20 + ["vest"] * 20
    found = CategoryMap.fit(texts, ["Vest top"] * 20 + ["Top"] * 20 + ["Waistcoat"] * 20)
    assert found.find("a vest top") == "Vest top"
    found.save(tmp_path / "map.json")
    assert CategoryMap.load(tmp_path / "map.json") == found


def test_linear_probe_learns_saves_and_repeats(tmp_path: Path) -> None:
    texts, categories = described(300)
    probe = LinearProbe.fit(texts, categories)
    fresh, truth = described(100, seed=1)
    assert probe.predict(fresh) == truth
    assert probe.predict([]) == []
    probe.save(tmp_path / "probe")
    again = LinearProbe.load(tmp_path / "probe")
    assert again.predict(fresh) == truth
    assert again.signature == probe.signature == "probe:tfidf-3-classes-300-texts"
    np.testing.assert_array_equal(LinearProbe.fit(texts, categories).weights, probe.weights)


def test_linear_probe_over_embeddings_and_two_classes(tmp_path: Path) -> None:
    def encode(texts: object) -> np.ndarray:
        rows = [[len(text), text.count("hat")] for text in texts]  # type: ignore[attr-defined]
        return np.array(rows, np.float32)

    texts = ["a hat", "hat", "a dress", "dress"] * 10
    probe = LinearProbe.fit(
        texts, ["Hat", "Hat", "Dress", "Dress"] * 10, encode=encode, encoder="x"
    )
    assert probe.predict(["my hat", "my dress"]) == ["Hat", "Dress"]
    assert probe.signature == "probe:embeddings-x-2-classes-40-texts"
    probe.save(tmp_path)
    with pytest.raises(InputError, match="give the encoder"):
        LinearProbe.load(tmp_path)
    assert LinearProbe.load(tmp_path, encode).predict(["hat"]) == ["Hat"]


def test_classifiers_refuse_what_teaches_nothing() -> None:
    with pytest.raises(InputError, match="1 categories: expected at least two"):
        LinearProbe.fit(["a", "b"], ["x", "x"])
    with pytest.raises(InputError, match="2 texts for 1 categories"):
        LinearProbe.fit(["a", "b"], ["x"])


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["a", "red", "blue", "soft", "dress", "hat", "jeans", "in", "cotton", "wool"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special + words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        classifier_dropout=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_bert_learns_and_predicts_with_dropout_off(tiny_bert: Path, tmp_path: Path) -> None:
    import torch

    texts, categories = described(200)
    state = torch.random.get_rng_state()
    options = {"checkpoint": tiny_bert, "epochs": 12, "learning_rate": 5e-3, "device": "cpu"}
    bert = BertClassifier.fit(texts, categories, **options)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), state)
    fresh, truth = described(60, seed=2)
    assert np.mean([p == t for p, t in zip(bert.predict(fresh), truth, strict=True)]) > 0.95
    bert.model.train()  # as left behind by training code: predict must not depend on it
    tokens = bert.tokenizer(fresh[:4], return_tensors="pt")
    assert not torch.equal(bert.model(**tokens).logits, bert.model(**tokens).logits)
    assert bert.predict(fresh) == bert.predict(fresh)
    assert not bert.model.training
    bert.save(tmp_path / "bert")
    loaded = BertClassifier.load(tmp_path / "bert", device="cpu")
    assert loaded.predict(fresh) == bert.predict(fresh)
    assert loaded.signature == bert.signature
    again = BertClassifier.fit(texts, categories, **options)  # type: ignore[arg-type]
    for a, b in zip(again.model.parameters(), bert.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_category_accuracy() -> None:
    probe = LinearProbe.fit(*described(300))
    corpus = corpus_of(["a red hat", "a soft dress", "jeans", "a hat"], [["a"]] * 4)
    (score,) = category_accuracy(corpus, ["Hat", "Hat", "Trousers", ""], probe)
    assert isinstance(score, Score)
    assert score.per_item is not None
    assert score.per_item[:3].tolist() == [1, 0, 1]
    assert np.isnan(score.per_item[3])
    assert score.value == pytest.approx(2 / 3)
    assert "|probe:tfidf-3-classes-300-texts|items:3/4|" in score.signature
    assert isinstance(category_accuracy(corpus, [""] * 4, probe)[0], Unavailable)
    with pytest.raises(InputError, match="1 categories for 4 items"):
        category_accuracy(corpus, ["Hat"], probe)


@needs_hanta
def test_real_descriptions(shared: Path) -> None:
    articles = pl.read_csv(
        shared / "hm-sample" / "articles.csv", schema_overrides={"article_id": pl.String}
    ).filter(pl.col("detail_desc").is_not_null())
    articles = articles.unique("detail_desc", maintain_order=True).sample(2000, seed=0)
    texts, kinds = articles["detail_desc"].to_list(), articles["product_type_name"].to_list()
    vocabulary = build_vocabulary(texts[:200])
    assert {"cotton", "jersey", "waist", "long", "soft"} <= set(vocabulary.words)
    assert not {"with", "and", "the", "in", ","} & set(vocabulary.words)
    probe = LinearProbe.fit(texts[:1600], kinds[:1600])
    right = np.mean(
        [p == k for p, k in zip(probe.predict(texts[1600:]), kinds[1600:], strict=True)]
    )
    assert right > 0.6  # the commonest type alone would be right for 0.11
    words = CategoryMap.fit(texts[:1600], kinds[:1600])
    assert words.words["earrings"][0] == "Earring"
