"""Schema of the gate verdict."""

from __future__ import annotations

from typing import Literal, Self

from edcompress.core.frozen import Value
from edcompress.core.results.measures import Interval, Pairs


class Check(Value):
    """One limit of the gate: `margin` is how far the figure is inside the limit (negative: outside).

    The figure is `held` where it is given, else `value`, or the bad end of its `interval` where the verdict goes by bounds. Of drops,
    `pairs` are the images behind it, and `p_value` is McNemar's exact test that there is no drop. `note` is what else there is to say.
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


class Skipped(Value):
    """A limit that could not be held, and why; it fails nothing."""

    name: str
    limit: float
    reason: str


class Verdict(Value):
    """The gate's answer; it passes when every check does. `warnings` say which figures are not to be trusted.

    `files` says whether those in the run folder are those of the report: "checked", or "not checked: " and why.
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
