"""Kill a run at a random moment and resume it: does it always finish, with the files of an uninterrupted run?

    python benchmarks/crash.py [--kills 50] [--signals 15] [--seed 0]

`edcompress run` of the digits recipe (search, surgery, fine-tuning, export, report, gate), each in its own process on one thread. Each
moment is drawn between the first message of the run and its end, again if everything had been written by then; SIGKILL `--kills` times,
then SIGTERM, SIGINT and SIGUSR1 in turn. Then the same command with --resume must finish, and the files of EQUAL must be those of the
uninterrupted run bit for bit. Each call replaces benchmarks/crash.jsonl, a line per moment, and writes docs/crash.md from it. `--table`
only writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import harness
from harness import DOCS, HERE, Line

from edcompress.core.system.machine import processor, versions

LOG = HERE / "crash.jsonl"
PAGE = DOCS / "crash.md"
EQUAL = ("plan.json", "pruned.safetensors", "search.jsonl", "epochs.jsonl", "pruned.onnx")
SETTINGS = ("search.epochs=8", "finetune.epochs=12", "run.checkpoint_every=3 steps", "benchmark.runs=20")
HEAD = """# Killed at random moments

Written by `benchmarks/crash.py` from `benchmarks/crash.jsonl`. The digits recipe through `edcompress run` (settings: `{settings}`) in its
own process; a signal at a random moment between its first message and its end; then the same command with `--resume`. Equal: {equal}
are those of the uninterrupted run, bit for bit. {machine}, one thread, torch {torch}, seeds {seeds}, {date}.

{summary}

"""
COLUMNS = ("#", "signal", "after, s", "while", "exit code", "until it exited, s", "resumed", "equal")


def main() -> None:
    """Kill and resume, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        with tempfile.TemporaryDirectory() as scratch:
            measure_all(options, Path(scratch))
    harness.write_page(PAGE, page(harness.read_lines(LOG)))


def measure_all(options: argparse.Namespace, scratch: Path) -> None:
    """Write a line per moment."""
    harness.edcompress("train", "--recipe", "digits", "-o", scratch / "dense.safetensors", threads=1)
    starts, ends = uninterrupted(scratch)
    print(f"uninterrupted: {ends:.1f} s, first message after {starts:.1f} s", flush=True)
    numbers = random.Random(options.seed)
    gentle = [("SIGTERM", "SIGINT", "SIGUSR1")[i % 3] for i in range(options.signals)]
    LOG.write_text("")
    for number, name in enumerate(["SIGKILL"] * options.kills + gentle):
        late, after = 0, numbers.uniform(starts, ends)
        while (result := interrupted(scratch, f"run{number}-{late}", name, after)) is None:
            late, after = late + 1, numbers.uniform(starts, ends)
        line = {"number": number + 1, "seed": options.seed, "late": late, **result, "unbroken_seconds": ends,
                "machine": processor(), "versions": versions(), "date": harness.today()}  # fmt: skip
        harness.append_line(LOG, line)
        print(
            f"{number + 1}: {name} after {after:.1f} s, {line['while']}: {line['resumed']}, {line['equal']}", flush=True
        )


