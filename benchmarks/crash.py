"""A run that is killed at a random moment, and resumed: does it always end, and with what an unbroken run ends with?

    python benchmarks/crash.py [--kills 50] [--signals 15] [--seed 0]

The digits recipe, `edcompress run` (search, surgery, fine-tuning, export, report, gate), in processes of their own on one thread. Each
moment is drawn between the first words of the run and its end, again where all had been written by then; SIGKILL `--kills` times, then
SIGTERM, SIGINT and SIGUSR1 in turn. Then the same command with --resume must end, and the files of EQUAL must be the unbroken run's
bit for bit. Writes a line per moment to benchmarks/crash.jsonl, anew for each call, and docs/crash.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from edcompress.core.system.machine import processor, versions

HERE = Path(__file__).parent
LOG = HERE / "crash.jsonl"
PAGE = HERE.parent / "docs" / "crash.md"
EQUAL = ("plan.json", "pruned.safetensors", "search.jsonl", "epochs.jsonl", "pruned.onnx")
SETTINGS = ("search.epochs=8", "finetune.epochs=12", "run.checkpoint_every=3 steps", "benchmark.runs=20")
HEAD = """# Killed at random moments

Written by `benchmarks/crash.py` from `benchmarks/crash.jsonl`. The digits recipe through `edcompress run` (settings: `{settings}`) in a
process of its own; a signal at a random moment between its first words and its end; then the same command with `--resume`. Equal: {equal}
are the unbroken run's bit for bit. {machine}, one thread, torch {torch}, seeds {seeds}, {date}.

{summary}

| # | signal | after, s | while | exit code | until it exited, s | resumed | equal |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Kill and resume, and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only rewrite docs/crash.md")
    options = parser.parse_args()
    if not options.page:
        with tempfile.TemporaryDirectory() as scratch:
            measure_all(options, Path(scratch))
    PAGE.write_text(page([json.loads(line) for line in LOG.read_text().splitlines()]))


def measure_all(options: argparse.Namespace, scratch: Path) -> None:
    """A line per moment."""
    subprocess.run([*edcompress("train"), "--recipe", "digits", "-o", str(scratch / "dense.safetensors"), "--quiet"],
                   check=True, env=environment(), stdout=subprocess.DEVNULL)  # fmt: skip
    starts, ends = unbroken(scratch)
    print(f"unbroken: {ends:.1f} s, first words after {starts:.1f} s", flush=True)
    numbers = random.Random(options.seed)
    gentle = [("SIGTERM", "SIGINT", "SIGUSR1")[i % 3] for i in range(options.signals)]
    LOG.write_text("")
    for number, name in enumerate(["SIGKILL"] * options.kills + gentle):
        late, after = 0, numbers.uniform(starts, ends)
        while (became := broken(scratch, f"run{number}-{late}", name, after)) is None:
            late, after = late + 1, numbers.uniform(starts, ends)
        line = {"number": number + 1, "seed": options.seed, "late": late, **became, "unbroken_seconds": ends,
                "machine": processor(), "versions": versions(), "date": date.today().isoformat()}  # fmt: skip
        with LOG.open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(
            f"{number + 1}: {name} after {after:.1f} s, {line['while']}: {line['resumed']}, {line['equal']}", flush=True
        )


def unbroken(scratch: Path) -> tuple[float, float]:
    """Seconds to the first words and to the end of a run that nothing ends, in scratch/unbroken."""
    started = time.monotonic()
    with subprocess.Popen(command("unbroken"), cwd=scratch, env=environment(), stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stderr
        process.stderr.readline()
        first = time.monotonic() - started
        process.stderr.read()
        assert process.wait() == 0
    return first, time.monotonic() - started


def broken(scratch: Path, name: str, sign: str, after: float) -> dict[str, Any] | None:
    """What became of a run that got a signal after so many seconds, and of its resumption; None when all had been written by then."""
    with (scratch / "stderr").open("w+") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            command(name), cwd=scratch, env=environment(), stderr=said, stdout=subprocess.DEVNULL
        )
        time.sleep(max(0.0, after - (time.monotonic() - started)))
        before = (scratch / "stderr").read_text().splitlines()
        process.send_signal(getattr(signal, sign))
        sent = time.monotonic()
        code = process.wait()
        seconds = time.monotonic() - sent
    if finished(scratch / name):
        return None
    again = subprocess.run(command(name, *resuming(scratch / name)), cwd=scratch, env=environment(), capture_output=True, text=True,
                           check=False)  # fmt: skip
    same = [file for file in EQUAL if content(scratch / name / file) == content(scratch / "unbroken" / file)]
    return {"signal": sign, "after": after, "while": (before or ["nothing said"])[-1].strip(" •"), "code": code,
            "seconds": seconds, "resumed": again.returncode,
            "said": again.stderr.splitlines()[-3:] if again.returncode else [], "equal": same == list(EQUAL)}  # fmt: skip


def finished(folder: Path) -> bool:
    """Whether the run in the folder had been gated, which is the last that is written."""
    report = folder / "report.json"
    return report.exists() and json.loads(report.read_text())["verdict"] is not None


def resuming(folder: Path) -> list[str]:
    """What is said after `run` to go on: a folder without a recipe.yaml has nothing of a run yet."""
    if (folder / "recipe.yaml").exists():
        return ["--resume"]
    return ["--force"] if folder.exists() else []


def content(path: Path) -> bytes | None:
    """The bytes of a file, None where there is none."""
    return path.read_bytes() if path.exists() else None


def command(name: str, *more: str) -> list[str]:
    """`edcompress run` into a folder of this name."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [
        *edcompress("run"),
        "dense.safetensors",
        "--recipe",
        "digits",
        "--device",
        "cpu",
        "-o",
        name,
        *settings,
        *more,
    ]


def edcompress(verb: str) -> list[str]:
    """The beginning of a command."""
    return [sys.executable, "-m", "edcompress", verb]


def environment() -> dict[str, str]:
    """One thread, no colours."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def page(lines: list[dict[str, Any]]) -> str:
    """docs/crash.md."""
    one, ended = lines[0], sum(line["resumed"] == 0 for line in lines)
    gentle = [line for line in lines if line["signal"] != "SIGKILL"]
    stages = Counter(stage_of(line["while"]) for line in lines)
    summary = (
        f"{ended} of {len(lines)} ended when resumed, {sum(line['equal'] for line in lines)} of {len(lines)} equal. Moments by stage: "
        + ", ".join(f"{stage} {count}" for stage, count in stages.most_common())
        + f". {sum(line['late'] for line in lines)} further moments came when all had been written, and are not in the table."
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
    return head + "".join(
        f"| {line['number']} | {line['signal']} | {line['after']:.1f} | {line['while'][:60]} | {line['code']} | {line['seconds']:.2f} | "
        f"{'yes' if line['resumed'] == 0 else 'NO'} | {'yes' if line['equal'] else 'NO'} |\n"
        for line in lines
    )


def stage_of(words: str) -> str:
    """The stage that the last words belong to."""
    return words.replace(":", " ").split()[0]


if __name__ == "__main__":
    main()
