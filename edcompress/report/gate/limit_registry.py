"""The limits of the gate by recipe key, in the order of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edcompress.core.recipe.gate import LIMITS
from edcompress.report.gate.limit import Limit, RegressionLimit, RunLimit

RUN_LIMITS: Mapping[str, RunLimit] = {key: limit for key, limit in LIMITS.items() if isinstance(limit, RunLimit)}
"""Limits on one run."""

REGRESSION_LIMITS: Mapping[str, RegressionLimit] = {
    key: limit for key, limit in LIMITS.items() if isinstance(limit, RegressionLimit)
}
"""Limits on a run compared with a baseline."""


def check_name(key: str) -> str:
    """Return the name of a limit's figure in a verdict: the recipe key without its max_ or min_."""
    return key[4:]


def is_upper(key: str) -> bool:
    """Return whether a limit is the largest allowed value, not the smallest."""
    return key.startswith("max_")


def find_limit(name: str) -> tuple[Limit, Literal["≤", "≥"]] | None:
    """Return the limit of a check's name and the sign of its direction, or None for a check that is not of a limit."""
    for key, limit in LIMITS.items():
        if check_name(key) == name and isinstance(limit, Limit):
            return limit, "≤" if is_upper(key) else "≥"
    return None
