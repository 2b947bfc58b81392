"""The catalogue audit: hand-made captions, the tables themselves, real descriptions, intervals."""

from pathlib import Path

import polars as pl
import pytest

from caption import InputError, vocabulary
from caption.audit import audit_captions, collapse, wilson
from caption.vocabulary import FIELDS, mentions, normalise

COLUMNS = ["article_id", *(column for field in FIELDS.values() for column in field.columns)]


def verdicts(
    caption: str,
    kind: str = "Dress",
    colour: str = "Dark Blue",
    pattern: str = "Solid",
    master: str = "Unknown",
) -> dict[str, str]:
    articles = pl.DataFrame([("1", kind, colour, master, pattern)], COLUMNS, orient="row")
    captions = pl.DataFrame({"article_id": ["1"], "caption": [caption]})
    found = audit_captions(captions, articles).per_item
    return dict(zip(found["field"], found["verdict"], strict=True))


def one(field: str, caption: str, **article: str) -> str:
    return verdicts(caption, **article)[field]


@pytest.mark.parametrize(
    ("caption", "kind", "verdict"),
    [
        ("A woman wearing a long dress.", "Dress", "right"),
        ("a maxi-dress", "Dress", "right"),
        ("two dresses", "Dress", "right"),
        ("a woman in a sweater", "Dress", "contradicting"),
        ("something blue", "Dress", "silent"),
        ("", "Dress", "silent"),
        ("a top", "T-shirt", "right"),  # broader
        ("a t - shirt", "T-shirt", "right"),
        ("a tshirt", "Top", "right"),
        ("a t-shirt", "Shirt", "contradicting"),
        ("a blouse", "Dress", "contradicting"),
        ("a tunic", "Dress", "right"),
        ("a shirt and blue jeans", "Trousers", "right"),  # a second garment is no mistake
        ("a hat", "Trousers", "contradicting"),
        ("scarves", "Scarf", "right"),
        ("sweatshirt fabric, ribbing at the top", "Trousers", "silent"),  # material, part
        ("shirt collar and belt loops", "Trousers", "silent"),
        ("low heels, 4 cm", "Dress", "silent"),
        ("a polo neck", "Sweater", "right"),
        ("soft body, tie at the side", "Dress", "silent"),  # too many meanings to contradict
        ("a bow tie", "Dress", "contradicting"),
        ("a tie", "Tie", "right"),
    ],
)
def test_type(caption: str, kind: str, verdict: str) -> None:
    assert one("type", caption, kind=kind) == verdict


@pytest.mark.parametrize(
    ("caption", "colour", "verdict"),
    [
        ("a navy dress", "Dark Blue", "right"),
        ("a blue dress", "Light Blue", "right"),
        ("a light blue dress", "Dark Blue", "contradicting"),
        ("a navy dress", "Light Blue", "contradicting"),
        ("a red dress", "Dark Blue", "contradicting"),
        ("a red and blue dress", "Dark Blue", "right"),  # the second colour of a pattern
        ("a dress with gold-coloured buttons", "Dark Blue", "silent"),
        ("a blue dress on a white background", "White", "contradicting"),
        ("a dress on a white background", "Dark Blue", "silent"),
        ("a multi-coloured dress", "Dark Blue", "right"),
        ("a cream top", "Off White", "right"),
        ("a transparent top", "Black", "silent"),
        ("an olive dress", "Greenish Khaki", "right"),
        ("a mustard dress", "Dark Yellow", "right"),
    ],
)
def test_colour(caption: str, colour: str, verdict: str) -> None:
    assert one("colour", caption, colour=colour) == verdict


def test_perceived_colour_counts_as_well() -> None:
    assert one("colour", "a green dress", colour="Dark Grey", master="Black") == "contradicting"
    assert one("colour", "a black dress", colour="Dark Grey", master="Black") == "right"


@pytest.mark.parametrize(
    ("caption", "pattern", "verdict"),
    [
        ("a striped dress", "Stripe", "right"),
        ("a patterned dress", "Stripe", "right"),  # broader
        ("a striped dress", "Solid", "contradicting"),
        ("a plain dress", "Solid", "right"),
        ("a floral dress", "All over pattern", "right"),
        ("a checked dress", "All over pattern", "contradicting"),
        ("a plain dress", "All over pattern", "contradicting"),
        ("a lace dress", "Solid", "silent"),  # a technique does not contradict
        ("trousers with stripes down the sides", "Solid", "silent"),
        ("shoes with patterned soles", "Solid", "silent"),
        ("a dress with a polka dot print", "Dot", "right"),
        ("jeans", "Denim", "right"),
        ("a t-shirt with a print motif", "Front print", "right"),
    ],
)
def test_pattern(caption: str, pattern: str, verdict: str) -> None:
    assert one("pattern", caption, pattern=pattern) == verdict


def test_values_that_claim_nothing_are_not_audited() -> None:
    assert verdicts("a red dress", kind="Garment Set", colour="Other", pattern="Unknown") == {}
    assert set(verdicts("a red dress", colour="Unknown")) == {"type", "pattern"}


