"""The template workflow, its action and the examples of docs/ci.md, against the command line as it is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from edcompress.cli.app import app
from edcompress.core.recipe.gate import Gate

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/compression-gate.yml").read_text())
STEPS = WORKFLOW["jobs"]["gate"]["steps"]
GUIDE = (ROOT / "docs/ci.md").read_text()


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run, main's report, and `edcompress` on the path."""
    folder = tmp_path / "project"
    shutil.copytree(finished, folder / "runs" / "new")
    (folder / "baseline").mkdir()
    shutil.copy(finished / "report.json", folder / "baseline")
    command = tmp_path / "bin" / "edcompress"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edcompress "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.chdir(folder)
    return folder


def run_action(**inputs: str) -> "subprocess.CompletedProcess[str]":
    """The action's step with these inputs, as the runner starts it."""
    (step,) = ACTION["runs"]["steps"]
    values = {name: inputs.get(name, given.get("default", "")) for name, given in ACTION["inputs"].items()}
    filled = {key: re.sub(r"\${{ inputs\.(\w+) }}", lambda m: values[m[1]], text) for key, text in step["env"].items()}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={**os.environ, **filled, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_action_passes_a_run_beside_its_baseline(project: Path) -> None:
    options = "--max-top1-drop 1 --min-speedup 0.001"
    done = run_action(run="runs/new", baseline="baseline/report.json", options=options)
    assert done.returncode == 0, done.stderr
    assert "size regression" in done.stdout
    said = [line for line in (done.stdout + done.stderr).splitlines() if "other processes had the cores" not in line]
    assert "::" not in "".join(said)
    assert (project / "gate.xml").is_file()
    assert "gate: passed" in (project / "summary.md").read_text()


def test_the_action_fails_with_the_gate_and_warns_of_a_baseline_that_is_not_there(project: Path) -> None:
    done = run_action(
        run="runs/new", baseline="$(touch sprung)", options="--max-top1-drop 1\n--min-speedup 1000\n", junit="out.xml"
    )
    assert done.returncode == 1
    assert "::warning title=edcompress gate::there is no baseline $(touch sprung) yet" in done.stdout
    assert "::error title=edcompress gate%3A speedup::" in done.stderr
    assert (project / "out.xml").is_file()
    assert not (project / "sprung").exists()


def commands(text: str) -> list[list[str]]:
    """The words of each edcompress command in a script, with the workflow's variables filled in."""
    lines = [os.path.expandvars(line) for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("edcompress ")]


def test_every_command_of_the_workflow_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WORKFLOW["env"].items():
        monkeypatch.setenv(name, value)
    found = [words for step in STEPS for words in commands(step.get("run", ""))]
    assert [words[0] for words in found] == ["train", "prune", "export"]
    group: Any = get_command(app)
    for name, *words in found:
        group.commands[name].make_context(name, words)  # raises for what it does not take


def test_the_workflow_uses_the_action_as_it_is() -> None:
    used = [step for step in STEPS if step.get("uses", "").startswith("./")]
    for step in used:
        assert (ROOT / step["uses"] / "action.yml").is_file()
        assert set(step["with"]) <= set(ACTION["inputs"])
        assert all(name in step["with"] for name, given in ACTION["inputs"].items() if given.get("required"))
    assert len(used) == 1
    kept = [step["with"]["path"] for step in STEPS if "cache" in step.get("uses", "")]
    assert kept == [used[0]["with"]["baseline"].split("'")[3]] * 2


def test_what_the_workflow_keeps_is_what_the_gate_writes() -> None:
    (kept,) = [step["with"]["path"].split() for step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert ACTION["inputs"]["junit"]["default"] in kept


@pytest.mark.parametrize("example", re.findall(r"^\$ (edcompress .*)$", GUIDE, re.MULTILINE))
@pytest.mark.usefixtures("project")
def test_the_examples_of_the_guide_run(cli, example: str) -> None:
    ended = cli(*shlex.split(example)[1:])
    assert ended.code in (0, 1), ended.err  # two epochs of training may fail a limit, but must be judged
    assert Path("gate.xml").exists() == ("--junit gate.xml" in example)


@pytest.mark.usefixtures("project")
def test_the_gitlab_example_runs(cli) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    job = yaml.safe_load(block)["gate"]
    (words,) = commands("\n".join(job["script"]))
    assert cli(*words).code in (0, 1)
    assert Path(job["artifacts"]["reports"]["junit"]).is_file()


def test_the_guide_names_every_limit() -> None:
    assert set(re.findall(r"`((?:max|min)_\w+)`", GUIDE)) == {
        key for key in Gate.model_fields if key.startswith(("max_", "min_"))
    }
