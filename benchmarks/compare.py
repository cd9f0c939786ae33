"""EDropout against its controls: every method with the same epochs in all, the same recovery and the same rounding.

    python benchmarks/compare.py resnet20_cifar10 WEIGHTS --size small --budgets 0.5 0.3 0.12 --seeds 0 1 2 [--jobs 2]

Each cell is one `edcompress prune`. A finished cell has a line in benchmarks/compare.jsonl and is not run again; an interrupted one
continues from its last epoch. docs/compare.md is rewritten from all lines: mean top-1 on the test images, and the range over the
seeds. `--table` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import harness
import torch
import torch_pruning as tp
import yaml
from harness import DOCS, HERE, Line
from torch.nn import functional as F

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.devices import pick_device
from edcompress.core.system.machine import usable_cores
from edcompress.data.batches import train_batches
from edcompress.data.splits import open_splits
from edcompress.networks.build import example_images, read_network
from edcompress.pruning.search.importance import TAYLOR_BATCHES
from edcompress.pruning.space.plan import plan_of
from edcompress.pruning.tracing.depgraph import PRUNERS
from edcompress.training.precision import choose_precision
from edcompress.workflows.stages.starting_point import feasible_of, space_of, time_dense

LOG = HERE / "compare.jsonl"
PAGE = DOCS / "compare.md"
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

Written by `benchmarks/compare.py` from `benchmarks/compare.jsonl`. Within a table every method gets the same total of epochs, the same
recovery (optimizer, schedule, images), the same rounding and floors, and at most the MACs of the column's budget; methods that do
not train while they choose spend all epochs on the pruned network. Cells: mean top-1 on the test images in per cent (lowest to
highest over the seeds; number of seeds). In the rows that start with its name, Torch-Pruning's BasePruner chooses the channels, at the
largest uniform ratio inside the budget.
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
        """Name of the cell in the log, and of its run folder."""
        parts = (self.recipe, self.size, self.method, f"{self.budget:g}", f"seed{self.seed}", *self.extra)
        return "-".join(part.replace("/", "_") for part in parts)

    def overrides(self) -> list[str]:
        """Return the `--set` values of the run, except `search.plan`."""
        method = {"edropout_paper": "edropout"}.get(self.method, "plan" if self.method in IMPORTANCE else self.method)
        paper = yaml.safe_load(PAPER.read_text())["search"] if self.method == "edropout_paper" else {}
        searched = [
            f"search.{key}={json.dumps(value)}" for key, value in paper.items() if key not in ("epochs", "method")
        ]
        own = [f"search.method={method}", f"target.macs={self.budget:g}", f"seed={self.seed}"]
        return [*SIZES[self.recipe, self.size], *searched, *own, *self.extra]


def main() -> None:
    """Run what is missing and rewrite the page."""
    parser = harness.new_parser(__doc__)
    harness.add_recipe(parser, sorted({recipe for recipe, _ in SIZES}))
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.3, 0.12])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, which share the cores")
    harness.add_output(parser, "runs/compare")
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        harness.require_run(parser, options)
        measure_all(options)
    harness.write_page(PAGE, page(harness.read_lines(LOG)))


def measure_all(options: argparse.Namespace) -> None:
    """Measure every cell that has no line yet, the seeds outermost."""
    done = {line["key"] for line in harness.read_lines(LOG)}
    cells = [
        Cell(options.recipe, options.size, method, budget, seed, tuple(options.overrides))
        for seed, budget, method in product(options.seeds, options.budgets, options.methods)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        threads = max(1, len(usable_cores()) // options.jobs)
        todo = [
            pool.submit(measure, cell, options.weights, options.output, threads)
            for cell in cells
            if cell.key not in done
        ]
        for finished in as_completed(todo):
            line = finished.result()
            harness.append_line(LOG, line)
            print(f"{line['key']}: {line['correct'] / line['total']:.2%} in {line['minutes']:.1f} min", flush=True)
            harness.write_page(PAGE, page(harness.read_lines(LOG)))


def measure(cell: Cell, weights: Path, output: Path, threads: int) -> Line:
    """Run `prune` for a cell and return its line."""
    folder = output / cell.key
    overrides = cell.overrides()
    if cell.method in IMPORTANCE:
        overrides.append(f"search.plan={torch_pruning_plan(cell, weights, output)}")
    resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
    words = ("prune", weights, "--recipe", cell.recipe, "-o", folder, *resume, *harness.settings(overrides))
    harness.edcompress(*words, threads=threads)
    report = json.loads((folder / "report.json").read_text())
    recipe = read_recipe(cell.recipe, overrides)
    top1 = {stage: report[stage]["accuracy"]["top1"] for stage in ("dense", "masked", "after_surgery", "pruned")}
    return {
        "key": cell.key, "recipe": cell.recipe, "size": cell.size, "method": cell.method, "budget": cell.budget, "seed": cell.seed,
        "extra": list(cell.extra), "correct": top1["pruned"]["correct"], "total": top1["pruned"]["total"],
        "stages": {stage: value["correct"] for stage, value in top1.items()},
        "macs": report["target"]["achieved"], "params": report["pruned"]["size"]["params"] / report["dense"]["size"]["params"],
        "search": report["search"], "overrides": overrides, "minutes": report["seconds"] / 60, "threads": threads,
        "precision": choose_precision(recipe.precision, pick_device("auto")).name, "machine": report["machine"]["processor"],
        "versions": report["versions"], "commit": harness.commit(), "date": harness.today(),
    }  # fmt: skip


def torch_pruning_plan(cell: Cell, weights: Path, output: Path) -> Path:
    """Write a plan.json of the channels that Torch-Pruning's BasePruner keeps at the largest uniform ratio inside the budget."""
    recipe = read_recipe(cell.recipe, [o for o in cell.overrides() if not o.startswith("search.")])
    network = read_network(recipe.network_spec, weights).eval()
    space, example = space_of(recipe, network), example_images(recipe.network_spec.image_shape)
    feasible = feasible_of(recipe, network, space, time_dense(recipe, network))
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
            round_to=feasible.round_to, customized_pruners=PRUNERS)  # fmt: skip
        state = space.full_state()
        for group in pruner.step(interactive=True):
            dependency, positions = group[0]
            state[[gene[names[dependency.target.module], position] for position in positions]] = False
        return state

    low, high = 0.0, 1.0 - recipe.constraints.min_ratio
    for _ in range(12):
        middle = (low + high) / 2
        fits = feasible.share(feasible.widths(kept(middle))) <= cell.budget
        low, high = (low, middle) if fits else (middle, high)
    path = output / f"{cell.key}-plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plan_of(kept(high), space).model_dump_json())
    return path


