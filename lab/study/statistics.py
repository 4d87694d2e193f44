"""How certain a difference is, and how large: no p-value without a size. All of it from scipy."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan

import numpy as np

from lab.errors import require

RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean and where the mean of such runs lies in 95 of 100 resamplings.

    Attributes:
        mean: of the values.
        low: of the interval.
        high: of the interval.
        spread: standard deviation of the values; nan for a single one.
        n: how many there are.
    """

    mean: float
    low: float
    high: float
    spread: float
    n: int

    def __format__(self, form: str) -> str:
        return f"{format(self.mean, form)} [{format(self.low, form)}, {format(self.high, form)}]"


def interval(values: Sequence[float]) -> Interval:
    """Mean and bootstrap interval (percentiles). Of five values it is somewhat too narrow, as all such intervals are.

    Raises:
        InputError: no value.

    Source:
        B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Examples:
        >>> from lab.study.statistics import interval
        >>> f"{interval([0.9, 0.9, 0.9]):.2f}"
        '0.90 [0.90, 0.90]'
    """
    from scipy.stats import bootstrap  # takes a second, and only this needs it

    require(len(values) > 0, "an interval needs at least one value: there is none")
    each = np.asarray(values, float)
    low = high = mean = float(each.mean())
    if len(each) > 1 and np.ptp(each) > 0:
        how = {"method": "percentile", "n_resamples": RESAMPLES, "rng": np.random.default_rng(0)}
        low, high = map(float, bootstrap((each,), np.mean, **how).confidence_interval)
    return Interval(mean, low, high, float(each.std(ddof=1)) if len(each) > 1 else nan, len(each))


@dataclass(frozen=True)
class Comparison:
    """One setting against another, on the same digits and seeds.

    Attributes:
        difference: of the shares of right ones, second minus first, over the seeds.
        effect: that difference over the spread of the seeds (pooled standard deviation, Cohen's d); nan without one.
        p: largest p-value of the seeds' exact McNemar tests.
        gained: digits, summed over the seeds, that only the second has right.
        lost: digits that only the first has right.
    """

    difference: Interval
    effect: float
    p: float
    gained: int
    lost: int


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact p-value of two networks being right equally often on the same digits.

    Only digits count that one of them has right and the other wrong.

    Raises:
        InputError: not as many values.

    Source:
        Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 12, 1947.

    Examples:
        >>> from lab.study.statistics import mcnemar
        >>> mcnemar([True] * 10, [False] * 10) == 2 / 2**10
        True
    """
    from scipy.stats import binomtest

    require(len(first) == len(second), f"McNemar's test needs pairs: {len(first)} and {len(second)} values")
    lost, gained = _discordant(first, second)
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())


def compare(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]) -> Comparison:
    """Two settings, seed by seed: for each seed, which of the same digits are right.

    Raises:
        InputError: no seed, or not as many in both.
    """
    require(len(first) == len(second) > 0, f"as many seeds of both, at least one: {len(first)} and {len(second)}")
    shares = np.array([[np.mean(one) for one in each] for each in (first, second)])
    pairs = list(zip(first, second, strict=True))
    lost, gained = np.sum([_discordant(a, b) for a, b in pairs], 0)
    spread = float(np.sqrt(shares.var(1, ddof=1).mean())) if len(pairs) > 1 else nan
    difference = interval(list(shares[1] - shares[0]))
    effect = difference.mean / spread if spread > 0 else nan
    return Comparison(difference, effect, max(mcnemar(a, b) for a, b in pairs), int(gained), int(lost))


def ranking_stability(shares: Sequence[Sequence[float]]) -> float:
    """How alike the seeds rank the settings: mean of Kendall's τ over all pairs of seeds, 1 = all the same.

    Args:
        shares: for each setting one value a seed; at least two settings and two seeds.

    Raises:
        InputError: fewer.
    """
    from scipy.stats import kendalltau

    by_seed = np.asarray(shares, float).T
    require(min(by_seed.shape) > 1, f"a ranking needs two settings and two seeds: {by_seed.T.shape}")
    return float(np.mean([kendalltau(a, b).statistic for a, b in combinations(by_seed, 2)]))
