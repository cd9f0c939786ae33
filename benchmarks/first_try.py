"""Does the first try of a new user keep the accuracy? The recipe that `edcompress init` writes, unchanged, on seven networks.

    EDCOMPRESS_DATA=... python benchmarks/first_try.py [CASE ...] [--jobs 2] [-o FOLDER]

Each network is first trained or fine-tuned in plain PyTorch, as a user does, and saved with torch.save(network.state_dict()). Then for
each seed: `edcompress init --weights W --images DIR --target macs=T` and `edcompress prune`, beside the origin control, the dense network
trained for the same epochs with the same settings, and at the first target beside uniform magnitude with the same recovery. A finished run
has a line in benchmarks/first_try.jsonl and is not run again. Rewrites docs/first-try.md; `--table` only writes the page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import harness
import torch
from first_try_data import cifar10, cifar100, kuzushiji, photos
from first_try_networks import (
    CIFAR,
    IMAGENET,
    lite0,
    resnet18,
    resnet20_from_file,
    resnet20_new,
    save_network,
    squeezenet,
)
from harness import DOCS, HERE, Line
from torch import nn

LOG = HERE / "first_try.jsonl"
PAGE = DOCS / "first-try.md"
COLUMNS = ("network", "seeds", "as trained", "origin", "magnitude", "pruned", "minutes", "drop")
TARGETS, SEEDS = (0.6, 0.4), (0, 1)
KEYS = ("case", "seed", "method", "target")


@dataclass(frozen=True)
class Case:
    """A network that a user might bring.

    Attributes:
        about: One line for the table.
        folder: Writes the images, train/ and val/ with a folder per class, into a folder.
        network: Makes the network that the user trains, for a number of classes.
        classes: The number of classes.
        normalisation: Mean and standard deviation of the user's training.
        epochs: Epochs of the user's training; 0 for weights that are ready.
        rate: Its largest learning rate, of AdamW.
    """

    about: str
    folder: Callable[[Path], None]
    network: Callable[[int], nn.Module]
    classes: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    epochs: int
    rate: float


_HALF = ((0.5,) * 3, (0.5,) * 3)
_TEN, _THREE = (partial(photos, classes=slice(count)) for count in (10, 3))

CASES = {
    "lite0-10": Case("EfficientNet-Lite0 on 1000 photos of 10 classes", _TEN, lite0, 10, _HALF, 8, 5e-4),
    "squeezenet-10": Case("SqueezeNet 1.1 on 1000 photos of 10 classes", _TEN, squeezenet, 10, IMAGENET, 12, 3e-4),
    "lite0-3": Case("EfficientNet-Lite0 on 300 photos of 3 classes", _THREE, lite0, 3, _HALF, 12, 5e-4),
    "squeezenet-3": Case("SqueezeNet 1.1 on 300 photos of 3 classes", _THREE, squeezenet, 3, IMAGENET, 16, 3e-4),
    "resnet18-kuzushiji": Case(
        "ResNet-18 on 8000 of KMNIST's test images", kuzushiji, resnet18, 10, IMAGENET, 10, 2e-3
    ),
    "resnet20-cifar100": Case("ResNet-20 on a quarter of CIFAR-100", cifar100, resnet20_new, 100, CIFAR, 20, 1e-2),
    "resnet20-cifar10": Case(
        "ResNet-20 on 12800 images of CIFAR-10", cifar10, resnet20_from_file, 10, IMAGENET, 0, 0.0
    ),
}


@dataclass(frozen=True)
class Job:
    """One run: `method` is edropout (what the recipe says), magnitude, or origin (nothing is removed)."""

    case: str
    seed: int
    method: str
    target: float

    @property
    def key(self) -> Line:
        """The fields by which the log knows the run."""
        return {key: getattr(self, key) for key in KEYS}


def main() -> None:
    """Make the networks, run what the log lacks, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument(
        "cases", nargs="*", choices=[*CASES, []], metavar="CASE", help=f"default: all of {', '.join(CASES)}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, one thread each")
    harness.add_output(parser, "runs/first_try")
    harness.add_log(parser, LOG)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        with ThreadPoolExecutor(options.jobs) as pool:
            cases = options.cases or list(CASES)
            list(pool.map(lambda case: prepare(case, options.output / case), cases))
            done = [{key: line[key] for key in KEYS} for line in harness.read_lines(options.log)]
            left = [job for seed in options.seeds for case in cases for job in jobs(case, seed) if job.key not in done]
            list(pool.map(lambda job: run(job, options.output / job.case, options.log), left))
    if options.log == LOG:
        harness.write_page(PAGE, page(harness.read_lines(LOG)))


def jobs(case: str, seed: int) -> Iterator[Job]:
    """Yield the runs of a case with a seed."""
    yield Job(case, seed, "origin", 1.0)
    for target in TARGETS:
        yield Job(case, seed, "edropout", target)
    yield Job(case, seed, "magnitude", TARGETS[0])


