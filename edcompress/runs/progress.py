"""progress.json and log.jsonl while a run runs: where it stands, and what has happened so far.

Any process may read both at any time. A monitor (see `edcompress.core.system.monitor`) writes them beside the terminal's monitor.
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
from edcompress.core.recipe.recipe import RecipeLabel
from edcompress.core.system.files import append, replacing
from edcompress.core.system.machine import process_identity, versions
from edcompress.core.system.monitor import Monitor, MonitorPair
from edcompress.runs.folder import RunFolder
from edcompress.runs.reading import parse_file

EVERY_S = 1.0
"""Seconds between two writes of progress.json within an epoch."""

Verb = Literal["prune", "export"]
EndState = Literal["interrupted", "failed", "finished"]


class Process(Value):
    """The process that works on a run; `mark` is its `machine.process_identity`, None if the system has none."""

    host: str
    pid: int
    mark: str | None


class Progress(Value):
    """progress.json: where a run stands, or stood when it was last active.

    `epoch` counts from 1, within the phase. Loss, energy and diversity are of the last step, `accuracy` is top-1 on held-out images after
    the last epoch, and `score` the recipe's metric if it is another. `phase_left_s` follows from the pace of this phase so far, and so does
    `training_left_s`, which is of all epochs still to train, although epochs of fine-tuning differ in time from those of the search.
    """

    schema_version: Literal[1] = 1
    verb: Verb
    checkpoint: str | None = None
    state: Literal["running"] | EndState = "running"
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
    score: float | None = None
    energy: float | None = None
    diversity: float | None = None
    images_per_s: float | None = None
    phase_left_s: float | None = None
    training_left_s: float | None = None


_OF_A_PHASE = ("phase", "epoch", "epochs", "step", "steps", "loss", "accuracy", "score", "energy", "diversity", "images_per_s",
               "phase_left_s", "training_left_s")  # fmt: skip


@contextmanager
def recording(
    folder: RunFolder,
    monitor: Monitor,
    recipe: RecipeLabel,
    verb: Verb,
    *,
    weights: str | None = None,
    resuming: bool = False,
) -> Iterator[Monitor]:
    """Yield a monitor that also keeps progress.json and log.jsonl of a run; at the end of the block they say how it ended.

    Args:
        folder: The run's folder.
        monitor: The monitor that is also called.
        recipe: The label of the run's recipe.
        verb: The command that works on the run.
        weights: The name of the weights from which the run started.
        resuming: Whether the run was started before.

    Raises:
        StorageError: The files cannot be written; while another error ends the block, it is added to that one as a note.
    """
    record = _RunRecorder(folder, recipe, verb, weights)
    try:
        record.begin("resume" if resuming else "begin")
        with _logging_warnings(record):
            yield MonitorPair(monitor, record)
    except BaseException as error:
        try:
            record.fail(error)
        except StorageError as failure:
            error.add_note(f"and {failure}")
        raise
    record.end("finished")


def read_progress(folder: RunFolder) -> Progress | None:
    """Return the content of progress.json, or None if there is none; RunFolderError if it is damaged."""
    path = folder / "progress.json"
    if not path.exists():
        return None
    return parse_file(path, Progress.model_validate_json, "a --resume or an export rewrites it")


def starting_weights(folder: RunFolder) -> str | None:
    """Return the name of the weights with which the run in `folder` started, or None if there is no run or the name is not known."""
    if not folder.exists:
        return None
    if folder.finished:
        return folder.read_report().checkpoint
    try:
        progress = read_progress(folder)
    except RunFolderError:  # damaged; a resumed run rewrites it
        return None
    return progress.checkpoint if progress else None


class _RunRecorder:
    """The monitor that writes the files; a step costs a comparison of times, because a file is replaced once in `EVERY_S` seconds."""

    def __init__(self, folder: RunFolder, recipe: RecipeLabel, verb: Verb, weights: str | None) -> None:
        now, pid = datetime.now(UTC), os.getpid()
        self._folder, self._recipe = folder, recipe
        process = Process(host=platform.node(), pid=pid, mark=process_identity(pid))
        self._progress = Progress(verb=verb, checkpoint=weights, process=process, began=now, updated=now)
        self._began = time.monotonic()  # unlike the wall clock, it is never set
        self._saved = -math.inf
        self._from: tuple[float, int | None] = (0.0, None)
        self._step: tuple[int, int, dict[str, Any]] | None = None

    def begin(self, event: str) -> None:
        """Log which process starts on which recipe; a truncated last line of the log is closed first."""
        self._close_line()
        about = {"verb": self._progress.verb, "recipe": self._recipe.name, "recipe_hash": self._recipe.digest}
        self.append_event(event, **about, **self._progress.process.model_dump(exclude={"mark"}), versions=versions())
        self._save()

    def fail(self, error: BaseException) -> None:
        """Log what ended the run: Ctrl-C and signals interrupt it, anything else is a failure."""
        if not isinstance(error, Exception):
            self.end("interrupted")
            return
        kind, text = type(error).__name__, str(error)
        self.append_event("error", kind=kind, error=text)
        self.end("failed", error=text or kind)

    def end(self, state: EndState, error: str | None = None) -> None:
        """Log how the run ended."""
        self.append_event("end", state=state, seconds=time.monotonic() - self._began)
        self._save(state=state, error=error)

    def stage(self, text: str) -> None:
        """Log the start of a stage."""
        self.append_event("stage", stage=text)
        self._step = None
        self._save(stage=text, **dict.fromkeys(_OF_A_PHASE))

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Note the start of an epoch; the first one of a phase starts the phase's clock."""
        if (phase, epochs) != (self._progress.phase, self._progress.epochs):
            self.stage(phase)
            self._from = (time.monotonic(), None)
        self._step = None
        self._save(phase=phase, epoch=epoch + 1, epochs=epochs, step=0)

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Note the end of a step."""
        since, before = self._from
        if before is None:  # of a phase that is resumed, the first step is not number 1
            self._from = (since, self._number(step, steps) - 1)
        self._step = (step, steps, figures)
        if time.monotonic() - self._saved >= EVERY_S:
            self._save(**self._stepped())

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """Log the figures of a finished epoch."""
        now = self._progress
        self.append_event("epoch", phase=now.phase, epoch=now.epoch, epochs=now.epochs, **finite(figures))
        self._save(**self._stepped(), accuracy=figures.get("accuracy"), score=figures.get("score"))

    def warning(self, text: str) -> None:
        """Log a warning."""
        self.append_event("warning", warning=text)

    def alarm(self, text: str) -> None:
        """Log a conspicuous warning."""
        self.append_event("warning", warning=text, alarm=True)

    def append_event(self, event: str, **fields: Any) -> None:
        """Append an event to the log."""
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **_escaped(fields)}
        )
        append(self._folder / "log.jsonl", line)

    def _stepped(self) -> dict[str, Any]:
        """Return what the last step changes of the progress."""
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
        """Return the images per second; an epoch of one step has none, because the size of its only batch is not known."""
        rate = figures.get("steps_per_s")
        return {} if rate is None or steps == 1 else {"images_per_s": rate * self._recipe.step_images}

    def _left(self, step: int, steps: int) -> dict[str, float | None]:
        """Return the seconds left of the phase and of all training, at the pace of the phase so far."""
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
        """Return the number of a step of this epoch within its phase, from 1."""
        assert self._progress.epoch is not None
        return (self._progress.epoch - 1) * steps + step

    def _save(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update={**_escaped(changes), "updated": datetime.now(UTC)})
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
def _logging_warnings(record: _RunRecorder) -> Iterator[None]:
    """Log the Python warnings of a block too."""
    show = warnings.showwarning

    def log_and_show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        record.append_event("warning", kind=category.__name__, warning=str(message))
        show(message, category, *place, **more)

    warnings.showwarning = log_and_show
    try:
        yield
    finally:
        warnings.showwarning = show


def finite(value: Any) -> Any:
    """Return a value of plain types with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def _escaped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the bytes of file names that are not UTF-8 written out, because JSON cannot contain them."""
    return {name: harmless(value) if isinstance(value, str) else value for name, value in fields.items()}
