from pathlib import Path

import onnx
import torch
from torch import nn

from edcompress.core.recipe.data import Data
from edcompress.data.transforms import normalise, preprocessing_spec
from edcompress.deploy.export.onnx_variants import with_normalisation
from edcompress.deploy.runtime.parity import run_onnx

DATA = Data(dataset="cifar10", image_size=8, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))


def test_pixels_give_the_logits_of_the_images_that_are_made_of_them(
    network: nn.Sequential, onnx_file: Path, tmp_path: Path
) -> None:
    with_normalisation(onnx_file, tmp_path / "pixels.onnx", preprocessing_spec(DATA, 3), {"who": "me"})
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = run_onnx(tmp_path / "pixels.onnx", pixels.permute(0, 2, 3, 1))
    with torch.no_grad():
        expected = network.eval()(normalise(pixels, DATA))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    model = onnx.load(tmp_path / "pixels.onnx")
    (given,) = model.graph.input
    assert (given.name, given.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim] == ["batch", 8, 8, 3]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"who": "me"}
