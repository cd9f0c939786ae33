"""What the search costs: a training step with it against a plain one, evolution alone, memory, and a whole `prune`.

    python benchmarks/search_cost.py [--quick] [--only NAME ...] [--weights resnet20.th]

Everything runs in one process with plain and searching steps interleaved; figures are medians over cycles, with the smallest and
the largest. On the CPU they are processor seconds of the process (a wall clock would count other processes), on a GPU wall seconds. A
cycle of the search is one step with a generation and the steps without up to the next; one or two of the latter are timed and represent
all. Every cycle starts from the same diverse population, so that a generation scores 2 S different states; near the start of a search
(states of 95 % of the multiply-accumulates), at the target, and for the paper preset (random states, S children on the whole batch at
every step). Memory is measured in a fresh process per mode, above the memory of the built network and batch. Images are random. The
whole `prune` needs weights of ResNet-20 and CIFAR-10. Rewrites benchmarks/search_cost.json and docs/search-cost.md, with GPU rows
if torch sees one. `--table` only writes the page.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import harness
import torch
from harness import DOCS, HERE, Line
from torch import Generator, Tensor, nn

from edcompress.core.recipe.data import DEFAULT_BATCH
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.core.system.signals import Interrupt
from edcompress.networks.build import read_network
from edcompress.networks.modes import on_cpu
from edcompress.networks.registry import build
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.search.edropout import converged, diversity
from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.pruning.search.evolution import Evolution
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.search.method import SearchProblem
from edcompress.pruning.search.one_shot import uniform_state
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.runs.folder import RunFolder
from edcompress.training.loop import Repeated, StepReport, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import ScheduleSpan
from edcompress.training.precision import choose_precision
from edcompress.training.regime import DenseRegime, Regime
from edcompress.workflows.prune import prune
from edcompress.workflows.stages.phases import Phase
from edcompress.workflows.stages.plain_training import train_dense
from edcompress.workflows.stages.run_context import open_context

LOG = HERE / "search_cost.json"
PAGE = DOCS / "search-cost.md"
PAPER = Search(
    genes="channels", init="bernoulli", evolve_every=1, score_batch=None, parent_energies="stored", anneal=0.0
)
MODES = {"start": (Search(anneal=0.0), 0.95), "target": (Search(anneal=0.0), 0.5), "paper": (PAPER, None)}
LIMITS = {"start": 1.35, "target": 1.35, "paper": 4.0}
MODE_NAMES = {"start": "95 % of the MACs", "target": "50 % of the MACs", "paper": "paper preset"}


@dataclass(frozen=True)
class Case:
    """A network, its image size, and its batch size on either device."""

    arch: str
    size: int
    cpu_batch: int
    cuda_batch: int
    stem: str = "imagenet"

    def batch(self, device: torch.device) -> int:
        return self.cuda_batch if device.type == "cuda" else self.cpu_batch


CASES = {
    "resnet18": Case("resnet18", 32, 128, 128, "cifar"),
    "resnet50": Case("resnet50", 224, 16, 128),
    "squeezenet1_1": Case("squeezenet1_1", 224, 16, 128),
    "alexnet": Case("alexnet", 224, 16, 128),
}


class Bench:
    """One network on one device with a batch in the CPU's memory, trained plainly or under a search."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.precision = choose_precision("auto", device)
        torch.manual_seed(0)
        network = build(Model(arch=case.arch, stem=case.stem, num_classes=100))
        example = torch.randn(2, 3, case.size, case.size)
        self.space = trace_space(network, example, ())
        self.costs = CostModel(self.space, network, example)
        self.network = self.precision.place(network)
        self.optimizer = make_optimizer(TrainingConfig(), self.network.parameters())
        self.images = torch.randn(case.batch(device), 3, case.size, case.size)
        self.labels = torch.randint(0, 100, (case.batch(device),))
        if device.type == "cuda":
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()

    def pruned(self, share: float) -> Bench:
        """Return the same with the network cut uniformly to a share of its multiply-accumulates."""
        feasible = FeasibleStates(self.space, self.costs, Target(macs=share), Constraints())
        dense, other = on_cpu(self.network), copy.copy(self)
        state = uniform_state(self.space, feasible, magnitude(self.space, dense), share, share)
        other.network = self.precision.place(remove_channels(dense, state, self.space))
        other.optimizer = make_optimizer(TrainingConfig(), other.network.parameters())
        return other

    def plain(self) -> Regime:
        return DenseRegime(self.network)

    def searching(self, mode: str) -> EDropoutRegime:
        search, share = MODES[mode][0].for_batches_of(len(self.labels)), MODES[mode][1]
        feasible = FeasibleStates(self.space, self.costs, Target(macs=share) if share else None, Constraints())
        return EDropoutRegime(SearchProblem(self.network, self.space, feasible, search, self.precision))

    def steps(self, regime: Regime, n: int) -> list[float]:
        """Return the seconds of each of n training steps."""
        now = clock(self.precision.device)
        times = [now()]

        def tick(*_: object) -> None:
            if self.precision.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(now())

        self.run(regime, n, tick)
        return [after - before for before, after in pairwise(times)]

    def run(self, regime: Regime, n: int, report: StepReport) -> None:
        """Take n training steps and call `report` after each."""
        trainer = Trainer(self.network, self.optimizer, Objective(TrainingConfig()), self.precision, regime, report)
        train_epoch(trainer, Repeated((self.images, self.labels), n), ScheduleSpan(0, 1000, 0, 1000), seed=0)


