"""Training through torch.compile, and without where that fails."""

from typing import Any

import pytest
import torch
from test_loop import BATCHES, CPU, FIRST, tensors, trainer
from torch import Tensor, nn
from zoo import ZOO, conv, randomised

from edcompress.training.compiled import Compiled
from edcompress.training.loop import Trainer, train_epoch
from edcompress.training.precision import Precision
from edcompress.training.regime import DenseRegime


class Restless(nn.Module):
    """Statistics and random draws in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop, self.fc = conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(self.bn(self.conv(x)).flatten(1)))
        return logits


def compiled(network: nn.Module, backend: Any, warnings: list[str]) -> Trainer:
    made, _ = trainer(randomised(network))
    regime = Compiled(made.network, Precision("fp32", CPU), warnings.append, backend)
    return Trainer(made.network, made.optimizer, made.objective, made.precision, regime, made.report)


class _Broken(torch.autograd.Function):
    """Runs forward, and fails backward, as where a backward pass is compiled late."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        raise AssertionError("no backward pass")


def _refuses(*_: object) -> Any:
    raise ValueError("no such kernel\nand a page of advice")


def _runs_forward_alone(graph: torch.fx.GraphModule, _: object) -> Any:
    def run(*args: Any) -> Any:
        return [_Broken.apply(output) for output in graph(*args)]

    return run


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(_refuses, "ValueError: no such kernel"), (_runs_forward_alone, "AssertionError: no backward pass")],
)
def test_what_cannot_be_compiled_trains_as_if_that_had_not_been_tried(backend: Any, reason: str) -> None:
    warnings: list[str] = []
    made, (plain, _) = compiled(Restless(), backend, warnings), trainer(randomised(Restless()))
    losses = [train_epoch(each, BATCHES, FIRST, seed=0).mean_loss for each in (made, plain)]
    assert losses[0] == losses[1]
    wanted = tensors(plain.network)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in made.network.state_dict().items())
    assert warnings == [f"compile: torch.compile fails here, training goes on without ({reason})"]


def test_what_compiles_trains_under_its_own_names_and_is_measured_as_it_is() -> None:
    graphs: list[bool] = []

    def counted(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(True)
        return graph.forward

    made, (plain, _) = compiled(Restless(), counted, []), trainer(randomised(Restless()))
    losses = [train_epoch(each, BATCHES, FIRST, seed=0).mean_loss for each in (made, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(graphs) == 1
    wanted = tensors(plain.network)
    assert made.network.state_dict().keys() == wanted.keys()
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name])
    made.network.eval()
    made.regime.forward(BATCHES[0][0][:5])
    assert len(graphs) == 1


def test_every_network_of_a_process_is_compiled() -> None:
    graphs: list[bool] = []

    def counted(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(True)
        return graph.forward

    limit: int = torch._dynamo.config.recompile_limit
    for _ in range(limit + 1):
        train_epoch(compiled(Restless(), counted, []), BATCHES, FIRST, seed=0)
    assert len(graphs) == limit + 1


@pytest.mark.slow
def test_inductor_trains_to_the_same_within_rounding() -> None:
    warnings: list[str] = []
    made, (plain, _) = (
        compiled(ZOO["residual"].network(), "inductor", warnings),
        trainer(randomised(ZOO["residual"].network())),
    )
    assert not isinstance(plain.regime, Compiled)
    assert isinstance(made.regime, DenseRegime)
    losses = [train_epoch(each, BATCHES, FIRST, seed=0).mean_loss for each in (made, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    wanted = tensors(plain.network)
    assert made.network.state_dict().keys() == wanted.keys()
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-4)
    assert warnings == []
