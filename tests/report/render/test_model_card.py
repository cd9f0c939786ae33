"""The model card: its content, and that its program feeds a network exactly what edcompress feeds it."""

import ast
import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import ExifTags, Image
from torchvision.transforms.v2.functional import pil_to_tensor

from edcompress.cli.output import show_report
from edcompress.core.recipe.data import Data, Interpolation, Orientation
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.measures import MOST_WAITED
from edcompress.core.results.report import Report
from edcompress.data.images import FileImages, MemoryImages
from edcompress.data.transforms import eval_geometry, normalise, preprocessing_spec
from edcompress.report.render.html_page import render_page
from edcompress.report.render.model_card import CardSubject, render_card, snippet


def printed(program: str, folder: Path) -> tuple[list[float], int]:
    """Return the logits and the class that the card's program prints when it runs in `folder`."""
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        exec(program, {})
    logits, _, top = out.getvalue().strip().rpartition(" ")
    return ast.literal_eval(logits), int(top)


def card_of(content: dict[str, Any], classes: Sequence[str] = ()) -> str:
    recipe = read_recipe("resnet20_cifar10")
    return render_card(
        Report.model_validate(content),
        CardSubject("cifar10", 10, "dynamic"),
        preprocessing_spec(recipe.data, 3),
        classes,
    )


def flattening(folder: Path, channels: int, size: tuple[int, int]) -> None:
    """Write a pruned.onnx whose logits are its input."""
    node = helper.make_node("Flatten", ["images"], ["logits"])
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, *size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "g", [images], [logits]), ir_version=10)
    model.opset_import[0].version = 18
    onnx.save(model, folder / "pruned.onnx")


def program_and_product(folder: Path, data: Data, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network gets from image.png by the card's program, and by edcompress."""
    flattening(folder, channels, data.height_width)
    images = FileImages(
        torch.tensor([0]), channels, orientation=data.exif_orientation, paths=(str(folder / "image.png"),)
    )
    logits, top = printed(snippet(preprocessing_spec(data, channels)), folder)
    assert top == int(torch.tensor(logits).argmax())
    return torch.tensor(logits), normalise(images.read([0], eval_geometry(data)).pixels, data).flatten()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(37, 53), (53, 40), (9, 9), (16, 11)])
