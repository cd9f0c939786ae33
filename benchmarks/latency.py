"""Is a pruned network as much faster as it has fewer multiply-accumulates? Five networks at half their MACs, in onnxruntime.

    EDCOMPRESS_DATA=... python benchmarks/latency.py [NETWORK ...] [--checkpoints FOLDER] [--seed 0] [--rounded-only]

Each network goes through `prune` (edropout, one short search, no fine-tuning) and `export --onnx`, once with the default rounding of
widths and once with `constraints.round_to=1`. Then dense, pruned and unrounded are measured together: interleaved blocks of calls as
`edcompress benchmark` makes them, batch 1, one pinned thread, n calls of each, several times over. Rewrites
benchmarks/latency.json and docs/latency.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from edcompress import RunFolder, benchmark, read_recipe
from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.system.tensor_files import save_tensors
from edcompress.networks.build import new_network

HERE = Path(__file__).parent
LOG = HERE / "latency.json"
PAGE = HERE.parent / "docs" / "latency.md"
SHORT = ("target.macs=0.5", "search.epochs=1", "search.evolve_every=1", "finetune.epochs=0", "benchmark.runs=20")
FEW = ("data.folder=imagenette", "data.class_index=imagenet", "data.search_fraction=0.25", "data.batch_size=8",
       "data.eval_batch_size=50", "data.workers=0")  # fmt: skip
PER_CLASS = {"train": 6, "val": 3}  # images that random weights see: no accuracy is asked of them


@dataclass(frozen=True)
class Subject:
    """A network: the recipe it is pruned by, and its checkpoint's file name; None for random weights."""

    recipe: str
    overrides: tuple[str, ...] = ()
    checkpoint: str | None = None


SUBJECTS = {
    "resnet18": Subject("resnet50_imagenet", ("model.arch=resnet18", *FEW)),
    "resnet50": Subject("resnet50_imagenet", FEW),
    "mobilenet_v2": Subject("resnet50_imagenet", ("model.arch=mobilenet_v2", *FEW)),
    "squeezenet1_1": Subject("squeezenet1_1_imagenette", ("data.limit=256",), "squeezenet1_1-deepscale-fp16.pth"),
    "resnet56": Subject("resnet56_cifar10", ("data.limit=2560", "constraints.round_to=8"), "resnet56-4bfd9763.th"),
}


def main() -> None:
    """Prune and measure the named networks, and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(SUBJECTS), metavar="NETWORK")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounded-only", action="store_true", help="leave the unrounded contrast out")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/latency"))
    options = parser.parse_args()
    folders = {name: prune_all(name, options) for name in options.networks}
    for name in options.networks:
        write(measured(name, folders[name], options))


def prune_all(name: str, options: argparse.Namespace) -> list[Path]:
    """The run folders of the network pruned with the default rounding and, unless left out, with none; finished ones are kept."""
    subject, stem = SUBJECTS[name], f"{name}-seed{options.seed}"
    overrides = [*SHORT, *subject.overrides, f"seed={options.seed}"]
    checkpoint = options.checkpoints / (subject.checkpoint or "")
    if not subject.checkpoint:
        overrides.append(f"data.root={few_images(options.output)}")
        checkpoint = options.output / f"{name}.safetensors"
        save_tensors(checkpoint, new_network(read_recipe(subject.recipe, overrides).network_spec).state_dict())
    roundings: dict[str, list[str]] = {stem: []}
    if not options.rounded_only:
        roundings[f"{stem}-unrounded"] = ["constraints.round_to=1"]
    for folder, extra in roundings.items():
        if not (options.output / folder / "pruned.onnx").exists():
            settings = [part for override in (*overrides, *extra) for part in ("--set", override)]
            path = str(options.output / folder)
            edcompress("prune", str(checkpoint), "--recipe", subject.recipe, "-o", path, "--force", *settings)
            edcompress("export", path, "--onnx")
    return [options.output / folder for folder in roundings]


def few_images(output: Path) -> Path:
    """A folder with links to a few images of each of Imagenette's classes."""
    root = (output / "data").absolute()
    for part, count in PER_CLASS.items():
        for source in sorted((Path(os.environ["EDCOMPRESS_DATA"]) / "imagenette" / part).iterdir()):
            linked = root / "imagenette" / part / source.name
            linked.mkdir(parents=True, exist_ok=True)
            for image in sorted(source.iterdir())[:count]:
                (linked / image.name).unlink(missing_ok=True)
                (linked / image.name).symlink_to(image.absolute())
    return root


