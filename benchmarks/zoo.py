"""Which classifiers can be pruned, proved by doing it: all of torchvision's, and two of each of timm's families.

    python benchmarks/zoo.py [--only NAME ... | --slice] [--jobs 2] [--timeout 300] [--log FILE] [--table]

Each network is built with random weights and with batch-norm statistics scattered around those of random images (in the first 139
networks, around 0 and 1). Its pruning space is found, a random feasible state at half of its multiply-accumulates is removed, and four
logits are compared: masked, pruned, reloaded (the dense network cut again, with the pruned weights loaded) and ONNX. A network is
proved when they are equal to 1e-4 of the logits' scale and the dense network's are not; otherwise it is refused, with the message that
a user gets. Each network has its own process and a time limit. A finished one has a line in benchmarks/zoo.jsonl and is not run again;
docs/zoo.md is rewritten from all lines. timm's networks are listed in benchmarks/zoo_timm.txt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import harness
import torch
import torchvision
from harness import DOCS, HERE, Line
from torch import Generator, Tensor, nn

from edcompress.core.errors import BudgetError, EdcompressError
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.results.measures import TOLERANCE, Proof
from edcompress.core.system.machine import processor
from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.runtime.parity import compare_with_onnx
from edcompress.networks.build import plain_network
from edcompress.networks.equality import compare_logits
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.network_size import measure_size
from edcompress.pruning.space.plan import plan_of
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space

LOG = HERE / "zoo.jsonl"
PAGE = DOCS / "zoo.md"
TIMM = HERE / "zoo_timm.txt"
TARGET = 0.5
SIZES = {"inception_v3": 299}
SLICE = (
    "alexnet", "densenet121", "googlenet", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1",
    "timm:cs3darknet_s", "timm:eva02_tiny_patch14_224", "timm:ghostnet_050", "timm:gmixer_12_224", "timm:levit_128s",
    "timm:repvgg_a0", "timm:test_coatnet", "timm:test_convnext", "timm:test_nfnet", "timm:test_vit", "timm:starnet_s050",
)  # fmt: skip
"""Quick networks of as many wirings."""
FORK = multiprocessing.get_context("fork")
PROOFS = ("pruned", "reloaded", "onnx")
HEAD = ("network", "", "free groups", "channels", "MACs, M", "left", "differences: pruned, reloaded, ONNX", "s",
        "locked or refused because")  # fmt: skip


def main() -> None:
    """Run what is missing and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks, whether they have a line or not")
    parser.add_argument("--slice", action="store_true", help="some quick networks, each of which must be proved")
    parser.add_argument("--jobs", type=int, default=1, help="parallel networks, each on one thread")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one network")
    harness.add_log(parser, LOG)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        measure_all(options)
    if options.log == LOG:
        harness.write_page(PAGE, page(lines(LOG)))
    good = ("proved",) if options.slice else ("proved", "refused")
    if wrong := [line["network"] for line in lines(options.log) if line["status"] not in good]:
        sys.exit(f"not {' or '.join(good)}: {', '.join(wrong)}")


def names() -> list[str]:
    """Return the names of all networks, torchvision's before timm's."""
    vision = torchvision.models.list_models(module=torchvision.models)
    return [*vision, *(f"timm:{name}" for name in TIMM.read_text().split())]


def lines(log: Path) -> list[Line]:
    """Return the latest line of each network, in the order of the names."""
    found = {line["network"]: line for line in harness.latest(harness.read_lines(log), "network")}
    return [found[name] for name in names() if name in found]


def measure_all(options: argparse.Namespace) -> None:
    """Measure each network that has no line in its own process, forked after everything is imported."""
    done = {line["network"] for line in lines(options.log)}
    todo = list(SLICE) if options.slice else options.only or [name for name in names() if name not in done]
    torch.set_num_threads(1)
    warm_up()
    running: list[Run] = []
    while todo or running:
        while todo and len(running) < options.jobs:
            running.append(Run(todo.pop(0), options.timeout))
        wait([run.process.sentinel for run in running] + [run.answer for run in running], timeout=1)
        for run in [run for run in running if run.ended()]:
            running.remove(run)
            line = run.line()
            harness.append_line(options.log, line)
            print(f"{line['network']}: {line['status']} {line.get('why', '')} ({line['seconds']:.0f} s)", flush=True)


