import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.layer_profile import measure_layer_shares


class Uneven(nn.Module):
    """One convolution with nearly all the work, a residual sum, a linear layer and an attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.heavy = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 7, padding=3)
        self.inner = nn.Sequential(nn.Linear(32, 32), nn.GELU())
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.heavy(x))
        tokens = self.inner(x.flatten(2).mean(2, keepdim=True).transpose(1, 2))
        logits: Tensor = self.fc(tokens.mean(1))
        return logits


@pytest.mark.parametrize("opset", [18, 20])
def test_the_time_goes_to_the_layer_that_takes_it(opset: int) -> None:
    network, images = Uneven().eval(), torch.randn(2, 3, 24, 24)
    found = measure_layer_shares(network, to_onnx(network, images, opset), images, Benchmark())
    assert next(iter(found)) == "heavy"
    assert found["heavy"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
    assert (
        {"stem", "heavy", "fc", "inner.0"} <= found.keys() <= {"stem", "heavy", "fc", "inner", "inner.0", "inner.1", ""}
    )
