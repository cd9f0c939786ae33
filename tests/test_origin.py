"""What a run is opened and resumed with."""

from pathlib import Path

import pytest
from digits import digits

from edcompress.errors import RunFolderError
from edcompress.origin import open_origin, resumed_origin, save_origin
from edcompress.runs import RunFolder
from edcompress.session import Session


def test_a_resumed_run_keeps_the_step_of_its_widths(dense: Path, tmp_path: Path) -> None:
    recipe, session, folder = digits("target.macs=0.5"), Session("cpu"), RunFolder(tmp_path / "run")
    origin = open_origin(recipe, dense, session)
    folder.create(force=False)
    folder.clear()
    save_origin(origin, folder)
    assert resumed_origin(recipe, folder, session).budget.round_to == origin.budget.round_to == 8
    folder.step.write_text("2\n")
    assert resumed_origin(recipe, folder, session).budget.round_to == 2
    folder.step.unlink()  # as runs had it whose step was the widest easy one
    assert resumed_origin(recipe, folder, session).budget.round_to == origin.budget.easy_steps[0]
    folder.step.write_text("wide")
    with pytest.raises(RunFolderError, match=r"round_to\.json is missing or damaged"):
        resumed_origin(recipe, folder, session)
