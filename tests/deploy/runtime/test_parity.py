from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Count
from edcompress.deploy.runtime.parity import compare_with_onnx, run_onnx
from edcompress.deploy.runtime.sessions import open_session


def test_the_file_gives_the_networks_logits(network: nn.Sequential, onnx_file: Path, images: Tensor) -> None:
    proof = compare_with_onnx(network, onnx_file, images)
    assert proof.relative < 1e-5
    assert proof.of == "logits of 8 images, of 8 at batch 1, 2 and 5 too"
    assert proof.mean_abs_diff is not None
    assert 0 <= proof.mean_abs_diff <= proof.max_abs_diff
    assert proof.agreeing == Count(correct=8, total=8)
    with torch.inference_mode():
        assert proof.scale == pytest.approx(float(network.eval()(images).abs().max()), rel=1e-5)


def test_a_different_network_fails_by_its_difference(network: nn.Sequential, onnx_file: Path, images: Tensor) -> None:
    other = nn.Sequential(network, nn.Linear(4, 4))
    with torch.no_grad():
        other[1].weight.copy_(torch.eye(4))
        other[1].bias.copy_(torch.tensor([0.0, 0.0, 0.5, 0.0]))
    proof = compare_with_onnx(other, onnx_file, images)
    assert proof.max_abs_diff == pytest.approx(0.5, abs=1e-5)
    assert proof.relative > 1e-4
    assert proof.mean_abs_diff == pytest.approx(0.5 / 4, abs=1e-5)  # one of the four logits is off
    expected = (run_onnx(onnx_file, images) + torch.tensor([0.0, 0.0, 0.5, 0.0])).argmax(1)
    same = int((expected == run_onnx(onnx_file, images).argmax(1)).sum())
    assert proof.agreeing == Count(correct=same, total=8)


def test_more_images_than_fit_one_call_are_all_compared(network: nn.Sequential, onnx_file: Path) -> None:
    many = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    many[69] = float("nan")  # the last of all
    proof = compare_with_onnx(network, onnx_file, many)
    assert proof.max_abs_diff != proof.max_abs_diff
    assert proof.agreeing is not None
    assert proof.agreeing.total == 70


def test_many_images_go_through_a_few_at_a_time(onnx_file: Path) -> None:
    """256 images of 224x224 at once would take gigabytes."""
    opened, sizes = open_session(onnx_file), []

    class Watched:
        inputs, outputs, errors = opened.inputs, opened.outputs, opened.errors

        def run(self, feed: dict[str, Any]) -> Any:
            sizes.extend(len(value) for value in feed.values())
            return opened.run(feed)

    many = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    assert torch.allclose(run_onnx(Watched(), many), run_onnx(onnx_file, many))  # type: ignore[arg-type]
    assert sizes == [32, 32, 6]


def test_nan_logits_are_not_equal(network: nn.Sequential, onnx_file: Path, images: Tensor) -> None:
    broken = images.clone()
    broken[3, 0, 0, 0] = float("nan")
    proof = compare_with_onnx(network, onnx_file, broken)
    assert proof.max_abs_diff != proof.max_abs_diff
    assert proof.agreeing == Count(correct=7, total=8)


def test_parity_wants_at_least_eight_images(network: nn.Sequential, onnx_file: Path, images: Tensor) -> None:
    with pytest.raises(InputError, match="at least 8 images, not 7"):
        compare_with_onnx(network, onnx_file, images[:7])


def test_images_of_another_shape_are_an_error(onnx_file: Path, images: Tensor) -> None:
    for wrong in (images[:, :, :4], images[0]):
        with pytest.raises(InputError, match=r"images \['batch', 3, 8, 8\]"):
            run_onnx(onnx_file, wrong)


def test_a_model_that_fails_on_images_it_says_it_takes_is_an_error(tmp_path: Path, images: Tensor) -> None:
    """A symbolic batch, and inside it a Reshape that other exporters fixed at one image."""
    ends = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 192])]  # fmt: skip
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 192])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["images", "shape"], ["logits"])], "g", ends[:1], ends[1:], [shape]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "net.onnx"
    )
    assert run_onnx(tmp_path / "net.onnx", images[:1]).shape == (1, 192)
    with pytest.raises(InputError, match=r"cannot run the ONNX model on images of shape \[8, 3, 8, 8\]: .*Reshape"):
        run_onnx(tmp_path / "net.onnx", images)


def test_outputs_that_are_not_numbers_are_an_error(tmp_path: Path, images: Tensor) -> None:
    ends = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8]),
            helper.make_tensor_value_info("words", TensorProto.STRING, ["batch", 3, 8, 8])]  # fmt: skip
    cast = helper.make_node("Cast", ["images"], ["words"], to=TensorProto.STRING)
    graph = helper.make_graph([cast], "g", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "words.onnx"
    )
    with pytest.raises(InputError, match="first output of the ONNX model is not a tensor of floating-point logits"):
        run_onnx(tmp_path / "words.onnx", images)


def test_missing_and_broken_files_are_named(tmp_path: Path, onnx_file: Path) -> None:
    whole = onnx_file.read_bytes()
    for name, content in (("empty", b""), ("text", b"not a model\n"), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.onnx: onnxruntime cannot load"):
            open_session(path)
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(InputError, match="no such ONNX file"):
            open_session(path)


def test_an_absent_provider_lists_the_available_ones(onnx_file: Path) -> None:
    with pytest.raises(InputError, match=r"NoSuchProvider is not available.*CPUExecutionProvider"):
        open_session(onnx_file, provider="NoSuchProvider")
