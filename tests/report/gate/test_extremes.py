"""Numbers that a run never measures: each is refused with its key, or shown; none ends in a traceback."""

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edcompress.cli import tables
from edcompress.cli.console import Terminal
from edcompress.core.errors import InputError, RunFolderError
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.report import Report
from edcompress.data.transforms import preprocessing_spec
from edcompress.report.gate.consistency import require_possible
from edcompress.report.gate.recommendation import recommend
from edcompress.report.gate.verdict import judge
from edcompress.report.render import ci_formats
from edcompress.report.render.html_page import render_page
from edcompress.report.render.model_card import CardSubject, render_card
from edcompress.report.render.svg_charts import Line, line_chart
from edcompress.runs.reading import read_report
from edcompress.runs.status import outcome_of

EXTREMES = ("1e-320", "1e308", "-1e308", "1" + 30 * "0", "9" * 4000, "-1", "NaN", "-Infinity")
STEP = 3
"""Each number is tried in every third place, starting at a different one: all places would take long."""
GENERATIONS = [{"generation": 0, "budget": 0.5, "energy_best": 1e308, "energy_mean": -1e308, "diversity": 5e-324}] * 2


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of the numbers in a tree of plain values."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*path, key))
    elif isinstance(tree, int | float):
        yield path


def changed(content: dict[str, Any], place: tuple[Any, ...], literal: str) -> str:
    """Return the JSON of the report with this literal in this place."""
    tree = copy.deepcopy(content)
    inner: Any = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "HERE"
    return json.dumps(tree).replace('"HERE"', literal)


def show(report: Report) -> None:
    """Render everything that is made from a report."""
    recipe = read_recipe("resnet20_cifar10")
    console = Terminal(file=io.StringIO())
    for table in (tables.comparison_table, tables.stages_table, tables.proofs_table, tables.variants_table):
        console.print(table(report))
    render_page(report, GENERATIONS, {"groups": []})
    render_card(report, CardSubject("cifar10", 10, "dynamic"), preprocessing_spec(recipe.data, 3), [])
    recommend(report, recipe.gate)
    outcome_of(report)
    require_possible(report, "it")
    for confidence in ("estimate", "bound"):
        verdict = judge(report, Gate(confidence=confidence, max_latency_ms=1.0, max_size_bytes=1))  # type: ignore[arg-type]
        console.print(tables.verdict_table(verdict))
        ci_formats.summary(verdict, "it")
        ci_formats.workflow_commands(verdict)
        ci_formats.junit(verdict, "it")


@pytest.mark.parametrize("literal", EXTREMES, ids=lambda text: text[:12])
def test_a_report_with_any_number_anywhere_is_refused_or_shown(
    content: dict[str, Any], tmp_path: Path, literal: str
) -> None:
    path, found, messages = tmp_path / "report.json", list(places(content)), list[str]()
    assert len(found) > 50
    for place in found[EXTREMES.index(literal) % STEP :: STEP]:
        path.write_text(changed(content, place, literal))
        try:
            show(read_report(path))
        except (RunFolderError, InputError) as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, place))} = {literal[:20]}: {error!r}") from error
    assert max(map(len, messages)) < 2000


@pytest.mark.parametrize(
    "values", [(1e308, -1e308), (1e308, 1e308), (5e-324, 0.0), (float("inf"), 1.0), (1e16, 1e16 + 2)]
)
def test_a_chart_of_any_energies_is_drawn(values: tuple[float, float]) -> None:
    chart = line_chart("Energy", [Line("best", "--pruned", list(enumerate(values)))], "generation")  # type: ignore[arg-type]
    assert "nan" not in str(chart)
