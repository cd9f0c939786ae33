"""Whole runs on data of the user's own: data sets in Python, tables, folders and transforms, through the command line."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from digits import Interrupter
from launcher import EDCOMPRESS, TORCHRUN
from PIL import Image
from safetensors.torch import load_file

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import Monitor, NullMonitor
from edcompress.data.own_sets import Given
from edcompress.data.splits import splits_of_objects
from edcompress.networks.build import new_network
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.run_context import make_context
from edcompress.workflows.train import train

Cli = Callable[..., object]

MODULE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

def small():
    return nn.Sequential(nn.Conv2d(5, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 3))

class Stripes(Dataset):
    '''Five channels, of which the one of the class is bright.'''
    def __init__(self, first, last, floats=False):
        self.numbers, self.floats = range(first, last), floats
    def __len__(self):
        return len(self.numbers)
    def __getitem__(self, index):
        number = self.numbers[index]
        pixels = np.random.default_rng(number).integers(0, 120, (18, 15, 5), dtype=np.uint8)
        pixels[:, :, number % 3] += 120
        if self.floats:
            return torch.from_numpy(pixels[:16, :12]).permute(2, 0, 1) / 100 - 1, number % 3
        return pixels, number % 3

class Stream(IterableDataset):
    def __iter__(self):
        return iter(())

def pixels():
    return Stripes(0, 60), Stripes(60, 80), DataLoader(Stripes(80, 110), batch_size=7)

def floats():
    return Stripes(0, 60, True), None, Stripes(80, 110, True)

def apart():
    import os
    return Stripes(0, 60), None, Stripes(80 + 5 * int(os.environ["RANK"]), 110)

def stream():
    return Stream(), None, Stripes(80, 110)

def mirrored(image):
    return image[:, ::-1]

def noisy(image):
    import random
    return (image.astype(int) + np.random.randint(0, 9) + random.randint(0, 9)).clip(0, 255).astype(np.uint8)

def cropped(image):
    return image[:16, :12]
"""

SMALL = "factory: '{}:small', num_classes: 3, in_channels: 5"

SETTINGS = """
train: {epochs: 1, lr: 0.02}
search: {epochs: 1, evolve_every: 2, population: 4}
finetune: {epochs: 1, lr: 0.02}
target: {macs: 0.6}
benchmark: {runs: 20}
gate: {disturbed: allow}
run: {save_every: 0}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of data sets in the working directory."""
    name = f"data_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def recipe(data: str, model: str = "arch: resnet8, num_classes: 3, in_channels: 5") -> str:
    path = Path("my.yaml")
    text = f"model: {{{model}}}\ndata: {{batch_size: 8, search_fraction: 0.2, {data}}}\n{SETTINGS}"
    path.write_text(text.replace("run: {save_every: 0}\n", ""), encoding="utf-8")
    return str(path)


def input_of(path: Path) -> list[object]:
    return onnxruntime.InferenceSession(str(path)).get_inputs()[0].shape


