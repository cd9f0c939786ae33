"""EDropout against its controls: every method with the same epochs in all, the same recovery and the same rounding.

    python benchmarks/compare.py resnet20_cifar10 CHECKPOINT --size small --budgets 0.5 0.3 0.12 --seeds 0 1 2 [--jobs 2]

Each cell is one `edcompress prune` of its own. A finished one stands as a line in benchmarks/compare.jsonl and is not run again; one
that was stopped goes on from its last epoch. docs/compare.md is rewritten from all lines: mean top-1 on the test images, and the
range over the seeds. `--table` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
import yaml
from torch.nn import functional as F

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.devices import pick_device
from edcompress.core.system.machine import usable_cores
from edcompress.data.batches import train_batches
from edcompress.data.splits import open_splits
from edcompress.networks.build import example_images, read_network
from edcompress.pruning.space.plan import plan_of
from edcompress.pruning.tracing.depgraph import PRUNERS
from edcompress.training.precision import choose_precision
from edcompress.workflows.stages.one_shot import TAYLOR_BATCHES
from edcompress.workflows.stages.starting_point import budget_of, space_of, time_dense

HERE = Path(__file__).parent
LOG = HERE / "compare.jsonl"
PAGE = HERE.parent / "docs" / "compare.md"
PAPER = HERE.parent / "recipes" / "presets" / "paper.yaml"

NARROW = (
    "constraints.round_to=1",
    "constraints.min_ratio=0.05",
)  # groups of 16 channels leave a multiple of 8 no choice
HARD = ("finetune.lr=0.05", "finetune.distill=0")  # no soft labels of the dense network
SIZES: dict[tuple[str, str], tuple[str, ...]] = {
    ("resnet20_cifar10", "small"): (
        *NARROW, "data.limit=12800", "search.epochs=3", "finetune.epochs=5", *HARD),
    ("resnet20_cifar10", "full"): (*NARROW, "search.epochs=8", "finetune.epochs=32", *HARD),
    ("resnet56_cifar10", "small"): (
        "constraints.round_to=4", "data.search_fraction=0.1", "search.epochs=6", "finetune.epochs=14", *HARD),
    ("resnet56_cifar10", "full"): ("search.epochs=12", "finetune.epochs=88"),
    ("resnet18_fashion", "small"): ("data.limit=12800", "search.epochs=3", "finetune.epochs=5"),
    ("resnet18_fashion", "full"): (),
    ("squeezenet1_1_imagenette", "small"): (),
    ("squeezenet1_1_imagenette", "full"): ("search.epochs=8", "finetune.epochs=22"),
}  # fmt: skip
METHODS = {
    "edropout": "EDropout (default)",
    "edropout_paper": "EDropout (paper's search, under the budget)",
    "gradual_magnitude": "gradual magnitude",
    "magnitude": "magnitude",
    "taylor": "Taylor",
    "random": "random",
    "global_magnitude": "global magnitude (normalised)",
    "global_taylor": "global Taylor per MAC",
    "lamp": "LAMP",
    "tp_group_magnitude": "Torch-Pruning GroupMagnitude",
    "tp_group_taylor": "Torch-Pruning GroupTaylor",
}
IMPORTANCE = {
    "tp_group_magnitude": tp.importance.GroupMagnitudeImportance,
    "tp_group_taylor": tp.importance.GroupTaylorImportance,
}
HEAD = """# EDropout against its controls

Written by `benchmarks/compare.py` from `benchmarks/compare.jsonl`. Within a table every method has the same epochs in all, the same
recovery (optimizer, schedule, images), the same rounding and floors, and its MACs are at most the column's budget; methods that do
not train while they choose spend all epochs on the pruned network. Cells: mean top-1 on the test images in per cent (lowest to
highest over the seeds; number of seeds). Torch-Pruning's own BasePruner chooses the channels in the rows that begin with its
name, at the largest uniform ratio inside the budget.
"""


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    recipe: str
    size: str
    method: str
    budget: float
    seed: int
    extra: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What names the cell in the log, and its run folder."""
        parts = (self.recipe, self.size, self.method, f"{self.budget:g}", f"seed{self.seed}", *self.extra)
        return "-".join(part.replace("/", "_") for part in parts)

    def overrides(self) -> list[str]:
        """The `--set` values of the run, but for a plan."""
        method = {"edropout_paper": "edropout"}.get(self.method, "plan" if self.method in IMPORTANCE else self.method)
        paper = yaml.safe_load(PAPER.read_text())["search"] if self.method == "edropout_paper" else {}
        searched = [
            f"search.{key}={json.dumps(value)}" for key, value in paper.items() if key not in ("epochs", "method")
        ]
        own = [f"search.method={method}", f"target.macs={self.budget:g}", f"seed={self.seed}"]
        return [*SIZES[self.recipe, self.size], *searched, *own, *self.extra]


