"""Comparing two captioners: against scipy, by hand, and on input that does not compare."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from caption import InputError
from caption.metrics import Score, Unavailable
from caption.metrics.compare import adjust, compare_captioners


def scored(**metrics: Any) -> dict[str, Score | Unavailable]:
    out: dict[str, Score | Unavailable] = {}
    for name, values in metrics.items():
        items = None if values is None else np.asarray(values, np.float64)
        value = 0.5 if items is None else float(np.nanmean(items)) if items.size else 0.0
        out[name] = Score(name, value, items, f"{name}|refs:1")
    return out


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    b = rng.normal(0.4, 0.2, 300)
    a = b + rng.normal(0.02, 0.15, 300)
    (found,) = compare_captioners(scored(m=a), scored(m=b), n_resamples=20_000)
    interval = stats.bootstrap(
        (a - b,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=5e-4)
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)
    assert 0.05 < found.p_value < 0.5  # neither end, where anything would agree
    assert (found.value_a, found.value_b, found.n) == (a.mean(), b.mean(), 300)


def test_corrections_against_scipy_and_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.5]
    # Holm: sorted .01*4, .03*3, .04*2 -> .09 (never less than the one before), .5*1
    assert adjust(p, "holm") == pytest.approx([0.04, 0.09, 0.09, 0.5])
    expected = stats.false_discovery_control(p, method="bh")
    assert adjust(p, "benjamini-hochberg") == pytest.approx(expected)
    assert adjust(p, "none").tolist() == p
    with_gap = adjust([0.01, np.nan, 0.6], "holm")
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.6])
    assert np.isnan(with_gap[1])
    with pytest.raises(InputError, match="unknown correction 'bonferroni'"):
        adjust(p, "bonferroni")  # type: ignore[arg-type]


def test_many_metrics_share_resamples_and_are_corrected() -> None:
    rng = np.random.default_rng(0)
    b = rng.random(200)
    noise = rng.normal(0, 0.1, 200)
    a = scored(up=b + 0.1 + noise, twice=2 * (b + 0.1 + noise), same=b, flat=b + 0.01 * noise)
    found = {c.metric: c for c in compare_captioners(a, scored(up=b, twice=2 * b, same=b, flat=b))}
    assert found["twice"].low == pytest.approx(2 * found["up"].low)
    assert found["twice"].p_value == found["up"].p_value == pytest.approx(1 / 2001)
    assert found["up"].p_adjusted == pytest.approx(4 / 2001)
    assert found["up"].low > 0
    same = found["same"]
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert same.p_adjusted == 1
    again = {c.metric: c for c in compare_captioners(a, scored(up=b, twice=2 * b, same=b, flat=b))}
    assert again == found


def test_sign_changes_with_the_order() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(50), rng.random(50)
    (ab,), (ba,) = (
        compare_captioners(scored(m=a), scored(m=b)),
        compare_captioners(scored(m=b), scored(m=a)),
    )
    assert ab.difference == -ba.difference
    assert ab.low == pytest.approx(-ba.high)
    assert ab.p_value == ba.p_value


def test_items_without_a_value_are_left_out() -> None:
    a, b = [1.0, np.nan, 0.5, 0.25], [0.5, 0.5, np.nan, 0.25]
    (found,) = compare_captioners(scored(m=a), scored(m=b))
    assert found.n == 2
    assert found.difference == pytest.approx(0.25)


def test_cleaned_and_cut_captions_still_compare() -> None:
    a = {"m": Score("m", 1.0, np.ones(2), "m|cut:1|refs:1|tok:ptb+3-cleaned|ver:1")}
    b = {"m": Score("m", 1.0, np.zeros(2), "m|refs:1|tok:ptb|ver:1")}
    assert [c.difference for c in compare_captioners(a, b)] == [1.0]


def test_metrics_that_cannot_be_compared_are_left_out() -> None:
    a = scored(m=[1.0, 0.5], corpus_only=None, extra=[1.0, 1.0])
    b = scored(m=[0.5, 0.5], corpus_only=None)
    b["meteor"] = Unavailable("meteor", "no Java")
    a["meteor"] = scored(meteor=[1.0, 1.0])["meteor"]
    assert [c.metric for c in compare_captioners(a, b)] == ["m"]
    assert compare_captioners({}, {}) == []
    assert compare_captioners(scored(m=[]), scored(m=[])) == []


def test_wrong_input() -> None:
    with pytest.raises(InputError, match=r"scores of \[1, 2\] items"):
        compare_captioners(scored(m=[1.0]), scored(m=[1.0, 2.0]))
    other = {"m": Score("m", 1.0, np.ones(2), "m|refs:5")}
    with pytest.raises(InputError, match=r"two ways, m\|refs:1 and m\|refs:5"):
        compare_captioners(scored(m=[1.0, 1.0]), other)
    with pytest.raises(InputError, match=r"level=1\.5"):
        compare_captioners(scored(m=[1.0]), scored(m=[1.0]), level=1.5)