def prepare(name: str, folder: Path) -> None:
    """Write the images and the user's weights of a case, if they are not there."""
    case, weights = CASES[name], folder / "model.pt"
    if weights.exists():
        return
    case.folder(folder / "images")
    torch.manual_seed(0)
    save_network(
        case.network(case.classes), folder / "images", weights, case.normalisation, epochs=case.epochs, rate=case.rate
    )


def run(job: Job, folder: Path, log: Path) -> None:
    """Init and prune as a user does, and log the result."""
    out = folder / f"{job.method}-{job.target:g}-{job.seed}"
    changed = [f"seed={job.seed}", *([] if job.method == "edropout" else ["search.method=magnitude"])]
    harness.append_line(log, job.key | pruned(folder / "model.pt", folder / "images", job.target, out, changed))


def pruned(weights: Path, images: Path, target: float, out: Path, changed: Sequence[str]) -> Line:
    """Write a recipe by `edcompress init`, prune by it with a few keys changed, and return what a log keeps of the report."""
    recipe = out.parent / f"{out.name}.yaml"
    words = ["--weights", weights, "--images", images, "--target", f"macs={target:g}"]
    harness.edcompress("init", recipe, *words, "--force", quiet=False, threads=1)
    harness.edcompress(
        "prune", weights, "--recipe", recipe, "-o", out, "--force", *harness.settings(changed), threads=1
    )
    report = json.loads((out / "report.json").read_text())
    stages = ("dense", "masked", "after_surgery", "pruned")
    return {
        "accuracy": {stage: report[stage]["accuracy"] for stage in stages}, "macs": report["target"]["achieved"],
        "alarms": report["alarms"], "remarks": report["remarks"], "chosen": report["chosen"],
        "settings": {key: report["settings"][key] for key in ("search", "finetune")}, "seconds": report["seconds"],
        "machine": report["machine"], "versions": report["versions"], "commit": harness.commit(), "date": harness.today(),
    }  # fmt: skip


HEAD = """# The first try

Written by `benchmarks/first_try.py` from `benchmarks/first_try.jsonl`: the recipe that `edcompress init` writes, unchanged, on networks
that were trained in plain PyTorch. Top-1 on the test images, mean of the seeds, in per cent. **origin** is the dense network trained for
the same epochs with the same settings, nothing removed; **drop** is origin minus pruned, in points. Uniform magnitude recovers alike.

"""


def page(lines: list[Line]) -> str:
    """Return docs/first-try.md."""
    lines = harness.latest(lines, *KEYS)
    text = HEAD
    for target in TARGETS:
        rows = [row for case in CASES if (row := case_row(case, target, lines))]
        if not rows:
            continue
        drops = [float(row.rsplit("|", 2)[1]) for row in rows]
        text += f"## {target:.0%} of the multiply-accumulates\n\n"
        text += "\n".join(harness.table(COLUMNS, rows)) + "\n\n"
        text += f"Mean drop {statistics.mean(drops):.2f}, largest {max(drops):.2f} points.\n\n"
    return text + about(lines)


def case_row(case: str, target: float, lines: list[Line]) -> str | None:
    """Return the row of a network; None where a run is missing."""
    own = [line for line in lines if line["case"] == case and line["target"] in (1.0, target)]
    found = {
        method: [line for line in own if line["method"] == method] for method in ("origin", "magnitude", "edropout")
    }
    if not (found["origin"] and found["edropout"]):
        return None
    mean = {method: statistics.mean(top1(line, "pruned") for line in group) for method, group in found.items() if group}
    magnitude = f"{mean['magnitude']:.2f}" if "magnitude" in mean else ""
    minutes = statistics.mean(line["seconds"] for line in found["edropout"]) / 60
    return harness.row((
        CASES[case].about, len(found["edropout"]), f"{top1(own[0], 'dense'):.2f}", f"{mean['origin']:.2f}", magnitude,
        f"**{mean['edropout']:.2f}**", f"{minutes:.1f}", f"{mean['origin'] - mean['edropout']:.2f}",
    ))  # fmt: skip


def top1(line: Line, stage: str) -> float:
    """Return the top-1 of a stage in per cent."""
    count = line["accuracy"][stage]["top1"]
    return float(100 * count["correct"] / count["total"])


def about(lines: list[Line]) -> str:
    """Return the machines, versions and dates of the lines."""
    facts = {
        f"{line['machine']['processor']}, {line['machine']['threads']} thread, {line['machine']['precision']}, torch "
        f"{line['versions']['torch']}, {line['date']}"
        for line in lines
    }
    return "Machine: " + "; ".join(sorted(facts)) + ".\n" if facts else ""


if __name__ == "__main__":
    main()