def main() -> None:
    """Run what is missing and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=sorted({recipe for recipe, _ in SIZES}))
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.3, 0.12])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="an ablation of its own"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each with its share of the processor's cores"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/compare"))
    parser.add_argument("--table", action="store_true", help="only rewrite docs/compare.md")
    options = parser.parse_args()
    if not options.table:
        if options.recipe is None or options.checkpoint is None:
            parser.error("give a recipe and a checkpoint, or --table")
        measure_all(options)
    PAGE.write_text(page(lines()))


def measure_all(options: argparse.Namespace) -> None:
    """Every cell that has no line yet, the seeds outermost."""
    done = {line["key"] for line in lines()}
    cells = [
        Cell(options.recipe, options.size, method, budget, seed, tuple(options.extra))
        for seed, budget, method in product(options.seeds, options.budgets, options.methods)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        threads = max(1, len(usable_cores()) // options.jobs)
        todo = [
            pool.submit(measure, cell, options.checkpoint, options.output, threads)
            for cell in cells
            if cell.key not in done
        ]
        for finished in as_completed(todo):
            line = finished.result()
            with LOG.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(f"{line['key']}: {line['correct'] / line['total']:.2%} in {line['minutes']:.1f} min", flush=True)
            PAGE.write_text(page(lines()))


def measure(cell: Cell, checkpoint: Path, output: Path, threads: int) -> dict[str, Any]:
    """The cell's line, from one run of `prune`."""
    folder = output / cell.key
    overrides = cell.overrides()
    if cell.method in IMPORTANCE:
        overrides.append(f"search.plan={torch_pruning_plan(cell, checkpoint, output)}")
    subprocess.run(
        [sys.executable, "-m", "edcompress", "prune", str(checkpoint), "--recipe", cell.recipe, "-o", str(folder), "--quiet",
         *(["--resume"] if (folder / "recipe.yaml").exists() else []), *(part for override in overrides for part in ("--set", override))],
        check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    recipe = read_recipe(cell.recipe, overrides)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=True
    )
    top1 = {stage: report[stage]["accuracy"]["top1"] for stage in ("dense", "masked", "after_surgery", "pruned")}
    return {
        "key": cell.key, "recipe": cell.recipe, "size": cell.size, "method": cell.method, "budget": cell.budget, "seed": cell.seed,
        "extra": list(cell.extra), "correct": top1["pruned"]["correct"], "total": top1["pruned"]["total"],
        "stages": {stage: value["correct"] for stage, value in top1.items()},
        "macs": report["target"]["achieved"], "params": report["pruned"]["size"]["params"] / report["dense"]["size"]["params"],
        "search": report["search"], "overrides": overrides, "minutes": report["seconds"] / 60, "threads": threads,
        "precision": choose_precision(recipe.precision, pick_device("auto")).name, "machine": report["machine"]["processor"],
        "versions": report["versions"], "commit": commit.stdout.strip(), "date": date.today().isoformat(),
    }  # fmt: skip


