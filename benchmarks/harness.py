"""What the benchmarks share: arguments, commands, log lines, pages, tables, machine facts, medians and their spread."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.machine import processor

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
Line: TypeAlias = dict[str, Any]
"""One JSON object of a log: what was measured, on which machine, when."""


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose `--help` is the docstring of the script."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_recipe(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add what a run starts from: a recipe, optional weights and `--set`."""
    parser.add_argument("recipe", nargs="?", choices=names)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `-o`, the folder of the run folders."""
    parser.add_argument("-o", "--output", type=Path, default=Path(default), metavar="FOLDER")


def add_log(parser: argparse.ArgumentParser, log: Path) -> None:
    """Add `--log`, for lines that do not belong into the repository."""
    parser.add_argument(
        "--log", type=Path, default=log, help="where the measurements go; the page is written for the default only"
    )


def add_table(parser: argparse.ArgumentParser, page: Path) -> None:
    """Add `--table`, which measures nothing."""
    parser.add_argument("--table", action="store_true", help=f"only rewrite docs/{page.name}")


def require_run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error unless a recipe and weights are named."""
    if options.recipe is None or options.weights is None:
        parser.error("give a recipe and weights, or --table")


def settings(overrides: Iterable[str]) -> list[str]:
    """Return the overrides as arguments of a command."""
    return [word for override in overrides for word in ("--set", override)]


def command(*arguments: object) -> list[str]:
    """Return an edcompress command of this Python."""
    return [sys.executable, "-m", "edcompress", *map(str, arguments)]


def edcompress(*arguments: object, quiet: bool = True, threads: int | None = None) -> None:
    """Run a command that must succeed, with its results and progress hidden when `quiet`."""
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words = command(*arguments, *(["--quiet"] if quiet else []))
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL if quiet else None)


def read_lines(log: Path) -> list[Line]:
    """Return all lines of a log; an empty list if the log does not exist."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def append_line(log: Path, line: Line) -> None:
    """Add a line to a log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def latest(lines: Iterable[Line], *keys: str) -> list[Line]:
    """Return the last line of each combination of the keys' values, in the order in which the combinations first occur."""
    return list({tuple(line[key] for key in keys): line for line in lines}.values())


def write_page(page: Path, text: str) -> None:
    """Write a page of docs/."""
    page.write_text(text, encoding="utf-8")


def row(cells: Iterable[object]) -> str:
    """Return the row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Iterable[str]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [row(head), "| --- " * len(head) + "|", *rows]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_text(found: dict[str, float], form: str = ".2f", unit: str = "") -> str:
    """Return a `spread` as a table shows it, for example "1.05x (1.01 to 1.10)"."""
    return f"{found['median']:{form}}{unit} ({found['min']:{form}} to {found['max']:{form}})"


def median_and_range(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Return the `spread` of the values as a table shows it."""
    return spread_text(spread(values), form, unit)


def today() -> str:
    """Return the date of a log line."""
    return date.today().isoformat()


def commit() -> str:
    """Return the short hash of the commit that is checked out."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, cwd=HERE, check=True).stdout.strip()


def torch_facts() -> Line:
    """Return what a training time depends on: processor, GPU, threads and versions; and the date."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor(), "gpu": gpu, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "date": today(),
    }  # fmt: skip


def torch_facts_text(facts: Line) -> str:
    """Return `torch_facts` without the GPU as a page shows them."""
    return (
        f"{facts['processor']}, {facts['threads']} threads; torch {facts['torch']}, Python {facts['python']}; "
        f"{facts['date']}."
    )


def classifier(arch: str, image_size: int, **sections: Any) -> Recipe:
    """Return the recipe of a network of ten classes, for networks with random weights that see no images of a data set."""
    return Recipe.model_validate({
        "model": {"arch": arch, "num_classes": 10}, "data": {"dataset": "image_folder", "image_size": image_size}, **sections,
    })  # fmt: skip
