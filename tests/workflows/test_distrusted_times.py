"""Times that are no report's, but that something goes by: where they waited for their cores, that is said."""

import pytest

from edcompress.core.system import machine
from edcompress.core.system.machine import WaitTimer
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.workflows.inspect import disturbed_warning
from edcompress.workflows.stages.starting_point import waiting_warning

HOUR = 3_600_000_000_000


@pytest.mark.parametrize(("waited", "warnings"), [(0, 0), (HOUR, 1), (None, 0)])
def test_shares_of_layers_that_waited_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, waited: int | None, warnings: int
) -> None:
    readings = iter([0, waited])
    monkeypatch.setattr(machine, "run_delay", lambda: next(readings))
    assert len(disturbed_warning(WaitTimer())) == warnings


def test_a_target_in_time_warns_of_a_dense_network_that_was_timed_beside_other_work() -> None:
    assert waiting_warning(None) is None
    assert waiting_warning(LatencyTable(layers=(), milliseconds=3.0, lost=0.05)) is None
    assert "other processes had the cores for 30% of the measured time: a target in time" in (
        waiting_warning(LatencyTable(layers=(), milliseconds=3.0, lost=0.3)) or ""
    )