def warm_up() -> None:
    """Make the exporter import everything that it imports on first use."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8), Path(folder) / "one.onnx", opset=18, metadata={})


class Run:
    """One network in its own process."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name, self._timeout, self._started = name, timeout, time.monotonic()
        self.answer, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=lambda: sender.send(found(name)))
        self.process.start()
        sender.close()

    def ended(self) -> bool:
        """Return whether the process answered, ended or ran out of time."""
        return self.answer.poll() or not self.process.is_alive() or self._seconds() > self._timeout

    def line(self) -> Line:
        """Return the line of the network, and end its process."""
        result = self._result()
        self.process.kill()
        self.process.join()
        about = {
            "machine": processor(), "torch": torch.__version__, "python": platform.python_version(), "date": harness.today()}  # fmt: skip
        return {"network": self._name, **result, "seconds": self._seconds(), **about}

    def _result(self) -> Line:
        if not self.answer.poll():
            return {"status": "TIMED OUT", "why": f"after {self._timeout:.0f} s"}
        try:
            result: Line = self.answer.recv()
        except EOFError:
            return {"status": "CRASHED", "why": f"exit code {self.process.exitcode}"}
        return result

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def found(name: str) -> Line:
    """Return the result of `measure`, or of the error that ended it."""
    try:
        return measure(name)
    except Exception as error:
        traceback.print_exc()
        return {"status": "CRASHED", "why": f"{type(error).__name__}: {error}".splitlines()[0]}


