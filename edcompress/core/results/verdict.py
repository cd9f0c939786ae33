"""Schema of the gate verdict."""

from __future__ import annotations

from typing import Literal, Self

from edcompress.core.frozen import Value
from edcompress.core.results.measures import Interval, Pairs


class Check(Value):
    """One limit of the gate: `margin` is how far the figure is inside the limit; a negative margin is outside.

    What is compared with the limit is `held` if it is given, else the worse end of the `interval` if the verdict's confidence is "bound",
    else `value`. Drops have the `pairs` of images behind them, and `p_value` is that of McNemar's exact test. `note` says
    what else a reader should know. `label` names a figure of the recipe's metric, and `share` says whether that is one in [0, 1].
    """

    name: str
    value: float
    limit: float
    margin: float
    passed: bool
    interval: Interval | None = None
    pairs: Pairs | None = None
    p_value: float | None = None
    held: float | None = None
    note: str = ""
    label: str = ""
    share: bool = True


class Skipped(Value):
    """A limit that could not be checked, and why; it fails nothing."""

    name: str
    limit: float
    reason: str


class Verdict(Value):
    """The gate's answer, which passes when every check does; `warnings` say which figures are not to be trusted.

    `files` says whether the files in the run folder are those of the report: "checked", or "not checked: " and the reason.
    """

    passed: bool
    checks: tuple[Check, ...]
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    confidence: Literal["estimate", "bound"] = "estimate"
    files: str = ""

    def with_evidence(self, files: str, warnings: tuple[str, ...]) -> Self:
        """Return the verdict with what is known of the files, and further warnings before its own."""
        return self.model_copy(update={"files": files, "warnings": (*warnings, *self.warnings)})
