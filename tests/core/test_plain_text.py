"""Foreign names, paths and messages are printed without anything that a terminal or a CI server would obey."""

import io
import warnings
from pathlib import Path

import pytest
from rich.markup import escape

from edcompress.cli.console import Terminal, harmless_warnings, say
from edcompress.cli.progress_bar import Display
from edcompress.cli.tables import points_table
from edcompress.core.plain_text import harmless, one_line
from edcompress.core.results.report import Point

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\rc\x9bd\u202ee\x08"
COMMANDS = ("::error::x", "  ::stop-commands::x", "##[group]x", "y ##vso[task.complete]x", "##teamcity[x]")


@pytest.mark.parametrize("text", ["", "a: b", "std::vector", "a\n  b\tc", "é ✓ ≤ 日本", "# a\n## b", "[bold]x[/bold]"])
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert harmless(text) == text


def test_control_characters_are_escaped_and_commands_broken() -> None:
    assert harmless(EVIL) == r"a\x1b]0;owned\x07\x1b[2Jb\rc\x9bd\u202ee\x08"
    assert harmless("a\n::error::x") == "a\n: :error::x"
    assert harmless("\udcff") == r"\udcff"
    assert one_line("a\n::error::b\tc") == r"a\n::error::b c"
    for command in COMMANDS:
        assert harmless(f"a\n{command}").split("\n")[1] not in (command, "")
        assert not any(sign in harmless(command) for sign in ("##[", "##vso[", "##teamcity["))
        assert not harmless(command).lstrip().startswith("::")


def obeyed(text: str) -> list[str]:
    """The parts of a text that a terminal or a CI server would obey."""
    signs = [sign for sign in ("\x1b", "\r", "\x07", "\x9b", "\u202e", "##[", "##vso[") if sign in text]
    return signs + [line for line in text.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.parametrize("name", [EVIL, *COMMANDS, "x\n::error::y", "[/bold]", ":boom:"])
def test_the_terminal_shows_names_and_obeys_none(name: str) -> None:
    point = Point(
        name=name, macs=0.5, params=0.5, p50_ms=1.0, speedup=1.5, top1={"correct": 1, "total": 2}, top1_drop=0
    )  # type: ignore[arg-type]
    console = Terminal(file=io.StringIO(), width=60)
    console.print(points_table(name, [point]))
    say(name, console)
    console.print(escape(name))
    with Display(console) as display:
        display.stage(name)
        display.warning(name)
        display.epoch(name, 0, 1)
        display.epoch_done({})
    assert obeyed(console.file.getvalue()) == []  # type: ignore[attr-defined]
    assert "💥" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_live_display_shows_names_and_obeys_none() -> None:
    console = Terminal(file=io.StringIO(), width=60, force_terminal=True)
    with Display(console) as display:
        display.epoch("[/x]\x1b]0;owned\x07", 0, 1)
        display.step(1, 1, {})
    assert "\x1b]0;owned" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/x]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_line_says_what_is_wrong_and_nothing_else(cli, tmp_path: Path) -> None:
    name = "x\x1b[2J\n::error::owned\n##[group]"
    (tmp_path / "recipe.yaml").write_text('model: {"a\\e[2Jb": 1, "c\\n::error::x": 2}\ndata: {dataset: "\\e[2J"}\n')
    for command in (("check", tmp_path / name), ("check", tmp_path / "recipe.yaml"), ("gate", tmp_path / name)):
        ended = cli(*command)
        assert ended.code == 2
        assert obeyed(ended.err + ended.out) == [], ended
    assert "owned" in ended.err


def test_a_warning_of_python_is_shown_and_not_obeyed() -> None:
    before = warnings.formatwarning
    with harmless_warnings():
        shown = warnings.formatwarning("x\x1b[2J", UserWarning, "a\x1b[2Jb.py", 1, "")
    assert obeyed(shown) == []
    assert r"x\x1b[2J" in shown
    assert warnings.formatwarning is before
