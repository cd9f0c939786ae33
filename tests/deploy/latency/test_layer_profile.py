from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency import layer_profile
from edcompress.deploy.latency.layer_grid import LayerShape, measure_grid
from edcompress.deploy.latency.layer_profile import measure_layer_shares, profile_nodes
from edcompress.deploy.runtime.sessions import NodeTime


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
    network, images = Uneven().eval(), torch.randn(2, 3, 64, 64)
    found = measure_layer_shares(network, to_onnx(network, images, opset), images, Benchmark())
    assert next(iter(found)) == "heavy"
    assert found["heavy"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
    assert (
        {"stem", "heavy", "fc", "inner.0"} <= found.keys() <= {"stem", "heavy", "fc", "inner", "inner.0", "inner.1", ""}
    )


class Cold:
    """A session in whose first calls every node takes a second; later the last node takes a millisecond, and the others no time."""

    def __init__(self, names: list[str], cold: int) -> None:
        self._names, self._cold, self.calls = names, cold, 0

    def run(self, _: object) -> None:
        self.calls += 1

    def node_times(self) -> list[NodeTime]:
        warm = [NodeTime(name, "Conv", 1000 if name == self._names[-1] else 0) for name in self._names]
        cold = [NodeTime(name, "Conv", 1_000_000) for name in self._names]
        return [time for call in range(self.calls) for time in (cold if call < self._cold else warm)]


@pytest.fixture
def open_cold(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], Cold]:
    """Have every session be of a runtime that is slow in its first calls."""

    def put(names: list[str], cold: int) -> Cold:
        session = Cold(names, cold)
        monkeypatch.setattr(layer_profile, "open_session", lambda *_, **__: session)
        return session

    return put


def test_a_profile_leaves_the_warm_up_out(open_cold: Callable[[list[str], int], Cold]) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18]>
    net (float[n] images) => (float[n] logits) { logits = Relu(images) }""")
    session = open_cold(["first", "last"], 3)
    found = profile_nodes(model, {}, Benchmark(), warm_up=3, calls=2)
    assert session.calls == 5
    assert found == [NodeTime("first", "Conv", 0), NodeTime("last", "Conv", 1000)] * 2


def test_shares_are_of_warm_calls(open_cold: Callable[[list[str], int], Cold]) -> None:
    network, images = Uneven().eval(), torch.randn(2, 3, 24, 24)
    model = to_onnx(network, images, 20)
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    session = open_cold(convs, 10)
    assert measure_layer_shares(network, model, images, Benchmark()) == {"heavy": 1, "stem": 0}
    assert session.calls == 20


def test_grids_are_of_warm_calls(open_cold: Callable[[list[str], int], Cold]) -> None:
    session = open_cold(["i8o8"], 5)
    shape = LayerShape(8, 8, 1, (1, 1), (1, 1), (0, 0), (1, 1), (4, 4), linear=False)
    assert measure_grid(shape, Benchmark()).milliseconds == ((1.0,),)
    assert session.calls == 5 + 15