def measure(name: str) -> Line:
    """Prune the network and compare the four logits, or return why it is refused."""
    try:
        network, images = build(name)
        space = lock_inexact(network, trace_space(network, images[:2]), images[:2])
        costs = CostModel(space, network, images[:2])
        feasible, target = open_target(space, costs)
    except EdcompressError as error:
        return {"status": "refused", "why": str(error).splitlines()[0]}
    generator = Generator().manual_seed(0)
    shares = 0.2 + 0.8 * torch.rand(1, len(space.free), generator=generator)
    state = feasible.repair(shares, torch.rand(1, space.genes, generator=generator), target)[0]
    with torch.no_grad():
        proofs, effect = prove(network, images, space, state)
    reasons = Counter(kind(group.locked) for group in space.groups if group.locked)
    equal = all(proof.relative <= TOLERANCE for proof in proofs.values())
    size = measure_size(network, images[:2])
    return {
        "status": "proved" if equal and effect > 10 * TOLERANCE else "WRONG",
        "free": len(space.free), "groups": len(space.groups), "genes": space.genes, "locked": dict(reasons),
        "macs": size.macs, "params": size.params, "target": target, "achieved": feasible.share(feasible.widths(state)).item(),
        "smallest": feasible.smallest, "effect": effect, "proofs": {key: proof.relative for key, proof in proofs.items()},
    }  # fmt: skip


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return the network in eval mode with random batch-norm statistics, and eight random images of its input size."""
    size = SIZES.get(name, 224)
    if name.startswith("timm:"):
        import timm

        about = timm.get_pretrained_cfg(name.removeprefix("timm:"))
        assert about, name
        size = about.input_size[-1]
    network = plain_network(harness.classifier(name, size).network_spec).eval()
    generator = Generator().manual_seed(0)
    images = torch.randn(8, 3, size, size, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 1e-3:  # layer scales and gates near zero would hide their block
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
        norms = [layer for layer in network.modules() if isinstance(getattr(layer, "running_mean", None), Tensor)]
        take_statistics(network, norms, images)
        for layer in norms:
            mean, variance = layer.running_mean, layer.running_var
            assert isinstance(mean, Tensor)
            assert isinstance(variance, Tensor)
            mean.add_(0.1 * variance.sqrt() * torch.randn(mean.shape, generator=generator))
            variance.mul_(0.5 + torch.rand(variance.shape, generator=generator))
    return network, images


def take_statistics(network: nn.Module, norms: list[Any], images: Tensor) -> None:
    """Give the norms the statistics of the images, without which depth can turn a rounding error into a difference of logits."""
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
        layer.train()
    network(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        layer.running_var.clamp_(min=0.01)


def open_target(space: Any, costs: CostModel) -> tuple[FeasibleStates, float]:
    """Return the budget at the target, or at the smallest share that the floors allow if that is more."""
    try:
        return FeasibleStates(space, costs, Target(macs=TARGET), Constraints()), TARGET
    except BudgetError:
        loose = Constraints(round_to=1)
        least = FeasibleStates(space, costs, Target(macs=1.0), loose).smallest
        return FeasibleStates(space, costs, Target(macs=least), loose), least


def prove(network: nn.Module, images: Tensor, space: Any, state: Tensor) -> tuple[dict[str, Proof], float]:
    """Compare the pruned, the reloaded and the ONNX network with what they must equal, and the dense network with the masked one."""
    plan = plan_of(state, space)
    pruned = apply_plan(network, plan, space)
    masked = masked_forward(network, space, state, images)
    logits = pruned(images)
    again = apply_plan(network, plan, space)
    again.load_state_dict(pruned.state_dict())
    effect = compare_logits(masked, network(images), "dense").relative
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        export_onnx(pruned, images[:2], path, opset=18, metadata={})
        onnx = compare_with_onnx(pruned, path, images)
    proofs = {
        "pruned": compare_logits(masked, logits, "pruned"),
        "reloaded": compare_logits(logits, again(images), "reloaded"),
        "onnx": onnx,
    }
    return proofs, effect


def kind(reason: str) -> str:
    """Return a reason without names of layers and figures, so that alike ones count together."""
    return re.sub(r"\(\w+Error.*", "(an error)", re.sub(r"\b[\w.]*\d[\w.]*\b", "*", reason))


def page(found: list[Line]) -> str:
    """Return docs/zoo.md."""
    about = (
        f"{one['machine']}, one thread per network; torch {one['torch']}, Python {one['python']}; {one['date']}."
        for one in found
    )
    parts = [
        "# The zoo", "",
        "Written by `benchmarks/zoo.py` from `benchmarks/zoo.jsonl`; the docstring of the script says what is done to each network.", "",
        *dict.fromkeys(about), "",
    ]  # fmt: skip
    for title, of in (("torchvision", False), ("timm", True)):
        rows = [line for line in found if line["network"].startswith("timm:") == of]
        proved = sum(line["status"] == "proved" for line in rows)
        left = sum(name.startswith("timm:") == of for name in names()) - len(rows)
        later = f" {left} more were not run yet." if left else ""
        parts += [
            f"## {title}",
            "",
            f"{proved} of {len(rows)} proved.{later}",
            "",
            *harness.table(HEAD, map(table_row, rows)),
            "",
        ]
    return "\n".join(parts)


def table_row(line: Line) -> str:
    """Return the row of one network."""
    name, seconds = line["network"].removeprefix("timm:"), f"{line['seconds']:.0f}"
    if "proofs" not in line:
        return harness.row((name, line["status"], *[""] * 5, seconds, line["why"].replace("|", "/")[:200]))
    proofs = ", ".join(f"{line['proofs'][key]:.0e}" for key in PROOFS)
    locked = "; ".join(f"{count} {reason}" for reason, count in line["locked"].items())
    left = f"{line['achieved']:.1%}" + ("" if line["target"] == TARGET else " (the least)")
    groups, macs = f"{line['free']} of {line['groups']}", f"{line['macs'] / 1e6:.0f}"
    return harness.row((name, line["status"], groups, line["genes"], macs, left, proofs, seconds, locked))


if __name__ == "__main__":
    main()
