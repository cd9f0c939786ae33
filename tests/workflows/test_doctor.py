"""What `edcompress doctor` finds."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edcompress.cli import console
from edcompress.core.results.measures import Rate
from edcompress.workflows.doctor import Finding, check_requirement, compared, examine, limited


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data sets."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("EDCOMPRESS_DATA", str(folder))
    return folder


def found(runs: Path = Path("runs")) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(runs)}


@pytest.mark.parametrize(
    ("line", "extra", "level", "words"),
    [
        ("numpy>=2", None, "ok", [version("numpy"), "(>=2)"]),
        ("numpy", None, "ok", [version("numpy"), "(any)"]),
        ("numpy<1", None, "fault", [version("numpy"), "(<1)", "pip install 'numpy<1'"]),
        ("numpy<1", "fast", "fault", ["pip install 'edcompress[fast]'"]),
        ("no-such-package>=3", None, "fault", ["not installed: pip install 'no-such-package>=3'"]),
        ("no-such-package>=3", "fast", "note", ["optional", "not installed: pip install 'edcompress[fast]'"]),
    ],
)
def test_what_is_installed_is_held_against_what_was_declared(
    line: str, extra: str | None, level: str, words: list[str]
) -> None:
    finding = check_requirement(Requirement(line), extra)
    assert finding.level == level
    assert all(word in finding.text for word in words), finding


def test_a_sound_environment_has_no_fault_and_everything_is_looked_at(data: Path) -> None:
    findings = found()
    assert [finding for finding in findings.values() if finding.level == "fault"] == []
    assert set(findings) >= {"python", "edcompress", "torch", "onnxruntime", "timm", "torch threads", "bf16 on the CPU", "providers",
                             "processor", "cores", "CPU quota", "governor", "disk of runs", "disk of data", "EDCOMPRESS_DATA"}  # fmt: skip
    assert not {"pytest", "ruff", "mypy"} & set(findings)
    assert "CPUExecutionProvider" in findings["providers"].text
    assert findings["EDCOMPRESS_DATA"].text == str(data)
    assert str(Path.cwd()) in findings["disk of runs"].text


def test_data_that_is_not_there_is_a_fault_and_the_exit_code_is_3(cli, data: Path) -> None:
    data.rmdir()
    ended = cli("doctor", "--json")
    assert (ended.code, ended.err) == (3, "error: at fault: EDCOMPRESS_DATA; the fixes are listed above\n")
    said = {finding["name"]: finding for finding in json.loads(ended.out)}
    assert said["EDCOMPRESS_DATA"]["level"] == "fault"
    assert "not a directory; create it or change the variable" in said["EDCOMPRESS_DATA"]["text"]
    assert "free at" in said["disk of data"]["text"]  # of the folder in which it would be


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_runs_that_cannot_be_written_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    finding = found(tmp_path / "locked" / "runs")["disk of runs"]
    assert (finding.level, "choose another folder with -o" in finding.text) == ("fault", True)


def test_it_fits_80_columns_without_colour_and_cuts_nothing(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    monkeypatch.delenv("EDCOMPRESS_DATA")
    ended = cli("doctor")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    assert ("…" in ended.out, "\x1b" in ended.out) == (False, False)
    assert "note  EDCOMPRESS_DATA" in ended.out


def test_which_is_slower_is_said() -> None:
    rates = {0: Rate(images=400, seconds=2.0), 4: Rate(images=1200, seconds=2.0)}
    assert [(found.name, found.level) for found in compared(rates, 500.0, 4, "cuda")] == [
        ("input, workers: 0", "ok"), ("input, workers: 4", "ok"), ("training", "ok")]  # fmt: skip
    slow = compared(rates, 500.0, 0, "cuda")[-1]
    assert slow.level == "note"
    assert slow.text == (
        "500 images/s on one cuda; images come slower than that: raise data.workers up to the cores, or keep smaller images on the disk"
    )


@pytest.mark.integration
def test_the_rates_of_a_recipe_are_measured(cli) -> None:
    ended = cli("doctor", "--recipe", "digits", "--json")
    found = {entry["name"]: entry["text"] for entry in json.loads(ended.out)}
    assert int(found["input, workers: 0"].split()[0]) > int(found["training"].split()[0]) > 0


def test_a_recipe_with_a_factory_can_be_trusted(cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model: {factory: 'no_such_package:net', num_classes: 10, in_channels: 1}\ndata: {dataset: digits, image_size: 16}\n"
    )
    asked = cli("doctor", "--recipe", tmp_path / "mine.yaml")
    assert (asked.code, "add --trust-code to allow it" in asked.err) == (2, True)
    trusted = cli("doctor", "--recipe", tmp_path / "mine.yaml", "--trust-code")
    assert (trusted.code, "no_such_package" in trusted.err, "--trust-code" in trusted.err) == (2, True, False)


@pytest.mark.parametrize(
    ("quota", "level", "words"),
    [
        (None, "ok", "none"),
        (2.0, "ok", "time of 2 of 2 cores"),
        (1.5, "note", "time of 1.5 of 2 cores; it stops processes"),
    ],
)
def test_a_quota_below_the_cores_is_noted(quota: float | None, level: str, words: str) -> None:
    finding = limited(quota, 2)
    assert (finding.level, words in finding.text) == (level, True), finding
