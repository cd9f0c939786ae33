"""Progress of calls from Python: in a terminal, in a notebook, and where neither is."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edcompress.core.system.live_progress import LiveProgress, LoggedOnce, TerminalLine, shown_progress


class Written:
    """Keeps what is shown and what stays."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.kept: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def keep(self, text: str) -> None:
        self.kept.append(text)


def test_stages_epochs_and_steps_change_one_line_and_warnings_stay() -> None:
    line = Written()
    progress = LiveProgress(line)
    progress.stage("search")
    progress.epoch("search", 0, 2)
    progress.step(5, 5, {"loss": 0.5})
    progress.epoch_done({"loss": 0.4, "accuracy": 0.9})
    progress.warning("slow")
    progress.warning("slow")
    progress.alarm("stale")
    assert line.shown == ["search", "search 1/2, step 5/5, loss 0.500", "search 1/2, loss 0.400, accuracy 90.0%"]
    assert line.kept == ["warning: slow", "WARNING: stale"]


def test_steps_are_shown_at_most_four_times_a_second() -> None:
    line = Written()
    progress = LiveProgress(line)
    progress.epoch("search", 0, 1)
    for step in range(1, 1001):
        progress.step(step, 1000, {})
    assert len(line.shown) < 100
    assert line.shown[-1] == "search 1/1, step 1000/1000"


def test_a_shorter_line_covers_a_longer_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = TerminalLine()
    line.show("a long text")
    line.show("short")
    line.keep("stays")
    assert capsys.readouterr().err == "\ra long text\rshort      \rstays\n"


class Shown:
    """IPython's display with a handle, as a notebook has it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, data: dict[str, str], **_: Any) -> Shown:
        self.update(data)
        return self

    def update(self, data: dict[str, str], **_: Any) -> None:
        self.texts.append(data["text/plain"])


def test_a_notebook_is_found_and_gets_an_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.display))  # type: ignore[arg-type]
    progress = shown_progress()
    progress.stage("search")
    assert shown.texts == ["", "search"]


def test_elsewhere_each_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    progress = shown_progress()
    assert isinstance(progress, LoggedOnce)
    with caplog.at_level(logging.WARNING):
        progress.warning("slow")
        progress.warning("slow")
        progress.alarm("stale")
    assert [record.message for record in caplog.records] == ["slow", "stale"]
