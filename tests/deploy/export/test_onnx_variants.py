"""Eight bits and half precision: what the files hold, and how near their logits are to the network's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edcompress.core.errors import EdcompressError
from edcompress.deploy.export.onnx_variants import halve, quantize
from edcompress.deploy.runtime.parity import compare_with_onnx, run_onnx


@pytest.fixture(scope="module")
def int8_file(onnx_file: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "net.int8.onnx"
    quantize(onnx_file, path, images, {"who": "me"})
    return path


@pytest.fixture(scope="module")
def half_file(onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp16") / "net.fp16.onnx"
    halve(onnx_file, path, {"who": "me"})
    return path


def tensors(model: onnx.ModelProto, kind: int) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == kind]


def test_int8_weights_are_per_channel_and_of_seven_bits(int8_file: Path) -> None:
    weights = tensors(onnx.load(int8_file), TensorProto.INT8)
    shapes = {values.shape for values in weights}
    assert {(8, 3, 3, 3), (8,)} <= shapes  # the convolution's weights, and a zero point for each of its channels
    assert max(np.abs(values.astype(int)).max() for values in weights) <= 64


def test_int8_is_near_the_network_and_half_precision_nearer(
    network: nn.Sequential, int8_file: Path, half_file: Path, images: Tensor
) -> None:
    assert 1e-5 < compare_with_onnx(network, half_file, images).relative < 5e-3
    assert 1e-4 < compare_with_onnx(network, int8_file, images).relative < 5e-2


def test_the_logits_are_not_quantised(int8_file: Path, images: Tensor) -> None:
    """256 steps are few: of 10000 images of CIFAR-10 55 had two top classes."""
    graph = onnx.load(int8_file).graph
    assert [node.op_type for node in graph.node if "logits" in node.output] == ["Gemm"]
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
    steps = np.diff(np.unique(run_onnx(int8_file, images).numpy()))
    assert steps.min() < steps.sum() / 255 / 4


def test_nor_are_logits_that_are_reshaped_on_their_way_out(tmp_path: Path, images: Tensor) -> None:
    weights = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18]>
    net (float[batch, 3, 8, 8] images) => (float[batch, 4] logits) <int64[3] flat = {0, 4, 1}, int64[1] last = {2}> {
        bent = Relu(images)
        maps = Conv(bent, weight)
        columns = Reshape(maps, flat)
        logits = Squeeze(columns, last)
    }""")
    model.graph.initializer.append(numpy_helper.from_array(weights.numpy(), "weight"))
    onnx.save(model, tmp_path / "net.onnx")
    quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", images, {})
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds[-4:] == ["DequantizeLinear", "Conv", "Reshape", "Squeeze"]
    near = run_onnx(tmp_path / "int8.onnx", images) - run_onnx(tmp_path / "net.onnx", images)
    assert near.abs().max() < 0.05 * run_onnx(tmp_path / "net.onnx", images).abs().max()


def test_ranges_come_from_all_images(onnx_file: Path, images: Tensor, tmp_path: Path) -> None:
    """With one image a hundred times as bright, the last of 33 (a batch is 32), the input's steps are a hundred times as coarse."""
    many = images.repeat(5, 1, 1, 1)[:33]
    bright = torch.cat([many[:32], 100 * many[32:]])
    steps = []
    for number, shown in enumerate((many, bright)):
        quantize(onnx_file, tmp_path / f"{number}.onnx", shown, {})
        model = onnx.load(tmp_path / f"{number}.onnx")
        scale = next(node.input[1] for node in model.graph.node if node.input[0] == "images")
        steps.append(next(float(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name == scale))
    assert steps[1] > 50 * steps[0]


def test_both_keep_fp32_at_the_ends_the_metadata_and_a_plain_opset(int8_file: Path, half_file: Path) -> None:
    for path in (int8_file, half_file):
        model = onnx.load(path)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert model.ir_version == 10
        assert {entry.key: entry.value for entry in model.metadata_props} == {"who": "me"}
        ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
        assert ends == [TensorProto.FLOAT] * 2
    assert tensors(onnx.load(half_file), TensorProto.FLOAT) == []


def test_making_them_says_nothing(
    onnx_file: Path, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize(onnx_file, tmp_path / "int8.onnx", images, {})
    halve(onnx_file, tmp_path / "half.onnx", {})
    assert capfd.readouterr() == ("", "")


def test_a_network_with_nothing_to_quantise_is_named(tmp_path: Path, images: Tensor) -> None:
    nodes = [helper.make_node("Erf", ["images"], ["bent"]), helper.make_node("Flatten", ["bent"], ["logits"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("images", ["batch", 3, 8, 8]), ("logits", ["batch", 192]))]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=10)
    model.opset_import[0].version = 18
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(
        EdcompressError, match=r"net.onnx cannot be quantised to int8: none .*Erf.*; export without --int8"
    ):
        quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", images, {})
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_what_the_quantiser_raises_is_reported_with_a_fix(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(EdcompressError, match=r"net18.onnx cannot be quantised to int8: .*; export without --int8"):
        quantize(onnx_file, tmp_path / "int8.onnx", torch.zeros(8, 5, 8, 8), {})
