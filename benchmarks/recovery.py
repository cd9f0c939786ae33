"""What helps a network after its channels are removed? The recovery that a run chooses, with one key changed at a time.

    EDCOMPRESS_DATA=... python benchmarks/recovery.py [NETWORK ...] [--variants NAME ...] [-o FOLDER]

The networks are fine-tuned in plain PyTorch on seven tenths of Imagenette's training images, and judged on the rest: no table of results
reports them. Uniform magnitude removes the same channels each time, so that only the recovery differs. A finished run has a line in
benchmarks/recovery.jsonl and is not run again. Rewrites docs/recovery.md; `--table` only writes the page.
"""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import harness
import torch
from first_try import about, pruned, top1
from first_try_data import photos
from first_try_networks import IMAGENET, lite0, save_network, squeezenet
from harness import DOCS, HERE, Line

LOG = HERE / "recovery.jsonl"
PAGE = DOCS / "recovery.md"
TARGET, CLASSES, JUDGED = 0.4, 10, 3
NETWORKS = {
    "SqueezeNet 1.1": (squeezenet, IMAGENET, 12, 3e-4),
    "EfficientNet-Lite0": (lite0, ((0.5,) * 3, (0.5,) * 3), 8, 5e-4),
}
"""By name: what makes the network, mean and std, and the epochs and the rate of the user's training."""

VARIANTS = {
    "as chosen": (),
    "no soft labels": ("finetune.distill=0",),
    "label smoothing 0.1, no soft labels": ("finetune.distill=0", "finetune.label_smoothing=0.1"),
    "average of the weights (0.99)": ("finetune.ema=0.99",),
    "mixup 0.2": ("finetune.mixup=0.2",),
    "cutmix 1.0": ("finetune.cutmix=1.0",),
    "RandAugment 9": ("data.rand_augment=9",),
}
"""Overrides by name."""

SCALED = {
    "a third of the rate": ("lr", 1 / 3),
    "three times the rate": ("lr", 3.0),
    "half the epochs": ("epochs", 0.5),
    "twice the epochs": ("epochs", 2.0),
}
"""By name: a key of `finetune`, and the factor by which the chosen value is multiplied."""

NAMES = [*VARIANTS, *SCALED]


def main() -> None:
    """Make the networks, run what the log lacks, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], metavar="NETWORK", help="default: all")
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    harness.add_output(parser, "runs/recovery")
    harness.add_log(parser, LOG)
    harness.add_table(parser, PAGE)
    options = parser.parse_args()
    if not options.table:
        divide(options.output / "images")
        done = {(line["network"], line["variant"], line["seed"]) for line in harness.read_lines(options.log)}
        wanted = product(options.networks or NETWORKS, options.variants, options.seeds)
        for name, variant, seed in wanted:
            if (name, variant, seed) not in done:
                run(name, variant, seed, options.output, options.log)
    if options.log == LOG:
        harness.write_page(PAGE, page(harness.read_lines(LOG)))


def divide(folder: Path) -> None:
    """Write the training photos of all classes, of which the last `JUDGED` tenths of each class become the test images."""
    if folder.exists():
        return
    photos(folder, slice(CLASSES))
    shutil.rmtree(folder / "val")
    for source in (folder / "train").iterdir():
        files = sorted(source.iterdir())
        for path in files[len(files) * (10 - JUDGED) // 10 :]:
            place = folder / "val" / source.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)


def run(name: str, variant: str, seed: int, output: Path, log: Path) -> None:
    """Prune one network with one variant, and log the result."""
    weights, images = output / f"{name}.pt", output / "images"
    if not weights.exists():
        make, normalisation, epochs, rate = NETWORKS[name]
        torch.manual_seed(0)
        save_network(make(CLASSES), images, weights, normalisation, epochs=epochs, rate=rate)
    changed = ["search.method=magnitude", "search.epochs=0", f"seed={seed}", *overrides(name, variant, log)]
    found = pruned(weights, images, TARGET, output / "run", changed)
    harness.append_line(log, {"network": name, "variant": variant, "seed": seed, **found})


def overrides(name: str, variant: str, log: Path) -> tuple[str, ...]:
    """Return the overrides of a variant; a scaled one needs the values that an earlier run chose "as chosen"."""
    if variant in VARIANTS:
        return VARIANTS[variant]
    key, factor = SCALED[variant]
    plain = [line for line in harness.read_lines(log) if (line["network"], line["variant"]) == (name, "as chosen")]
    value = factor * plain[0]["settings"]["finetune"][key]
    return (f"finetune.{key}={round(value) if key == 'epochs' else value}",)


HEAD = """# Recovery, one key at a time

Written by `benchmarks/recovery.py` from `benchmarks/recovery.jsonl`. Two networks, fine-tuned in plain PyTorch on seven tenths of
Imagenette's 1000 training images and judged on the other three tenths, are pruned to 40 % of their multiply-accumulates by uniform
magnitude: the same channels each time. The recovery is what a run chooses, with one key changed. Top-1 on the judging images in per cent,
mean of the seeds.

"""


def page(lines: list[Line]) -> str:
    """Return docs/recovery.md."""
    lines = harness.latest(lines, "network", "variant", "seed")
    seen = [name for name in NETWORKS if any(line["network"] == name for line in lines)]
    rows = []
    for variant in NAMES:
        cells = [mean_of(lines, name, variant, "pruned") for name in seen]
        if any(cells):
            rows.append(harness.row((variant, *cells)))
    dense = harness.row(("the dense network", *(mean_of(lines, name, "as chosen", "dense") for name in seen)))
    bare = harness.row(("before recovery", *(mean_of(lines, name, "as chosen", "after_surgery") for name in seen)))
    images = {line["accuracy"]["pruned"]["top1"]["total"] for line in lines}
    seeds = len({line["seed"] for line in lines})
    table = "\n".join(harness.table(("recovery", *seen), [dense, bare, *rows]))
    return f"{HEAD}{table}\n\nJudging images: {', '.join(map(str, sorted(images)))}; seeds: {seeds}. {about(lines)}"


def mean_of(lines: list[Line], name: str, variant: str, stage: str) -> str:
    """Return the mean top-1 of a stage over the seeds; empty where there is none."""
    own = [top1(line, stage) for line in lines if (line["network"], line["variant"]) == (name, variant)]
    return f"{sum(own) / len(own):.2f}" if own else ""


if __name__ == "__main__":
    main()
