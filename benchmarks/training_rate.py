"""Images per second of training: plain, under the search, and fine-tuning; the plain ones through torch.compile too.

    python benchmarks/training_rate.py [--arch resnet50] [--image-size 224] [--batch 64 128 256] [--cycles 5] [--steps 24]
    python benchmarks/training_rate.py --device cpu --threads 2 --arch resnet56 --image-size 32 --batch 128 --steps 4
    python benchmarks/training_rate.py --device cpu --smoke        # does the script work? Small shapes; nothing is written

A batch of random images (seed 0) is in the CPU's memory, pinned if there is a GPU, and is sent again with every step, as in a run. All
ways to train are interleaved in one process: in each cycle each of them takes `--steps` steps (whole generations of the search) at a
stretch, wall time from one synchronisation with the device to the next; a first cycle, in which kernels are chosen and compiled, does not
count. Figures are medians over the cycles, with the smallest and the largest; `torch.compile` is compared with the same training without
it in each cycle. A search starts every stretch with the same diverse population and the recipe's defaults, at 95 % of the
multiply-accumulates (the start of a search) and at 50 % (its end). The fine-tuned network is the one at 50 %, cut uniformly, without
distillation. On a GPU, memory is the peak above the memory held between stretches; utilisation is NVML's near the end of a stretch, if
torch or nvidia-smi reports it. On a CPU, keep the machine idle meanwhile.

A line per batch size goes to benchmarks/training_rate.jsonl, and docs/training-rate.md is rewritten from all lines. `--table` only
writes the page.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import harness
import torch
from harness import DOCS, HERE, Line
from search_cost import MODES, Bench, Case

from edcompress.core.recipe.search import Search
from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.training.compiled import Compiled
from edcompress.training.regime import Regime

LOG = HERE / "training_rate.jsonl"
PAGE = DOCS / "training-rate.md"
SHARE = 0.5
COLUMNS = (
    "training",
    "images/s",
    "of the dense one",
    "of the same uncompiled",
    "n",
    "memory, MB",
    "utilisation",
    "first stretch, s",
)


@dataclass
class Way:
    """One way to train, and its measurements: seconds of stretches, peak bytes, utilisation in per cent.

    `uncompiled` is the same training without torch.compile, for comparison.
    """

    name: str
    bench: Bench
    regime: Regime
    uncompiled: Way | None = None
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    begin: dict[str, Any] | None = None

    def stretch(self, steps: int) -> None:
        """Train for some steps and measure them."""
        cuda = self.bench.precision.device.type == "cuda"
        if isinstance(self.regime, EDropoutRegime):
            self.begin = self.begin or self.regime.snapshot()
            self.regime.restore(self.begin)
        held = _settled() if cuda else 0
        started = time.perf_counter()
        self.bench.run(self.regime, steps, self._sample_utilisation)
        if cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - started)
        if cuda:
            self.peaks.append(torch.cuda.max_memory_allocated() - held)

    def _sample_utilisation(self, step: int, steps: int, _: object) -> None:
        if step == steps - 1 and (busy := utilisation(self.bench.precision.device)) is not None:
            self.busy.append(busy)

    def result(self, images: int) -> Line:
        """Return images per second and the other measurements of stretches of so many images; the first stretch does not count."""
        rates = [images / seconds for seconds in self.seconds[1:]]
        pairs = zip(self.uncompiled.seconds[1:], self.seconds[1:], strict=True) if self.uncompiled else ()
        gains = [without / compiled for without, compiled in pairs]
        return {
            "way": self.name, "images_per_s": harness.spread(rates), "n": len(rates), "first_s": self.seconds[0],
            "compile_gain": harness.spread(gains) if gains else None,
            "peak_bytes": max(self.peaks[1:], default=None), "busy": statistics.median(self.busy) if self.busy else None,
        }  # fmt: skip


def _settled() -> int:
    """Return the bytes that are held once the device has finished its work, and reset the peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def utilisation(device: torch.device) -> float | None:
    """Return the recent share of time in which kernels ran, in per cent; None without NVML's Python package and nvidia-smi."""
    if device.type != "cuda":
        return None
    try:
        return float(torch.cuda.utilization(device))
    except (ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py, or without a driver that knows
        return _utilisation_by_nvidia_smi()


def _utilisation_by_nvidia_smi() -> float | None:
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def ways(bench: Bench, backend: str, faults: list[str]) -> list[Way]:
    """Return all ways to train; `faults` collects the failures of torch.compile."""
    pruned, found = bench.pruned(SHARE), []
    for name, each in (("dense", bench), (f"fine-tuning at {SHARE:.0%} of the MACs", pruned)):
        plain = Way(name, each, each.plain())
        compiled = Compiled(each.network, each.precision, faults.append, backend)
        found += [plain, Way(f"{name}, compiled", each, compiled, plain)]
    for mode in ("start", "target"):
        found.append(Way(f"search at {MODES[mode][1]:.0%} of the MACs", bench, bench.searching(mode)))
    return found


def measure(case: Case, options: argparse.Namespace) -> Line:
    """Measure one batch size and return its line."""
    device, faults = torch.device(options.device), list[str]()
    bench = Bench(case, device)
    all_ways = ways(bench, "eager" if options.smoke else "inductor", faults)
    for _ in range(1 + options.cycles):
        for way in all_ways:
            way.stretch(options.steps)
    batch = case.batch(device)
    rows = [way.result(batch * options.steps) for way in all_ways]
    return {
        "network": case.arch, "image_size": case.size, "batch": batch, "device": device.type, "precision": bench.precision.name,
        "steps": options.steps, "faults": faults, "machine": harness.torch_facts(), "rows": rows,
    }  # fmt: skip


def page(records: list[Line]) -> str:
    """Return docs/training-rate.md."""
    lines = [
        "# How fast a network trains", "",
        "Written by `benchmarks/training_rate.py` from `benchmarks/training_rate.jsonl`; the docstring of the script says what is "
        "timed and how. Images per second: the median (smallest to largest).",
    ]  # fmt: skip
    for record in records:
        about = record["machine"]
        lines += [
            "", f"## {record['network']}, {record['image_size']}x{record['image_size']}, batch {record['batch']}", "",
            f"{about['gpu'] if record['device'] == 'cuda' else 'No GPU'}, {record['precision']}; {harness.torch_facts_text(about)} "
            f"{record['steps']} steps at a stretch.",
            *(f"{fault}." for fault in record["faults"]), "",
        ]  # fmt: skip
        dense = record["rows"][0]["images_per_s"]["median"]
        lines += harness.table(COLUMNS, (table_row(found, dense) for found in record["rows"]))
    return "\n".join(lines) + "\n"


def table_row(found: Line, dense: float) -> str:
    """Return the row of one way to train."""
    rate, gain, peak, busy = found["images_per_s"], found["compile_gain"], found["peak_bytes"], found["busy"]
    return harness.row((
        found["way"], harness.spread_text(rate, ".0f"), f"{rate['median'] / dense:.2f}x",
        "" if gain is None else harness.spread_text(gain, unit="x"), found["n"],
        "" if peak is None else f"{peak / 1e6:.0f}", "" if busy is None else f"{busy:.0f} %", f"{found['first_s']:.1f}",
    ))  # fmt: skip


def main() -> None:
    """Measure every batch size, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--smoke", action="store_true", help="small shapes, nothing is compiled for real, nothing written"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="per stretch, whole generations")
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if options.table:
        harness.write_page(PAGE, page(harness.read_lines(LOG)))
        return
    if options.smoke:
        options.arch, options.image_size, options.batch, options.cycles, options.steps = "resnet8", 32, [4], 2, 16
    torch.set_num_threads(options.threads)
    every = math.lcm(*(Search().for_batches_of(batch).period for batch in options.batch))
    if options.steps < every or options.steps % every:
        parser.error(f"--steps {options.steps}: give a multiple of {every}, so that stretches are whole generations")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(
            "error: torch sees no CUDA device; see `edcompress doctor`, or measure the processor with --device cpu\n"
        )
        sys.exit(2)
    records = []
    for batch in options.batch:
        records.append(measure(Case(options.arch, options.image_size, batch, batch), options))
        if not options.smoke:
            harness.append_line(LOG, records[-1])
    if not options.smoke:
        harness.write_page(PAGE, page(harness.read_lines(LOG)))
    print(page(records))


if __name__ == "__main__":
    main()
