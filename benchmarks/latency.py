"""Is a pruned network as much faster as it has fewer multiply-accumulates? Five networks at half their MACs, in onnxruntime.

    EDCOMPRESS_DATA=... python benchmarks/latency.py [NETWORK ...] [--weights FOLDER] [--seed 0] [--rounded-only]

Each network goes through `prune` (edropout, one short search, no fine-tuning) and `export --onnx`, once with the default rounding of
widths and once with `constraints.round_to=1`. Then dense, pruned and unrounded are measured together, several times: interleaved
blocks of calls as in `edcompress benchmark`, batch 1, one pinned thread, n calls of each. Rewrites benchmarks/latency.json and the
table of docs/latency.md. `--table` only writes the table.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import DOCS, HERE, Line

from edcompress import RunFolder, benchmark, read_recipe
from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.system.tensor_files import save_tensors
from edcompress.networks.build import new_network

LOG = HERE / "latency.json"
PAGE = DOCS / "latency.md"
SHORT = ("target.macs=0.5", "search.epochs=1", "search.evolve_every=1", "finetune.epochs=0", "benchmark.runs=20")
FEW = ("data.folder=imagenette", "data.class_index=imagenet", "data.search_fraction=0.25", "data.batch_size=8",
       "data.eval_batch_size=50", "data.workers=0")  # fmt: skip
PER_CLASS = {"train": 6, "val": 3}  # enough for random weights, of which no accuracy is asked


@dataclass(frozen=True)
class Subject:
    """A network: the recipe that prunes it, and the file name of its weights; None for random weights."""

    recipe: str
    overrides: tuple[str, ...] = ()
    weights: str | None = None


SUBJECTS = {
    "resnet18": Subject("resnet50_imagenet", ("model.arch=resnet18", *FEW)),
    "resnet50": Subject("resnet50_imagenet", FEW),
    "mobilenet_v2": Subject("resnet50_imagenet", ("model.arch=mobilenet_v2", *FEW)),
    "squeezenet1_1": Subject("squeezenet1_1_imagenette", ("data.limit=256",), "squeezenet1_1-deepscale-fp16.pth"),
    "resnet56": Subject("resnet56_cifar10", ("data.limit=2560", "constraints.round_to=8"), "resnet56-4bfd9763.th"),
}


def main() -> None:
    """Prune and measure the named networks, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("networks", nargs="*", default=list(SUBJECTS), metavar="NETWORK")
    parser.add_argument("--weights", type=Path, default=Path("checkpoints"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounded-only", action="store_true", help="without the unrounded contrast")
    harness.add_output(parser, "runs/latency")
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if options.table:
        write([])
        return
    folders = {name: prune_all(name, options) for name in options.networks}
    for name in options.networks:
        write(measured(name, folders[name], options))


def prune_all(name: str, options: argparse.Namespace) -> list[Path]:
    """Prune with the default rounding and, if asked for, with none; return the run folders. Finished ones are kept."""
    subject, stem = SUBJECTS[name], f"{name}-seed{options.seed}"
    overrides = [*SHORT, *subject.overrides, f"seed={options.seed}"]
    weights = options.weights / (subject.weights or "")
    if not subject.weights:
        overrides.append(f"data.root={few_images(options.output)}")
        weights = options.output / f"{name}.safetensors"
        save_tensors(weights, new_network(read_recipe(subject.recipe, overrides).network_spec).state_dict())
    roundings: dict[str, list[str]] = {stem: []}
    if not options.rounded_only:
        roundings[f"{stem}-unrounded"] = ["constraints.round_to=1"]
    for folder, extra in roundings.items():
        if not (options.output / folder / "pruned.onnx").exists():
            path, words = options.output / folder, harness.settings([*overrides, *extra])
            harness.edcompress("prune", weights, "--recipe", subject.recipe, "-o", path, "--force", *words)
            harness.edcompress("export", path, "--onnx")
    return [options.output / folder for folder in roundings]


def few_images(output: Path) -> Path:
    """Return a folder with links to a few images of each of Imagenette's classes."""
    root = (output / "data").absolute()
    for part, count in PER_CLASS.items():
        for source in sorted((Path(os.environ["EDCOMPRESS_DATA"]) / "imagenette" / part).iterdir()):
            linked = root / "imagenette" / part / source.name
            linked.mkdir(parents=True, exist_ok=True)
            for image in sorted(source.iterdir())[:count]:
                (linked / image.name).unlink(missing_ok=True)
                (linked / image.name).symlink_to(image.absolute())
    return root


def measured(name: str, folders: list[Path], options: argparse.Namespace) -> list[Line]:
    """Return a line per run folder: MACs of the dense and the pruned network, and their p50 in milliseconds in each repetition."""
    files = [folders[0] / "dense.onnx", *(folder / "pruned.onnx" for folder in folders)]
    repeats = [benchmark(files, Benchmark(runs=options.runs)) for _ in range(options.repeats)]
    p50 = {file: [latency[str(file)][0].p50 for latency in repeats] for file in files}
    return [
        {**facts(name, folder), "p50_ms": {"dense": p50[files[0]], "pruned": p50[folder / "pruned.onnx"]}, "n": options.runs}
        for folder in folders
    ]  # fmt: skip


def facts(name: str, folder: Path) -> Line:
    """Return all parts of a line except its latencies."""
    run = RunFolder(folder)
    report, recipe = run.read_report(), run.read_recipe()
    return {
        "network": name,
        "weights": "trained" if SUBJECTS[name].weights else "random",
        "seed": recipe.seed,
        "round_to": report.target.round_to,
        "macs": {"dense": report.dense.size.macs, "pruned": report.pruned.size.macs},
        "machine": report.machine,
        "versions": report.versions,
        "date": harness.today(),
    }


def write(lines: list[Line]) -> None:
    """Replace the lines of the same network, rounding, seed and machine in the log, and rewrite the table of the page."""
    old = json.loads(LOG.read_text()) if LOG.exists() else []
    kept = {place(entry): entry for entry in [*old, *lines]}
    ordered = [kept[key] for key in sorted(kept)]
    LOG.write_text(json.dumps(ordered, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(MARK)
    found = "\n".join(harness.table(HEAD, map(table_row, ordered)))
    harness.write_page(PAGE, f"{head}{MARK}\n\n{found}\n{MARK}{rest.partition(MARK)[2]}")


def place(line: Line) -> tuple[str, int, int, int]:
    """Return the sort key of a line: machine and network, the rounded ones first, seed."""
    return line["machine"]["processor"], list(SUBJECTS).index(line["network"]), -line["round_to"], line["seed"]


MARK = "<!-- table -->"
HEAD = ("network", "weights", "seed", "round_to", "MACs, fewer", "p50 dense, ms", "p50 pruned, ms", "speed-up", "speed-up / MACs",
        "repeats x n", "machine", "onnxruntime", "date")  # fmt: skip


def table_row(line: Line) -> str:
    """Return a row of the table: medians over the repetitions, with the smallest and the largest."""
    p50, fewer = line["p50_ms"], line["macs"]["dense"] / line["macs"]["pruned"]
    faster = [dense / pruned for dense, pruned in zip(p50["dense"], p50["pruned"], strict=True)]
    spread = harness.median_and_range
    return harness.row((
        line["network"], line["weights"], line["seed"], line["round_to"], f"{fewer:.2f}x", spread(p50["dense"]),
        spread(p50["pruned"]), spread(faster), f"**{spread([value / fewer for value in faster])}**",
        f"{len(faster)} x {line['n']}", line["machine"]["processor"], line["versions"]["onnxruntime"], line["date"],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
