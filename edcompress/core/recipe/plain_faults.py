"""What a value of a recipe must be, in plain words, for each kind of fault that pydantic finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edcompress.core.plain_text import did_you_mean


@dataclass(frozen=True)
class _Range:
    """The numbers that a key takes; an `open` end is not one of them."""

    whole: bool = False
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def __str__(self) -> str:
        """Return, for example, "a whole number from 2 to 1000000", or "a number above 0 and at most 1"."""
        what = "a whole number" if self.whole else "a number"
        if self.low is not None and self.high is not None and not self.low_open and not self.high_open:
            return f"{what} from {_text(self.low)} to {_text(self.high)}"
        low = "" if self.low is None else f"{'above' if self.low_open else 'of at least'} {_text(self.low)}"
        high = "" if self.high is None else f"{'below' if self.high_open else 'at most'} {_text(self.high)}"
        return " ".join((what, " and ".join(filter(None, (low, high))))).rstrip()


def _text(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def plain_message(detail: ErrorDetails, field: FieldInfo | None = None) -> str:
    """Return what is wrong, or what to give, in plain words.

    Args:
        detail: One error of pydantic's.
        field: The key's field, for its bounds.
    """
    kind = detail["type"]
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    if kind in _NUMBERS:
        return f"give {_range_of(detail, field)}{_hint(detail['input'], field)}"
    if kind in _SENTENCES:
        return _SENTENCES[kind](detail)
    return detail["msg"].removeprefix("Input should be ")


_NUMBERS = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "int_type", "int_parsing", "int_parsing_size", "int_from_float",
    "float_type", "float_parsing",
}  # fmt: skip


def _choice(detail: ErrorDetails) -> str:
    expected = str(detail["ctx"]["expected"])
    choices = re.findall("'([^']*)'", expected)
    return f"choose {expected}{did_you_mean(str(detail['input']), choices)}"


def _list(detail: ErrorDetails) -> str:
    given = detail["input"]
    example = f", as in [{given}]" if isinstance(given, int | float | str) and len(str(given)) < 40 else " in brackets"
    return f"give a list{example}"


_SENTENCES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda _: "required, but missing",
    "finite_number": lambda _: "give a finite number",
    "literal_error": _choice,
    "tuple_type": _list,
    "list_type": _list,
    "too_short": lambda detail: f"give a list with at least {detail['ctx']['min_length']} value",
    "too_long": lambda detail: f"give a list with at most {detail['ctx']['max_length']} values",
    "bool_type": lambda _: "give true or false",
    "bool_parsing": lambda _: "give true or false",
    "string_type": lambda _: "give a text, in quotes",
    "string_unicode": lambda _: "give a text in UTF-8",
    "string_too_long": lambda detail: f"give at most {detail['ctx']['max_length']} characters",
    "string_too_short": lambda detail: f"give at least {detail['ctx']['min_length']} characters",
    "string_pattern_mismatch": lambda _: (
        "give a name without / and \\ and control characters that does not begin with a dot"
    ),
    "path_type": lambda _: "give a path as text",
    "model_type": lambda _: "a section has keys and values; drop it to take its defaults",
    "model_attributes_type": lambda _: "a section has keys and values; drop it to take its defaults",
    "dict_type": lambda _: "give keys and values",
    "mapping_type": lambda _: "give keys and values",
}
"""The sentence for each other kind of error that the schema of a recipe can raise."""


def _range_of(detail: ErrorDetails, field: FieldInfo | None) -> _Range:
    """Return the range of a key, or as much of it as one error says."""
    context: dict[str, Any] = detail.get("ctx", {})
    if field is not None:
        return _with_bounds(_Range(whole=int in set(_types(field.annotation))), [field, *_rules(field.annotation)])
    return _with_bounds(_Range(whole=detail["type"].startswith("int")), [context])


def _with_bounds(known: _Range, rules: list[Any]) -> _Range:
    for rule in rules:
        for part in (rule, *getattr(rule, "metadata", ())):
            known = _with_bound(known, part)
    return known


def _with_bound(known: _Range, rule: Any) -> _Range:
    """Return the range with the bounds of one rule of a field, or of an error's context."""
    bounds = rule if isinstance(rule, dict) else {name: getattr(rule, name, None) for name in ("gt", "ge", "lt", "le")}
    for name, value in bounds.items():
        if value is not None and name in ("gt", "ge"):
            known = replace(known, low=value, low_open=name == "gt")
        if value is not None and name in ("lt", "le"):
            known = replace(known, high=value, high_open=name == "lt")
    return known


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the plain types in an annotation."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _types(part)


def _rules(annotation: Any) -> Iterator[Any]:
    """Yield the fields within an annotation, which have bounds of their own."""
    for part in get_args(annotation):
        if isinstance(part, FieldInfo):
            yield part
        yield from _rules(part)


def _hint(given: object, field: FieldInfo | None) -> str:
    """Return the likely reason for a number that does not fit: a decimal comma, a percentage."""
    if isinstance(given, str) and re.fullmatch(r"\d+,\d+", given):
        return f"; write {given.replace(',', '.')}, with a point"
    if isinstance(given, str) and re.fullmatch(r"\d+(\.\d+)? ?%", given):
        return f"; {given} is {float(given.rstrip('% ')) / 100:g}"
    if field is None or isinstance(given, bool) or not isinstance(given, int | float):
        return ""
    top = _with_bounds(_Range(), [field, *_rules(field.annotation)]).high
    return f"; {given:g} % is {given / 100:g}" if top == 1 and 2 <= given <= 100 else ""