def torch_pruning_plan(cell: Cell, checkpoint: Path, output: Path) -> Path:
    """A plan.json of the channels that Torch-Pruning's BasePruner keeps at the largest uniform ratio inside the budget."""
    recipe = read_recipe(cell.recipe, [o for o in cell.overrides() if not o.startswith("search.")])
    network = read_network(recipe.network_spec, checkpoint).eval()
    space, example = space_of(recipe, network), example_images(recipe.network_spec.image_shape)
    budget = budget_of(recipe, network, space, time_dense(recipe, network))
    if cell.method == "tp_group_taylor":
        backpropagate(network, recipe)
    layers = dict(network.named_modules())
    names = {layer: name for name, layer in layers.items()}
    locked = [
        layers[member.layer]
        for group in space.groups
        if group.locked
        for member in group.members
        if member.side == "out"
    ]
    gene = {
        (member.layer, position): part.start + channel
        for group, part in space.slices() for member in group.members if member.side == "out"
        for position, channel in zip(member.positions, member.channels, strict=True)
    }  # fmt: skip

    def kept(ratio: float) -> torch.Tensor:
        pruner = tp.pruner.BasePruner(
            network, example, importance=IMPORTANCE[cell.method](), pruning_ratio=ratio, ignored_layers=locked,
            round_to=budget.round_to, customized_pruners=PRUNERS)  # fmt: skip
        state = space.full_state()
        for group in pruner.step(interactive=True):
            dependency, positions = group[0]
            state[[gene[names[dependency.target.module], position] for position in positions]] = False
        return state

    low, high = 0.0, 1.0 - recipe.constraints.min_ratio
    for _ in range(12):
        middle = (low + high) / 2
        fits = budget.share(budget.widths(kept(middle))) <= cell.budget
        low, high = (low, middle) if fits else (middle, high)
    path = output / f"{cell.key}-plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plan_of(kept(high), space).model_dump_json())
    return path


def backpropagate(network: torch.nn.Module, recipe: Recipe) -> None:
    """Leave the gradients of as many training batches as our Taylor control takes in the network."""
    batches = train_batches(open_splits(recipe.data, seed=recipe.seed).train, recipe.data, seed=recipe.seed, epoch=0)
    for images, labels in islice(batches, TAYLOR_BATCHES):
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]


def lines() -> list[dict[str, Any]]:
    """All lines of the log."""
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def page(log: list[dict[str, Any]]) -> str:
    """docs/compare.md."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in log:
        if not line["extra"]:
            tables[line["recipe"], line["size"]].append(line)
    parts = [HEAD, *(table(recipe, size, cells) for (recipe, size), cells in sorted(tables.items()))]
    ablations: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for line in sorted(
        log, key=lambda line: (line["recipe"], line["size"], line["method"], -line["budget"], line["extra"])
    ):
        if line["extra"]:
            names = line["recipe"], line["size"], line["method"], line["budget"], *line["extra"]
            ablations[names].append(100 * line["correct"] / line["total"])
    if ablations:
        parts.append("## Single changes\n\n" + "".join(
            f"- {recipe} ({size}), {METHODS[method]} at {budget:.0%}, {', '.join(extra)}: {summary(values)}\n"
            for (recipe, size, method, budget, *extra), values in ablations.items()))  # fmt: skip
    return "\n".join(parts)


def table(recipe: str, size: str, cells: list[dict[str, Any]]) -> str:
    """One network's table, a row per method and a column per budget."""
    budgets = sorted({cell["budget"] for cell in cells}, reverse=True)
    one = cells[-1]
    rows = [
        f"| method | {' | '.join(f'{budget:.1%} of the MACs' for budget in budgets)} |",
        "| --- " * (len(budgets) + 1) + "|",
    ]
    for method, name in METHODS.items():
        found = [
            [100 * c["correct"] / c["total"] for c in cells if (c["method"], c["budget"]) == (method, b)]
            for b in budgets
        ]
        if any(found):
            rows.append(f"| {name} | {' | '.join(map(summary, found))} |")
    varied = ("target.macs=", "seed=", "search.method=")
    shared = [o for o in one["overrides"] if all(o in cell["overrides"] for cell in cells) and not o.startswith(varied)]
    settings = f"`{' '.join(shared)}`" if shared else "the shipped recipe's"
    dense = 100 * one["stages"]["dense"] / one["total"]
    machines, precisions, threads, versions = (
        ", ".join(str(value) for value in sorted(set(values)))
        for values in zip(
            *((cell["machine"], cell["precision"], cell["threads"], cell["versions"]["torch"]) for cell in cells),
            strict=True,
        )
    )
    return (
        f"## {recipe}, {size}\n\nDense {dense:.2f} on {one['total']} test images. Settings: {settings}. {machines}, "
        f"trained in {precisions}, {threads} threads per run, torch {versions}.\n\n" + "\n".join(rows) + "\n"
    )


def summary(values: list[float]) -> str:
    """Mean, range and count."""
    if not values:
        return ""
    spread = f"{min(values):.2f} to {max(values):.2f}; " if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f} ({spread}{len(values)})"


if __name__ == "__main__":
    main()
