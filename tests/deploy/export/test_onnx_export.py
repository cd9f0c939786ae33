from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edcompress.core.errors import EdcompressError
from edcompress.deploy.export import onnx_export
from edcompress.deploy.export.onnx_export import export_onnx, flush_denormals
from edcompress.deploy.export.torch_archives import save_archive
from edcompress.deploy.runtime.parity import compare_with_onnx, run_onnx


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_opset_is_the_requested_one(onnx_file: Path, dead_onnx_file: Path) -> None:
    for path, opset in ((onnx_file, 18), (dead_onnx_file, 20)):
        model = onnx.load(path)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert model.ir_version <= 11


@pytest.mark.parametrize(("opset", "ir", "batch"), [(19, 10, "dynamic"), (21, 10, 1), (22, 10, 3), (23, 11, "dynamic")])
def test_every_opset_loads_with_a_symbolic_and_with_a_fixed_batch(
    network: nn.Sequential, images: Tensor, tmp_path: Path, opset: int, ir: int, batch: int | str
) -> None:
    """18 and 20 are the fixtures' opsets. Of eight images, a file that insists on three gets the last one again."""
    export_onnx(network, images, tmp_path / "net.onnx", opset=opset, metadata={}, batch=batch)
    model = onnx.load(tmp_path / "net.onnx")
    assert ([(entry.domain, entry.version) for entry in model.opset_import], model.ir_version) == ([("", opset)], ir)
    first = [value.type.tensor_type.shape.dim[0] for value in (*model.graph.input, *model.graph.output)]
    assert [one.dim_param or one.dim_value for one in first] == (["batch"] * 2 if batch == "dynamic" else [batch] * 2)
    proof = compare_with_onnx(network, tmp_path / "net.onnx", images)
    assert proof.relative < 1e-5
    assert batch == "dynamic" or proof.of == f"logits of 8 images at batch {batch}"
    assert run_onnx(tmp_path / "net.onnx", images).shape == (8, 4)


def test_one_file_with_named_input_and_output(onnx_file: Path) -> None:
    graph = onnx.load(onnx_file).graph
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [("images", ["batch", 3, 8, 8]), ("logits", ["batch", 4])]
    assert [path.name for path in onnx_file.parent.iterdir()] == ["net18.onnx"]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_is_symbolic(onnx_file: Path, dead_onnx_file: Path, images: Tensor, size: int) -> None:
    for path in (onnx_file, dead_onnx_file):
        assert run_onnx(path, images[:size]).shape == (size, 4)


def test_metadata_is_stored(onnx_file: Path) -> None:
    assert properties(onnx_file) == {"edcompress.plan": "abc", "who": "me", "edcompress.denormals_flushed": "0"}


def test_the_file_holds_no_stack_traces(onnx_file: Path) -> None:
    assert b"stack_trace" not in onnx_file.read_bytes()
    assert b".py" not in onnx_file.read_bytes()


def test_the_network_stays_as_it_was(network: nn.Sequential, onnx_file: Path) -> None:
    assert onnx_file.exists()
    assert network.training


def test_denormals_are_flushed_before_and_after_folding(dead_onnx_file: Path) -> None:
    assert properties(dead_onnx_file)["edcompress.denormals_flushed"] == str(2 + 27)
    for tensor in onnx.load(dead_onnx_file).graph.initializer:
        values = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
        assert not ((values > 0) & (values < 1e-30)).any(), tensor.name


def test_flush_denormals_counts_and_keeps_the_rest() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-39, -1e-31], [1e-29, 0.0]]))
    assert flush_denormals(layer) == 2
    assert layer.weight.tolist() == [[0.0, 0.0], [pytest.approx(1e-29), 0.0]]
    assert flush_denormals(layer) == 0


class Refusing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError(f"this network refuses {images.ndim} dimensions")


def test_exporter_failure_names_the_network_and_the_cause(
    tmp_path: Path, images: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EdcompressError, match=r"Refusing cannot be exported to ONNX: .*refuses 4 dimensions"):
        export_onnx(Refusing(), images, tmp_path / "net.onnx", opset=20, metadata={})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


class Deciding(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits if logits.softmax(1).amax() > 0.9 else -logits


class Counting(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits.view(len(images), -1)


def test_a_forward_that_decides_by_values_is_reported_in_one_line(
    images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = Deciding(nn.Flatten(), nn.Linear(images[0].numel(), 3)).eval()
    with pytest.raises(
        EdcompressError, match=r"Deciding cannot be .* its forward depends on the values of tensors"
    ) as caught:
        onnx_export.to_onnx(network, images, 20)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(EdcompressError, match=r"as pt2: its forward depends on the values of tensors") as caught:
        save_archive(network, images, tmp_path / "net.pt2", "pt2")
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_batch_that_the_forward_fixes_is_reported_with_a_fix(images: Tensor) -> None:
    network = Counting(nn.Flatten(), nn.Linear(images[0].numel(), 3)).eval()
    with pytest.raises(EdcompressError, match=r"as len\(x\), .* write x\.shape\[0\], or fix the batch with --batch N"):
        onnx_export.to_onnx(network, images, 20)


def test_an_opset_that_was_not_requested_is_an_error(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    onnx_export._verify(model, 18)
    with pytest.raises(EdcompressError, match=r"ONNX opset 20 was requested.*produce 18; use --opset 18"):
        onnx_export._verify(model, 20)


def test_a_fixed_batch_is_an_error(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(EdcompressError, match="'logits' is 2 in the ONNX model, not symbolic"):
        onnx_export._verify(model, 18)


class Windows(nn.Module):
    """Attention within windows: five dimensions with heads, or three without, and a mask that is broadcast."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.packed, self.classify = heads, nn.Linear(8, 24), nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.randn(max(heads, 1), 16, 16))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.packed(images.flatten(2).transpose(1, 2)).unflatten(1, (4, 16))  # [B, windows, 16, 24]
        if self.heads:
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in tokens.chunk(3, -1))
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias).transpose(2, 3).flatten(3)
        else:
            q, k, v = (part.flatten(0, 1) for part in tokens.chunk(3, -1))
            mixed = functional.scaled_dot_product_attention(q, k, v, self.bias, is_causal=False).unflatten(0, (-1, 4))
        logits: Tensor = self.classify(mixed.mean((1, 2)))
        return logits


@pytest.mark.parametrize("heads", [0, 2])
def test_attention_over_three_or_five_dimensions_is_exported(heads: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = Windows(heads).eval(), tmp_path / "windows.onnx"
    export_onnx(network, torch.randn(2, 8, 8, 8), path, opset=20, metadata={})
    images = torch.randn(9, 8, 8, 8)
    assert compare_with_onnx(network, path, images).relative < 1e-5
