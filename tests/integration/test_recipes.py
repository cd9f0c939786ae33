"""Every shipped recipe that no other integration test takes to its end, on a handful of images in its data set's own layout."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

from edcompress.data.image_folder import imagenet_wnids

pytestmark = pytest.mark.integration

SHORT = ("train.epochs=1", "search.epochs=1", "search.evolve_every=1", "finetune.epochs=1", "benchmark.runs=20", "data.batch_size=16",
         "data.workers=0", "data.search_fraction=0.25", "gate.max_top1_drop=0.999", "gate.max_top5_drop=null", "gate.min_speedup=0.1",
         "gate.disturbed=allow", "gate.allow_weak_dense=true")  # fmt: skip
Write = Callable[[Path, pytest.MonkeyPatch, np.random.Generator], None]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_mnist(folder: str) -> Write:
    """64 and 16 grey images in MNIST's files."""

    def write(root: Path, _patch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
        (root / folder / "raw").mkdir(parents=True)
        for part, count in (("train", 64), ("t10k", 16)):
            pixels, labels = random.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
            for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
                head = np.array([0x800 + values.ndim, *values.shape], ">i4").tobytes()
                (root / folder / "raw" / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())

    return write


def write_cifar(opener: Any, key: str, classes: int) -> Write:
    """64 and 16 images in the files of CIFAR-10 or CIFAR-100, whose digests torchvision then expects."""

    def pickled(path: Path, value: object) -> str:
        path.write_bytes(pickle.dumps(value))
        return md5(path)

    def write(root: Path, patch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
        base = root / opener.base_folder
        base.mkdir(parents=True)
        for part, count in (("train_list", 64), ("test_list", 16)):
            files = [name for name, _ in getattr(opener, part)]
            images = -(-count // len(files))
            contents = [{"data": random.integers(0, 256, (images, 3072), np.uint8),
                         key: random.integers(0, classes, images).tolist()} for _ in files]  # fmt: skip
            patch.setattr(
                opener,
                part,
                [[name, pickled(base / name, content)] for name, content in zip(files, contents, strict=True)],
            )
        names = {opener.meta["key"]: [f"class {number}" for number in range(classes)]}
        patch.setitem(opener.meta, "md5", pickled(base / opener.meta["filename"], names))

    return write


def write_images(paths: list[Path], random: np.random.Generator) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(path)


def write_flowers(root: Path, patch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    """48 training, 8 validation and 16 test images in the layout of Flowers-102."""
    base, number = root / "flowers-102", np.arange(1, 73)
    write_images([base / "jpg" / f"image_{i:05d}.jpg" for i in number], random)
    savemat(base / "imagelabels.mat", {"labels": number})
    savemat(base / "setid.mat", {"trnid": number[:48], "valid": number[48:56], "tstid": number[56:]})
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        patch.setitem(tv.Flowers102._file_dict, key, (name, md5(base / name)))


def write_imagenet(root: Path, _patch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    """A training image for each of the 1000 classes, and a test image for eight."""
    wnids = imagenet_wnids()
    write_images([root / "imagenet" / "train" / name / "0.jpg" for name in wnids], random)
    write_images([root / "imagenet" / "val" / name / "0.jpg" for name in wnids[:8]], random)


RECIPES: dict[str, tuple[Write, tuple[str, ...]]] = {
    "resnet18_fashion": (write_mnist("FashionMNIST"), ()),
    "resnet18_kuzushiji": (write_mnist("KMNIST"), ()),
    "resnet18_cifar100": (write_cifar(tv.CIFAR100, "fine_labels", 100), ()),
    "resnet56_cifar10": (write_cifar(tv.CIFAR10, "labels", 10), ()),
    "alexnet_flowers102": (write_flowers, ("data.image_size=96", "data.resize=96")),
    "resnet50_imagenet": (
        write_imagenet,
        ("data.limit=32", "data.search_fraction=0.01", "data.image_size=64", "data.resize=64"),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_runs_from_random_weights_to_the_gate(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write, own = RECIPES[name]
    write(tmp_path / "data", monkeypatch, np.random.default_rng(0))
    overrides = (*SHORT, f"data.root={tmp_path / 'data'}", *own)
    ended = cli(
        "run", "--recipe", name, *(word for pair in overrides for word in ("--set", pair)), "-o", tmp_path / "run"
    )
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    kind, asked = report["target"]["kind"], report["target"]["asked"]
    assert report["pruned"]["size"][kind] <= asked * report["dense"]["size"][kind]
    assert report["search"]["generations"] > 0
    for part in ("masked_vs_pruned", "pruned_vs_reloaded", "dense_vs_onnx", "pruned_vs_onnx"):
        assert report["proof"][part]["max_abs_diff"] <= 1e-4 * report["proof"][part]["scale"]
