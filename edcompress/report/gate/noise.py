"""Were the latencies disturbed?."""

from __future__ import annotations

from collections.abc import Iterable

from edcompress.core.results.measures import Latency
from edcompress.report.render.formatting import measure_again, waiting


def noise_warning(latencies: Iterable[Latency]) -> str | None:
    """The warning about latencies that are not to be trusted, and what to do; None where they are.

    A call shorter than the scheduler's slice comes through whole and a longer one is interrupted, so that the speed-up is wrong too, and
    its interval cannot know.
    """
    found = list(latencies)
    cause = waiting(found)
    if cause is None:
        return None
    return f"{cause}: latencies and speed-ups are not to be trusted; {measure_again(found)}"
