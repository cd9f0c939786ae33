"""The table of the README: weights through `prune`, `export --onnx` and `gate`, as a user runs them.

    python benchmarks/end_to_end.py resnet20_cifar10 WEIGHTS [--seed 0 ...] [--set KEY=VALUE ...] [-o FOLDER]
    python benchmarks/end_to_end.py resnet18_fashion    # without weights the recipe's `train` section makes them first, once

The same command continues an interrupted run; a finished `prune` is exported and measured again, which adds a line.
Dense and pruned are timed interleaved, n calls each (see report.json); the speed-up is the ratio of the medians, with its interval.
Appends one JSON line per run to benchmarks/results.jsonl and rewrites docs/results.md from all lines. `--table` only writes the page.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import harness
from harness import DOCS, HERE, Line

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.measures import Interval
from edcompress.core.results.report import Report
from edcompress.report.gate.recommendation import recommend
from edcompress.report.render.formatting import speedup
from edcompress.workflows.train import unfinished

LOG = HERE / "results.jsonl"
PAGE = DOCS / "results.md"
HEAD = """# Measured results

Written by `benchmarks/end_to_end.py` from `benchmarks/results.jsonl`; one line per run, all through the command line.
Top-1 is on the test images (correct of total). Latency is the onnxruntime median at batch 1 on one pinned thread, dense and pruned
interleaved; the spread is p50 to p90. Minutes are of `prune` alone.

"""
COLUMNS = ("recipe", "seed", "method", "top-1 dense", "top-1 pruned", "MACs left", "parameters left", "p50 (p90) dense, ms",
           "p50 (p90) pruned, ms", "n", "speed-up", "largest relative difference in the proofs", "gate", "minutes", "machine",
           "date")  # fmt: skip
FILES = """
## Other precisions

Of the runs above that have them: `export --int8 --fp16`, calibrated on the search split, measured like pruned.onnx and beside it.
int8 is fastest on processors with int8 multiplication (VNNI).

"""
FILE_COLUMNS = (
    "recipe",
    "seed",
    "file",
    "top-1 on the test images, in onnxruntime",
    "p50 (p90), ms",
    "size, MB",
    "to ship",
)


def main() -> None:
    """Run every seed and rewrite the page."""
    parser = harness.new_parser(__doc__)
    harness.add_recipe(parser)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    harness.add_output(parser, "runs")
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        if options.recipe is None:
            parser.error("give a recipe, or --table")
        for seed in options.seed:
            harness.append_line(LOG, measure(options.recipe, options.weights, seed, options.output, options.overrides))
    harness.write_page(PAGE, page(harness.read_lines(LOG)))


def page(lines: list[Line]) -> str:
    """Return docs/results.md."""
    text = HEAD + "\n".join(harness.table(COLUMNS, map(run_row, lines))) + "\n"
    others = [one for line in lines for one in file_rows(line)]
    return text + FILES + "\n".join(harness.table(FILE_COLUMNS, others)) + "\n" if others else text


def measure(name: str, weights: Path | None, seed: int, output: Path, overrides: list[str]) -> Line:
    """Prune, export and gate; return the report and the exit code of the gate."""
    chosen = [f"seed={seed}", *overrides]
    recipe = read_recipe(name, chosen)
    folder = output / f"{recipe.name}-seed{seed}-{recipe.digest}"
    words = ["--recipe", name, *harness.settings(chosen)]
    if weights is None:
        weights = output / f"{recipe.name}-seed{seed}-dense-{recipe.training_digest}.safetensors"
        started = unfinished(weights).exists()
        if started or not weights.exists():
            harness.edcompress("train", *words, "-o", weights, *_resume(started), quiet=False)
    harness.edcompress("prune", weights, *words, "-o", folder, *_resume((folder / "recipe.yaml").exists()), quiet=False)
    harness.edcompress("export", folder, "--onnx", "--int8", "--fp16", quiet=False)
    gate = subprocess.run(harness.command("gate", folder), check=False).returncode
    report = json.loads((folder / "report.json").read_text())
    return {"report": report, "gate": gate, "overrides": overrides, "date": harness.today()}


def _resume(started: bool) -> list[str]:
    return ["--resume"] if started else []


def run_row(line: Line) -> str:
    """Return the row of a run."""
    report = line["report"]
    dense, pruned = report["dense"], report["pruned"]
    before, after = dense["latency_ms"], pruned["latency_ms"]
    worst = max(proof["max_abs_diff"] / proof["scale"] for proof in report["proof"].values() if proof)
    about = report["machine"]
    machine = (
        f"{about['processor']}, {about['threads']} threads, {about['precision']}, torch {report['versions']['torch']}"
    )
    return harness.row((
        recipe_of(line), report["seed"], report["search"]["method"],
        counted(dense), counted(pruned),
        f"{pruned['size']['macs'] / dense['size']['macs']:.1%}", f"{pruned['size']['params'] / dense['size']['params']:.1%}",
        f"{before['p50']:.3f} ({before['p90']:.3f})", f"{after['p50']:.3f} ({after['p90']:.3f})", after["n"],
        faster(before, after), f"{worst:.1e}", "pass" if line["gate"] == 0 else "FAIL",
        f"{report['seconds'] / 60:.1f}", machine, line["date"],
    ))  # fmt: skip


def file_rows(line: Line) -> list[str]:
    """Return a row for each file of a run, none if it has pruned.onnx alone."""
    report = line["report"]
    variants = {variant["file"]: variant["measured"] for variant in report.get("variants", {}).values()}
    shipped = recommend(Report.model_validate(report), read_recipe(report["recipe"], line["overrides"]).gate).file
    everything = {"dense.onnx": report["dense"], "pruned.onnx": report["pruned"], **variants} if variants else {}
    return [
        harness.row((
            recipe_of(line), report["seed"], file, counted(measured, "onnx_accuracy"),
            f"{measured['latency_ms']['p50']:.3f} ({measured['latency_ms']['p90']:.3f})",
            f"{measured['size']['onnx_bytes'] / 1e6:.2f}", "yes" if shipped == file else "",
        ))
        for file, measured in everything.items()
    ]  # fmt: skip


def recipe_of(line: Line) -> str:
    """Return the name of the recipe and its overrides."""
    return " ".join([line["report"]["recipe"], *line["overrides"]])


def faster(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the speed-up, with its interval if the run has one."""
    interval = after.get("speedup")
    return speedup(Interval.model_validate(interval)) if interval else f"{before['p50'] / after['p50']:.2f}x"


def counted(result: dict[str, Any], what: str = "accuracy") -> str:
    """Return top-1 in per cent and as counts."""
    top1 = result[what]["top1"]
    return f"{top1['correct'] / top1['total']:.2%} ({top1['correct']}/{top1['total']})"


if __name__ == "__main__":
    main()
