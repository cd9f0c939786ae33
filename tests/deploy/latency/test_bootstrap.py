import math

import numpy as np
import pytest

from edcompress.core.results.measures import Interval
from edcompress.deploy.latency.benchmark import FEWEST_PROCESSES, PROCESSES
from edcompress.deploy.latency.bootstrap import speedup_interval

TRUE = 1.5


def measured(random: np.random.Generator, processes: int, spread: float) -> Interval:
    """The interval of a pair of true speed-up 1.5, where each block has a clock of its own, and each process a speed-up of its own.

    Successive processes' speed-ups have a correlation of 0.35.
    """
    first, second, own = [], [], random.normal(0, spread)
    for _ in range(processes):
        own = 0.35 * own + random.normal(0, spread * math.sqrt(1 - 0.35**2))
        clock = 1 + 0.2 * random.random((4, 1))
        calls = clock * (1 + 0.02 * random.random((2, 4, 10)))
        first.append((calls[0] * TRUE * (1 + own)).tolist())
        second.append(calls[1].tolist())
    return speedup_interval(first, second)


def covered(processes: int) -> float:
    random = np.random.default_rng(1)
    found = [measured(random, processes, spread=0.03) for _ in range(40)]
    return float(np.mean([interval.low <= TRUE <= interval.high for interval in found]))


def test_the_interval_holds_the_truth_as_often_as_it_says_where_processes_differ() -> None:
    assert covered(PROCESSES) >= 0.95


def test_few_processes_know_less_of_how_they_differ() -> None:
    assert 0.8 <= covered(FEWEST_PROCESSES) < covered(PROCESSES)


def test_the_estimate_is_the_ratio_of_the_medians_of_all_calls() -> None:
    found = speedup_interval([[[9.0, 4.0]], [[6.0]]], [[[2.0, 3.0]], [[8.0]]])
    assert found.estimate == 6.0 / 3.0
    assert found.low <= 2.0 <= found.high
    assert found.confidence == 0.95


def test_blocks_are_drawn_in_pairs_so_what_slows_both_models_cancels() -> None:
    slow = np.exp(np.random.default_rng(0).normal(0, 1, (5, 20, 1)))
    pruned = slow * (1 + np.arange(10) / 1000)
    found = speedup_interval((2 * pruned).tolist(), pruned.tolist())
    assert (found.low, found.high) == (pytest.approx(2.0, rel=0.02), pytest.approx(2.0, rel=0.02))


def test_the_bounds_are_those_of_whole_processes_at_student_s_quantile_and_widened() -> None:
    """Worked out by hand for seven processes, each with a speed-up of its own in all of its 20 blocks: -3 % to 3 %.

    A resample of whole processes has the extreme one as its median in 1.0 % of the cases: more than the 0.4 % at which Student's t of six
    degrees of freedom puts the quantile, and less than the 2.5 % of a plain percentile, at which the next one is. Of blocks without
    processes the median hardly moves. Correlated processes have sum_ij 0.35^|i - j| / 7 times the variance of independent ones.
    """
    own = [k / 100 for k in range(-3, 4)]
    first, second = ([[[math.exp(sign * k)] * 10] * 20 for k in own] for sign in (1, 0))
    found = speedup_interval(first, second)
    v = sum(0.35 ** abs(i - j) for i in range(7) for j in range(7)) / 7
    widening = math.sqrt(v * (7 - 1) / (7 - v))
    assert widening == pytest.approx(1.463, abs=5e-4)
    assert found.estimate == 1
    assert math.log(found.high) == pytest.approx(0.03 * widening)
    assert math.log(found.low) == pytest.approx(-0.03 * widening)


def test_the_same_calls_give_the_same_interval() -> None:
    one, other = (measured(np.random.default_rng(3), 5, 0.02) for _ in range(2))
    assert one == other
    assert one.low < one.estimate < one.high


def test_calls_that_are_all_the_same_leave_no_doubt() -> None:
    found = speedup_interval([[[3.0, 3.0]], [[3.0]]], [[[2.0, 2.0]], [[2.0]]])
    assert (found.low, found.estimate, found.high) == (1.5, 1.5, 1.5)
