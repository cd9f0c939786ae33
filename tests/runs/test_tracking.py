"""The figures of each epoch, in epochs.jsonl and in trackers."""

import json
from pathlib import Path
from typing import Any

import pytest
from copied_package import copy_with, python
from digits import TWO_EPOCHS, Interrupter, digits

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs.folder import RunFolder
from edcompress.runs.tracking import open_trackers, require_trackers
from edcompress.workflows.prune import prune


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_every_epoch_has_its_line_and_its_point(dense: Path, tmp_path: Path) -> None:
    session = RunOptions("cpu", trackers=("tensorboard",))
    prune(dense, digits(*TWO_EPOCHS), RunFolder(tmp_path / "run"), options=session)
    lines = logged(tmp_path / "run")
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        ("search", 0),
        ("search", 1),
        ("finetune", 0),
        ("finetune", 1),
    ]
    assert all(0 < line["accuracy"] <= 1 and line["loss"] > 0 for line in lines)
    assert "diversity" in lines[0]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    points = [
        (point.step, round(point.value, 5))
        for name in ("search", "finetune")
        for point in board.Scalars(f"{name}/loss")
    ]
    assert points == [(step, round(line["loss"], 5)) for step, line in enumerate(lines)]


def test_what_is_trained_again_is_not_logged_twice(dense: Path, tmp_path: Path) -> None:
    folder, recipe = RunFolder(tmp_path / "run"), digits(*TWO_EPOCHS)
    for place in (("search", 1), ("finetune", 1)):
        with pytest.raises(KeyboardInterrupt):
            prune(dense, recipe, folder, resume=True, options=RunOptions("cpu", monitor=Interrupter(*place)))
        (folder / "epochs.jsonl").write_text(
            (folder / "epochs.jsonl").read_text() + json.dumps({"phase": place[0], "epoch": 1}) + "\n"
        )
    prune(dense, recipe, folder, resume=True, options=RunOptions("cpu", monitor=NullMonitor()))
    lines = logged(folder.path)
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        ("search", 0),
        ("search", 1),
        ("finetune", 0),
        ("finetune", 1),
    ]
    assert all("loss" in line for line in lines)


def test_an_unusable_tracker_is_refused_before_anything_is_read(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = cli("prune", "absent.pt", "--recipe", "digits", "--log", "wandb")
    assert (ended.code, "--log wandb: choose mlflow or tensorboard" in ended.err) == (2, True)
    monkeypatch.setattr("edcompress.runs.tracking.find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=r"--log mlflow needs a package; install it with: pip install 'edcompress\[mlflow\]'"
    ):
        require_trackers(["mlflow"])


@pytest.mark.filterwarnings("default")  # MLflow's own, about its files
def test_mlflow_keeps_recipe_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow asks for it, because it prefers a database
    with open_trackers(["mlflow"], tmp_path / "run", digits("seed=3").model_dump(mode="json")) as (logger,):
        logger.log({"search/loss": 0.5}, 0)
        logger.log({"search/loss": 0.25}, 1)
        run = mlflow.active_run().info.run_id
    found = mlflow.get_run(run)
    assert (found.data.params["seed"], found.info.status, found.info.run_name) == ("3", "FINISHED", "run")
    assert [point.value for point in mlflow.MlflowClient().get_metric_history(run, "search/loss")] == [0.5, 0.25]


def test_a_server_of_mlflow_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(
            EdcompressError, match=r"--log mlflow: http://127\.0\.0\.1:9 takes no figures: .*MLFLOW_TRACKING_URI"
        ),
        open_trackers(["mlflow"], tmp_path / "run", digits().model_dump(mode="json")),
    ):
        pass


TRACKER_FILE = '''
"""Tracker: a text file."""

from contextlib import contextmanager

PACKAGE = "json"


class TextFile:
    def __init__(self, file):
        self.file = file

    def log(self, figures, step):
        self.file.write(f"{step} {dict(figures)}\\n")


@contextmanager
def open_tracker(folder, settings):
    with open(folder / "figures.txt", "w") as file:
        yield TextFile(file)
'''


def test_a_new_file_makes_a_tracker(tmp_path: Path) -> None:
    extended = copy_with(tmp_path / "extended", "runs/trackers/text.py", TRACKER_FILE)
    code = (
        "from edcompress.core.recipe.loading import read_recipe\n"
        "from pathlib import Path\n"
        "from edcompress.runs.tracking import open_trackers, require_trackers\n"
        "require_trackers(['text'])\n"
        "with open_trackers(['text'], Path('.'), read_recipe('digits').model_dump()) as (tracker,):\n"
        "    tracker.log({'search/loss': 0.5}, 3)\n"
    )
    done = python(extended, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (extended / "figures.txt").read_text() == "3 {'search/loss': 0.5}\n"
    shown = python(extended, "-m", "edcompress", "prune", "--help").stdout
    assert "mlflow or tensorboard or text: each" in " ".join(shown.replace("│", " ").split())
    misspelt = python(extended, "-m", "edcompress", "prune", "x.pt", "--recipe", "digits", "--log", "txt")
    assert (
        misspelt.returncode,
        "--log txt: choose mlflow or tensorboard or text; did you mean 'text'?" in misspelt.stderr,
    ) == (2, True)
