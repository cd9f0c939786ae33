"""Deliberate faults in the code that decides: how many of a random sample do the nearest tests notice?

    pip install mutmut
    python benchmarks/mutation.py --sample 50 --seed 0

mutmut makes the faults (it changes an operator, a constant or an argument) in a copy of the last commit, and runs for each the tests that
reach the changed function. A fault that no test notices has survived: look at it, and write the test if the fault matters. Appends a line
per package to benchmarks/mutation.jsonl.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import harness
from harness import HERE, Line

ROOT = HERE.parent
LOG = HERE / "mutation.jsonl"
ROOMS = {
    "pruning/search": ("tests/pruning", "tests/workflows/stages"),
    "pruning/cost": ("tests/pruning",),
    "pruning/surgery": ("tests/pruning",),
    "training": ("tests/training", "tests/workflows/stages", "tests/workflows/test_train.py"),
    "report/gate": ("tests/report", "tests/workflows/test_gate.py"),
}
"""The packages that get faults, and their nearest tests."""

ANSWERS = {
    0: "survived",
    1: "killed",
    3: "killed",
    5: "untested",
    33: "untested",
    24: "timeout",
    36: "timeout",
    -24: "timeout",
}
# test_limit_registry starts processes with a copy of the package, in which mutmut does not find its settings.
SETUP = """[mutmut]
source_paths=edcompress
only_mutate=edcompress/{room}/*.py
also_copy=
    recipes
    docs
    benchmarks
    README.md
    CHANGELOG.md
    LICENSE
pytest_add_cli_args=
    -n0
    -x
    -p
    no:cacheprovider
    --ignore=tests/report/gate/test_limit_registry.py
pytest_add_cli_args_test_selection=
    {tests}
"""


def main() -> None:
    """Sample faults in each package, log one line per package, and print what survived."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--sample", type=int, default=50, help="faults per package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", choices=ROOMS, help="default: all; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at once")
    parser.add_argument("--log", type=Path, default=LOG, help="the file of the lines")
    options = parser.parse_args()
    for room in options.room or ROOMS:
        found, diffs = tried(room, options.sample, options.seed, options.jobs)
        counts = Counter(found.values())
        line: Line = {
            "room": room,
            "seed": options.seed,
            "mutmut": version("mutmut"),
            **counts,
            "survivors": sorted(diffs),
        }
        harness.append_line(options.log, line)
        print(f"{room}: {len(found)} faults, {dict(counts)}")
        for diff in diffs.values():
            print(diff)


def tried(room: str, sample: int, seed: int, jobs: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the answer to each sampled fault of a package by its name, and the diffs of those that survived."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(copy, filter="data")
        (copy / "setup.cfg").write_text(SETUP.format(room=room, tests="\n    ".join(ROOMS[room])), encoding="utf-8")
        output = mutmut(copy, ["run", "--max-children", str(jobs), f"edcompress.{room.replace('/', '.')}.none.of.them"])
        names = sorted(answers(copy, room))
        if not names or not (copy / "mutants" / "mutmut-stats.json").exists():
            raise RuntimeError(f"mutmut made no faults in {room}, or the tests fail without any:\n{output}")
        chosen = random.Random(seed).sample(names, min(sample, len(names)))
        mutmut(copy, ["run", "--max-children", str(jobs), *chosen])
        all_answers = answers(copy, room)
        found = {name: ANSWERS.get(code, "killed") for name in chosen if (code := all_answers[name]) is not None}
        diffs = {name: mutmut(copy, ["show", name]) for name, answer in found.items() if answer == "survived"}
    return found, diffs


def answers(copy: Path, room: str) -> dict[str, int | None]:
    """Return the exit code of the tests for each fault of a package; None if it was not tried."""
    found: dict[str, int | None] = {}
    for path in (copy / "mutants" / "edcompress" / room).glob("*.py.meta"):
        codes: Mapping[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= codes
    return found


def mutmut(copy: Path, arguments: Sequence[str]) -> str:
    """Run mutmut and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EDCOMPRESS_DATA")}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = ["mutmut", *arguments]
    return subprocess.run(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


if __name__ == "__main__":
    main()