def uninterrupted(scratch: Path) -> tuple[float, float]:
    """Return the seconds to the first message and to the end of a run that nothing interrupts, in scratch/unbroken."""
    started = time.monotonic()
    with subprocess.Popen(run_into("unbroken"), cwd=scratch, env=environment(), stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stderr
        process.stderr.readline()
        first = time.monotonic() - started
        process.stderr.read()
        assert process.wait() == 0
    return first, time.monotonic() - started


def interrupted(scratch: Path, name: str, sign: str, after: float) -> Line | None:
    """Send a signal to a run after so many seconds and resume it; return both results, or None if the run had finished by then."""
    with (scratch / "stderr").open("w+") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            run_into(name), cwd=scratch, env=environment(), stderr=said, stdout=subprocess.DEVNULL
        )
        time.sleep(max(0.0, after - (time.monotonic() - started)))
        before = (scratch / "stderr").read_text().splitlines()
        process.send_signal(getattr(signal, sign))
        sent = time.monotonic()
        code = process.wait()
        seconds = time.monotonic() - sent
    if finished(scratch / name):
        return None
    again = subprocess.run(run_into(name, *resuming(scratch / name)), cwd=scratch, env=environment(), capture_output=True,
                           text=True, check=False)  # fmt: skip
    same = [file for file in EQUAL if content(scratch / name / file) == content(scratch / "unbroken" / file)]
    return {"signal": sign, "after": after, "while": (before or ["nothing said"])[-1].strip(" •"), "code": code,
            "seconds": seconds, "resumed": again.returncode,
            "said": again.stderr.splitlines()[-3:] if again.returncode else [], "equal": same == list(EQUAL)}  # fmt: skip


def finished(folder: Path) -> bool:
    """Return whether the run in the folder has been gated, the last step."""
    report = folder / "report.json"
    return report.exists() and json.loads(report.read_text())["verdict"] is not None


def resuming(folder: Path) -> list[str]:
    """Return the option that continues a run; a folder without a recipe.yaml holds nothing of one yet."""
    if (folder / "recipe.yaml").exists():
        return ["--resume"]
    return ["--force"] if folder.exists() else []


def content(path: Path) -> bytes | None:
    """Return the bytes of a file, or None if there is none."""
    return path.read_bytes() if path.exists() else None


def run_into(name: str, *more: str) -> list[str]:
    """Return the command `edcompress run` into a folder of this name."""
    words = (
        "run",
        "dense.safetensors",
        "--recipe",
        "digits",
        "--device",
        "cpu",
        "-o",
        name,
        *harness.settings(SETTINGS),
        *more,
    )
    return harness.command(*words)


def environment() -> dict[str, str]:
    """Return the environment of a run: one thread, no colours."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def page(lines: list[Line]) -> str:
    """Return docs/crash.md."""
    one, ended = lines[0], sum(line["resumed"] == 0 for line in lines)
    gentle = [line for line in lines if line["signal"] != "SIGKILL"]
    stages = Counter(stage_of(line["while"]) for line in lines)
    summary = (
        f"{ended} of {len(lines)} finished when resumed, {sum(line['equal'] for line in lines)} of {len(lines)} equal. Moments by stage: "
        + ", ".join(f"{stage} {count}" for stage, count in stages.most_common())
        + f". {sum(line['late'] for line in lines)} further moments came after everything had been written; they are not in the table."
    )
    if gentle:
        waits = [line["seconds"] for line in gentle]
        summary += (
            f" SIGTERM, SIGINT and SIGUSR1: {sum(line['code'] == 130 for line in gentle)} of {len(gentle)} exited with 130, in "
            f"{statistics.median(waits):.2f} s in the median, {max(waits):.2f} s at most."
        )
    seeds = ", ".join(sorted({str(line["seed"]) for line in lines}))
    head = HEAD.format(settings=" ".join(SETTINGS), equal=", ".join(f"`{file}`" for file in EQUAL), machine=one["machine"],
                       torch=one["versions"]["torch"], seeds=seeds, date=one["date"], summary=summary)  # fmt: skip
    return head + "\n".join(harness.table(COLUMNS, map(table_row, lines))) + "\n"


def table_row(line: Line) -> str:
    """Return the row of one moment."""
    return harness.row((
        line["number"], line["signal"], f"{line['after']:.1f}", line["while"][:60], line["code"], f"{line['seconds']:.2f}",
        "yes" if line["resumed"] == 0 else "NO", "yes" if line["equal"] else "NO",
    ))  # fmt: skip


def stage_of(words: str) -> str:
    """Return the stage of a progress message."""
    return words.replace(":", " ").split()[0]


if __name__ == "__main__":
    main()