def test_rates_worst_and_words() -> None:
    articles = pl.DataFrame(
        [
            ("1", "Dress", "Black", "Black", "Solid"),
            ("2", "Dress", "Red", "Red", "Stripe"),
            ("3", "Hat/beanie", "White", "White", "Solid"),
            ("4", "Garment Set", "White", "White", "Solid"),
        ],
        COLUMNS,
        orient="row",
    )
    captions = pl.DataFrame(
        {
            "article_id": ["3", "1", "2", "4"],
            "caption": ["a striped navy skirt", "a black dress", "a blue dress", None],
        }
    )
    audit = audit_captions(captions, articles)
    kind = audit.rates["type"]
    assert (kind["right"]["count"], kind["right"]["n"]) == (2, 3)
    assert kind["contradicting"]["value"] == pytest.approx(1 / 3)
    assert kind["precision"]["n"] == 3
    assert audit.rates["colour"]["contradicting"]["count"] == 2
    assert audit.rates["colour"]["silent"]["count"] == 1
    assert audit.rates["pattern"]["silent"]["count"] == 3
    assert audit.worst["article_id"].to_list() == ["3", "2"]
    assert audit.worst["contradictions"].to_list() == [3, 1]
    assert "colour: White, not navy" in audit.worst["details"][0]
    row = audit.per_item.filter(pl.col("article_id") == "3", pl.col("field") == "type")
    assert row.rows() == [("3", "type", "contradicting", "Hat/beanie", "skirt")]
    again = audit_captions(captions, articles)
    assert again.per_item.equals(audit.per_item)


def test_nothing_to_audit() -> None:
    articles = pl.DataFrame([("1", "Dress", "Red", "Red", "Solid")], COLUMNS, orient="row")
    empty = pl.DataFrame(schema={"article_id": pl.String, "caption": pl.String})
    audit = audit_captions(empty, articles)
    assert audit.per_item.height == audit.worst.height == 0
    assert audit.rates["type"]["right"]["n"] == 0
    assert (audit.rates["type"]["right"]["low"], audit.rates["type"]["right"]["high"]) == (0, 1)


def test_wrong_input() -> None:
    articles = pl.DataFrame([("1", "Dress", "Red", "Red", "Solid")], COLUMNS, orient="row")
    captions = pl.DataFrame({"article_id": ["1"], "caption": ["a"]})
    with pytest.raises(InputError, match="articles lack the columns graphical_appearance_name"):
        audit_captions(captions, articles.drop("graphical_appearance_name"))
    with pytest.raises(InputError, match="captions repeat article_id 1"):
        audit_captions(pl.concat([captions, captions]), articles)
    with pytest.raises(InputError, match=r"1 captions of articles that are not known \(2\)"):
        audit_captions(captions.with_columns(article_id=pl.lit("2")), articles)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (1, 1, 0.206549, 1.0)],
)
def test_wilson_against_published_values(count: int, n: int, low: float, high: float) -> None:
    """R: binom::binom.wilson, and prop.test(correct = FALSE)."""
    assert wilson(count, n) == pytest.approx((low, high), abs=1e-5)


def test_normalise_and_mentions() -> None:
    assert normalise("A T-Shirt/top, crêpe – women's!") == "a t shirt top , crepe womens ,"
    found = mentions("Light-blue and dark red crêpe dress")
    assert [(m.concept, m.shade) for m in found["colour"]] == [("blue", "light"), ("red", "dark")]


def test_tables_are_consistent() -> None:
    """Every concept a value refers to has words, and every concept with words is reachable."""
    for values, concepts in (
        ([*vocabulary.TYPE_VALUES.values()], vocabulary.TYPES),
        ([*vocabulary.COLOUR_VALUES.values(), "many"], vocabulary.COLOURS),
        ([", ".join(pair) for pair in vocabulary.PATTERN_VALUES.values()], vocabulary.PATTERNS),
    ):
        used = {term.strip() for line in values for term in line.split(",")} - {""}
        assert used == set(concepts)


@pytest.mark.parametrize(
    ("kinds", "field"), [(vocabulary.TYPE_VALUES, "type"), (vocabulary.PATTERN_VALUES, "pattern")]
)
def test_every_value_accepts_its_own_words(kinds: dict[str, object], field: str) -> None:
    for value in kinds:
        accepted = FIELDS[field].accepts((value,))
        assert accepted is not None
        named = mentions(value.replace("/", " , "))[field]
        assert not named or any(accepted.fits(mention) for mention in named), (value, named)


def test_real_descriptions_rarely_contradict(shared: Path) -> None:
    """People wrote these texts, with the article before them."""
    articles = pl.read_csv(
        shared / "hm-sample" / "articles.csv", schema_overrides={"article_id": pl.String}
    ).filter(pl.col("detail_desc").is_not_null())
    articles = articles.sample(3000, seed=0)
    audit = audit_captions(articles.select("article_id", caption="detail_desc"), articles)
    assert audit.rates["type"]["right"]["value"] > 0.97
    assert audit.rates["type"]["contradicting"]["value"] < 0.02
    assert audit.rates["pattern"]["contradicting"]["value"] < 0.012
    assert audit.rates["colour"]["contradicting"]["value"] < 0.003
    # Shuffled, the same texts contradict: the audit can tell right from wrong.
    shuffled = articles.select("article_id", caption=pl.col("detail_desc").shuffle(seed=1))
    wrong = audit_captions(shuffled, articles).rates["type"]
    assert wrong["contradicting"]["value"] > 0.5


def test_collapse() -> None:
    few = collapse([f"a {word} shirt" for word in "abcdefghijkl"] * 200)
    assert few.collapsed
    assert (few.n, few.distinct) == (2400, 12)
    assert "COLLAPSED: 12 distinct captions for 2400 photos" in str(few)
    assert collapse(["a shirt"] * 40 + [f"shirt {i}" for i in range(30)]).collapsed
    varied = collapse([f"shirt {i % 400}" for i in range(1000)])
    assert not varied.collapsed
    assert str(varied) == "400 distinct captions for 1000 photos"
    assert not collapse(["same"] * 10).collapsed  # too few to say
    assert collapse([]).n == 0
