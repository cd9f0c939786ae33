import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edcompress.core.results.measures import Pairs
from edcompress.report.gate.paired_statistics import drop_interval, mcnemar_p


def pairs_of(both: int, dense_only: int, other_only: int, neither: int) -> Pairs:
    return Pairs(both=both, dense_only=dense_only, other_only=other_only, neither=neither)


@pytest.mark.parametrize(
    ("counts", "level", "low", "high", "digits"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8: complete response before and
        # after consolidation therapy (Cavo 2012), and airway hyper-responsiveness around a transplantation (Bentur 2009)
        ((59, 6, 16, 80), 0.95, -0.1240, -0.0054, 4),
        ((1, 1, 7, 12), 0.95, -0.517, -0.026, 3),
        # R's PropCIs::scoreci.mp(25, 28, 618, 0.90)
        ((565, 28, 25, 0), 0.90, -0.0148, 0.0247, 4),
    ],
)
def test_intervals_are_the_published_ones(
    counts: tuple[int, int, int, int], level: float, low: float, high: float, digits: int
) -> None:
    found = drop_interval(pairs_of(*counts), level)
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)
    assert found.estimate == (counts[1] - counts[2]) / sum(counts)
    assert found.confidence == level


@pytest.mark.parametrize(("counts", "p"), [((59, 6, 16, 80), 0.052479), ((1, 1, 7, 12), 0.070313)])
def test_mcnemars_exact_p_is_the_published_one(counts: tuple[int, int, int, int], p: float) -> None:
    assert mcnemar_p(pairs_of(*counts)) == pytest.approx(p, abs=1e-6)


def test_models_that_never_differ_leave_a_doubt_of_z_squared_over_n() -> None:
    found = drop_interval(pairs_of(9000, 0, 0, 1000), 0.95)
    z2 = 1.959963984540054**2
    assert (found.low, found.high) == pytest.approx((-z2 / (10000 + z2), z2 / (10000 + z2)))
    assert mcnemar_p(pairs_of(9000, 0, 0, 1000)) == 1


@pytest.mark.parametrize(("counts", "end"), [((0, 10, 0, 0), 1.0), ((0, 0, 10, 0), -1.0)])
def test_models_that_always_differ_have_their_interval_at_the_end(
    counts: tuple[int, int, int, int], end: float
) -> None:
    found = drop_interval(pairs_of(*counts), 0.95)
    assert end in (found.low, found.high)
    assert abs(found.low) <= 1
    assert abs(found.high) <= 1


COUNT = st.integers(0, 3000)


@given(COUNT, COUNT, COUNT, COUNT, st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_intervals_hold_the_estimate_turn_with_the_models_and_grow_with_the_level(
    both: int, dense_only: int, other_only: int, neither: int, level: float
) -> None:
    pairs = pairs_of(both + 1, dense_only, other_only, neither)
    found, wider = drop_interval(pairs, level), drop_interval(pairs, 0.999)
    assert -1 <= wider.low < found.low <= found.estimate <= found.high < wider.high <= 1
    turned = drop_interval(pairs_of(both + 1, other_only, dense_only, neither), level)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_the_interval_and_mcnemars_score_test_agree_on_whether_there_is_a_drop() -> None:
    # |b - c| / sqrt(b + c) against z = 1.96: 60 against 40 is significant, 59 against 41 is not
    assert (60 - 40) / math.sqrt(100) > 1.96 > (59 - 41) / math.sqrt(100)
    assert drop_interval(pairs_of(800, 60, 40, 100), 0.95).low > 0 > drop_interval(pairs_of(800, 59, 41, 100), 0.95).low


def test_the_p_value_of_a_large_test_set_is_quick_and_not_zero() -> None:
    assert 0 < mcnemar_p(pairs_of(0, 12700, 12300, 25000)) < 0.05
