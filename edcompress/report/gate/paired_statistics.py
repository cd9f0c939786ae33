"""Statistics of an accuracy drop from paired counts: its confidence interval, and McNemar's test.

Both use only the images that one model alone gets right, so that they need far fewer images than two accuracies on different images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from edcompress.core.results.measures import Interval, Pairs

HALVINGS = 60
"""Steps of a bisection of [-1, 1], which is then exact to the last bit of a float64."""


def drop_interval(pairs: Pairs, level: float) -> Interval:
    """Return the score interval of dense minus other accuracy: all drops that a two-sided test at `level` does not reject.

    T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17, 891-908. Its bounds are inside [-1, 1], and it has a width even if no image distinguishes the models.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    drop = (pairs.dense_only - pairs.other_only) / pairs.total
    low = _bisected(lambda d: _excess(pairs, d) > z * _deviation(pairs, d), -1.0, drop)
    high = _bisected(lambda d: _excess(pairs, d) >= -z * _deviation(pairs, d), drop, 1.0)
    return Interval(estimate=drop, low=low, high=high, confidence=level)


def mcnemar_p(pairs: Pairs) -> float:
    """Return the two-sided p-value of McNemar's exact test that both models are right equally often.

    With n = b + c images that one of them alone gets right: 2 P(X <= min(b, c)) for X ~ Binomial(n, 1/2), at most 1.
    """
    n, fewer = pairs.dense_only + pairs.other_only, min(pairs.dense_only, pairs.other_only)
    ways = below = 1
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        below += ways
    return min(1.0, 2 * below / (1 << n))


def _excess(pairs: Pairs, drop: float) -> float:
    """Return b - c - n d, the numerator of Tango's score statistic."""
    return pairs.dense_only - pairs.other_only - pairs.total * drop


def _deviation(pairs: Pairs, drop: float) -> float:
    """Return sqrt(n (2 q + d (1 - d))), its denominator; q is the likeliest share of "other only" under the drop d."""
    n, b, c = pairs.total, pairs.dense_only, pairs.other_only
    linear = (2 * n - b + c) * drop - b - c
    constant = -c * drop * (1 - drop)
    q = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    return math.sqrt(max(0.0, n * (2 * q + drop * (1 - drop))))


def _bisected(below: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `below` turns from true to false between `low` and `high`."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