@pytest.mark.parametrize("resize", [None, 24, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_program_prepares_a_file_bit_by_bit_like_the_test_images(
    tmp_path: Path, size: tuple[int, int], resize: int | None, channels: int
) -> None:
    mean, std = ((0.4,), (0.3,)) if channels == 1 else ((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    data = Data(dataset="image_folder", image_size=16, resize=resize, mean=mean, std=std, channels=channels)
    noise(*size).save(tmp_path / "image.png")
    assert torch.equal(*program_and_product(tmp_path, data, channels))


@pytest.mark.parametrize("size", [(37, 53), (53, 40), (9, 9), (16, 11)])
@pytest.mark.parametrize("resize", [None, 24])
@pytest.mark.parametrize("sides", [(16, 12), (11, 20)])
def test_the_program_prepares_rectangles(
    tmp_path: Path, size: tuple[int, int], resize: int | None, sides: tuple[int, int]
) -> None:
    data = Data(dataset="image_folder", image_size=sides, resize=resize)
    noise(*size).save(tmp_path / "image.png")
    assert torch.equal(*program_and_product(tmp_path, data, 3))


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("resize", [None, 20])
def test_the_program_resizes_as_the_recipe_says(
    tmp_path: Path, interpolation: Interpolation, resize: int | None
) -> None:
    data = Data(dataset="image_folder", image_size=16, resize=resize, interpolation=interpolation)
    noise(37, 53).save(tmp_path / "image.png")
    program, product = program_and_product(tmp_path, data, 3)
    assert torch.equal(program, product)
    bilinear = program_and_product(tmp_path, data.model_copy(update={"interpolation": "bilinear"}), 3)[1]
    assert torch.equal(product, bilinear) == (interpolation == "bilinear")
    memory = MemoryImages(pil_to_tensor(noise(37, 53)).unsqueeze(0), torch.tensor([0]), 3)
    assert torch.equal(normalise(memory.read([0], eval_geometry(data)).pixels, data).flatten(), product)


@pytest.mark.parametrize("orientation", ["apply", "ignore"])
@pytest.mark.parametrize("held", range(1, 9))
def test_the_program_rotates_an_image_as_edcompress_does(tmp_path: Path, held: int, orientation: Orientation) -> None:
    data = Data(dataset="image_folder", image_size=16, resize=20, exif_orientation=orientation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = held
    noise(37, 53).save(tmp_path / "image.png", exif=exif)
    program, product = program_and_product(tmp_path, data, 3)
    assert torch.equal(program, product)
    noise(37, 53).save(tmp_path / "image.png")
    assert torch.equal(program_and_product(tmp_path, data, 3)[1], product) == (held == 1 or orientation == "ignore")


def test_the_program_fills_a_fixed_batch() -> None:
    program = snippet(preprocessing_spec(Data(dataset="digits", image_size=16), 1), 4)
    assert "[None].repeat(4, 0)  # [4, 1, 16, 16]" in program


def test_the_card_says_what_was_measured_and_on_what(report: Report) -> None:
    card = card_of(report.model_dump(), [f"class {n}" for n in range(25)])
    for said in (
        "# resnet56, pruned",
        "cifar10, 10 classes",
        "49.8% left",
        "10000 test images",
        "| 93.33 % |",
        "1.84x faster",
    ):
        assert said in card
    assert "float32 [batch, 3, 32, 32], channels RGB" in card
    assert "resized to 32 x 32" in card
    assert "19 class 19, and 5 more in the metadata" in card


def test_the_card_says_what_the_latencies_were_measured_with_and_not_where_the_network_was_pruned(
    content: dict[str, Any],
) -> None:
    content["pruned"]["latency_ms"]["batch_size"] = 8
    content["machine"], content["versions"] = {"processor": "of the GPU server"}, {"onnxruntime": "1.23.0"}
    card = card_of(content)
    assert (
        "measured at batch 8, 1 thread, in 300 interleaved calls per model, with CPUExecutionProvider of onnxruntime 1.32.0, "
        "Python 3.12.1, a processor, cores 0" in card
    )
    assert "GPU server" not in card
    assert "1.23.0" not in card


def test_the_card_of_an_accuracy_target_says_what_was_lost(content: dict[str, Any]) -> None:
    content["target"] = {"kind": "max_top1_drop", "asked": 0.01, "achieved": 0.0075, "round_to": 8}
    card = card_of(content)
    assert "edropout, asked to lose at most 1.00 points of top-1, 0.75 lost on the held-out images) from" in card
    assert "max_top1_drop" not in card


def test_the_card_without_a_target_says_what_share_of_what_is_left(content: dict[str, Any]) -> None:
    content["target"] = {"kind": "none", "asked": 1.0, "achieved": 0.61, "round_to": 8}
    card = card_of(content)
    assert "no target, 61.0% of its macs left" in card


def test_page_card_and_terminal_warn_of_times_measured_beside_other_work(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = "other processes had the cores for 6% of the measured time"
    content["dense"]["more_latency_ms"] = [content["dense"]["latency_ms"]]
    for waited in (0.05, 0.06):
        content["pruned"]["more_latency_ms"] = [content["pruned"]["latency_ms"] | {"waited": waited}]
        report = Report.model_validate(content)
        show_report(report, tmp_path, as_json=False)
        shown = (render_page(report, [], {"groups": []}), card_of(content), capsys.readouterr().out)
        assert [warned in text for text in shown] == [waited > MOST_WAITED] * 3


def test_the_card_shows_foreign_text_and_contains_no_markup_from_it(content: dict[str, Any]) -> None:
    content["network"] = "a`b <script>x</script>\n# c"
    content["recipe"], content["checkpoint"] = "`` ![x](http://y)", "w|`.pt"
    content["pruned"]["latency_ms"]["environment"]["processor"] = "<img src=x> | cpu\n\n# heading"
    content["proof"]["masked_vs_pruned"]["of"] = "[link](http://y) | <b>"
    card = card_of(content, ["<script>alert(1)</script>", "a | b", "c\n# d", "e\x1b[2J", "*f*"])
    prose, program = card.split("```python\n")
    shown = re.sub(r"(`+) .*? \1|`[^`]*`", "", prose)  # without text between backticks, which is shown as it is
    assert not re.search(r"(?<!\\)<|\]\(|\x1b|\*f\*", re.sub(r"\\[\[\]*]", "", shown))
    assert [line for line in prose.splitlines() if line.startswith("#")][1:] == [
        "## Figures",
        "## Input and output",
        "## Use it",
    ]
    assert "0 \\<script\\>alert(1)\\</script\\>, 1 a \\| b, 2 c \\# d" in prose
    assert "``` `` ![x](http://y) ```" in prose
    tables = [line for line in prose.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5}
    assert program == snippet(preprocessing_spec(read_recipe("resnet20_cifar10").data, 3)) + "```\n"
