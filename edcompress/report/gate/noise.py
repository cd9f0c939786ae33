"""Measurements whose threads waited for their cores: the one wording of the cause, the warning and the fix."""

from __future__ import annotations

from collections.abc import Iterable

from edcompress.core.results.measures import MOST_WAITED, Latency


def waiting(latencies: Iterable[Latency]) -> str | None:
    """Return why latencies are not to be trusted, or None if their threads waited for at most MOST_WAITED of the time.

    A process waits too when its CPU quota stops it, although no other process has its core.
    """
    worst = max(latencies, key=lambda latency: latency.lost, default=None)
    return _cause(worst.lost, worst.throttled) if worst else None


def waiting_and_fix(latencies: Iterable[Latency]) -> str | None:
    """Return `waiting` and what to do about it."""
    found = list(latencies)
    cause = waiting(found)
    return cause and f"{cause}; {_fix('measure again', limited=_limited(found))}"


def noise_warning(latencies: Iterable[Latency]) -> str | None:
    """Return the warning about latencies that are not to be trusted, and what to do; None if they are to be trusted.

    A call shorter than the scheduler's slice is not interrupted and a longer one is, so that the speed-up is wrong too, and its interval
    does not show it.
    """
    found = list(latencies)
    cause, fix = waiting(found), _fix("measure again", limited=_limited(found))
    return cause and f"{cause}: latencies and speed-ups are not to be trusted; {fix}"


def wait_warning(lost: float, consequence: str, action: str = "measure again") -> str | None:
    """Return the warning about one measurement, or None if its threads waited for at most MOST_WAITED of the time.

    Args:
        lost: The share of the time for which the threads waited.
        consequence: What is not to be trusted therefore.
        action: What to do when the cores are free.
    """
    cause = _cause(lost)
    return cause and f"{cause}: {consequence}; {_fix(action, limited=False)}"


def _cause(lost: float, throttled: float | None = None) -> str | None:
    if lost <= MOST_WAITED:
        return None
    if throttled:
        return f"a CPU quota stopped the measurement in {throttled:.0%} of its periods (it waited for {lost:.0%} of the time)"
    return f"other processes had the cores for {lost:.0%} of the measured time"


def _limited(latencies: Iterable[Latency]) -> bool:
    return any(latency.throttled for latency in latencies)


def _fix(action: str, *, limited: bool) -> str:
    return f"{action} {'without the quota (see `edcompress doctor`)' if limited else 'when the cores are free'}"
