"""How well the times of layers predict the time of a pruned network, and what choosing widths by time could gain.

    python benchmarks/latency_model.py [--networks resnet56 ...] [--round-to 8 16 ...] [--states 8] [--runs 300]

Each network, with random weights, is cut to half of its multiply-accumulates (MACs) in random feasible states, all of which are exported
and timed interleaved with the dense network, on one pinned thread. The error is the predicted over the measured share of the dense time,
minus one. `least` is the smallest predicted share at half of the MACs that a small evolution of widths found, whatever the accuracy.
Lines go to benchmarks/latency_model.jsonl, and docs/latency-model.md is rewritten from the latest line of each network, rounding of widths
and machine. `--table` only writes the page.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import harness
import torch
from harness import DOCS, HERE, Line
from torch import Generator, Tensor

from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.system.machine import processor
from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.latency.benchmark import measure
from edcompress.deploy.latency.layer_table import measure_table
from edcompress.networks.build import example_images, plain_network
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.workflows.stages.starting_point import space_of

LOG = HERE / "latency_model.jsonl"
PAGE = DOCS / "latency-model.md"
NETWORKS = {
    "resnet56": 32,
    "squeezenet1_1": 224,
    "mobilenet_v2": 224,
    "resnet18": 224,
    "resnet50": 224,
    "vit_b_32": 224,
}
"""The image size of each network."""

SHARE = 0.5
MEMBERS, KEPT, GENERATIONS, SPREAD = 64, 16, 60, 0.25
HEAD = f"""# Time predicted from layers

Written by `benchmarks/latency_model.py` from `benchmarks/latency_model.jsonl`; the docstring of the script says what is
measured. Median over the states (smallest to largest); all at {SHARE:.0%} of the MACs, or as close below as their steps allow.
`speed-up / MACs` is dense over pruned time, divided by dense over pruned MACs; in the last column by the prediction and at {SHARE:.0%}.

"""
COLUMNS = ("network", "machine", "step", "table, s", "states x calls", "time left", "prediction's error", "speed-up / MACs",
           "least predicted", "predicted speed-up / MACs")  # fmt: skip


def main() -> None:
    """Measure and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--round-to", type=int, nargs="*", help="widths' multiples; without it the default of `constraints`"
    )
    parser.add_argument("--states", type=int, default=8)
    parser.add_argument("--runs", type=int, default=300)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        for name, round_to in product(options.networks, options.round_to or [None]):
            line = of_network(name, round_to, options.states, Benchmark(runs=options.runs))
            harness.append_line(LOG, line)
            print(table_row(line), flush=True)
    harness.write_page(PAGE, page(harness.latest(harness.read_lines(LOG), "machine", "network", "round_to")))


def page(lines: list[Line]) -> str:
    """Return docs/latency-model.md."""
    return HEAD + "\n".join(harness.table(COLUMNS, map(table_row, lines))) + "\n" + foot(lines)


def of_network(name: str, round_to: int | None, states: int, options: Benchmark) -> Line:
    """Measure and predict random states of a network and return its line."""
    recipe = harness.classifier(name, NETWORKS[name])
    network, example = plain_network(recipe.network_spec).eval(), example_images(recipe.network_spec.image_shape)
    space, started = space_of(recipe, network), time.monotonic()
    table = measure_table(network, example, recipe.export.opset, options)
    seconds = time.monotonic() - started
    costs = CostModel(space, network, example, table)
    feasible = FeasibleStates(space, costs, Target(macs=SHARE), Constraints(round_to=round_to))
    generator = Generator().manual_seed(0)
    predicted, macs = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": Path(folder) / "dense.onnx"}
        export_onnx(network, example, files["dense"], opset=recipe.export.opset, metadata={})
        for number in range(states):
            shares = 0.3 + 0.7 * torch.rand(1, len(space.free), generator=generator)
            state = feasible.repair(shares, torch.rand(1, space.genes, generator=generator), SHARE)[0]
            predicted.append(costs.share("latency", feasible.widths(state)).item())
            macs.append(costs.share("macs", feasible.widths(state)).item())
            files[str(number)] = Path(folder) / f"{number}.onnx"
            smaller = remove_channels(network, state, space)
            export_onnx(smaller, example, files[str(number)], opset=recipe.export.opset, metadata={})
        times = measure(files, options)
    measured = [times[str(number)].p50 / times["dense"].p50 for number in range(states)]
    return {
        "network": name, "seconds": seconds, "predicted": predicted, "measured": measured, "macs": macs, "runs": options.runs,
        "least": least(feasible, costs, generator), "round_to": feasible.round_to, "machine": processor(),
        "onnxruntime": version("onnxruntime"), "date": harness.today(),
    }  # fmt: skip


def least(feasible: FeasibleStates, costs: CostModel, generator: Generator) -> float:
    """Return the smallest predicted share of the time that an evolution of widths finds within the share of the MACs."""
    wishes = 0.1 + 0.9 * torch.rand(MEMBERS, len(feasible.channels), generator=generator)
    best = 1.0
    for _ in range(GENERATIONS):
        widths = feasible.widths(feasible.repair(wishes, torch.rand(MEMBERS, int(feasible.channels.sum())), SHARE))
        shares = costs.share("latency", widths)
        order = shares.argsort()[:KEPT]
        best = min(best, shares[order[0]].item())
        wishes = varied((widths[order] / feasible.channels).float(), generator)
    return best


def varied(parents: Tensor, generator: Generator) -> Tensor:
    """Return the parents and noisy copies of them, a whole population."""
    children = parents.repeat(MEMBERS // KEPT - 1, 1)
    noise = torch.randn(children.shape, generator=generator)
    return torch.cat([parents, (children * (SPREAD * noise).exp()).clamp(0.03, 1.0)])


def table_row(line: Line) -> str:
    """Return the row of one network."""
    pairs = list(zip(line["predicted"], line["measured"], strict=True))
    error = harness.median_and_range([100 * (p / m - 1) for p, m in pairs], "+.1f")
    ratio = harness.median_and_range([macs / m for macs, m in zip(line["macs"], line["measured"], strict=True)], ".2f")
    return harness.row((
        line["network"], line["machine"], line["round_to"], f"{line['seconds']:.0f}", f"{len(pairs)} x {line['runs']}",
        harness.median_and_range(line["measured"], ".3f"), f"{error} %", ratio, f"{line['least']:.3f}", f"{SHARE / line['least']:.2f}",
    ))  # fmt: skip


def foot(lines: list[Line]) -> str:
    """Return machine, software and date of the lines."""
    return "".join(dict.fromkeys(
        f"\n{one['machine']}, onnxruntime {one['onnxruntime']}, one pinned thread, batch 1, fp32, seed 0; {one['date']}.\n"
        for one in lines))  # fmt: skip


if __name__ == "__main__":
    main()
