"""From which images the ONNX files of a run are made."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save_file

from edcompress.networks.load_pruned import CifarResNet

DARK, BRIGHT = 50, 250


def write_images(folder: Path, brightest: int, count: int) -> None:
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(0, brightest + 1, (8, 8), generator=torch.Generator().manual_seed(number)).byte()
            Image.fromarray(pixels.numpy()).save(folder / name / f"{number}.png")


def overrides(data: Path) -> Iterator[str]:
    pairs = ("model.num_classes=2", "data.dataset=image_folder", f"data.root={data}", "data.channels=1", "data.image_size=8",
             "data.mean=[0]", "data.std=[1]", "data.batch_size=8", "search.epochs=1", "finetune.epochs=1", "benchmark.runs=20",
             "constraints.round_to=1")  # fmt: skip
    for pair in pairs:
        yield from ("--set", pair)


def test_int8_is_calibrated_on_the_search_split(cli, tmp_path: Path) -> None:
    """The test images are five times as bright as all others: with their range the input's 255 steps would be five times as coarse."""
    write_images(tmp_path / "data" / "train", DARK, 20)
    write_images(tmp_path / "data" / "val", BRIGHT, 8)
    save_file(CifarResNet(8, num_classes=2, in_channels=1).state_dict(), tmp_path / "dense.safetensors")
    recipe = ("--recipe", "digits", *overrides(tmp_path / "data"))
    pruned = cli("prune", tmp_path / "dense.safetensors", *recipe, "-o", tmp_path / "run")
    assert pruned.code == 0, pruned.err
    exported = cli("export", tmp_path / "run", "--onnx", "--int8")
    assert exported.code == 0, exported.err
    graph = onnx.load(tmp_path / "run" / "pruned.int8.onnx").graph
    (scale,) = (node.input[1] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "images")
    (step,) = (float(numpy_helper.to_array(tensor)) for tensor in graph.initializer if tensor.name == scale)
    assert 0.8 * DARK / 255 < 255 * step <= DARK / 255 * 1.001
