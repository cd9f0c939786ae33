"""What a run keeps of itself on disk while it runs: progress.json, where it stands, and log.jsonl, what has happened so far.

Any process may read both at any time. They are written by a monitor (see `edcompress.monitor`) that is told what the terminal's is told.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime

from edcompress.core.errors import RunFolderError, StorageError
from edcompress.core.frozen import Value
from edcompress.core.plain_text import harmless
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.files import append, replacing
from edcompress.core.system.machine import process_identity, versions
from edcompress.core.system.monitor import Monitor, MonitorPair
from edcompress.runs.folder import RunFolder
from edcompress.runs.reading import parsed

EVERY_S = 1.0
"""Seconds between two writes of progress.json within an epoch."""

Verb = Literal["prune", "export"]
End = Literal["interrupted", "failed", "finished"]


class Process(Value):
    """The process that works on a run; `mark` is its `machine.process_identity`, None where the system tells none."""

    host: str
    pid: int
    mark: str | None


class Progress(Value):
    """progress.json: where a run stands, or stood when it was last heard of.

    `epoch` counts from 1, within the phase. Loss, energy and diversity are of the last step, `accuracy` is top-1 on held-out images after
    the last epoch. `phase_left_s` goes by the pace of this phase so far, and so does `training_left_s`, of all epochs that are still to
    train: those of fine-tuning take another time than those of the search.
    """

    schema_version: Literal[1] = 1
    verb: Verb
    checkpoint: str | None = None
    state: Literal["running"] | End = "running"
    error: str | None = None
    process: Process
    began: AwareDatetime
    updated: AwareDatetime
    stage: str = ""
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    energy: float | None = None
    diversity: float | None = None
    images_per_s: float | None = None
    phase_left_s: float | None = None
    training_left_s: float | None = None


_OF_A_PHASE = ("phase", "epoch", "epochs", "step", "steps", "loss", "accuracy", "energy", "diversity", "images_per_s",
               "phase_left_s", "training_left_s")  # fmt: skip


@contextmanager
def recording(
    folder: RunFolder,
    monitor: Monitor,
    recipe: Recipe,
    verb: Verb,
    *,
    checkpoint: str | None = None,
    resuming: bool = False,
) -> Iterator[Monitor]:
    """`monitor`, which in the block keeps progress.json and log.jsonl of the run in `folder` too; they end with how the block ended.

    A StorageError of these files ends the run, but for one on the way out of another error: that is added to it as a note.
    """
    record = _RunRecorder(folder, recipe, verb, checkpoint)
    try:
        record.begin("resume" if resuming else "begin")
        with _warnings_told(record):
            yield MonitorPair(monitor, record)
    except BaseException as error:
        try:
            record.fail(error)
        except StorageError as failure:
            error.add_note(f"and {failure}")
        raise
    record.end("finished")


def read_progress(folder: RunFolder) -> Progress | None:
    """What progress.json says; None where there is none, RunFolderError where it is damaged."""
    path = folder / "progress.json"
    if not path.exists():
        return None
    return parsed(path, Progress.model_validate_json, "a --resume or an export writes it anew")


def starting_weights(folder: RunFolder) -> str | None:
    """The name of the checkpoint with which the run in `folder` was begun; None where there is none, or it is not known."""
    if not folder.exists:
        return None
    if folder.finished:
        return folder.read_report().checkpoint
    try:
        progress = read_progress(folder)
    except RunFolderError:  # damaged: who goes on with the run writes it anew
        return None
    return progress.checkpoint if progress else None


class _RunRecorder:
    """The monitor that writes. A step costs it a comparison of times; a file is replaced once in `EVERY_S` seconds."""

    def __init__(self, folder: RunFolder, recipe: Recipe, verb: Verb, checkpoint: str | None) -> None:
        now, pid = datetime.now(UTC), os.getpid()
        self._folder, self._recipe = folder, recipe
        process = Process(host=platform.node(), pid=pid, mark=process_identity(pid))
        self._progress = Progress(verb=verb, checkpoint=checkpoint, process=process, began=now, updated=now)
        self._began = time.monotonic()  # what a clock that is set meanwhile does not change
        self._saved = -math.inf
        self._from: tuple[float, int | None] = (0.0, None)
        self._step: tuple[int, int, dict[str, Any]] | None = None

    def begin(self, event: str) -> None:
        """Say which process begins, of what; a last line of the log that was cut is closed first."""
        self._close_line()
        about = {"verb": self._progress.verb, "recipe": self._recipe.name, "recipe_hash": self._recipe.digest}
        self.tell(event, **about, **self._progress.process.model_dump(exclude={"mark"}), versions=versions())
        self._save()

    def fail(self, error: BaseException) -> None:
        """Say what ended the run: Ctrl-C and its kin interrupt it, anything else is a failure."""
        if not isinstance(error, Exception):
            self.end("interrupted")
            return
        kind, text = type(error).__name__, str(error)
        self.tell("error", kind=kind, error=text)
        self.end("failed", error=text or kind)

    def end(self, state: End, error: str | None = None) -> None:
        """Say how it ended."""
        self.tell("end", state=state, seconds=time.monotonic() - self._began)
        self._save(state=state, error=error)

    def stage(self, text: str) -> None:
        """A stage begins."""
        self.tell("stage", stage=text)
        self._step = None
        self._save(stage=text, **dict.fromkeys(_OF_A_PHASE))

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """An epoch begins; with the first one of a phase its clock."""
        if (phase, epochs) != (self._progress.phase, self._progress.epochs):
            self.stage(phase)
            self._from = (time.monotonic(), None)
        self._step = None
        self._save(phase=phase, epoch=epoch + 1, epochs=epochs, step=0)

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """A step is done."""
        since, before = self._from
        if before is None:  # of a phase that is resumed, the first step is not number 1
            self._from = (since, self._number(step, steps) - 1)
        self._step = (step, steps, figures)
        if time.monotonic() - self._saved >= EVERY_S:
            self._save(**self._stepped())

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """An epoch is done; its figures go into the log."""
        now = self._progress
        self.tell("epoch", phase=now.phase, epoch=now.epoch, epochs=now.epochs, **finite(figures))
        self._save(**self._stepped(), accuracy=figures.get("accuracy"))

    def warning(self, text: str) -> None:
        """Something is wrong that does not end the run."""
        self.tell("warning", warning=text)

    def alarm(self, text: str) -> None:
        """A warning that must not be overlooked."""
        self.tell("warning", warning=text, alarm=True)

    def tell(self, event: str, **fields: Any) -> None:
        """Append an event to the log."""
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **_readable(fields)}
        )
        append(self._folder / "log.jsonl", line)

    def _stepped(self) -> dict[str, Any]:
        """What the last step changes of the progress."""
        if self._step is None:
            return {}
        step, steps, figures = self._step
        known = {name: figures.get(name) for name in ("loss", "energy", "diversity")}
        return {
            "step": step,
            "steps": steps,
            **finite(known),
            **self._speed(steps, figures),
            **self._left(step, steps),
        }

    def _speed(self, steps: int, figures: Mapping[str, Any]) -> dict[str, float]:
        """Of an epoch of one step it is not known how many images that one had."""
        rate = figures.get("steps_per_s")
        return {} if rate is None or steps == 1 else {"images_per_s": rate * self._recipe.data.step_images}

    def _left(self, step: int, steps: int) -> dict[str, float | None]:
        since, before = self._from
        epochs = self._progress.epochs
        assert epochs is not None
        assert before is not None
        pace = (time.monotonic() - since) / (self._number(step, steps) - before)
        left = epochs * steps - self._number(step, steps)
        later = {"search": self._recipe.total_epochs - epochs, "finetune": 0}.get(str(self._progress.phase))
        in_all = None if later is None else (left + later * steps) * pace
        return {"phase_left_s": left * pace, "training_left_s": in_all}

    def _number(self, step: int, steps: int) -> int:
        """Of a step of the epoch within its phase, from 1."""
        assert self._progress.epoch is not None
        return (self._progress.epoch - 1) * steps + step

    def _save(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update={**_readable(changes), "updated": datetime.now(UTC)})
        with replacing(self._folder / "progress.json") as part:
            part.write_text(self._progress.model_dump_json(indent=1) + "\n", encoding="utf-8")
        self._saved = time.monotonic()

    def _close_line(self) -> None:
        path = self._folder / "log.jsonl"
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() == b"\n":
                    return
            append(path, "")


@contextmanager
def _warnings_told(record: _RunRecorder) -> Iterator[None]:
    """What Python warns of in the block goes into the log too."""
    show = warnings.showwarning

    def told(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        record.tell("warning", kind=category.__name__, warning=str(message))
        show(message, category, *place, **more)

    warnings.showwarning = told
    try:
        yield
    finally:
        warnings.showwarning = show


def finite(value: Any) -> Any:
    """The value of plain types, with None for numbers in it that JSON has not: NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def _readable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the bytes of file names that are not UTF-8 written out: JSON cannot hold them."""
    return {name: harmless(value) if isinstance(value, str) else value for name, value in fields.items()}
