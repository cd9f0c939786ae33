"""Which is slower: reading, decoding and augmenting images, or training on them?

    EDCOMPRESS_DATA=... python benchmarks/input_rate.py [--repeats 5] [--seconds 2] [RECIPE ...]

For each recipe the rate of its training batches, without worker processes and with one and two, and the rate at which its network
(random weights, plain steps on one batch in memory) trains in one process. All are wall time and interleaved; figures are medians over
the repeats, with the smallest and the largest. Then the ways to read one image file for training, in processor time. Rewrites
docs/input-rate.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import harness
import torch
from harness import DOCS
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as v2f

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.devices import pick_device
from edcompress.core.system.machine import processor, usable_cores
from edcompress.data.batches import train_batches
from edcompress.data.decoding import decode
from edcompress.data.images import FileImages
from edcompress.data.splits import open_splits
from edcompress.data.transforms import train_geometry
from edcompress.networks.build import new_network
from edcompress.training.precision import choose_precision
from edcompress.workflows.throughput import input_rate, training_rate

PAGE = DOCS / "input-rate.md"
RECIPES = ("digits", "resnet20_cifar10", "squeezenet1_1_imagenette")
FOLDER = "squeezenet1_1_imagenette"
WORKERS = (0, 1, 2)
FILES = 200


def measure(name: str, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Return images per second: of the input by the number of workers, and of training."""
    recipe = read_recipe(name, ())
    images, data = open_splits(recipe.data, seed=recipe.seed).train, recipe.data
    batch = next(iter(train_batches(images, data, seed=recipe.seed, epoch=0)))
    network, precision = new_network(recipe.network_spec), choose_precision(recipe.precision, pick_device("auto"))
    rates: dict[str, list[float]] = {name: [] for name in (*map(str, WORKERS), "training")}
    for _ in range(repeats):
        for workers in WORKERS:
            rate = input_rate(images, data.model_copy(update={"workers": workers}), seconds)
            rates[str(workers)].append(rate.per_second)
        rates["training"].append(training_rate(network, batch, recipe.finetune.config, precision, seconds).per_second)
    return rates


def recipe_row(name: str, rates: dict[str, list[float]]) -> str:
    """Return the row of one recipe."""
    recipe, middle = read_recipe(name, ()), {key: statistics.median(values) for key, values in rates.items()}
    share = middle["training"] / (middle["0"] + middle["training"])  # (1 / input) / (1 / input + 1 / training)
    slower = "training" if max(middle[str(workers)] for workers in WORKERS) > middle["training"] else "input"
    size = f"{recipe.data.image_size}x{recipe.data.image_size}"
    measured = (harness.median_and_range(values, ".0f") for values in rates.values())
    return harness.row(
        (f"`{name}`", size, recipe.data.batch_size, recipe.data.augment, *measured, f"{share:.1%}", slower)
    )


def read_rows(name: str, repeats: int) -> list[str]:
    """Return a row per way to read: milliseconds of processor time per image file on one thread, from path to augmented uint8 pixels."""
    data = read_recipe(name, ()).data
    images, crop = open_splits(data, seed=0).train.subset(torch.arange(FILES)), train_geometry(data).random
    if not isinstance(images, FileImages) or crop is None:
        raise TypeError(f"{name}: not a folder of images that are cropped at random")
    ways: dict[str, Callable[[str], Tensor]] = {
        "Pillow decodes, Pillow crops and resizes (used)": lambda file: v2f.pil_to_tensor(crop(decode(Path(file), 3))),
        "Pillow decodes, tensors are cropped and resized": lambda file: crop(v2f.pil_to_tensor(decode(Path(file), 3))),
        "`torchvision.io` decodes, tensors are cropped and resized": lambda file: crop(
            decode_jpeg(read_file(file), mode=ImageReadMode.RGB)
        ),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _, (way, read) in product(range(repeats), ways.items()):
        started = time.process_time()
        for file in images.paths:
            read(file)
        times[way].append((time.process_time() - started) / FILES * 1000)
    return [harness.row((way, harness.median_and_range(ms))) for way, ms in times.items()]


def page(rows: list[str], reading: list[str], options: argparse.Namespace) -> str:
    """Return docs/input-rate.md."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "No GPU"
    about = (
        f"{gpu}; {processor()}, {len(usable_cores())} cores, other jobs on them (load {os.getloadavg()[1]:.1f}); {options.threads} "
        f"torch threads; torch {torch.__version__}, Python {platform.python_version()}; {harness.today()}. n = {options.repeats} times "
        f"{options.seconds:g} s for each figure: the median (smallest to largest)."
    )
    head = ["recipe", "image", "batch", "augmentation", *(f"input, workers: {workers}" for workers in WORKERS), "training",
            "input's share of the time, workers: 0", "slower"]  # fmt: skip
    return "\n".join([
        "# Is the input the bottleneck?", "",
        "Written by `benchmarks/input_rate.py`, whose docstring says what is timed and how. Images per second.", "", about, "",
        *harness.table(head, rows), "",
        "Worker processes start again with every epoch: if an epoch takes a second or two, as here, that is much of their time.", "",
        "## One image file", "",
        f"Processor time per file on one thread, {FILES} JPEG files of Imagenette at 224x224, n = {options.repeats}. The last way is not "
        "used: torchvision 0.29 deprecates its decoders and will remove them.", "",
        *harness.table(("read", "ms"), reading), "",
    ])  # fmt: skip


def main() -> None:
    """Measure, and rewrite the page."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    options.threads = torch.get_num_threads()
    rows = [recipe_row(name, measure(name, options.repeats, options.seconds)) for name in options.recipes]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*TorchVision are deprecated", category=DeprecationWarning)
    text = page(rows, read_rows(FOLDER, options.repeats), options)
    harness.write_page(PAGE, text)
    print(text)


if __name__ == "__main__":
    main()
