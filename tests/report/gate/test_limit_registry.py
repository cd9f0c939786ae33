"""A gate limit is one file: the recipe key, the CLI option, the check and its rows follow from it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from copied_package import copy_with, python
from pydantic import ValidationError

from edcompress.core.recipe.gate import LIMITS, Gate
from edcompress.core.registry import names_in
from edcompress.report.gate.limit_registry import REGRESSION_LIMITS, RUN_LIMITS, check_name, find_limit

LIMIT_FILE = '''
"""Gate limit: pruned over dense parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, ratio
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure:
    """Return pruned over dense parameters."""
    return Figure(ratio(report.pruned.size.params, report.dense.size.params))


LIMIT = RunLimit(order=85, kind=Unit, description="pruned over dense parameters", label="parameters left", text=percentage, figure=figure)
'''


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the package that has one more gate limit."""
    return copy_with(tmp_path_factory.mktemp("extended"), "report/gate/limits/max_params_ratio.py", LIMIT_FILE)


def run(extended: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line of the copied package."""
    return python(extended, "-m", "edcompress", *arguments)


def test_a_new_file_gives_the_command_an_option_in_its_place(extended: Path) -> None:
    done = run(extended, "gate", "--help")
    assert done.returncode == 0, done.stderr
    assert "pruned over dense parameters" in done.stdout
    places = [done.stdout.index(option) for option in ("--max-size-ratio", "--max-params-ratio", "--max-size-bytes")]
    assert places == sorted(places)


def test_a_new_file_makes_a_check_with_rows_for_people_and_ci_servers(
    extended: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(content))
    report, xml = str(tmp_path / "report.json"), tmp_path / "gate.xml"
    done = run(extended, "gate", report, "--max-params-ratio", "0.4", "--junit", str(xml))
    assert done.returncode == 1, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("parameters left")]
    assert row == ["parameters", "left", "49.68", "%", "≤", "40.00", "%", "-9.68", "%", "FAIL"]
    assert 'testcase name="parameters left"' in xml.read_text()
    assert run(extended, "gate", report, "--max-params-ratio", "0.5").returncode == 0
    refused = run(extended, "gate", report, "--max-params-ratio", "2")
    assert (
        refused.returncode,
        "--max-params-ratio 2.0: give a number from 0 to 1" in refused.stderr,
    ) == (
        2,
        True,
    )


def test_a_new_file_makes_a_recipe_key(extended: Path) -> None:
    code = (
        "from edcompress.core.recipe.loading import read_recipe\n"
        "print(read_recipe('digits', ['gate.max_params_ratio=0.25']).gate.limits['max_params_ratio'])\n"
        "read_recipe('digits', ['gate.max_param_ratio=0.25'])"
    )
    done = python(extended, "-c", code)
    assert done.stdout == "0.25\n"
    assert "gate.max_param_ratio: unknown key; did you mean 'max_params_ratio'?" in done.stderr


def test_every_file_is_a_limit_of_a_run_or_on_a_regression() -> None:
    assert set(LIMITS) == set(names_in("report.gate.limits"))
    assert {*RUN_LIMITS, *REGRESSION_LIMITS} == set(LIMITS)
    assert not RUN_LIMITS.keys() & REGRESSION_LIMITS.keys()
    assert len({limit.order for limit in LIMITS.values()}) == len(LIMITS)


def test_a_limit_is_named_after_its_direction() -> None:
    assert all(key.startswith(("min_", "max_")) for key in LIMITS)
    signs = {key: found[1] for key in LIMITS if (found := find_limit(check_name(key)))}
    assert signs == {key: "≥" if key.startswith("min_") else "≤" for key in LIMITS}
    assert find_limit("dense_above_chance") is None


def test_the_limits_that_are_set_come_as_a_mapping_in_the_order_of_tables() -> None:
    gate = Gate(max_size_bytes=10, min_top1=0.5, max_top1_drop=None)
    assert list(gate.limits) == [key for key in LIMITS if key in gate.limits]
    assert (gate.limits["min_top1"], "max_top1_drop" in gate.limits) == (0.5, False)
    assert gate.without("min_top1", "max_size_bytes").limits == Gate(max_top1_drop=None).limits


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_top1_drop", 1.5), ("min_speedup", 0), ("max_size_bytes", 0), ("max_size_ratio", 0.0), ("max_parity", -1.0),
     ("max_latency_regression", -0.1), ("max_size_bytes", 1.5), ("min_top1", True), ("max_latency_ms", float("inf"))],
)  # fmt: skip
def test_values_outside_a_limits_bounds_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        Gate(**{key: value})
