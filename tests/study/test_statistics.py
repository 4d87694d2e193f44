"""Intervals, tests and sizes: against values known by other ways."""

from math import comb, isnan, sqrt
from statistics import stdev

import numpy as np
import pytest

from lab.errors import InputError
from lab.study.statistics import compare, interval, mcnemar, ranking_stability


def test_an_interval_holds_its_mean_and_grows_with_the_spread():
    narrow, wide = interval([0.90, 0.91, 0.92, 0.91, 0.90]), interval([0.5, 0.9, 0.1, 0.8, 0.3])
    assert narrow.low < narrow.mean < narrow.high
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)
    assert interval([0.1, 0.2, 0.4]) == interval([0.1, 0.2, 0.4])


def test_an_interval_of_many_values_is_that_of_the_normal_distribution():
    """Mean ± 1.96 s / √n, up to what 2,000 resamplings scatter: the quantiles of 95 % by about 4 %."""
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    found = interval(list(values))
    assert found.spread == pytest.approx(values.std(ddof=1))
    half = 1.96 * found.spread / 20
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.15)


def test_a_single_value_has_no_spread():
    assert isnan(interval([0.5]).spread)
    assert (interval([0.5]).low, interval([0.5]).high) == (0.5, 0.5)


def test_mcnemar_counts_only_digits_on_which_the_two_differ():
    """Exact: 2 · P(at most 1 of 8 | 1/2), whatever the agreeing digits."""
    first, second = [True] * 7 + [False], [False] * 7 + [True]
    exact = 2 * sum(comb(8, k) for k in (0, 1)) / 2**8
    assert mcnemar(first, second) == pytest.approx(exact)
    assert mcnemar(first + [True] * 100, second + [True] * 100) == pytest.approx(exact)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_a_difference_comes_with_its_size_and_its_direction():
    worse, better = [[True] * 50 + [False] * 50, [True] * 52 + [False] * 48], [[True] * 90 + [False] * 10] * 2
    found = compare(worse, better)
    assert found.difference.mean == pytest.approx(0.39)
    assert (found.gained, found.lost) == (78, 0)
    assert found.p < 1e-9
    assert compare(better, worse).difference.mean == pytest.approx(-0.39)
    assert compare(worse, worse).p == 1.0


def test_the_p_value_is_that_of_the_seed_that_says_least_and_the_effect_is_in_spreads_of_the_seeds():
    first = [[True] * 50 + [False] * 50, [True] * 60 + [False] * 40]
    second = [[True] * 90 + [False] * 10, [True] * 62 + [False] * 38]
    found = compare(first, second)
    assert found.p == pytest.approx(0.5)  # 2 of 2 digits: 2 / 2 ** 2; in the first seed, 40 of 40
    variances = [stdev([0.5, 0.6]) ** 2, stdev([0.9, 0.62]) ** 2]
    assert found.effect == pytest.approx((0.40 + 0.02) / 2 / sqrt(sum(variances) / 2))


def test_the_same_order_in_all_seeds_is_1_and_the_reverse_is_minus_1():
    assert ranking_stability([[0.1, 0.2], [0.5, 0.6], [0.7, 0.9]]) == pytest.approx(1)
    assert ranking_stability([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]]) == pytest.approx(-1)


@pytest.mark.parametrize(
    "call",
    [lambda: interval([]), lambda: mcnemar([True], []), lambda: compare([], []), lambda: ranking_stability([[1.0]])],
)
def test_too_few_values_are_refused(call):
    with pytest.raises(InputError):
        call()
