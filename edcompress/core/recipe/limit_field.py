"""What a recipe knows of one gate limit: its type, default and help text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
PositiveInteger = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class LimitField:
    """One key of the recipe's `gate` section.

    `kind` is the type of the value with its bounds, such as `Unit`; `default` is None where the limit is off by default. Keys, options and
    rows are in ascending `order`.
    """

    kind: Any
    description: str
    order: int
    default: float | None = None
