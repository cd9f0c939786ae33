"""`train` that was interrupted goes on to the file of one that was not, and loses nothing on the way."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from digits import Interrupter, digits

from edcompress.core.errors import CheckpointError, DataError, InputError, RunFolderError
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.core.system.tensor_files import load_checkpoint
from edcompress.runs.locks import sole_writer
from edcompress.workflows.train import train, unfinished
from edcompress.workflows.weights import GivenWeights

Cli = Callable[..., Any]

QUICK = ("train.epochs=2", "data.limit=600", "train.label_smoothing=0.1", "run.checkpoint_every=2 steps")
OPTIONS = ("--recipe", "digits", *(word for pair in QUICK for word in ("--set", pair)))


class Fault(NullMonitor):
    """Kills the training after a step, without a chance to save it; `at` is an epoch and a step of it."""

    def __init__(self, *at: int) -> None:
        self._at, self._epoch = at, -1

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        self._epoch = epoch

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
        if (self._epoch, step) == self._at:
            raise SystemExit


def trained(output: Path, monitor: NullMonitor | None = None, *more: str, **how: bool) -> None:
    train(digits(*QUICK, *more), output, options=RunOptions("cpu", monitor=monitor or NullMonitor()), **how)


def weights(path: Path) -> dict[str, bytes]:
    """The weights, bit for bit, whatever the file says of them."""
    return {name: tensor.numpy().tobytes() for name, tensor in safetensors.torch.load_file(path).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a training that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "dense.safetensors"
    trained(path)
    assert os.listdir(path.parent) == [path.name]
    return path


@pytest.fixture(scope="module")
def torn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training left that was interrupted at the fourth step."""
    path = tmp_path_factory.mktemp("torn") / "dense.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(path, Interrupter("train", 0, 4))
    assert not path.exists()
    return unfinished(path)


@pytest.fixture
def torn(torn_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(torn_once, tmp_path))


@pytest.mark.parametrize(
    ("monitor", "epoch", "steps"),
    [
        (Interrupter("train", 0, 3), 0, 3),
        (Interrupter("train", 1, 1), 1, 1),
        (Fault(0, 3), 0, 2),
        (Fault(1, 1), 1, 0),
    ],
    ids=["within an epoch", "in the next", "killed within", "killed after an epoch"],
)
def test_an_interrupted_training_goes_on_to_the_same_file(
    whole: Path, tmp_path: Path, monitor: NullMonitor, epoch: int, steps: int
) -> None:
    path = tmp_path / whole.name
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(path, monitor)
    saved = load_checkpoint(unfinished(path))
    assert (saved["epoch"], saved.get("place", {}).get("steps", 0)) == (epoch, steps)
    trained(path, resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == [path.name]


def test_one_that_was_trained_but_not_measured_is_measured(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / whole.name
    monkeypatch.setattr("edcompress.workflows.stages.run_context.RunContext.scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(path)
    assert path.exists()
    monkeypatch.undo()
    trained(path, Interrupter("train", 1, 1), resume=True)  # no step is made again
    assert path.read_bytes() == whole.read_bytes()
    assert not unfinished(path).exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ["--resume", "--set", "seed=7"],
            "was started with a different seed; continue with what it was started with, or delete it",
        ),
        (["--resume", "--set", "compile=true"], "was started with a different compile;"),
        (["--resume", "--set", "train.epochs=3"], r"was started with a different train.epochs;"),
        (["--resume", "--force"], "--resume continues a run and --force starts it over; choose one of them"),
        ([], "is from an interrupted training; continue with --resume, or start over with --force"),
    ],
)
def test_what_was_trained_is_not_lost_to_another_training(cli: Cli, torn: Path, more: list[str], says: str) -> None:
    before = torn.read_bytes()
    ended = cli("train", *OPTIONS, *more, "-o", torn.with_suffix(""))
    assert (ended.code, says in ended.err) == (2, True), ended.err
    assert (torn.read_bytes(), os.listdir(torn.parent)) == (before, [torn.name])


