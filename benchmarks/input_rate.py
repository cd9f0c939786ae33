"""Which is slower: reading, decoding and augmenting images, or training on them?

    EDCOMPRESS_DATA=... python benchmarks/input_rate.py [--repeats 5] [--seconds 2] [RECIPE ...]

For each recipe the rate at which its training batches come, without worker processes and with one and two, and the rate at which its
network (random weights, plain steps on one batch that is there already) trains in one process. All are wall time and interleaved, the
figures medians over the repeats, with the smallest and the largest. Then the ways to read one image file for training, in processor
time. Rewrites docs/input-rate.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as v2f

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.devices import pick_device
from edcompress.core.system.machine import processor, usable_cores
from edcompress.data.batches import train_batches
from edcompress.data.images import FileImages, decode
from edcompress.data.splits import open_splits
from edcompress.data.transforms import train_geometry
from edcompress.networks.build import new_network
from edcompress.training.precision import choose_precision
from edcompress.workflows.throughput import input_rate, training_rate

PAGE = Path(__file__).parent.parent / "docs" / "input-rate.md"
RECIPES = ("digits", "resnet20_cifar10", "squeezenet1_1_imagenette")
FOLDER = "squeezenet1_1_imagenette"
WORKERS = (0, 1, 2)
FILES = 200


def measure(name: str, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Images per second: of the input by the number of workers, and of training."""
    recipe = read_recipe(name, ())
    images, data = open_splits(recipe.data, seed=recipe.seed).train, recipe.data
    batch = next(iter(train_batches(images, data, seed=recipe.seed, epoch=0)))
    network, precision = new_network(recipe.network_spec), choose_precision(recipe.precision, pick_device("auto"))
    rates: dict[str, list[float]] = {name: [] for name in (*map(str, WORKERS), "training")}
    for _ in range(repeats):
        for workers in WORKERS:
            rate = input_rate(images, data.model_copy(update={"workers": workers}), seconds)
            rates[str(workers)].append(rate.per_second)
        rates["training"].append(training_rate(network, batch, recipe.finetune, precision, seconds).per_second)
    return rates


def row(name: str, rates: dict[str, list[float]]) -> str:
    recipe, middle = read_recipe(name, ()), {key: statistics.median(values) for key, values in rates.items()}
    share = middle["training"] / (middle["0"] + middle["training"])  # (1 / input) / (1 / input + 1 / training)
    slower = "training" if max(middle[str(workers)] for workers in WORKERS) > middle["training"] else "input"
    cells = [f"`{name}`", f"{recipe.data.image_size}x{recipe.data.image_size}", recipe.data.batch_size, recipe.data.augment,
             *(spread(values) for values in rates.values()), f"{share:.1%}", slower]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def read_rows(name: str, repeats: int) -> list[str]:
    """Milliseconds of processor time per image file on one thread, from path to augmented uint8 pixels, by who does what."""
    data = read_recipe(name, ()).data
    images, crop = open_splits(data, seed=0).train.subset(torch.arange(FILES)), train_geometry(data).varied
    assert isinstance(images, FileImages)
    assert crop is not None
    ways: dict[str, Callable[[str], Tensor]] = {
        "Pillow decodes, Pillow crops and resizes (as it is)": lambda file: v2f.pil_to_tensor(
            crop(decode(Path(file), 3))
        ),
        "Pillow decodes, tensors are cropped and resized": lambda file: crop(v2f.pil_to_tensor(decode(Path(file), 3))),
        "`torchvision.io` decodes, tensors are cropped and resized": lambda file: crop(
            decode_jpeg(read_file(file), mode=ImageReadMode.RGB)
        ),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _, (way, read) in product(range(repeats), ways.items()):
        began = time.process_time()
        for file in images.paths:
            read(file)
        times[way].append((time.process_time() - began) / FILES * 1000)
    return [f"| {way} | {statistics.median(ms):.2f} ({min(ms):.2f} to {max(ms):.2f}) |" for way, ms in times.items()]


def page(rows: list[str], reading: list[str], options: argparse.Namespace) -> str:
    """docs/input-rate.md."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "No GPU"
    about = (
        f"{gpu}; {processor()}, {len(usable_cores())} cores, other jobs on them (load {os.getloadavg()[1]:.1f}); {options.threads} "
        f"torch threads; torch {torch.__version__}, Python {platform.python_version()}; {date.today()}. n = {options.repeats} times "
        f"{options.seconds:g} s for each figure: the median (smallest to largest)."
    )
    head = ["recipe", "image", "batch", "augmentation", *(f"input, workers: {workers}" for workers in WORKERS), "training",
            "input's share of the time, workers: 0", "slower"]  # fmt: skip
    return "\n".join([
        "# Is the input the bottleneck?", "",
        "Written by `benchmarks/input_rate.py`, which says what is timed and how. Images per second.", "", about, "",
        f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows, "",
        "Worker processes begin anew with every epoch: where an epoch takes a second or two, as here, that is much of their time.", "",
        "## One image file", "",
        f"Processor time per file on one thread, {FILES} JPEG files of Imagenette at 224x224, n = {options.repeats}. The last way is not "
        "taken: torchvision 0.29 deprecates its decoders and will remove them.", "",
        "| read | ms |", "| --- | --- |", *reading, "",
    ])  # fmt: skip


def main() -> None:
    """Measure, and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    options.threads = torch.get_num_threads()
    rows = [row(name, measure(name, options.repeats, options.seconds)) for name in options.recipes]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*TorchVision are deprecated", category=DeprecationWarning)
    PAGE.write_text(page(rows, read_rows(FOLDER, options.repeats), options), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
