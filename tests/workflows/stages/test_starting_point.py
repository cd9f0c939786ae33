"""What a run is opened and resumed with."""

from pathlib import Path

import pytest
from digits import digits

from edcompress.core.errors import RunFolderError
from edcompress.core.system.context import RunOptions
from edcompress.runs.folder import RunFolder
from edcompress.workflows.resume import read_start, save_start
from edcompress.workflows.stages.starting_point import StartingPoint, open_starting_point, resumed_starting_point


def test_a_resumed_run_keeps_the_step_of_its_widths(dense: Path, tmp_path: Path) -> None:
    recipe, options, folder = digits("target.macs=0.5"), RunOptions("cpu"), RunFolder(tmp_path / "run")

    def resumed() -> StartingPoint:
        return resumed_starting_point(recipe, read_start(folder, in_time=False), options)

    start = open_starting_point(recipe, dense, options)
    folder.create(force=False)
    folder.clear()
    save_start(start, folder)
    assert resumed().feasible.round_to == start.feasible.round_to == 8
    folder.step.write_text("2\n")
    assert resumed().feasible.round_to == 2
    folder.step.unlink()  # as runs had it whose step was the widest easy one
    assert resumed().feasible.round_to == start.feasible.easy_steps[0]
    folder.step.write_text("wide")
    with pytest.raises(RunFolderError, match=r"round_to\.json is missing or damaged"):
        resumed()
