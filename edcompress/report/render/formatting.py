"""Figures as short texts, the same wherever a person reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edcompress.core.results.measures import MOST_WAITED, Count, Interval, Latency

MISSING = "–"

_UNITS = ((1e9, "G"), (1e5, "M"), (1e3, "k"))
_SCALES = {"G": 1e9, "M": 1e6, "k": 1e3}


def percent(count: Count) -> str:
    """For example "93.17 %"; an en dash where there were no images."""
    return f"{100 * count.fraction:.2f} %" if count.total else MISSING


def human(value: float, unit: str = "") -> str:
    """For example "0.27 M", "41.0 M" or, with unit "B", "1.08 MB"; decimal prefixes."""
    prefix = next((prefix for least, prefix in _UNITS if value >= least), "")
    scaled = value / _SCALES.get(prefix, 1)
    digits = 0 if not prefix else 2 if scaled < 10 else 1
    return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()


def milliseconds(value: float) -> str:
    """For example "1.234 ms", with four significant digits or so."""
    digits = 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f} ms"


def points(share: float, digits: int = 2) -> str:
    """A difference of fractions as signed percentage points, for example "-0.84 pp"; zero has no sign."""
    text = f"{100 * share:+.{digits}f} pp"
    return text[1:] if float(text[:-3]) == 0 else text


def tiny(value: float) -> str:
    """For example "3.4e-06"."""
    return "0" if value == 0 else f"{value:.1e}"


def times(dense: float, pruned: float, better: str, worse: str) -> str:
    """For example "2.01x fewer": how many times less the pruned network takes, or "1.10x more" if it takes more."""
    if not (math.isfinite(dense) and math.isfinite(pruned)) or min(dense, pruned) <= 0:
        return MISSING
    factor, word = (dense / pruned, better) if pruned <= dense else (pruned / dense, worse)
    return "same" if f"{factor:.2f}" == "1.00" else f"{factor:.2f}x {word}"


def speedup(interval: Interval | None) -> str:
    """For example "1.58x (1.55 to 1.61)"; an en dash where there is none."""
    return f"{interval.estimate:.2f}x ({interval.low:.2f} to {interval.high:.2f})" if interval else MISSING


def setting(latency: Latency) -> str:
    """For example "batch 8, 2 threads"."""
    return f"batch {latency.batch_size}, {latency.threads} thread{'s' if latency.threads > 1 else ''}"


def calls(latency: Latency) -> str:
    """For example "1070 interleaved calls per model in 5 processes"."""
    processes = f" in {latency.processes} processes" if latency.processes > 1 else ""
    return f"{latency.n} interleaved calls per model{processes}"


def waiting(latencies: Iterable[Latency]) -> str | None:
    """Why latencies are not to be trusted: what their threads waited for, for more than MOST_WAITED of the time; None where they did not.

    A process that its CPU quota stops waits too, though no other one has its core.
    """
    most = max(latencies, key=lambda latency: latency.lost, default=None)
    if most is None or most.lost <= MOST_WAITED:
        return None
    if most.throttled:
        return f"a CPU quota stopped the measurement in {most.throttled:.0%} of its periods (it waited for {most.lost:.0%} of the time)"
    return f"other processes had the cores for {most.lost:.0%} of the measured time"


def measure_again(latencies: Iterable[Latency]) -> str:
    """What to do about a measurement that waited."""
    limited = any(latency.throttled for latency in latencies)
    return f"measure again {'without the quota (see `edcompress doctor`)' if limited else 'when the cores are free'}"


def measured_with(latency: Latency) -> str:
    """The provider, and versions and machine where they are known."""
    about = latency.environment
    if about is None:
        return latency.provider
    cores = f", cores {', '.join(map(str, about.cores))}" if about.cores else ", not pinned"
    return (
        f"{latency.provider} of onnxruntime {about.onnxruntime}, Python {about.python}, {about.processor}{cores}, "
        f"governor {about.governor or 'unknown'}, {about.system}"
    )
