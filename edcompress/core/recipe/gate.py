"""Recipe section: the gate. Each of its limits is one file in `edcompress/report/gate/limits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from edcompress.core.frozen import Section
from edcompress.core.recipe.limit_field import LimitField
from edcompress.core.registry import load, names_in

LIMITS_PACKAGE = "report.gate.limits"


def _load_limits() -> dict[str, LimitField]:
    limits: dict[str, LimitField] = {name: load(LIMITS_PACKAGE, name).LIMIT for name in names_in(LIMITS_PACKAGE)}
    return dict(sorted(limits.items(), key=lambda item: item[1].order))


LIMITS: Mapping[str, LimitField] = _load_limits()
"""Every limit by its recipe key, in the order of tables and of help texts."""


def _field_of(limit: LimitField) -> tuple[Any, Any]:
    return limit.kind | None, Field(limit.default, description=limit.description)


if TYPE_CHECKING:
    _Limits = Section
else:
    _Limits = create_model("_Limits", __base__=Section, **{key: _field_of(limit) for key, limit in LIMITS.items()})


class Gate(_Limits):
    """The limits that `edcompress gate` checks; null switches a limit off."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    confidence: Literal["estimate", "bound"] = Field(
        "estimate",
        description="what is compared with the limits on drops and on the speed-up: the estimate, or the worse end of its interval",
    )
    level: float = Field(0.95, ge=0.5, lt=1.0, description="confidence level of the intervals")
    disturbed: Literal["bound", "fail", "allow"] = Field(
        "bound",
        description="if threads waited for their cores for over 5 % of the time: compare the least speed-up that is possible, fail"
        " min_speedup, or ignore the waiting",
    )
    allow_weak_dense: bool = Field(
        False,
        description="pass even if the dense network (with model.reset_head the pruned one) is not surely above chance",
    )
    allow_unheld: bool = Field(False, description="pass even if every limit was skipped, so that nothing was checked")

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by recipe key and in the order of `LIMITS`."""
        return {key: value for key in LIMITS if (value := getattr(self, key)) is not None}

    def without(self, *keys: str) -> Gate:
        """Return the same gate with the limits of these recipe keys switched off."""
        return self.model_copy(update=dict.fromkeys(keys))
