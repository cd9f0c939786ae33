"""The entry of a gate limit. Each file in `limits/` defines one as LIMIT; the file's name is the recipe key, `max_...` or `min_...`.

The recipe key, the CLI option, the check, and its row in tables, pages, JUnit files and GitHub annotations all follow from the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import LimitField
from edcompress.report.gate.figures import Figure

if TYPE_CHECKING:  # both import the limits
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


@dataclass(frozen=True, kw_only=True)
class Limit(LimitField):
    """A limit of the gate: `label` names its figure in tables, and `text` shows a value of it.

    `timed` figures are of latencies, so that they are in doubt where a measurement waited for its cores.
    """

    label: str
    text: Callable[[float], str]
    timed: bool = False


@dataclass(frozen=True, kw_only=True)
class RunLimit(Limit):
    """A limit on one run.

    `figure` returns the run's figure, or the reason why there is none and the limit is skipped; it raises NotMeasuredError for what the
    report lacks. Waiting makes a time longer, so that it makes no failure of a limit on pruned.onnx's own time a pass. A limit on two times
    has a `worst`: it returns the worst that the figure can be if all the waiting flattered it, or None if that is unknown.
    Variants of pruned.onnx need not meet limits that are not `of_variants`.
    """

    figure: Callable[[Report, Gate], Figure | str]
    worst: Callable[[Report], Fraction | None] | None = None
    of_variants: bool = True


@dataclass(frozen=True, kw_only=True)
class RegressionLimit(Limit):
    """A limit on a run beside a baseline: `figure` takes both reports, and returns a figure or the reason to skip the limit."""

    figure: Callable[[Report, Report], Figure | str]
