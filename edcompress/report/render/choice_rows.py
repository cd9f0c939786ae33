"""What a run chose where its recipe left it open, and which batch-norm statistics it kept, as short texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edcompress.core.results.report import Report
from edcompress.report.render.formatting import MISSING

CHOICE_HEADINGS = ("key", "value", "why")


class ChoiceRow(NamedTuple):
    """A dotted key of the recipe, the value that the run chose, and the reason."""

    key: str
    value: str
    why: str


def choice_rows(report: Report) -> list[ChoiceRow]:
    """Return a row per key that the run chose; an empty list for runs of earlier versions."""
    return [ChoiceRow(key, _value(report.settings or {}, key), why) for key, why in report.chosen.items()]


def statistics_note(report: Report) -> str:
    """Return which batch-norm statistics the network has after fine-tuning, and why; "" where it has none."""
    found = report.batch_norm
    if found is None:
        return ""
    kept = "those of training stayed" if found.kept == "trained" else "they were estimated again"
    return (
        f"After fine-tuning {kept}: the loss on held-out images was {found.trained:.4f} with those of training and "
        f"{found.recalibrated:.4f} estimated again."
    )


def _value(settings: Mapping[str, Any], key: str) -> str:
    section, _, name = key.partition(".")
    value = settings.get(section, {}).get(name)
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
