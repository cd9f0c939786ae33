"""What all sections of a recipe have in common."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


MOST_INTEGER, MOST_FLOAT = 2**63 - 1, 1e100
"""What sums, products and ratios of a few numbers stay within a float and torch's integers for."""


def require_computable(value: Any) -> Any:
    """The value; ValueError where it is, or holds, a number too large to compute with. Infinity and NaN are not large."""
    if isinstance(value, tuple | list):
        for part in value:
            require_computable(part)
    elif isinstance(value, int) and abs(value) > MOST_INTEGER:
        raise ValueError(f"a whole number of {value.bit_length()} bits is too large; at most {MOST_INTEGER}")
    elif isinstance(value, float) and math.isfinite(value) and abs(value) > MOST_FLOAT:
        raise ValueError(f"{value:g} is too large; at most {MOST_FLOAT:g}")
    return value


class Section(BaseModel):
    """A part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return require_computable(value)

    @field_validator("*", mode="before")
    @classmethod
    def _number_or_not(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML has true and false for yes, on, no and off; pydantic would make 1 and 0 of them."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("give a value, not true or false (yes, no, on, off); null switches off what may be null")
        return value


class Value(BaseModel):
    """A frozen value that refuses unknown keys, and numbers that figures made of them could not hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return require_computable(value)