def backpropagate(network: torch.nn.Module, recipe: Recipe) -> None:
    """Accumulate the gradients of as many training batches as our Taylor control takes."""
    batches = train_batches(open_splits(recipe.data, seed=recipe.seed).train, recipe.data, seed=recipe.seed, epoch=0)
    for images, labels in islice(batches, TAYLOR_BATCHES):
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]


def page(log: list[Line]) -> str:
    """Return docs/compare.md."""
    tables: dict[tuple[str, str], list[Line]] = defaultdict(list)
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


def table(recipe: str, size: str, cells: list[Line]) -> str:
    """Return the table of one network, a row per method and a column per budget."""
    budgets = sorted({cell["budget"] for cell in cells}, reverse=True)
    one = cells[-1]
    rows = harness.table(["method", *(f"{budget:.1%} of the MACs" for budget in budgets)], [])
    for method, name in METHODS.items():
        found = [
            [100 * c["correct"] / c["total"] for c in cells if (c["method"], c["budget"]) == (method, b)]
            for b in budgets
        ]
        if any(found):
            rows.append(harness.row([name, *map(summary, found)]))
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
    """Return mean, range and count."""
    if not values:
        return ""
    spread = f"{min(values):.2f} to {max(values):.2f}; " if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f} ({spread}{len(values)})"


if __name__ == "__main__":
    main()