def test_there_has_to_be_something_to_go_on_from(cli: Cli, whole: Path, torn: Path) -> None:
    for path in (whole, torn.with_name("other.safetensors")):
        ended = cli("train", *OPTIONS, "--resume", "-o", path)
        assert ended.code == 2
        assert f"--resume: there is no {unfinished(path)}; drop --resume" in ended.err
    torn.write_bytes(torn.read_bytes()[:-1000])
    ended = cli("train", *OPTIONS, "--resume", "-o", torn.with_suffix(""))
    assert (ended.code, f"{torn}: is not the checkpoint of a run, or is damaged" in ended.err) == (2, True), ended.err


def test_force_starts_over(whole: Path, torn: Path) -> None:
    path = torn.with_suffix("")
    trained(path, force=True)
    assert path.read_bytes() == whole.read_bytes()
    assert not torn.exists()


def test_where_the_images_lie_may_change(whole: Path, torn: Path) -> None:
    path = torn.with_suffix("")
    trained(path, None, "data.workers=1", resume=True)
    assert weights(path) == weights(whole)


def test_a_batch_size_that_was_found_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dense.safetensors"
    monkeypatch.setattr("edcompress.workflows.stages.batch_size.DEFAULT_BATCH", 24)
    with pytest.raises(KeyboardInterrupt):
        trained(path, Interrupter("train", 0, 4), "data.batch_size=auto")
    monkeypatch.undo()
    steps: set[int] = set()

    class Counter(NullMonitor):
        def step(self, step: int, steps_: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
            steps.add(steps_)

    trained(path, Counter(), "data.batch_size=auto", resume=True)
    assert steps == {-(-540 // 24)}


def test_a_sweep_goes_on_with_the_training_of_its_network(
    cli: Cli, torn: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(source: GivenWeights, *_: object, **__: object) -> None:
        assert weights(source.path) == weights(whole)
        raise DataError("the disk is gone")

    monkeypatch.setattr("edcompress.workflows.sweep.prune", failing)
    ended = cli("sweep", *OPTIONS, "--set", "target.macs=0.7,0.5", "-o", torn.parent)
    assert (ended.code, "the disk is gone" in ended.err) == (2, True), ended.err


@pytest.mark.integration
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_was_trained_and_says_how_to_go_on(
    start: Callable[..., "subprocess.Popen[str]"], cli: Cli, tmp_path: Path, sign: int
) -> None:
    path = tmp_path / "dense.safetensors"
    command = ("train", "--recipe", "digits", "--set", "train.epochs=200", "--quiet", "-o", path)
    with start(*command) as process:
        while not unfinished(path).exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(sign)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "interrupted: what was computed is saved; continue with the same command and --resume\n" in err
    done = load_checkpoint(unfinished(path))["epoch"]
    assert 0 < done < 200
    assert not path.exists()
    again = cli(*command)
    assert (again.code, "continue with --resume" in again.err) == (2, True)


def test_two_trainings_do_not_share_a_file(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edcompress.runs.locks.LOCK_SECONDS", 0.0)
    path = tmp_path / "new" / whole.name
    with sole_writer(path):
        for how in ({}, {"force": True}, {"resume": True}):
            with pytest.raises(
                RunFolderError, match=r"dense\.safetensors is being written by another process; wait for it"
            ):
                trained(path, **how)
        with sole_writer(path.with_name("other.safetensors")):
            assert len(os.listdir(path.parent)) == 2
    assert os.listdir(tmp_path) == []


def test_what_a_killed_training_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    kept = [".other.safetensors.12.345.part", ".dense.safetensors.part", "dense.safetensors.12.345.part", "notes"]
    gone = [".dense.safetensors.12.345.part", ".dense.safetensors.unfinished.12.345.part"]
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    (tmp_path / ".dense.safetensors.12.345.0.part").mkdir()
    (tmp_path / ".dense.safetensors.12.345.0.part" / ".tmp1").touch()
    with pytest.raises(InputError, match=r"there is no .*unfinished"):
        trained(path, resume=True)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_pipe_in_place_of_what_was_trained_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dense.safetensors.unfinished")
    with pytest.raises(CheckpointError, match="not a file"):
        trained(tmp_path / "dense.safetensors", resume=True)