def clock(device: torch.device) -> Callable[[], float]:
    """Return the clock of a device: wall time on a GPU, processor time on the CPU."""
    return time.perf_counter if device.type == "cuda" else time.process_time


def step_cost(case: Case, device: torch.device, cycles: int, timed: int) -> list[Line]:
    """Return a row per mode with the ratio of a step under the search to a plain one."""
    bench, calls = Bench(case, device), list[None]()
    bench.network.register_forward_hook(lambda *_: calls.append(None))
    regimes = {mode: bench.searching(mode) for mode in MODES}
    bench.steps(regimes["paper"], 1)  # its parents have energies from now on
    bench.steps(bench.plain(), 1)
    first = {mode: regime.snapshot() for mode, regime in regimes.items()}
    plain: list[float] = []
    found: dict[str, list[tuple[float, float, float, int]]] = {mode: [] for mode in MODES}
    for _ in range(cycles):
        before = statistics.mean(bench.steps(bench.plain(), timed))
        for mode, regime in regimes.items():
            every = MODES[mode][0].for_batches_of(case.batch(device)).period
            regime.restore(first[mode])
            passes = len(calls)
            [generation] = bench.steps(regime, 1)
            passes = len(calls) - passes - 1
            other = statistics.mean(bench.steps(regime, timed)) if every > 1 else generation
            after = statistics.mean(bench.steps(bench.plain(), timed))
            cycle = (generation + (every - 1) * other) / every
            found[mode].append((cycle, generation, cycle / ((before + after) / 2), passes))
            before = after
            plain.append(after)
    return [
        {
            "network": case.arch, "image_size": case.size, "batch": case.batch(device), "device": device.type,
            "precision": bench.precision.name, "genes": bench.space.genes, "mode": mode, "limit": LIMITS[mode],
            "plain_s": statistics.median(plain), "search_s": statistics.median(c for c, _, _, _ in rows),
            "generation_s": statistics.median(g for _, g, _, _ in rows), "ratio": harness.spread([r for _, _, r, _ in rows]),
            "states_scored": max(p for _, _, _, p in rows), "n": cycles,
        }
        for mode, rows in found.items()
    ]  # fmt: skip