def edcompress(*arguments: str) -> None:
    """Run a command that must succeed."""
    subprocess.run([sys.executable, "-m", "edcompress", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def measured(name: str, folders: list[Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line per run folder: MACs of the dense and the pruned network, and their p50 in milliseconds in each repetition."""
    files = [folders[0] / "dense.onnx", *(folder / "pruned.onnx" for folder in folders)]
    repeats = [benchmark(files, Benchmark(runs=options.runs)) for _ in range(options.repeats)]
    p50 = {file: [latency[str(file)][0].p50 for latency in repeats] for file in files}
    return [
        {**facts(name, folder), "p50_ms": {"dense": p50[files[0]], "pruned": p50[folder / "pruned.onnx"]}, "n": options.runs}
        for folder in folders
    ]  # fmt: skip


def facts(name: str, folder: Path) -> dict[str, Any]:
    """What a run folder says of a line besides its latency."""
    run = RunFolder(folder)
    report, recipe = run.read_report(), run.read_recipe()
    return {
        "network": name,
        "weights": "checkpoint" if SUBJECTS[name].checkpoint else "random",
        "seed": recipe.seed,
        "round_to": report.target.round_to,
        "macs": {"dense": report.dense.size.macs, "pruned": report.pruned.size.macs},
        "machine": report.machine,
        "versions": report.versions,
        "date": date.today().isoformat(),
    }


def write(lines: list[dict[str, Any]]) -> None:
    """Put the lines in the log in place of those of the same network, rounding, seed and machine, and rewrite the page's table."""
    old = json.loads(LOG.read_text()) if LOG.exists() else []
    kept = {place(entry): entry for entry in [*old, *lines]}
    ordered = [kept[key] for key in sorted(kept)]
    LOG.write_text(json.dumps(ordered, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(MARK)
    PAGE.write_text(f"{head}{MARK}\n{HEAD}{''.join(row(entry) for entry in ordered)}{MARK}{rest.partition(MARK)[2]}")


def place(line: dict[str, Any]) -> tuple[str, int, int, int]:
    """Where the line stands in the table: by machine and network, the rounded ones first, by seed."""
    return line["machine"]["processor"], list(SUBJECTS).index(line["network"]), -line["round_to"], line["seed"]


MARK = "<!-- table -->"
HEAD = """
| network | weights | seed | round_to | MACs, fewer | p50 dense, ms | p50 pruned, ms | speed-up | speed-up / MACs | repeats x n | machine | onnxruntime | date |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


def row(line: dict[str, Any]) -> str:
    """A row of the table: medians over the repetitions, with the least and the largest."""
    p50, fewer = line["p50_ms"], line["macs"]["dense"] / line["macs"]["pruned"]
    faster = [dense / pruned for dense, pruned in zip(p50["dense"], p50["pruned"], strict=True)]
    cells = [
        line["network"], line["weights"], line["seed"], line["round_to"], f"{fewer:.2f}x", spread(p50["dense"]), spread(p50["pruned"]),
        spread(faster), f"**{spread([value / fewer for value in faster])}**", f"{len(faster)} x {line['n']}",
        line["machine"]["processor"], line["versions"]["onnxruntime"], line["date"],
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def spread(values: list[float]) -> str:
    """The median with the least and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
