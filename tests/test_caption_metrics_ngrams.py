"""BLEU, ROUGE-L, CIDEr-D, variety: by hand, against pycocoevalcap, against a golden corpus."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable, score_captions
from caption.metrics.bleu import bleu
from caption.metrics.cider import CiderReward, cider_d
from caption.metrics.ngrams import DocumentFrequencies, _sort, encode
from caption.metrics.rouge import lcs_lengths, rouge_l

GOLDEN = Path(__file__).parent / "golden" / "caption_scores.json"


def corpus(hypotheses: list[str], references: list[list[str]], **options: object) -> Corpus:
    ids = tuple(map(str, range(len(hypotheses))))
    return Corpus(ids, hypotheses, references, **{"tokenizer": "none", **options})  # type: ignore[arg-type]


def scores(of: Corpus) -> dict[str, Score | Unavailable]:
    return {s.name: s for metric in (bleu, rouge_l, cider_d) for s in metric(of)}


# By hand


def test_bleu_clips_at_the_reference_and_takes_the_closest_length() -> None:
    one, two, *_ = bleu(corpus(["the the the the"], [["the cat", "the cat is on the mat"]]))
    assert isinstance(one, Score)
    # Two of four words count; lengths 2 and 6 are equally near to 4, the shorter one wins.
    assert one.value == pytest.approx(2 / 4)
    assert isinstance(two, Score)
    assert two.value == pytest.approx(0, abs=1e-6)


def test_bleu_brevity_penalty() -> None:
    one = bleu(corpus(["a b"], [["a b c d"]]))[0]
    assert isinstance(one, Score)
    assert one.value == pytest.approx(math.exp(1 - 4 / 2), abs=1e-8)


def test_rouge_l_takes_best_precision_and_best_recall() -> None:
    (score,) = rouge_l(corpus(["a b c d"], [["a c x x x x x x", "d"]]))
    assert isinstance(score, Score)
    p, r = 2 / 4, 1.0
    assert score.value == pytest.approx((1 + 1.44) * p * r / (r + 1.44 * p))


def test_two_empty_captions_agree_fully_in_rouge_l() -> None:
    (score,) = rouge_l(corpus(["", "a"], [["", "b"], [""]]))
    assert isinstance(score, Score)
    assert score.per_item is not None
    assert score.per_item.tolist() == [1.0, 0.0]


def test_cider_d_by_hand() -> None:
    # "a" is in both documents (idf 0), "b" in one (idf log 2); all bigrams in one.
    (score,) = cider_d(corpus(["a b", "a"], [["a b"], ["a c"]]))
    assert isinstance(score, Score)
    assert score.per_item is not None
    # Item 0 matches itself in orders 1 and 2 of four; item 1 has only "a", of no weight.
    np.testing.assert_allclose(score.per_item, [10 * 2 / 4, 0])


def test_cider_d_is_zero_for_one_item_and_unavailable_without_words() -> None:
    (score,) = cider_d(corpus(["a b"], [["a b"]]))
    assert isinstance(score, Score)
    assert score.value == 0
    for blank in ("", " ", "\u2003\t"):
        assert isinstance(cider_d(corpus(["a"], [[blank]]))[0], Unavailable)


def test_signature_says_what_was_computed() -> None:
    got = scores(corpus(["a", "b"], [["a"], ["b", "c", "d"]]))
    assert got["bleu-4"].signature.startswith("bleu-4|len:closest|refs:1-3|tok:none|ver:fcr-")
    assert got["cider-d"].signature.startswith("cider-d|sigma:6|df:refs|refs:1-3|")
    original = bleu(corpus(["a"], [["a"]], backend="pycocoevalcap"))[0]
    assert isinstance(original, Score)
    assert original.signature == "bleu-1|len:closest|refs:1|tok:none|ver:pycocoevalcap-1.2"


# Against the original

WORDS = st.sampled_from(
    ["a", "b", "red", "dress", "5\u00a03/4", "é", "中文", "ﬁ", "😀", "-lrb-", "a b"]
)
CAPTION = st.lists(WORDS, max_size=14).map(" ".join)
LONG = st.lists(WORDS, min_size=60, max_size=90).map(" ".join)
ODD = st.text("ab \t\u2003\x1c\x85", max_size=12)
TEXT = st.one_of(CAPTION, CAPTION, CAPTION, LONG, ODD)
ITEM = st.tuples(TEXT, st.one_of(*(st.lists(TEXT, min_size=1, max_size=n) for n in (1, 5, 5, 60))))


@given(st.lists(ITEM, min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_equal_to_pycocoevalcap(items: list[tuple[str, list[str]]], repeat: int) -> None:
    items += items[:repeat]
    hypotheses, references = [h for h, _ in items], [r for _, r in items]
    ours = scores(corpus(hypotheses, references))
    wordless = not any(ref.split() for refs in references for ref in refs)
    if wordless:  # the original raises ValueError
        assert isinstance(ours.pop("cider-d"), Unavailable)
        return
    theirs = scores(corpus(hypotheses, references, backend="pycocoevalcap"))
    assert ours.keys() == theirs.keys()
    for name, score in ours.items():
        other = theirs[name]
        assert isinstance(score, Score)
        assert isinstance(other, Score)
        assert score.value == pytest.approx(other.value, abs=1e-9, rel=1e-9), name
        np.testing.assert_allclose(score.per_item, other.per_item, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("tokenizer", ["auto", "python"])
def test_golden_corpus(tokenizer: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    got = score_captions(golden["hypotheses"], golden["references"], tokenizer=tokenizer)  # type: ignore[arg-type]
    for name, want in golden["scores"].items():
        score = got[name]
        assert isinstance(score, Score)
        assert score.value == pytest.approx(want["value"], abs=1e-9)
        np.testing.assert_allclose(score.per_item, want["per_item"], atol=1e-9)


@given(
    st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=4)), min_size=1, max_size=6),
    st.lists(st.lists(CAPTION, min_size=1, max_size=4), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_given_document_frequencies_equal_the_original_with_theirs(
    items: list[tuple[str, list[str]]], documents: list[list[str]]
) -> None:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    class Given(CiderScorer):  # type: ignore[misc]
        ref_len = property(lambda self: math.log(len(documents)), lambda self, value: None)

    original = Given()
    for document in documents:
        original += ("", document)
    original.compute_doc_freq()
    original.crefs, original.ctest = [], []
    for hypothesis, refs in items:
        original += (hypothesis, refs)
    want = np.array(original.compute_cider())

    hypotheses, references = [h for h, _ in items], [r for _, r in items]
    (score,) = cider_d(corpus(hypotheses, references, df_references=documents))
    if isinstance(score, Score):
        np.testing.assert_allclose(score.per_item, want, atol=1e-9)
    reward = CiderReward(references, DocumentFrequencies.of(documents))
    np.testing.assert_allclose(reward(hypotheses, range(len(items))), want, atol=1e-9)


# Parts


def test_reward_scores_any_items_in_any_order() -> None:
    references = [
        ["a red dress", "red dress"],
        ["blue jeans"],
        ["a hat in wool", "wool hat", "hat"],
    ]
    captions = ["a red hat", "wool hat", "unseen words", "red dress", ""]
    items = [2, 2, 0, 0, 1]
    got = CiderReward(references)(captions, items)
    for caption, item, value in zip(captions, items, got, strict=True):
        hypotheses = ["x", "x", "x"]
        hypotheses[item] = caption
        (score,) = cider_d(corpus(hypotheses, references))
        assert isinstance(score, Score)
        assert score.per_item is not None
        assert value == pytest.approx(score.per_item[item], abs=1e-12)
    assert got[1] > got[0] > 0 == got[2] == got[4]
    assert len(CiderReward(references)([], [])) == 0


def test_reward_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="no references"):
        CiderReward([["a"], []])
    reward = CiderReward([["a"], ["b"]])
    with pytest.raises(InputError, match="2 captions for 1 items"):
        reward(["a", "b"], [0])
    with pytest.raises(InputError, match=r"0\.\.1"):
        reward(["a"], [2])


def test_sorting_falls_back_when_numbers_do_not_fit_one_word() -> None:
    rng = np.random.default_rng(0)
    key, at = rng.integers(0, 5, 200), np.arange(200)
    small, big = _sort(key, at, 200), _sort(key + (1 << 60), at, 200)
    np.testing.assert_array_equal(small[0], big[0] - (1 << 60))
    np.testing.assert_array_equal(small[1], big[1])
    np.testing.assert_array_equal(small[1], np.argsort(key, kind="stable"))


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=140), min_size=2, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_lcs_equals_the_textbook(texts: list[list[int]]) -> None:
    def textbook(a: list[int], b: list[int]) -> int:
        row = [0] * (len(b) + 1)
        for x in a:
            previous = row[:]
            for j, y in enumerate(b):
                row[j + 1] = previous[j] + 1 if x == y else max(previous[j + 1], row[j])
        return row[-1]

    words = np.array([w for t in texts for w in t], np.int32)
    lengths = np.array([len(t) for t in texts])
    left, right = (i.ravel() for i in np.indices((len(texts), len(texts))))
    got = lcs_lengths(words, np.cumsum(lengths) - lengths, lengths, left, right)
    assert got.tolist() == [textbook(texts[i], texts[j]) for i, j in zip(left, right, strict=True)]


@given(st.lists(st.text(max_size=20), max_size=8))
@settings(max_examples=100, deadline=None)
def test_encoding_splits_as_python_does(texts: list[str]) -> None:
    texts = [t.encode("utf-8", "replace").decode() for t in texts]  # no lone surrogates
    for any_whitespace in (True, False):
        got = encode(texts, any_whitespace=any_whitespace)
        want = [t.split() if any_whitespace else t.split(" ") for t in texts]
        assert got.lengths.tolist() == [len(w) for w in want]
        assert [got.vocabulary[int(w)] for w in got.words] == [w for words in want for w in words]


def test_a_caption_of_100000_words() -> None:
    long = " ".join(f"w{i % 1000}" for i in range(100_000))
    got = scores(corpus([long, "a b"], [["w1 w2 w3", "b"], ["a b", long]]))
    assert all(isinstance(score, Score) and math.isfinite(score.value) for score in got.values())


def test_same_call_same_bytes() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 50, 12))) for _ in range(900)]
    pairs = [[a, b] for a, b in zip(texts[300:600], texts[600:], strict=True)]
    first, second = (scores(corpus(texts[:300], pairs)) for _ in range(2))
    for one, other in zip(first.values(), second.values(), strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.per_item is not None
        assert other.per_item is not None
        assert one.per_item.tobytes() == other.per_item.tobytes()


# Variety


def test_variety_of_hypotheses() -> None:
    got = score_captions(
        {"a": "A red dress.", "b": "a red dress", "c": "blue blue"},
        {"a": ["x"], "b": ["x"], "c": ["x"]},
        ["diversity", "verbatim"],
        tokenizer="python",
        training=["a RED dress!", "x"],
    )
    value = {name: score.value for name, score in got.items() if isinstance(score, Score)}
    assert value == {
        "length": pytest.approx(8 / 3),
        "distinct-1": pytest.approx(4 / 8),
        "distinct-2": pytest.approx(3 / 5),
        "distinct-captions": pytest.approx(2 / 3),
        "verbatim": pytest.approx(2 / 3),
    }
    unknown = score_captions({"a": "x"}, {"a": ["x"]}, ["verbatim"], tokenizer="none")
    assert isinstance(unknown["verbatim"], Unavailable)


# Bad input


@pytest.mark.parametrize(
    ("hypotheses", "references", "says"),
    [
        ({}, {}, "no hypotheses"),
        ({"a": "x", "b": "x"}, {"a": ["x"]}, r"1 item \('b'\) in hypotheses but not in references"),
        ({"a": "x"}, {"a": ["x"], "c": ["x"]}, r"\('c'\) in references but not in hypotheses"),
        ({"a": None}, {"a": ["x"]}, r"\('a'\) with a hypothesis that is not a string"),
        ({"a": float("nan")}, {"a": ["x"]}, "hypothesis that is not a string"),
        ({"a": "x"}, {"a": []}, "no list of references"),
        ({"a": "x"}, {"a": "x"}, "no list of references"),
        ({"a": "x"}, {"a": None}, "no list of references"),
        ({"a": "x"}, {"a": 5}, "no list of references"),
        ({"a": "x"}, {"a": ["x", 3]}, "reference that is not a string"),
        ({"a": "x"}, {"a": ["x", " "]}, "blank reference"),
        ({1: "x"}, {1: ["x"]}, "ids that are not strings"),
    ],
)
def test_bad_input(hypotheses: dict[str, str], references: dict[str, list[str]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        score_captions(hypotheses, references, tokenizer="none")


@given(st.dictionaries(st.text(max_size=4), st.tuples(st.text(), st.lists(st.text())), max_size=4))
@settings(max_examples=100, deadline=None)
def test_arbitrary_text_is_scored_or_refused(items: dict[str, tuple[str, list[str]]]) -> None:
    hypotheses = {i: hypothesis for i, (hypothesis, _) in items.items()}
    references = {i: refs for i, (_, refs) in items.items()}
    metrics = ["bleu", "rouge-l", "cider-d", "diversity"]
    try:
        got = score_captions(hypotheses, references, metrics, tokenizer="python")
    except InputError:
        assert not items or any(
            not all(map(str.strip, refs)) or not refs for refs in references.values()
        )
        return
    for score in got.values():
        if isinstance(score, Unavailable):
            assert score.name == "cider-d"
            continue
        assert math.isfinite(score.value)
        assert score.per_item is None or score.per_item.shape == (len(items),)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown metric 'blue': expected some of bleu"):
        score_captions({"a": "x"}, {"a": ["x"]}, ["blue"])
    with pytest.raises(InputError, match="tokenizer is 'ptb'"):
        score_captions({"a": "x"}, {"a": ["x"]}, tokenizer="ptb")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="backend is 'coco'"):
        score_captions({"a": "x"}, {"a": ["x"]}, backend="coco")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("df_references", [], "df_references is empty"),
        ("df_references", ["a", "b"], "df_references: expected strings in a list, got 'a'"),
        ("df_references", [["a"], [None]], r"df_references: .* got \[None\]"),
        ("training", [None], r"training: .* got \[None\]"),
    ],
)
def test_bad_options(option: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        score_captions({"a": "x"}, {"a": ["x"]}, **{option: value})


def test_other_metrics_are_ours_beside_the_original() -> None:
    got = score_captions(
        {"a": "x"}, {"a": ["x"]}, ["bleu", "diversity"], backend="pycocoevalcap", tokenizer="none"
    )
    assert isinstance(length := got["length"], Score)
    assert isinstance(one := got["bleu-1"], Score)
    assert "ver:fcr-" in length.signature
    assert "ver:pycocoevalcap-" in one.signature
