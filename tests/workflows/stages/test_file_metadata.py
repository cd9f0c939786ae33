"""What a file says of its classes and images is compared with the recipe before anything is measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from digits import digits
from onnx import TensorProto, helper, numpy_helper

from edcompress.core.errors import InputError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.core.system.tensor_files import save_tensors
from edcompress.data.transforms import preprocessing_spec
from edcompress.deploy.export.onnx_variants import with_normalisation
from edcompress.workflows.evaluate import evaluate
from edcompress.workflows.stages.file_metadata import CLASSES, PREPROCESSING, TRAINING, unlike_images

RECIPE = digits()
NAMES = list("0123456789")


class Listener(NullMonitor):
    def __init__(self) -> None:
        self.alarms: list[str] = []

    def alarm(self, text: str) -> None:
        self.alarms.append(text)


def linear(path: Path, metadata: dict[str, str], logits: int = 10) -> Path:
    """A file of random weights for the digits recipe's images."""
    weights = np.random.default_rng(0).standard_normal((256, logits)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 16, 16])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", logits])
    graph = helper.make_graph(nodes, "g", [taken], [given], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def metadata_of(classes: list[str] = NAMES, **preprocessing: Any) -> dict[str, str]:
    """Metadata as `export` writes it, but for some values of the preprocessing."""
    return {
        CLASSES: json.dumps(classes),
        PREPROCESSING: json.dumps(preprocessing_spec(RECIPE.data, 1).model_dump(mode="json") | preprocessing),
    }


def measured(path: Path, recipe: Recipe = RECIPE, *, ignored: bool = False) -> tuple[int, list[str]]:
    listener = Listener()
    accuracy = evaluate(path, recipe, RunOptions("cpu", monitor=listener), ignore_metadata=ignored)
    return accuracy.top1.correct, listener.alarms


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (metadata_of(NAMES[::-1]), r"class 0 is 9 there, and 0 in the data \(the same names in another order\)"),
        (metadata_of([*NAMES[:9], "ten"]), r"class 9 is ten there, and 9 in the data"),
        (metadata_of([*NAMES, "10"]), "it has 11 classes, the data 10"),
        (metadata_of(mean=[0.5]), r"mean is \[0\.5\] there, and \[0\.305\] in the recipe"),
        (metadata_of(std=[1.0]), r"std is \[1\.0\] there"),
        (metadata_of(resize=20, crop="center"), r"resize is 20 there, and null in the recipe; crop is \"center\" there"),
        (metadata_of(interpolation="bicubic"), "interpolation is \"bicubic\" there"),
        (metadata_of(channels="RGB"), "channels is \"RGB\" there"),
    ],
)  # fmt: skip
def test_a_file_for_other_classes_or_images_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, str], says: str
) -> None:
    path = linear(tmp_path / "net.onnx", metadata)
    with pytest.raises(
        InputError, match=rf"net\.onnx is for images or classes other than .*({says}).*--ignore-metadata"
    ):
        measured(path)
    correct, alarms = measured(path, ignored=True)
    assert correct == measured(linear(tmp_path / "plain.onnx", {}))[0]
    assert "net.onnx is for images or classes other than" in alarms[0]


@pytest.mark.parametrize(
    "metadata", [{}, metadata_of(), metadata_of(exif_orientation=None), {CLASSES: "[", PREPROCESSING: '"?"'}], ids=str
)
def test_a_file_that_fits_or_says_nothing_is_measured(tmp_path: Path, metadata: dict[str, str]) -> None:
    _, alarms = measured(linear(tmp_path / "net.onnx", metadata))
    assert ["chance" in text for text in alarms] in ([True], [])


@pytest.mark.parametrize("logits", [5, 11])
def test_another_number_of_logits_is_refused_whatever_the_file_says(tmp_path: Path, logits: int) -> None:
    path = linear(tmp_path / "net.onnx", {}, logits)
    with pytest.raises(InputError, match=rf"net\.onnx: gives {logits} logits per image, and model\.num_classes is 10"):
        measured(path, ignored=True)


def test_a_file_that_takes_pixels_is_given_pixels(tmp_path: Path) -> None:
    plain, pixels = linear(tmp_path / "plain.onnx", metadata_of()), tmp_path / "pixels.onnx"
    with_normalisation(plain, pixels, preprocessing_spec(RECIPE.data, 1), metadata_of())
    assert measured(pixels)[0] == measured(plain)[0]
    assert measured(pixels, digits("data.mean=[0.9]", "data.std=[0.1]"))[0] == measured(plain)[0]


def test_what_train_writes_into_a_checkpoint_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "dense.safetensors", digits("data.mean=[0.5]", "data.image_size=20")
    save_tensors(path, {}, {TRAINING: json.dumps(RECIPE.training_settings)})
    assert list(unlike_images(path, RECIPE.data, 1)) == []
    assert list(unlike_images(path, other.data, 1)) == [
        "image_size is 16 there, and 20 in the recipe",
        "mean is [0.305] there, and [0.5] in the recipe",
    ]
    with pytest.raises(
        InputError, match=r"dense\.safetensors is for images or classes other .*: image_size is 16 there"
    ):
        measured(path, other)
    for strange in ("{}", "3", json.dumps({"data": {"dataset": "of another version"}})):
        save_tensors(path, {}, {TRAINING: strange})
        assert list(unlike_images(path, other.data, 1)) == []