def evolution_cost(S: int, layers: int, width: int = 960, repeats: int = 5) -> Line:
    """Time a generation without scoring, in a chain of 1x1 convolutions: ranking, children, two repairs, bookkeeping."""
    network = nn.Sequential(
        *[nn.Conv2d(3 if i == 0 else width, width, 1) for i in range(layers)], nn.Conv2d(width, 2, 1)
    )
    network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    example = torch.randn(2, 3, 2, 2)
    space = trace_space(network, example, ())
    search, target = Search(population=S).for_batches_of(DEFAULT_BATCH), Target(macs=0.5)
    feasible = FeasibleStates(space, CostModel(space, network, example), target, Constraints())
    evolution = Evolution(search, feasible, Generator().manual_seed(0))
    importance = channel_ranks(space, magnitude(space, network))
    population = evolution.start(importance, len(space.free), 0.5)

    def ranking() -> Tensor:
        return channel_ranks(space, magnitude(space, network))

    def evolving() -> object:
        parents = evolution.repair(population, importance, 0.5)
        children = evolution.repair(evolution.children(parents), importance, 0.5)
        torch.unique(torch.cat([parents.states, children.states]), dim=0, return_inverse=True)
        survivors, _ = evolution.select(parents, children, torch.rand(2 * S))
        return diversity(survivors.states), converged(survivors.states)

    return {
        "S": S, "D": space.genes, "groups": len(space.free), "evolve_every": search.period, "n": repeats,
        "ranking_ms": 1000 * timed(ranking, repeats), "evolution_ms": 1000 * timed(evolving, repeats),
    }  # fmt: skip


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the median processor seconds of a call, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def memory_cost(name: str, device: torch.device) -> Line:
    """Return the peak bytes above the built network and batch, plain and searching, each in a fresh process."""
    peaks = {}
    for mode in ("plain", "start", "target"):
        command = [sys.executable, __file__, "--memory-of", name, mode, device.type]
        peaks[mode] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "network": name,
        "batch": CASES[name].batch(device),
        "device": device.type,
        "peak_bytes": peaks,
        "limit": 1.3,
    }


