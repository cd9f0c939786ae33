"""Output on stdout: strict JSON, and nothing if stdout is closed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from edcompress.cli.console import print_json


def test_json_on_stdout_has_no_constants_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5, None, True, "NaN")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, {"c": None}],
        "d": [1.5, None, True, "NaN"],
    }


@pytest.mark.parametrize("closed", ["1</dev/null", ">&- 2>&-"])
def test_a_closed_stdout_is_harmless(tmp_path: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m edcompress runs "{tmp_path}" --json {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
