"""How many images a second are trained on: plainly, under the search, and fine-tuning; the plain ones through torch.compile too.

    python benchmarks/training_rate.py [--arch resnet50] [--image-size 224] [--batch 64 128 256] [--cycles 5] [--steps 24]
    python benchmarks/training_rate.py --device cpu --threads 2 --arch resnet56 --image-size 32 --batch 128 --steps 4
    python benchmarks/training_rate.py --device cpu --smoke        # does the script work? Small shapes; nothing is written

A batch of random images (seed 0) is in the CPU's memory, pinned where there is a GPU, and is sent anew with every step, as in a run. All
ways to train are in one process and interleaved: in each cycle each of them takes `--steps` steps (whole generations of the search) at a
stretch, wall time from one synchronisation with the device to the next; a first cycle, in which kernels are chosen and compiled, does not
count. Figures are medians over the cycles, with the smallest and the largest; `torch.compile` is held against the same training without in
each cycle. A search begins every stretch with the same diverse population and the recipe's defaults, at 95 % of the multiply-accumulates
(where a search begins) and at 50 % (where one ends). What is fine-tuned is the network at 50 %, cut uniformly, without distillation. On a
GPU memory is the peak above what is held between stretches; utilisation is NVML's near the end of a stretch, where torch or nvidia-smi can
tell. On a CPU leave the machine alone meanwhile.

A line per batch size goes to benchmarks/training_rate.jsonl, and docs/training-rate.md is rewritten from all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from search_cost import MODES, Bench, Case, as_ratio, machine, spread

from edcompress.core.recipe.search import Search
from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.training.compiled import Compiled
from edcompress.training.regime import Regime

HERE = Path(__file__).parent
LOG = HERE / "training_rate.jsonl"
PAGE = HERE.parent / "docs" / "training-rate.md"
SHARE = 0.5


@dataclass
class Way:
    """One way to train, and what was found of it: seconds of stretches, peak bytes, utilisation in per cent.

    `uncompiled` is the same training without torch.compile, against which it is held.
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
        """Train for so many steps."""
        cuda = self.bench.precision.device.type == "cuda"
        if isinstance(self.regime, EDropoutRegime):
            self.begin = self.begin or self.regime.snapshot()
            self.regime.restore(self.begin)
        held = _settled() if cuda else 0
        began = time.perf_counter()
        self.bench.run(self.regime, steps, self._told)
        if cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)
        if cuda:
            self.peaks.append(torch.cuda.max_memory_allocated() - held)

    def _told(self, step: int, steps: int, _: object) -> None:
        if step == steps - 1 and (busy := utilisation(self.bench.precision.device)) is not None:
            self.busy.append(busy)

    def row(self, images: int) -> dict[str, Any]:
        """Images per second and what else was found, of stretches of so many images; the first one does not count."""
        rates = [images / seconds for seconds in self.seconds[1:]]
        pairs = zip(self.uncompiled.seconds[1:], self.seconds[1:], strict=True) if self.uncompiled else ()
        gains = [without / compiled for without, compiled in pairs]
        return {
            "way": self.name, "images_per_s": spread(rates), "n": len(rates), "first_s": self.seconds[0],
            "compile_gain": spread(gains) if gains else None,
            "peak_bytes": max(self.peaks[1:], default=None), "busy": statistics.median(self.busy) if self.busy else None,
        }  # fmt: skip


def _settled() -> int:
    """Bytes that are held when the device has done all that it was told."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def utilisation(device: torch.device) -> float | None:
    """Per cent of the time in which kernels ran, of late; None where neither NVML's Python nor nvidia-smi is there to tell."""
    if device.type != "cuda":
        return None
    try:
        return float(torch.cuda.utilization(device))
    except (ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py, or without a driver that knows
        return _told_by_nvidia_smi()


def _told_by_nvidia_smi() -> float | None:
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def ways(bench: Bench, backend: str, faults: list[str]) -> list[Way]:
    """All ways to train; `faults` hears where torch.compile fails."""
    pruned, found = bench.pruned(SHARE), []
    for name, each in (("dense", bench), (f"fine-tuning at {SHARE:.0%} of the MACs", pruned)):
        plain = Way(name, each, each.plain())
        compiled = Compiled(each.network, each.precision, faults.append, backend)
        found += [plain, Way(f"{name}, compiled", each, compiled, plain)]
    for mode in ("start", "target"):
        found.append(Way(f"search at {MODES[mode][1]:.0%} of the MACs", bench, bench.searching(mode)))
    return found


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """The record of one batch size."""
    device, faults = torch.device(options.device), list[str]()
    bench = Bench(case, device)
    all_ways = ways(bench, "eager" if options.smoke else "inductor", faults)
    for _ in range(1 + options.cycles):
        for way in all_ways:
            way.stretch(options.steps)
    batch = case.batch(device)
    rows = [way.row(batch * options.steps) for way in all_ways]
    return {
        "network": case.arch, "image_size": case.size, "batch": batch, "device": device.type, "precision": bench.precision.name,
        "steps": options.steps, "faults": faults, "machine": machine(), "rows": rows,
    }  # fmt: skip


def page(records: list[dict[str, Any]]) -> str:
    """docs/training-rate.md."""
    lines = [
        "# How fast a network trains", "",
        "Written by `benchmarks/training_rate.py` from `benchmarks/training_rate.jsonl`; what is timed and how stands at its head. Images "
        "per second: the median (smallest to largest).",
    ]  # fmt: skip
    for record in records:
        about = record["machine"]
        lines += [
            "", f"## {record['network']}, {record['image_size']}x{record['image_size']}, batch {record['batch']}", "",
            f"{about['gpu'] if record['device'] == 'cuda' else 'No GPU'}, {record['precision']}; {about['processor']}, {about['threads']} "
            f"threads; torch {about['torch']}, Python {about['python']}; {about['date']}. {record['steps']} steps at a stretch.",
            *(f"{fault}." for fault in record["faults"]), "",
            "| training | images/s | of the dense one | of the same uncompiled | n | memory, MB | utilisation | first stretch, s |",
            "| --- " * 8 + "|",
        ]  # fmt: skip
        dense = record["rows"][0]["images_per_s"]["median"]
        lines += [f"| {' | '.join(cells(row, dense))} |" for row in record["rows"]]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any], dense: float) -> list[str]:
    rate, gain, peak, busy = row["images_per_s"], row["compile_gain"], row["peak_bytes"], row["busy"]
    return [
        row["way"], f"{rate['median']:.0f} ({rate['min']:.0f} to {rate['max']:.0f})", f"{rate['median'] / dense:.2f}x",
        "" if gain is None else as_ratio(gain), str(row["n"]),
        "" if peak is None else f"{peak / 1e6:.0f}", "" if busy is None else f"{busy:.0f} %", f"{row['first_s']:.1f}",
    ]  # fmt: skip


def main() -> None:
    """Measure every batch size, and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    options = parser.parse_args()
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
            with LOG.open("a", encoding="utf-8") as log:
                log.write(json.dumps(records[-1]) + "\n")
    if not options.smoke:
        PAGE.write_text(
            page([json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]), encoding="utf-8"
        )
    print(page(records))


if __name__ == "__main__":
    main()
