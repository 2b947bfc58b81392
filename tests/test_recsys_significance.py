"""Intervals against scipy, corrections against published values."""

import numpy as np
import pytest
from scipy import stats

from recsys import InputError
from recsys.significance import (
    Resampled,
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    paired_bootstrap,
)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "few-values"])
def test_interval_of_a_mean_agrees_with_scipy(method, sparse):
    rng = np.random.default_rng(1)
    values = rng.gamma(0.5, size=400)
    if sparse:
        values = rng.choice([0, 0, 0, 0, 0.25, 1], size=400)
    ours = bootstrap_mean(values, seed=2, n_resamples=20_000, method=method)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="BCa" if method == "bca" else "percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)
    assert ours.n == 400


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        values = (rng.random(200) < 0.1).astype(float)
        interval = bootstrap_mean(values, seed=trial, n_resamples=400)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.90 <= covered / 300 <= 0.985


def test_both_ways_of_resampling_have_one_distribution():
    values = np.repeat([0.0, 0.5, 1.0], [300, 60, 40])
    dense = values + np.linspace(0, 1e-9, len(values))  # all distinct: drawn one by one
    few = bootstrap_mean(values, n_resamples=20_000)
    many = bootstrap_mean(dense, n_resamples=20_000)
    assert few.low == pytest.approx(many.low, abs=2e-3)
    assert few.high == pytest.approx(many.high, abs=2e-3)


def test_missing_values_are_left_out_and_calls_repeat():
    values = np.array([0.0, np.nan, 1.0, 0.5, np.nan])
    first = bootstrap_mean(values, seed=5)
    assert first == bootstrap_mean(values, seed=5)
    assert first.estimate == 0.5
    assert first.n == 3
    assert np.isnan(bootstrap_mean([np.nan]).low)
    constant = bootstrap_mean([0.3] * 10, method="bca")
    assert constant.low == pytest.approx(0.3)
    assert constant.high == pytest.approx(0.3)


def test_paired_difference_finds_an_effect_and_agrees_with_the_t_test():
    rng = np.random.default_rng(6)
    control = rng.random(500)
    treatment = control + rng.normal(0.02, 0.1, 500)
    found = paired_bootstrap(treatment, control, n_resamples=10_000)
    wanted = stats.ttest_rel(treatment, control)
    low, high = wanted.confidence_interval()
    assert found.estimate == pytest.approx((treatment - control).mean())
    assert found.low == pytest.approx(low, abs=1e-3)
    assert found.high == pytest.approx(high, abs=1e-3)
    assert found.p_value == pytest.approx(wanted.pvalue, abs=2e-3)
    # 80 % power at 5 % for a known error: 2.80 standard errors.
    error = (treatment - control).std(ddof=1) / 500**0.5
    assert found.detectable == pytest.approx(2.8016 * error, rel=1e-3)


def test_no_difference_is_no_finding():
    values = np.random.default_rng(7).random(50)
    same = paired_bootstrap(values, values)
    assert (same.estimate, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_false_alarms_stay_at_the_level():
    rng = np.random.default_rng(8)
    alarms = 0
    for trial in range(400):
        left, right = rng.random((2, 80)) < 0.2
        alarms += paired_bootstrap(left, right, seed=trial, n_resamples=300).p_value < 0.05
    assert alarms / 400 < 0.09


def test_resampled_columns_with_one_seed_are_a_paired_bootstrap():
    rng = np.random.default_rng(3)
    values = rng.random((300, 3))
    values[:40, 2] = np.nan
    resampled = Resampled(values, seed=1, n_resamples=20_000)
    found = resampled.difference([0], [1])
    wanted = paired_bootstrap(values[:, 0], values[:, 1], n_resamples=20_000)
    assert found.estimate == pytest.approx(wanted.estimate)
    assert found.low == pytest.approx(wanted.low, abs=2e-3)
    assert found.high == pytest.approx(wanted.high, abs=2e-3)
    assert found.p_value == pytest.approx(wanted.p_value, abs=0.015)
    assert found.detectable == pytest.approx(wanted.detectable)
    assert (found.n_changed, found.n_seeds) == (300, 1)
    assert np.isnan(found.seed_sd)
    alone = resampled.mean([2])
    wanted_mean = bootstrap_mean(values[:, 2], n_resamples=20_000)
    assert alone.n == 260
    assert alone.estimate == pytest.approx(wanted_mean.estimate)
    assert alone.low == pytest.approx(wanted_mean.low, abs=3e-3)


def test_variance_between_seeds_by_hand():
    # Users 1 and 3 under seeds 1 and 2: additive (1, 3 | 2, 4), so the interaction is 0 and the
    # seeds' variance is that of their means 2 and 3: a half.
    resampled = Resampled([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]], n_resamples=50)
    found = resampled.difference([0, 1], [2])
    assert found.estimate == 2.5
    assert found.seed_sd == pytest.approx(0.5**0.5)
    assert found.n_seeds == 2
    # One seed stands for all on the other side, and a correction for 10 tests asks for more.
    assert resampled.difference([0, 1], [2], tests=10).detectable > found.detectable


