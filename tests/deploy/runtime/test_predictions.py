from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Pairs, Recalls
from edcompress.deploy.runtime.parity import run_onnx
from edcompress.deploy.runtime.predictions import Predictions, predict


def test_accuracy_counts_over_batches(onnx_file: Path, images: Tensor) -> None:
    labels = run_onnx(onnx_file, images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 4
    found = predict({"a": onnx_file}, [(images[:5], labels[:5]), (images[5:], labels[5:])], 4)["a"]
    assert (found.accuracy.top1.correct, found.accuracy.top1.total) == (7, 8)
    assert (found.accuracy.top5.correct, found.accuracy.top5.total) == (8, 8)
    assert torch.equal(found.classes, run_onnx(onnx_file, images).argsort(dim=1, descending=True))


def test_two_files_see_the_same_images_and_each_batch_is_read_once(
    onnx_file: Path, dead_onnx_file: Path, images: Tensor
) -> None:
    labels = torch.arange(8) % 4
    once = iter([(images[:3], labels[:3]), (images[3:], labels[3:])])
    found = predict({"dense": onnx_file, "pruned": dead_onnx_file}, once, 4)
    for name, path in (("dense", onnx_file), ("pruned", dead_onnx_file)):
        assert torch.equal(found[name].classes[:, 0], run_onnx(path, images).argmax(dim=1))
        assert torch.equal(found[name].labels, labels)


def test_pairs_count_who_is_right_where() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    dense = Predictions(labels, torch.tensor([[0, 9], [1, 9], [9, 2], [9, 8], [-1, -1], [5, 9]]))
    other = Predictions(labels, torch.tensor([[0, 9], [9, 1], [2, 9], [9, 8], [-1, -1], [-1, -1]]))
    paired = other.beside(dense)
    assert paired.top1 == Pairs(both=1, dense_only=2, other_only=1, neither=2)
    assert paired.top5 == Pairs(both=3, dense_only=1, other_only=0, neither=2)
    assert paired.same_class == 2  # images 0 and 3; those without an answer agree with nothing
    assert paired.agreement == pytest.approx(2 / 6)
    dense_right, other_right = (model.accuracy.top1.correct for model in (dense, other))
    assert dense_right - other_right == paired.top1.dense_only - paired.top1.other_only


def test_recalls_count_images_right_ones_and_given_ones_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    found = Predictions(labels, torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0], [-1, -1], [0, 3]])).recalls(4)
    assert found == Recalls(images=(3, 2, 0, 1), right=(2, 1, 0, 0), given=(3, 2, 0, 0))


def test_a_file_beside_itself_agrees_everywhere(onnx_file: Path, images: Tensor) -> None:
    found = predict({"a": onnx_file}, [(images, torch.zeros(8, dtype=torch.int64))], 4)["a"]
    assert found.beside(found).agreement == 1


def test_accuracy_over_nothing_is_an_error(onnx_file: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        predict({"a": onnx_file}, [], 4)


@pytest.mark.parametrize("classes", [3, 5])
def test_a_number_of_logits_that_is_not_that_of_the_classes_is_refused(
    onnx_file: Path, images: Tensor, classes: int
) -> None:
    with pytest.raises(InputError, match=rf"gives 4 logits per image, and model\.num_classes is {classes}; give"):
        predict({"a": onnx_file}, [(images, torch.zeros(8, dtype=torch.int64))], classes)


def test_a_file_that_gives_no_logits_is_named(tmp_path: Path, images: Tensor) -> None:
    given = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "g", [taken], [given])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(InputError, match=r"relu\.onnx: gives \[8, 3, 8, 8\] for 8 images, not their logits"):
        predict({"a": path}, [(images, torch.zeros(8))], 4)
