"""Where runs stand, seen from other processes: `status` and `runs`."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from digits import digits

from edcompress.cli import console
from edcompress.cli.status_tables import duration
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.system.machine import process_identity
from edcompress.runs.finding import find
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import Process, Progress
from edcompress.runs.status import list_runs, status_of

WORKER = """
import sys, time
from pathlib import Path
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import recording

with recording(RunFolder(Path(sys.argv[1])), NullMonitor(), read_recipe("digits").label, "prune", weights="my net.pt") as monitor:
    monitor.epoch("search", 0, 3)
    for step in range(1, 20_000):
        monitor.step(step, 20_000, {"loss": 0.5, "energy": -1.5, "diversity": 0.25, "steps_per_s": 2.0})
        time.sleep(0.01)
"""


def started(path: Path, **progress: Any) -> RunFolder:
    """Return a run folder with its progress.json; by default this process runs it."""
    (path / "state").mkdir(parents=True)
    (path / "recipe.yaml").write_text(dump(digits()))
    here = Process(host=platform.node(), pid=os.getpid(), mark=process_identity(os.getpid()))
    now = datetime.now(UTC)
    progress_file = Progress(
        **{"verb": "prune", "checkpoint": "net.pt", "process": here, "began": now, "updated": now} | progress
    )
    (path / "progress.json").write_text(progress_file.model_dump_json())
    return RunFolder(path)


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[tuple[RunFolder, subprocess.Popen[bytes]]]:
    """Yield a run folder in which another process is in its first epoch."""
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.state.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(digits()))
    with subprocess.Popen([sys.executable, "-c", WORKER, str(folder.path)]) as process:
        deadline = time.monotonic() + 60
        while not (folder / "progress.json").exists() or status_of(folder).progress.loss is None:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        yield folder, process
        process.kill()


def test_status_shows_a_run_of_another_process_and_that_it_was_killed(
    cli, at_work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, process = at_work
    monkeypatch.chdir(tmp_path)
    asked = cli("status")
    lines = dict(line.split(maxsplit=1) for line in asked.out.splitlines())
    assert asked.code == 0
    assert lines["state"].startswith("running for ")
    assert f" s, process {process.pid}, last active " in lines["state"]
    assert lines["stage"].startswith("search, epoch 1 of 3, step ")
    assert lines["figures"].strip() == "loss 0.500, energy -1.50, diversity 0.25"
    assert lines["speed"].strip() == "128 images/s"
    assert "of all training" in lines["time"]
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert status_of(folder).state == "interrupted"  # not reaped yet
    process.wait()
    shown = cli("status", "runs/run")
    assert "state       interrupted; last active" in shown.out
    assert shown.out.endswith(
        "continue with:\n  edcompress prune 'my net.pt' --recipe runs/run/recipe.yaml -o runs/run --resume\n"
    )
    found = json.loads(cli("status", "--json").out)
    assert (found["state"], found["progress"]["process"]["pid"]) == ("interrupted", process.pid)


@pytest.mark.parametrize(
    ("changed", "state", "word"),
    [
        ({"mark": "another boot/17"}, "interrupted", "interrupted; last active"),
        (
            {"host": "elsewhere"},
            "unknown",
            "on elsewhere, whose processes are not visible from here; last active 5 min ago",
        ),
        ({"mark": None}, "unknown", "are not visible from here"),
    ],
)
def test_a_process_number_that_was_reused_is_not_taken_for_the_run(
    cli, tmp_path: Path, changed: dict[str, Any], state: str, word: str
) -> None:
    here = Process(host=platform.node(), pid=os.getpid(), mark=process_identity(os.getpid()))
    active = datetime.now(UTC) - timedelta(minutes=5)
    folder = started(tmp_path / "run", process=here.model_copy(update=changed), updated=active)
    assert status_of(folder).state == state
    assert (status_of(folder).command is None) == (
        state == "unknown"
    )  # a run that may still be running is not to be resumed
    assert word in " ".join(cli("status", folder.path).out.split())
    assert status_of(started(tmp_path / "mine")).state == "running"


def test_a_failed_run_says_why_and_how_to_continue(cli, finished: Path, tmp_path: Path) -> None:
    pruning = started(tmp_path / "run", state="failed", error="the loss became [nan]")
    assert "failed 0 s ago: the loss became [nan]" in cli("status", pruning.path).out
    assert "--resume" in cli("status", pruning.path).out
    pruning.state.rmdir()  # without it --resume refuses the run
    assert "--force" in cli("status", pruning.path).out
    done = json.loads((finished / "progress.json").read_text())
    (finished / "progress.json").write_text(json.dumps(done | {"state": "failed", "error": "no room"}))
    said = cli("status", finished).out
    assert "export failed" in said
    assert f"continue with:\n  edcompress export {finished}\n" in said
    assert "result      top-1 " in said


def test_a_finished_run_shows_its_result_also_if_an_earlier_version_made_it(cli, finished: Path) -> None:
    said = cli("status", finished)
    assert (said.code, "continue with" in said.out) == (0, False)
    assert "state       export finished" in said.out
    (finished / "progress.json").unlink()
    status = status_of(RunFolder(finished))
    assert (status.state, status.command) == ("finished", None)
    report = RunFolder(finished).read_report()
    assert status.outcome is not None
    assert status.outcome.top1_pruned == report.pruned.accuracy.top1.fraction
    assert f"{status.outcome.speedup:.2f}x as fast" in cli("status", finished).out
    (finished / "report.json").unlink()
    assert status_of(RunFolder(finished)).state == "unknown"


def test_a_trial_is_shown_inside_its_run(cli, tmp_path: Path) -> None:
    outer = started(tmp_path / "run", stage="trial 1: at most 50.0% of the MACs, from the dense network")
    started(outer.trials / "1-macs=0.5", phase="search", epoch=2, epochs=3, loss=0.5)
    (outer.trials / "1-macs=0.5" / "state" / "snapshot-000000001.safetensors").touch()
    status = status_of(outer)
    assert status.trial is not None
    assert (status.trial.state, status.trial.command, status.state) == ("running", None, "running")
    assert status.checkpoint_age_s is not None
    said = cli("status", outer.path).out
    assert "trial       1-macs=0.5 " in said
    assert "search, epoch 2 of 3" in said


def test_in_a_folder_of_runs_the_one_started_last_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in ((300, "old"), (100, "s-sweep/target.macs=0.5"), (200, "s-sweep/target.macs=0.3")):
        folder = started(tmp_path / "runs" / name)
        stamp = time.time() - age
        os.utime(folder / "recipe.yaml", (stamp, stamp))
    assert find(None).path == Path("runs/s-sweep/target.macs=0.5")
    assert find(Path("runs/s-sweep")).path == Path("runs/s-sweep/target.macs=0.5")
    assert find(Path("runs/old")).path == Path("runs/old")


def test_runs_are_listed_with_their_results_and_damaged_ones_with_their_faults(
    cli, finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(finished, root / "done")
    started(root / "going", updated=datetime.now(UTC) + timedelta(seconds=60))
    shutil.copytree(finished, root / "cut")
    (root / "cut" / "report.json").write_text("{")
    shutil.copytree(finished, root / "emptied")
    (root / "emptied" / "pruned.safetensors").unlink()
    (root / "torn").mkdir()
    (root / "torn" / "progress.json").write_text("{")
    (root / "notes").mkdir()
    (root / "a file").touch()
    said = cli("runs", root)
    assert said.code == 0
    rows = {words[0]: words[1:] for words in map(str.split, said.out.splitlines()) if words}
    assert rows["going"][:2] == ["running", "–"]
    top1 = RunFolder(finished).read_report().pruned.accuracy.top1.fraction
    assert rows["done"][0] == "finished"
    assert rows["done"][2:4] == ["→", f"{100 * top1:.2f}"]
    assert [rows[name][0] for name in ("cut", "emptied", "torn")] == ["damaged"] * 3
    assert "notes" not in rows
    for file in ("cut/report.json is not a report", "emptied/pruned.safetensors is missing", "torn is not a run folder",
                 "torn/progress.json is missing or damaged"):  # fmt: skip
        assert f"{root}/{file}" in said.out
    found = json.loads(cli("runs", root, "--json").out)
    assert Path(found[0]["run"]).name == "going"
    assert {Path(one["run"]).name for one in found} == {"going", "done", "cut", "emptied", "torn"}
    assert [one.run for one in list_runs(root)] == [one["run"] for one in found]


def test_a_damaged_progress_is_shown_and_not_raised(cli, tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    (folder / "progress.json").write_text('{"verb": "prune"')
    said = cli("status", folder.path)
    assert (said.code, status_of(folder).state) == (0, "damaged")
    assert f"{folder / 'progress.json'} is missing or damaged" in said.out


@pytest.mark.parametrize("width", [80, 60])
def test_output_fits_the_columns_without_colour_and_cuts_nothing(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    name = "a-name-of-a-run-that-is-longer-than-any-column-of-any-table-could-be-[x]"
    figures = {
        "loss": 0.5,
        "energy": -100.25,
        "diversity": 0.25,
        "accuracy": 0.5,
        "phase_left_s": 1e5,
        "training_left_s": 2e5,
    }
    started(tmp_path / name, phase="search", epoch=1, epochs=2, **figures)
    monkeypatch.setattr(console.out, "width", width)
    monkeypatch.chdir(tmp_path)
    for command in ("status", "runs"):
        said = cli(command, ".").out
        lines = [line for line in said.splitlines() if line.strip()]
        assert max(map(len, lines)) <= width
        assert ("…" in said, "\x1b" in said, "running" in said) == (False, False, True)
        assert name in "".join(said.split()) + "".join(line.split()[0] for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (90, "2 min"), (3569, "59 min"), (3599, "1 h"), (3600, "1 h"),
     (12_000, "3 h 20 min"), (86_390, "1 d"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.integration
def test_a_real_run_is_visible_from_another_process_in_search_and_fine_tuning(
    start, process, quick, dense: Path, tmp_path: Path
) -> None:
    options = quick("search.epochs=3", "finetune.epochs=3", "search.evolve_every=1")
    seen: dict[str, dict[str, Any]] = {}
    with start("prune", dense, *options, "-o", "runs/run", "--device", "cpu", cwd=tmp_path) as run:
        while run.poll() is None:
            asked = process("status", "--json", cwd=tmp_path)
            if asked.code == 0:
                status = json.loads(asked.out)
                seen[status["progress"]["phase"] if status["state"] == "running" else status["state"]] = status
        assert run.returncode == 0
    assert {"search", "finetune"} <= set(seen)
    assert seen["search"]["progress"]["process"]["pid"] == run.pid
    assert seen["search"]["checkpoint_age_s"] < 60
    assert seen["search"]["progress"]["images_per_s"] > 0
    assert json.loads(process("runs", "--json", cwd=tmp_path).out)[0]["state"] == "finished"


@pytest.mark.parametrize("damage", ["macs", "total"])
def test_a_report_over_no_images_hides_no_other_run(cli: Any, finished: Path, damage: str) -> None:
    report = json.loads((finished / "report.json").read_text())
    place = report["dense"]["size"] if damage == "macs" else report["pruned"]["accuracy"]["top1"]
    place[damage] = 0
    (finished / "report.json").write_text(json.dumps(report))
    assert cli("runs", finished.parent).code == 0
    assert cli("status", finished).code == 0
