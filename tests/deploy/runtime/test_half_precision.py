"""Half precision is proved where float16 is float16: onnxruntime's CPU provider computes it in float32."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Count
from edcompress.deploy.export.onnx_variants import halve
from edcompress.deploy.runtime.half_precision import faithful_session
from edcompress.deploy.runtime.half_ranges import find_out_of_range
from edcompress.deploy.runtime.parity import compare_with_onnx, run_onnx
from edcompress.deploy.runtime.predictions import predict
from edcompress.deploy.runtime.sessions import open_session

GRAPH = """<ir_version: 10, opset_import: ["": 18]>
net (float[batch, 3, 4, 4] images) => (float[batch, 3] logits)
<float eps = {1e-6}, float three = {3.0}, int64[1] channels = {1}, int64[2] places = {2, 3}, float[3, 1, 1] "norm.scale" = {SCALES}> {
    scaled = Mul(images, "norm.scale")
    NODES
}"""
MEAN = "logits = ReduceMean<keepdims = 0>(behind, places)"
RMS = f"""square = Mul(scaled, scaled)
    mean = ReduceMean(square, channels)
    safe = Add(mean, eps)
    root = Sqrt(safe)
    behind = Div(scaled, root)
    {MEAN}"""
GEM = f"""cube = Pow(scaled, three)
    mean = ReduceMean(cube, channels)
    behind = Div(cube, mean)
    {MEAN}"""


class Rms(nn.Module):
    """What RMS computes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        scaled = images * self.scale
        return (scaled / torch.sqrt((scaled**2).mean(1, keepdim=True) + 1e-6)).mean((2, 3))


@pytest.fixture
def few() -> Tensor:
    """[8, 3, 4, 4] between 0.5 and 1.5."""
    return torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(5)) + 0.5


def halved(folder: Path, nodes: str, scale: float) -> Path:
    text = GRAPH.replace("SCALES", ", ".join([repr(scale)] * 3)).replace("NODES", nodes)
    onnx.save(onnx.parser.parse_model(text), folder / "net.onnx")
    halve(folder / "net.onnx", folder / "net.fp16.onnx", {})
    return folder / "net.fp16.onnx"


def test_an_ordinary_file_gives_what_half_precision_gives(onnx_file: Path, images: Tensor, tmp_path: Path) -> None:
    halve(onnx_file, tmp_path / "half.onnx", {})
    found = run_onnx(tmp_path / "half.onnx", images).numpy()
    exact = run_onnx(onnx_file, images).numpy()
    reference = ReferenceEvaluator(str(tmp_path / "half.onnx")).run(None, {"images": images.numpy()})[0]
    assert (found == found.astype(np.float16)).all()
    assert 0 < np.abs(found - exact).max() < 2e-3 * np.abs(exact).max()
    assert np.abs(found - reference).max() < 2e-3 * np.abs(exact).max()


@pytest.mark.parametrize(("scale", "near"), [(1.0, True), (300.0, False)])
def test_a_norm_is_equal_only_where_its_squares_are_in_range(
    tmp_path: Path, few: Tensor, scale: float, near: bool
) -> None:
    proof = compare_with_onnx(Rms(scale), halved(tmp_path, RMS, scale), few)
    assert (proof.relative < 0.05) == near


@pytest.mark.parametrize(
    ("nodes", "scale", "said"),
    [
        (RMS, 300.0, r"Mul square \(behind layer norm\) reaches 2.\d+e\+05, and float16 ends at 65504"),
        (GEM, 99.0, r"Pow cube \(behind layer norm\) reaches 3.\d+e\+06, and float16 ends at 65504"),
        (GEM, 2e-3, r"Pow cube \(behind layer norm\) reaches 2.\d+e-08, and float16 loses bits below 6.1e-05"),
        (RMS, 1.0, ""),
    ],
)
def test_what_leaves_the_range_is_named(tmp_path: Path, few: Tensor, nodes: str, scale: float, said: str) -> None:
    assert re.fullmatch(said, find_out_of_range(halved(tmp_path, nodes, scale), few))


def test_images_that_overflow_have_no_answer(tmp_path: Path, few: Tensor) -> None:
    """In float32, as onnxruntime runs the file, all eight have one."""
    path, labels = halved(tmp_path, GEM, 99.0), torch.zeros(8, dtype=torch.int64)
    assert np.isfinite(open_session(path).run({"images": few.numpy()})[0]).all()
    found = predict({"half": path}, [(few, labels)], 3)["half"]
    assert found.classes[:, 0].tolist() == [-1] * 8
    assert found.accuracy.top5 == Count(correct=0, total=8)


def test_both_branches_of_a_file_are_rounded(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18]>
    net (float[batch, 4] images) => (float[batch, 4] logits) <float zero = {0}, float hundred = {100.0}> {
        half = Cast<to = 10>(images)
        wide = Cast<to = 10>(hundred)
        sum = ReduceSum<keepdims = 0>(images)
        positive = Greater(sum, zero)
        chosen = If(positive) <
            then_branch = square () => (float16[batch, 4] first) { squared = Mul(half, half) first = Div(squared, wide) },
            else_branch = same () => (float16[batch, 4] second) { second = Identity(half) }
        >
        logits = Cast<to = 1>(chosen)
    }""")
    onnx.save(model, tmp_path / "net.onnx")
    opened = faithful_session(tmp_path / "net.onnx")
    up = opened.run({"images": np.float32([[300, 1, 2, 3]])})[0]
    down = opened.run({"images": np.float32([[-300, 1, 2, 1 / 3]])})[0]
    assert up.tolist() == [[np.inf, *np.float16([0.01, 0.04, 0.09]).tolist()]]
    assert down.tolist() == [[-300, 1, 2, float(np.float16(1 / 3))]]


def test_a_file_without_float16_is_opened_as_it_is(onnx_file: Path, images: Tensor) -> None:
    feed = {"images": images.numpy()}
    assert (faithful_session(onnx_file).run(feed)[0] == open_session(onnx_file).run(feed)[0]).all()


def test_a_result_that_may_be_float16_or_not_is_named(tmp_path: Path) -> None:
    """An operator of onnxruntime's own, of which onnx does not know what it gives."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
    net (float[batch, 4] images) => (float[batch, 4] logits) {
        half = Cast<to = 10>(images)
        bent = com.microsoft.Gelu(half)
        logits = Cast<to = 1>(bent)
    }""")
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(
        InputError, match=r"net.onnx: it holds float16, and it is not known whether Gelu bent is float16 too"
    ):
        faithful_session(tmp_path / "net.onnx")
