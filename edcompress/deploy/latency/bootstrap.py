"""The confidence interval of a speed-up, from calls that were measured in interleaved blocks of several processes.

Calls are not independent samples: neighbours share the clock rate, the caches and what else the machine does, and all calls of a process
share the layout of its memory. So whole processes are drawn, and within them whole blocks, of both models alike (A. C. Davison and D. V.
Hinkley, "Bootstrap Methods and their Application", Cambridge 1997, section 3.8; the levels of repetition of T. Kalibera and R. Jones,
"Rigorous Benchmarking in Reasonable Time", ISMM 2013). A percentile interval of few draws is too narrow; its quantiles are moved outwards
as Student's t asks (T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015, section 5.4).

Nor are processes that follow each other independent: the machine is in the same state for longer than one of them takes. Their spread
then is smaller than that of processes at another time, and the interval is made wider for it (A. M. Law, "Simulation Modeling and
Analysis", section 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edcompress.core.recipe.deployment import SPEEDUP_LEVEL
from edcompress.core.results.measures import Interval

Blocks = Sequence[Sequence[float]]
"""The times of one process: blocks of calls in their order."""

RESAMPLES = 2000
LEVELS = 2000
"""Number of the observed times, evenly spaced in rank, among which a median is looked for."""

SERIAL = 0.35
"""Correlation of the speed-ups that successive processes find: 0.36 and 0.32 among 40 each, on a machine with other work."""

_STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 15: 2.131, 20: 2.086,
            30: 2.042}  # fmt: skip
"""The 97.5 % quantile of Student's t by degrees of freedom."""


def speedup_interval(first: Sequence[Blocks], second: Sequence[Blocks]) -> Interval:
    """Return how many times faster the second model's median call is than the first's: median(first) / median(second).

    The random draws are always the same ones.

    Args:
        first: The first model's blocks, process by process, two processes at least; times in any unit.
        second: The second model's blocks of the same processes: block k holds calls next to block k of the first model.
    """
    sizes = [len(blocks) for blocks in first]
    weights = _weights(sizes)
    estimate = float(np.median(pool(first)) / np.median(pool(second)))
    errors = np.log(_medians(first, weights) / _medians(second, weights) / estimate)
    tail = _tail(len(sizes))
    below, above = _widening(len(sizes)) * np.quantile(errors, [tail, 1 - tail])
    low, high = estimate * math.exp(min(below, 0)), estimate * math.exp(max(above, 0))
    return Interval(estimate=estimate, low=low, high=high, confidence=SPEEDUP_LEVEL)


def pool(processes: Sequence[Blocks]) -> NDArray[np.float64]:
    """Return all calls [n] in their order."""
    return np.concatenate([np.asarray(block, dtype=np.float64) for blocks in processes for block in blocks])


def _weights(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return how often each resample [R] has each block: [R, blocks of all processes]."""
    random, count = np.random.default_rng(0), len(sizes)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    pairs = zip(drawn.T, sizes, strict=True)
    blocks = [random.multinomial(times * size, np.full(size, 1 / size)) for times, size in pairs]
    return np.concatenate(blocks, axis=1, dtype=np.float64)


def _medians(processes: Sequence[Blocks], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median [R] of the calls of each resample, by counting the calls of its blocks at each level."""
    times = pool(processes)
    lengths = [len(block) for blocks in processes for block in blocks]
    levels = np.unique(np.quantile(times, np.linspace(0, 1, LEVELS + 1), method="higher"))
    counts = np.zeros((len(lengths), len(levels)))
    np.add.at(counts, (np.repeat(np.arange(len(lengths)), lengths), np.searchsorted(levels, times)), 1)
    below = np.cumsum(weights @ counts, axis=1)
    found: NDArray[Any] = levels[np.argmax(below >= below[:, -1:] / 2, axis=1)]
    return found


def _widening(count: int) -> float:
    """Return the factor by which the standard error of `count` correlated processes is above what their spread says.

    With v = 1 + 2 sum_k (1 - k / n) rho^k the variance of the mean is v sigma^2 / n, and the expected spread sigma^2 (n - v) / (n - 1).
    """
    v = 1 + 2 * sum((1 - k / count) * SERIAL**k for k in range(1, count))
    return math.sqrt(v * (count - 1) / (count - v))


def _tail(count: int) -> float:
    """Return the quantile that stands for 2.5 % with n independent draws: Phi(-sqrt(n / (n - 1)) t), of n - 1 degrees of freedom."""
    student = _STUDENT[max(degrees for degrees in _STUDENT if degrees < count)]
    return NormalDist().cdf(-math.sqrt(count / (count - 1)) * student)