def test_a_placebo_is_one_more_draw():
    """Texts that do nothing against eight draws of such texts: chance must not look like an effect
    although the one draw moves all users alike."""
    rng = np.random.default_rng(6)
    alarms = plain = 0
    for trial in range(200):
        users, draws = rng.normal(0, 1, (150, 1)), rng.normal(0, 0.2, (1, 9))
        values = users + draws + rng.normal(0, 0.5, (150, 9))
        resampled = Resampled(values, seed=trial, n_resamples=400)
        sides = [0], range(1, 9)
        alarms += resampled.difference(*sides, exchangeable=True).p_value < 0.05
        plain += resampled.difference(*sides).p_value < 0.05
    assert alarms / 200 < 0.09
    assert plain / 200 > 0.2


def test_intervals_over_users_and_seeds_hold_the_truth():
    """Coverage where seeds move everybody alike: users alone would hold it far too rarely."""
    rng = np.random.default_rng(5)
    inside = without = 0
    for trial in range(200):
        users, seeds = rng.normal(0, 1, (120, 1)), rng.normal(0, 0.3, (1, 4))
        each = users + seeds + rng.normal(0, 0.5, (120, 4))
        found = Resampled(each, seed=trial, n_resamples=400).difference(range(4), None)
        inside += found.low <= 0 <= found.high
        alone = bootstrap_mean(each.mean(axis=1), seed=trial, n_resamples=400)
        without += alone.low <= 0 <= alone.high
    assert inside / 200 > 0.9
    assert without / 200 < 0.87


def test_corrections_against_published_values():
    # Benjamini and Hochberg 1995, section 3.2: 15 hypotheses of a thrombolysis trial. At 5 %
    # Bonferroni and Holm reject three, controlling the false discovery rate rejects four.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert (holm(p) <= 0.05).sum() == 3
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_corrections_keep_order_and_missing_values():
    p = np.array([0.2, np.nan, 0.01, 0.01])
    for correction in (holm, benjamini_hochberg):
        adjusted = correction(p)
        assert np.isnan(adjusted[1])
        assert (adjusted[[0, 2, 3]] >= p[[0, 2, 3]]).all()
        np.testing.assert_allclose(
            adjusted[[0, 2, 3]], correction(p[[0, 2, 3]]), err_msg="NaN must not count as a test"
        )
    assert len(holm([])) == 0


def test_bad_input():
    with pytest.raises(InputError, match="same users"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="level"):
        bootstrap_mean([1.0], level=95)
    with pytest.raises(InputError, match="n_resamples"):
        bootstrap_mean([1.0], n_resamples=0)
    with pytest.raises(InputError, match="method"):
        bootstrap_mean([1.0, 2.0], method="t")
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([1.5])
    with pytest.raises(InputError, match="one value per user"):
        bootstrap_mean([[1.0]])
    with pytest.raises(InputError, match="users, columns"):
        Resampled([1.0])
    with pytest.raises(InputError, match="same seeds"):
        Resampled([[1.0, 2.0, 3.0]]).difference([0, 1, 2], [0, 1])
