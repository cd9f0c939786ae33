import pytest
import torch
from zoo import ZOO, images

from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.latency_model import LatencyModel, LatencyTable, LayerTime
from edcompress.pruning.tracing.tracing import trace_space

MEASURED = LayerTime(name="a", share=0.6, inputs=(4, 8), outputs=(10,), times=((2.0,), (8.0,)))
ALONE = LayerTime(name="b", share=0.2, inputs=(8,), outputs=(6,), times=((1.0,),))


def model() -> LatencyModel:
    """`a` is applied at 3 positions, `b` at one: the rest, 0.2, goes with 3 x outputs of a + outputs of b, 36 in all."""
    return LatencyModel(LatencyTable(layers=(MEASURED, ALONE), milliseconds=5.0), torch.tensor([3.0, 1.0]).double())


@pytest.mark.parametrize(
    ("inputs", "outputs", "a", "b"),
    [
        ((8, 8), (10, 6), 0.6, 0.2),
        ((4, 8), (10, 6), 0.6 / 4, 0.2),
        ((6, 8), (10, 6), 0.6 * 5 / 8, 0.2),  # halfway between 2 and 8
        ((2, 8), (10, 6), 0.6 / 8, 0.2),  # halfway between nothing and 2
        ((8, 4), (5, 3), 0.3, 0.05),
        ((6, 2), (5, 6), 0.3 * 5 / 8, 0.05),
    ],
)
def test_shares_by_hand(inputs: tuple[int, ...], outputs: tuple[int, ...], a: float, b: float) -> None:
    rest = 0.2 * (3 * outputs[0] + outputs[1]) / 36
    found = model().share(torch.tensor(inputs).double(), torch.tensor(outputs).double())
    assert found.item() == pytest.approx(a + b + rest)


def test_many_states_at_once() -> None:
    inputs, outputs = torch.rand(3, 5, 2).double() * 8, torch.rand(3, 5, 2).double() * 6
    together = model().share(inputs, outputs)
    assert together.shape == (3, 5)
    assert together[1, 2].item() == pytest.approx(model().share(inputs[1, 2], outputs[1, 2]).item())


def test_a_network_takes_all_of_its_time_at_its_own_widths_and_less_at_smaller_ones() -> None:
    network = ZOO["chain"].network()  # conv1 (3 to 4), conv2 (4 to 6), fc (6 to 3)
    space = trace_space(network, images(2))
    grid = LayerTime(name="conv2", share=0.5, inputs=(2, 4), outputs=(3, 6), times=((1.0, 2.0), (2.0, 8.0)))
    others = [
        LayerTime(name=name, share=0.2, inputs=(i,), outputs=(o,), times=((1.0,),))
        for name, i, o in (("fc", 6, 3), ("conv1", 3, 4))
    ]
    costs = CostModel(space, network, images(2), LatencyTable(layers=(grid, *others), milliseconds=1.0))
    assert costs.share("latency", torch.tensor(space.widths)).item() == pytest.approx(1.0)
    written = 64 * (2 + 3) + 3  # of 64 x (4 + 6) + 3 values
    expected = 0.5 / 8 + 0.2 / 2 + 0.2 / 2 + 0.1 * written / (64 * 10 + 3)
    assert costs.share("latency", torch.tensor([2, 3])).item() == pytest.approx(expected)
    by_layer = costs.by_layer("latency", torch.tensor([2, 3]))
    assert by_layer == pytest.approx({"conv1": 0.1, "conv2": 0.5 / 8, "fc": 0.1})
