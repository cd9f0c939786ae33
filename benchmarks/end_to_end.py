"""The README's table: a checkpoint through `prune`, `export --onnx` and `gate`, as a user runs them.

    python benchmarks/end_to_end.py resnet20_cifar10 CHECKPOINT [--seed 0 ...] [--set KEY=VALUE ...] [-o FOLDER]
    python benchmarks/end_to_end.py resnet18_fashion    # without a checkpoint the recipe's `train` section makes one first, once

What was stopped goes on with the same command; a `prune` that is done is exported and measured again, and has a line more.
Latency is dense and pruned interleaved, n calls each (see report.json); the speed-up is the ratio of the medians, with its interval.
Appends one JSON line per run to benchmarks/results.jsonl and rewrites docs/results.md from all of its lines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.measures import Interval
from edcompress.core.results.report import Report
from edcompress.report.gate.recommendation import recommend
from edcompress.report.render.formatting import speedup
from edcompress.workflows.train import unfinished

HERE = Path(__file__).parent
LOG = HERE / "results.jsonl"
PAGE = HERE.parent / "docs" / "results.md"
HEAD = """# Measured results

Written by `benchmarks/end_to_end.py` from `benchmarks/results.jsonl`; one line per run, all through the command line.
Top-1 is on the test images (correct of total). Latency is the onnxruntime median at batch 1 on one pinned thread, dense and pruned
interleaved; the spread is p50 to p90. Minutes are of `prune` alone.

| recipe | seed | method | top-1 dense | top-1 pruned | MACs left | parameters left | p50 (p90) dense, ms | p50 (p90) pruned, ms | n | speed-up | largest relative difference in the proofs | gate | minutes | machine | date |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501
FILES = """
## Other precisions

Of the runs above that have them: `export --int8 --fp16`, calibrated on the search split, measured like pruned.onnx and beside it.
int8 is quickest where the processor multiplies it (VNNI).

| recipe | seed | file | top-1 on the test images, in onnxruntime | p50 (p90), ms | size, MB | to ship |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Run every seed and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for seed in options.seed:
        line = measure(options.recipe, options.checkpoint, seed, options.output, options.overrides)
        with LOG.open("a") as log:
            log.write(json.dumps(line) + "\n")
    PAGE.parent.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    PAGE.write_text(page(lines))


def page(lines: list[dict[str, Any]]) -> str:
    """docs/results.md."""
    others = "".join(map(files, lines))
    return HEAD + "".join(map(row, lines)) + (FILES + others if others else "")


def measure(name: str, checkpoint: Path | None, seed: int, output: Path, overrides: list[str]) -> dict[str, Any]:
    """One run's line: its report, and the gate's exit code."""
    settings = [f"seed={seed}", *overrides]
    recipe = read_recipe(name, settings)
    folder = output / f"{recipe.name}-seed{seed}-{recipe.digest}"
    as_asked = ["--recipe", name, *(part for setting in settings for part in ("--set", setting))]
    if checkpoint is None:
        checkpoint = output / f"{recipe.name}-seed{seed}-dense-{recipe.training_digest}.safetensors"
        begun = unfinished(checkpoint).exists()
        if begun or not checkpoint.exists():
            edcompress("train", *as_asked, "-o", str(checkpoint), *_again(begun))
    edcompress("prune", str(checkpoint), *as_asked, "-o", str(folder), *_again((folder / "recipe.yaml").exists()))
    edcompress("export", str(folder), "--onnx", "--int8", "--fp16")
    gate = subprocess.run([sys.executable, "-m", "edcompress", "gate", str(folder)], check=False).returncode
    report = json.loads((folder / "report.json").read_text())
    return {"report": report, "gate": gate, "overrides": overrides, "date": date.today().isoformat()}


def _again(begun: bool) -> list[str]:
    return ["--resume"] if begun else []


def edcompress(*arguments: str) -> None:
    """Run a command that must succeed."""
    subprocess.run([sys.executable, "-m", "edcompress", *arguments], check=True)


def row(line: dict[str, Any]) -> str:
    """A row of the table."""
    report = line["report"]
    dense, pruned = report["dense"], report["pruned"]
    before, after = dense["latency_ms"], pruned["latency_ms"]
    worst = max(proof["max_abs_diff"] / proof["scale"] for proof in report["proof"].values() if proof)
    about = report["machine"]
    machine = (
        f"{about['processor']}, {about['threads']} threads, {about['precision']}, torch {report['versions']['torch']}"
    )
    cells = [
        recipe_of(line), report["seed"], report["search"]["method"],
        counted(dense), counted(pruned),
        f"{pruned['size']['macs'] / dense['size']['macs']:.1%}", f"{pruned['size']['params'] / dense['size']['params']:.1%}",
        f"{before['p50']:.3f} ({before['p90']:.3f})", f"{after['p50']:.3f} ({after['p90']:.3f})", after["n"],
        faster(before, after), f"{worst:.1e}", "pass" if line["gate"] == 0 else "FAIL",
        f"{report['seconds'] / 60:.1f}", machine, line["date"],
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def files(line: dict[str, Any]) -> str:
    """The rows of a run's files, none where it has pruned.onnx alone."""
    report = line["report"]
    variants = {variant["file"]: variant["measured"] for variant in report.get("variants", {}).values()}
    shipped = recommend(Report.model_validate(report), read_recipe(report["recipe"], line["overrides"]).gate).file
    everything = {"dense.onnx": report["dense"], "pruned.onnx": report["pruned"], **variants} if variants else {}
    return "".join(
        f"| {recipe_of(line)} | {report['seed']} | {file} | {counted(measured, 'onnx_accuracy')} | "
        f"{measured['latency_ms']['p50']:.3f} ({measured['latency_ms']['p90']:.3f}) | {measured['size']['onnx_bytes'] / 1e6:.2f} | "
        f"{'yes' if shipped == file else ''} |\n"
        for file, measured in everything.items()
    )


def recipe_of(line: dict[str, Any]) -> str:
    """The recipe's name, and what was set beside it."""
    return " ".join([line["report"]["recipe"], *line["overrides"]])


def faster(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The speed-up, with its interval where the run has one."""
    interval = after.get("speedup")
    return speedup(Interval.model_validate(interval)) if interval else f"{before['p50'] / after['p50']:.2f}x"


def counted(result: dict[str, Any], what: str = "accuracy") -> str:
    """Top-1 as per cent and as counts."""
    top1 = result[what]["top1"]
    return f"{top1['correct'] / top1['total']:.2%} ({top1['correct']}/{top1['total']})"


if __name__ == "__main__":
    main()
