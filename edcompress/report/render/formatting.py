"""Figures as short texts, the same wherever a person reads them."""

from __future__ import annotations

import math
from collections.abc import Callable

from edcompress.core.results.measures import Count, Interval, Latency
from edcompress.core.results.scores import MetricInfo, Score, value_of

MISSING = "–"

_UNITS = ((1e9, "G"), (1e5, "M"), (1e3, "k"))
_SCALES = {"G": 1e9, "M": 1e6, "k": 1e3}


def percent(count: Count) -> str:
    """Return, for example, "93.17 %", or an en dash if there were no images."""
    return percentage(count.fraction) if count.total else MISSING


def percentage(share: float) -> str:
    """Return a share of 1 as, for example, "93.17 %"."""
    return f"{100 * share:.2f} %"


def plain(value: float) -> str:
    """Return a number with four significant digits, for example "0.8312"."""
    return f"{value:.4g}"


def metric_text(metric: MetricInfo) -> Callable[[float], str]:
    """Return how values of a metric are shown: shares in per cent."""
    return percentage if metric.share else plain


def drop_text(*, share: bool) -> Callable[[float], str]:
    """Return how drops of a metric are shown: those of shares in points."""
    return percentage_points if share else plain


def headline_text(headline: Count | Score | None, metric: MetricInfo) -> str:
    """Return a count in per cent, or the score of a metric; an en dash if it was not measured."""
    if headline is None or (isinstance(headline, Count) and not headline.total):
        return MISSING
    return metric_text(metric)(value_of(headline))


def change_text(change: float, metric: MetricInfo) -> str:
    """Return the signed change of a metric: points of a share, for example "-0.84 pp", or a number."""
    return points(change) if metric.share else f"{change:+.4g}"


def counts_text(headline: Count | Score) -> str:
    """Return the images behind a figure, for example "935/1000" or "1000 images"."""
    if isinstance(headline, Count):
        return f"{headline.correct}/{headline.total}"
    return f"{headline.images} images"


def human(value: float, unit: str = "") -> str:
    """Return, for example, "0.27 M", "41.0 M" or, with unit "B", "1.08 MB"; prefixes are decimal."""
    prefix = next((prefix for least, prefix in _UNITS if value >= least), "")
    scaled = value / _SCALES.get(prefix, 1)
    digits = 0 if not prefix else 2 if scaled < 10 else 1
    return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()


def exact_bytes(value: float) -> str:
    """Return, for example, "1752060 B"."""
    return f"{value:.0f} B"


def milliseconds(value: float) -> str:
    """Return, for example, "1.234 ms", with about four significant digits."""
    digits = 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f} ms"


def points(share: float, digits: int = 2) -> str:
    """Return a difference of fractions as signed percentage points, for example "-0.84 pp"; zero has no sign."""
    text = f"{100 * share:+.{digits}f} pp"
    return text[1:] if float(text[:-3]) == 0 else text


def percentage_points(share: float) -> str:
    """Return a drop as percentage points with three digits, for example "0.840 pp"; only negative values have a sign."""
    return points(share, 3).removeprefix("+")


def tiny(value: float) -> str:
    """Return, for example, "3.4e-06"."""
    return "0" if value == 0 else f"{value:.1e}"


def factor(value: float) -> str:
    """Return, for example, "1.840x"."""
    return f"{value:.3f}x"


def times(dense: float, pruned: float, better: str, worse: str) -> str:
    """Return, for example, "2.01x fewer": how many times less the pruned network takes, or "1.10x more" if it takes more."""
    if not (math.isfinite(dense) and math.isfinite(pruned)) or min(dense, pruned) <= 0:
        return MISSING
    ratio, word = (dense / pruned, better) if pruned <= dense else (pruned / dense, worse)
    return "same" if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f}x {word}"


def speedup(interval: Interval | None) -> str:
    """Return, for example, "1.58x (1.55 to 1.61)", or an en dash if there is no interval."""
    return f"{interval.estimate:.2f}x ({interval.low:.2f} to {interval.high:.2f})" if interval else MISSING


def setting(latency: Latency) -> str:
    """Return, for example, "batch 8, 2 threads"."""
    return f"batch {latency.batch_size}, {latency.threads} thread{'s' if latency.threads > 1 else ''}"


def calls(latency: Latency) -> str:
    """Return, for example, "1070 interleaved calls per model in 5 processes"."""
    processes = f" in {latency.processes} processes" if latency.processes > 1 else ""
    return f"{latency.n} interleaved calls per model{processes}"


def measured_with(latency: Latency) -> str:
    """Return the provider, and the versions and the machine if they are known."""
    about = latency.environment
    if about is None:
        return latency.provider
    cores = f", cores {', '.join(map(str, about.cores))}" if about.cores else ", not pinned"
    return (
        f"{latency.provider} of onnxruntime {about.onnxruntime}, Python {about.python}, {about.processor}{cores}, "
        f"governor {about.governor or 'unknown'}, {about.system}"
    )