@pytest.mark.integration
def test_a_factory_of_rectangles_with_five_channels(cli, mine: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    name = recipe(f"factory: '{mine}:pixels', image_size: [16, 12]")
    refused = cli("run", "--recipe", name, "-o", "run")
    assert (refused.code, (tmp_path / "run").exists()) == (2, False)
    assert f"data.factory: {mine}:pixels runs your own code; add --trust-code to allow it" in refused.err
    checked = cli("check", name)
    assert f"data.factory {mine}:pixels was not tried: it needs --trust-code" in " ".join(
        (checked.out + checked.err).split()
    )
    done = cli("run", "--recipe", name, "--trust-code", "-o", "run", "--set", "export.with_preprocessing=true")
    assert done.code in (0, 1), done.err
    assert "of each DataLoader the data set alone is used" in done.err
    assert "60 images train, 20 are held out to judge states, 30 test" in done.err
    run = RunFolder(tmp_path / "run")
    report = run.read_report()
    assert report.dense.accuracy.top1.total == 30
    assert input_of(run / "pruned.onnx")[1:] == [5, 16, 12]
    assert input_of(run / "pruned.pixels.onnx")[1:] == [16, 12, 5]
    assert json.loads((run / "load_pruned.json").read_text(encoding="utf-8"))["image"] == [5, 16, 12]
    about = json.loads(
        onnxruntime.InferenceSession(str(run / "pruned.onnx"))
        .get_modelmeta()
        .custom_metadata_map["edcompress.preprocessing"]
    )
    assert (about["image_size"], about["channels"], about["own"]) == ([16, 12], "stored", None)
    assert "Input `images`: float32 [batch, 5, 16, 12], channels stored." in (run / "model_card.md").read_text(
        encoding="utf-8"
    )
    for model in ("run/pruned.onnx", "run/pruned.pixels.onnx", "run"):
        found = cli("evaluate", model, "--recipe", name, "--trust-code", "--json")
        assert found.code == 0, found.err
        assert json.loads(found.out)["top1"]["correct"] == report.pruned.accuracy.top1.correct
    alone = subprocess.run([sys.executable, "load_pruned.py"], cwd=run.path, capture_output=True, text=True, check=True)
    assert "logits [1, 3] of a random image [1, 5, 16, 12]" in alone.stdout
    np.save(run.path / "image.npy", np.zeros((5, 16, 12), np.uint8))
    program = (run / "model_card.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    printed = subprocess.run([sys.executable, "-c", program], cwd=run.path, capture_output=True, text=True, check=True)
    session = onnxruntime.InferenceSession(str(run / "pruned.pixels.onnx"))
    logits = session.run(None, {"pixels": np.zeros((1, 16, 12, 5), np.uint8)})[0]
    assert np.allclose(json.loads(printed.stdout.split("]")[0] + "]"), logits[0], atol=1e-5)


def test_float_tensors_are_the_users_own_preprocessing(cli, mine: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    name = recipe(f"factory: '{mine}:floats', image_size: [16, 12]", SMALL.format(mine))
    refused = cli("run", "--recipe", name, "--trust-code", "-o", "run", "--set", "export.with_preprocessing=true")
    assert (refused.code, (tmp_path / "run").exists()) == (2, False)
    assert "export.with_preprocessing: the test images come as float tensors from your own code" in refused.err
    done = cli("run", "--recipe", name, "--trust-code", "-o", "run")
    assert done.code in (0, 1), done.err
    card = (tmp_path / "run" / "model_card.md").read_text(encoding="utf-8")
    assert "Before: your own preprocessing, in the data set that gave the test images as float tensors." in card
    found = cli("evaluate", "run/pruned.onnx", "--recipe", name, "--trust-code", "--json")
    assert found.code == 0, found.err
    again = cli("export", "run", "--onnx", "--trust-code")
    assert again.code == 0, again.err
    assert "add --trust-code" in cli("export", "run", "--onnx").err


def test_own_transforms_stand_in_the_card(cli, mine: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = f"factory: '{mine}:pixels', image_size: [16, 12], transform: '{mine}:mirrored', eval_transform: '{mine}:cropped'"
    done = cli("run", "--recipe", recipe(data, SMALL.format(mine)), "--trust-code", "-o", "run")
    assert done.code in (0, 1), done.err
    card = (tmp_path / "run" / "model_card.md").read_text(encoding="utf-8")
    assert (
        f"Before: your own preprocessing, `{mine}:cropped` (`data.eval_transform`); what it returns as pixels is then (pixels"
        in card
    )


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.integration)])
def test_an_interrupted_training_on_own_data_goes_on_to_the_same_file(mine: str, tmp_path: Path, workers: int) -> None:
    name = recipe(f"factory: '{mine}:pixels', image_size: [16, 12], transform: '{mine}:noisy'")
    checked = read_recipe(name, ["train.epochs=2", f"data.workers={workers}", "run.checkpoint_every=1 steps"])

    def trained(file: str, monitor: Monitor, *, resume: bool = False) -> dict[str, bytes]:
        train(checked, file, resume=resume, options=RunOptions("cpu", trust_code=True, monitor=monitor))
        return {name: tensor.numpy().tobytes() for name, tensor in load_file(tmp_path / file).items()}

    whole = trained("whole.safetensors", NullMonitor())
    with pytest.raises(KeyboardInterrupt):
        trained("torn.safetensors", Interrupter("train", 1, 3))
    assert trained("torn.safetensors", NullMonitor(), resume=True) == whole


def test_objects_in_memory_make_the_context_of_a_run(mine: str) -> None:
    name = recipe("dataset: memory, image_size: [16, 12]")
    checked = read_recipe(name)
    sets = importlib.import_module(mine).pixels()
    splits = splits_of_objects(Given(*sets), checked.data, checked.seed, classes=checked.model.num_classes)
    context = make_context(checked, splits)
    images, labels = next(iter(context.train_batches(0)))
    assert (tuple(images.shape), labels.dtype, context.data.augment) == ((8, 5, 16, 12), torch.int64, "none")
    assert tuple(context.parity_pixels.shape) == (30, 5, 16, 12)
    network = new_network(checked.network_spec)
    assert context.accuracy(network).top1.total == 30


def test_a_data_set_without_numbers_is_refused(cli, mine: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    refused = cli(
        "train",
        "--recipe",
        recipe(f"factory: '{mine}:stream', image_size: 16"),
        "--trust-code",
        "-o",
        "dense.safetensors",
    )
    assert (refused.code, (tmp_path / "dense.safetensors").exists()) == (2, False)
    assert "data.factory: train: it is of class Stream, which has no items by number" in refused.err


@pytest.mark.integration
def test_processes_compare_their_data_and_share_the_batches(mine: str, tmp_path: Path) -> None:
    def torchrun(factory: str) -> subprocess.CompletedProcess[str]:
        name = recipe(f"factory: '{mine}:{factory}', image_size: [16, 12]")
        command = [*TORCHRUN, *EDCOMPRESS, "run", "--recipe", name, "--trust-code", "--device", "cpu", "-o", factory]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "error: data differs between rank 0 and rank 1" in torchrun("apart").stderr
    torchrun("pixels")
    assert RunFolder(tmp_path / "pixels").read_report().dense.accuracy.top1.total == 30


def photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog", "elk"), images: int = 30) -> None:
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            pixels = generator.integers(0, 120, (18, 15, 3), dtype=np.uint8)
            pixels[:, :, number] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.mark.integration
@pytest.mark.usefixtures("mine")
def test_a_plain_folder_beside_the_recipe(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    photos(tmp_path / "photos")
    name = recipe("dataset: image_folder, folder: photos, image_size: [17, 13]", "arch: resnet8, num_classes: 3")
    done = cli("run", "--recipe", name, "-o", "run")
    assert done.code in (0, 1), done.err
    assert (
        f"{tmp_path}/photos has no test images of its own, 0.2 of each class tests: 58 images train, 14 are held out"
        in " ".join(done.err.split())
    )
    monkeypatch.chdir("/")
    monkeypatch.setenv("EDCOMPRESS_DATA", os.devnull)
    exported = cli("export", tmp_path / "run", "--onnx")
    assert exported.code == 0, exported.err
    assert input_of(tmp_path / "run" / "pruned.onnx")[1:] == [3, 17, 13]


@pytest.mark.usefixtures("mine")
def test_a_resumed_run_finds_the_same_data_however_its_path_is_written(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos(tmp_path / "photos")
    name = recipe(
        f"dataset: image_folder, root: '{tmp_path}', folder: photos, image_size: 16", "arch: resnet8, num_classes: 3"
    )
    assert cli("train", "--recipe", name, "-o", "dense.safetensors").code == 0
    assert cli("prune", "dense.safetensors", "--recipe", name, "-o", "run").code == 0
    kept = tmp_path / "run" / "recipe.yaml"
    assert read_recipe(kept).data.folder == f"{tmp_path}/photos"
    kept.write_text(
        kept.read_text(encoding="utf-8").replace(f"folder: {tmp_path}/photos", "folder: photos"), encoding="utf-8"
    )
    again = cli("prune", "dense.safetensors", "--recipe", name, "-o", "run", "--resume")
    assert again.code == 0, again.err
    moved = cli(
        "prune", "dense.safetensors", "--recipe", name, "-o", "run", "--resume", "--set", "data.folder=elsewhere"
    )
    assert moved.code == 2
    assert "was started with a different data.folder" in moved.err


@pytest.mark.usefixtures("mine")
def test_a_table_of_images(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos(tmp_path / "photos")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted((tmp_path / "photos").rglob("*.png"))]
    (tmp_path / "table.csv").write_text("file,class\n" + "\n".join(rows), encoding="utf-8")
    name = recipe("dataset: csv, source: table.csv, image_size: 16", "arch: resnet8, num_classes: 3")
    done = cli("train", "--recipe", name, "-o", "dense.safetensors")
    assert done.code == 0, done.err
    assert "(images: file, classes: class) has no test images of its own" in " ".join(done.err.split())
    fewer = cli("train", "--recipe", name, "-o", "other.safetensors", "--set", "model.num_classes=2")
    assert fewer.code == 2
    assert "model.num_classes is 2, but the data has labels up to 2" in fewer.err


def test_the_report_reads_square_and_rectangular_sizes(report: Report) -> None:
    assert report.tested_on
    assert report.tested_on.preprocessing
    square = report.tested_on.preprocessing
    assert isinstance(square.image_size, int)
    tree = report.model_dump(mode="json")
    tree["tested_on"]["preprocessing"]["image_size"] = [8, 10]
    again = Report.model_validate(tree)
    assert again.tested_on
    assert again.tested_on.preprocessing
    assert again.tested_on.preprocessing.height_width == (8, 10)