def measure_memory(name: str, mode: str, device: torch.device) -> int:
    """Return the peak bytes of a cycle above the built network and batch, in this process."""
    bench = Bench(CASES[name], device)
    regime = bench.plain() if mode == "plain" else bench.searching(mode)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.steps(regime, 3)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = _status("VmRSS")
    bench.steps(regime, 3)
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Return a figure of /proc/self/status in bytes (ru_maxrss would count the parent's peak too)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


class Clock(NullMonitor):
    """The time at which each stage of a run started."""

    def __init__(self) -> None:
        self.started: list[tuple[str, float]] = []

    def stage(self, text: str) -> None:
        self.started.append((text, time.process_time()))

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        if epoch == 0:
            self.stage(f"{phase}, {epochs} epochs")


def prune_cost(weights: Path, images: int, search: int, finetune: int) -> Line:
    """Return the processor seconds of `prune` of ResNet-20, and of plain fine-tuning for as many epochs."""
    overrides = [f"data.limit={images}", f"search.epochs={search}", "finetune.distill=0", f"finetune.epochs={finetune}"]
    recipe = read_recipe("resnet20_cifar10", overrides)
    epochs = search + finetune
    config = TrainingConfig(epochs=epochs, lr=recipe.finetune.lr)
    phase = Phase("train", ScheduleSpan(0, epochs, 0, epochs), recipe.run, Interrupt(), save=lambda _: None)
    context, network = open_context(recipe), read_network(recipe.network_spec, weights)
    started = time.process_time()
    train_dense(context, network, config, phase)
    plain = time.process_time() - started
    watch = Clock()
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        prune(weights, recipe, RunFolder(Path(folder) / "run"), options=RunOptions(monitor=watch))
        whole = time.process_time() - started
    marks = [*watch.started, ("end", started + whole)]
    parts = {text: after - at for (text, at), (_, after) in pairwise(marks)}
    return {
        "network": "resnet20",
        "images": images,
        "epochs": epochs,
        "plain_s": plain,
        "prune_s": whole,
        "stages_s": parts,
    }


def evolution_per_step(found: Line) -> float:
    """Return the milliseconds of evolution, repair and ranking per training step."""
    return float((found["evolution_ms"] + found["ranking_ms"]) / found["evolve_every"])


def evolution_share(step: Line, evolutions: list[Line]) -> str:
    """Return the upper bound of evolution's share of a plain step: its time in the next larger chain that was measured with S = 8."""
    larger = [e for e in evolutions if e["S"] == 8 and e["D"] >= step["genes"]]
    if step["mode"] == "paper" or step["device"] != "cpu" or not larger:
        return ""
    return f"{evolution_per_step(min(larger, key=lambda e: e['D'])) / step['plain_s'] / 10:.1f} %"


def page(log: Line) -> str:
    """Return docs/search-cost.md."""
    about = log["machine"]
    lines = [
        "# What the search costs", "",
        "Written by `benchmarks/search_cost.py` from `benchmarks/search_cost.json`; the docstring of the script says what is timed and "
        "how.", "",
        f"{about['gpu'] or 'No GPU'}; {harness.torch_facts_text(about)} S = 8. Seconds on the CPU are processor seconds.", "",
        *step_section(log["steps"], log["evolution"]),
        *evolution_section(log["evolution"]),
        *memory_section(log["memory"]),
        *(prune_section(log["prune"]) if log.get("prune") else ()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def step_section(steps: list[Line], evolutions: list[Line]) -> list[str]:
    """Return the table of a training step."""
    head = ("network", "D", "images", "batch", "device", "states", "states scored per generation", "plain step, s",
            "step with search, s", "ratio (smallest to largest)", "n", "limit", "", "evolution and repair, of a plain step")  # fmt: skip
    rows = [
        harness.row((
            step["network"], step["genes"], f"{step['image_size']}x{step['image_size']}", step["batch"],
            f"{step['device']} {step['precision']}", MODE_NAMES[step["mode"]], step["states_scored"], f"{step['plain_s']:.3f}",
            f"{step['search_s']:.3f}", harness.spread_text(step["ratio"], unit="x"), step["n"], f"{step['limit']:.2f}x",
            verdict(step["ratio"]["median"], step["limit"]), evolution_share(step, evolutions),
        ))
        for step in steps
    ]  # fmt: skip
    return ["## A training step", "", *harness.table(head, rows)]


def evolution_section(evolutions: list[Line]) -> list[str]:
    """Return the table of a generation without scoring."""
    head = ("S", "D", "groups", "children, repair and selection, ms", "ranking, ms", "all per training step, ms", "n")
    rows = [
        harness.row((one["S"], one["D"], one["groups"], f"{one['evolution_ms']:.1f}", f"{one['ranking_ms']:.1f}",
             f"{evolution_per_step(one):.2f}", one["n"]))
        for one in evolutions
    ]  # fmt: skip
    return ["", "## Evolution and repair by themselves", "",
            "A generation besides scoring, in a chain of 1x1 convolutions of 960 channels; one every four steps of 128 images. "
            "Ranking goes over the weights, of which this chain has 0.9 million per layer.", "", *harness.table(head, rows)]  # fmt: skip


def memory_section(memory: list[Line]) -> list[str]:
    """Return the table of peak memory."""
    rows = []
    for one in memory:
        peaks = one["peak_bytes"]
        ratios = [peaks[mode] / peaks["plain"] for mode in ("start", "target")]
        rows.append(harness.row((
            one["network"], one["batch"], one["device"], f"{peaks['plain'] / 1e6:.0f}", f"{ratios[0]:.2f}x", f"{ratios[1]:.2f}x",
            f"{one['limit']:.1f}x", verdict(max(ratios), one["limit"]))))  # fmt: skip
    head = ("network", "batch", "device", "plain, MB", "searching at 95 %", "at 50 %", "limit", "")
    return ["", "## Memory", "", *harness.table(head, rows)]


def prune_section(found: Line) -> list[str]:
    """Return the paragraph about a whole `prune`."""
    stages = "; ".join(f"{text}: {seconds:.1f} s" for text, seconds in found["stages_s"].items())
    return [
        "", "## A whole `prune`", "",
        f"{found['network']} on CIFAR-10, {found['images']} training images, {found['epochs']} epochs in all: plain fine-tuning of the "
        f"dense network {found['plain_s']:.1f} s, `prune` with its proofs and its four accuracies on all test images "
        f"{found['prune_s']:.1f} s ({verdict(found['prune_s'], found['plain_s'])}). By stage: {stages}.",
    ]  # fmt: skip


def verdict(value: float, limit: float) -> str:
    """Return whether a limit is met, as a table shows it."""
    return "met" if value <= limit else "MISSED"


def main() -> None:
    """Measure what is asked for, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one cycle, fewer sizes, no prune")
    parser.add_argument(
        "--only", nargs="+", default=[*CASES, "evolution", "memory", "prune"], help="parts to measure again"
    )
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument(
        "--timed", type=int, default=2, help="steps without a generation, and plain steps, timed per cycle"
    )
    parser.add_argument("--weights", type=Path, help="of ResNet-20 on CIFAR-10, for the whole prune")
    parser.add_argument("--memory-of", nargs=3, metavar=("NAME", "MODE", "DEVICE"), help=argparse.SUPPRESS)
    harness.add_log(parser, LOG)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if options.memory_of:
        name, mode, device = options.memory_of
        print(measure_memory(name, mode, torch.device(device)))
        return
    log = read_log(options.log)
    if not options.table:
        require_same_machine(parser, log, options.log)
        log["machine"] = harness.torch_facts()
        measure(log, options)
    save(log, options.log)
    print(page(log))


def read_log(path: Path) -> Line:
    """Return the JSON object of a log, or an empty one."""
    empty: Line = {"steps": [], "evolution": [], "memory": [], "prune": None}
    return {**empty, **json.loads(path.read_text())} if path.is_file() else empty


def require_same_machine(parser: argparse.ArgumentParser, log: Line, path: Path) -> None:
    """End with a usage error if the log is from another machine: a page is of one machine."""
    facts = harness.torch_facts()
    faults = [key for key, value in facts.items() if key != "date" and value != log.get("machine", facts)[key]]
    if faults:
        parser.error(
            f"--log {path} has a different {', '.join(faults)}: remove it or name another; a page is of one machine"
        )


def measure(log: Line, options: argparse.Namespace) -> None:
    """Measure into the log, which is saved after each part."""
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for name in [name for name in CASES if name in options.only]:
        for device in devices:
            rows = step_cost(CASES[name], device, 1 if options.quick else options.cycles, options.timed)
            log["steps"] = [r for r in log["steps"] if (r["network"], r["device"]) != (name, device.type)] + rows
            save(log, options.log)
    if "evolution" in options.only:
        sizes = [(8, 6), (8, 62)] if options.quick else [(8, 6), (8, 16), (8, 32), (8, 62), (4, 32), (16, 32), (32, 32)]
        log["evolution"] = [evolution_cost(S, layers) for S, layers in sizes]
        save(log, options.log)
    if "memory" in options.only:
        names = ["resnet18"] if options.quick else list(CASES)
        log["memory"] = [memory_cost(name, device) for name in names for device in devices]
        save(log, options.log)
    if "prune" in options.only and options.weights and not options.quick:
        log["prune"] = prune_cost(options.weights, images=12800, search=3, finetune=5)
        save(log, options.log)


def save(log: Line, path: Path) -> None:
    """Write the log, and the page if the log is the repository's."""
    path.write_text(json.dumps(log, indent=1) + "\n")
    if path == LOG:
        harness.write_page(PAGE, page(log))


if __name__ == "__main__":
    main()
