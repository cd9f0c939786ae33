"""The two frozen pydantic bases: `Section` for the parts of a recipe, `Value` for measured and stored values."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
"""A share above 0."""

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share that may be 0."""

MOST_INTEGER, MOST_FLOAT = 2**63 - 1, 1e100
"""Bounds within which sums, products and ratios of a few numbers fit torch's integers and a float."""


def require_computable(value: Any) -> Any:
    """Return the value; ValueError where it is, or holds, a number too large to compute with. Infinity and NaN pass."""
    if isinstance(value, tuple | list):
        for part in value:
            require_computable(part)
    elif isinstance(value, int) and abs(value) > MOST_INTEGER:
        raise ValueError(f"a whole number of {value.bit_length()} bits is too large; at most {MOST_INTEGER}")
    elif isinstance(value, float) and math.isfinite(value) and abs(value) > MOST_FLOAT:
        raise ValueError(f"{value:g} is too large; at most {MOST_FLOAT:g}")
    return value


class Section(BaseModel):
    """A part of a recipe, which a person writes: unknown keys, infinity, NaN and booleans in place of numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return require_computable(value)

    @field_validator("*", mode="before")
    @classmethod
    def _number_or_not(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean where none is meant: YAML reads yes, on, no and off as booleans, and pydantic makes 1 and 0 of them."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in (bool, bool | None):
            raise ValueError("give a value, not true or false (yes, no, on, off); null switches off what may be null")
        return value


class Value(BaseModel):
    """A measured or stored value, which a program writes: unknown keys and numbers too large to compute with are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return require_computable(value)
