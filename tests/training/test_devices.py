"""What differs between devices: steps left out on the device itself, the scale of fp16, and that nothing waits for a CUDA device."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import BATCHES, FIRST, Listed, tensors, trainer
from torch import Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.pruning.search.method import SearchProblem
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.loop import Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer, restore_optimizer
from edcompress.training.position import EpochPosition, ScheduleSpan
from edcompress.training.precision import Precision, choose_precision
from edcompress.training.regime import DenseRegime

BAD = (torch.full((6, 3, 8, 8), float("nan")), BATCHES[0][1])
FITS = [{"momentum": 0.9}, {"momentum": 0.0}, {"optimizer": "adamw", "lr": 0.01}]
fits = pytest.mark.parametrize("fit", FITS, ids=["sgd", "plain sgd", "adamw"])


def small() -> nn.Module:
    """Without a bias before the batch-norm, whose gradient is rounding alone, of which AdamW makes whole steps."""
    layers = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    return randomised(nn.Sequential(*layers))


def fresh(fit: dict[str, Any], *, fused: bool | None) -> Trainer:
    """A trainer of a small network; `fused` kernels are what a CUDA device trains with."""
    made, _ = trainer(small(), **fit)
    optimizer = make_optimizer(made.objective.config, made.network.parameters(), fused=fused)
    return Trainer(made.network, optimizer, made.objective, made.precision, made.regime, made.report)


def same(one: nn.Module, other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def test_a_network_is_placed_whatever_tensors_it_holds() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(2, 4, 3), nn.Linear(4, 3))
    network.register_buffer("positions", torch.zeros(1, 2, 3, 4, 5))
    weights = list(network.parameters())
    assert Precision("fp32", torch.device("cpu")).place(network) is network
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[2].is_contiguous()


@fits
def test_fused_kernels_leave_the_same_steps_out(fit: dict[str, Any]) -> None:
    fused, plain = fresh(fit, fused=True), fresh(fit, fused=None)
    before = tensors(fused.network)
    assert train_epoch(fused, Listed([BAD]), FIRST, seed=0).skipped == 1
    assert same(fused.network, before)
    for each in (fused, plain):
        position = train_epoch(each, Listed([BAD, *BATCHES, BAD, *BATCHES]), FIRST, seed=0)
        assert (position.steps, position.skipped, position.skipped_in_a_row) == (8, 2, 0)
    wanted = plain.network.state_dict()
    for name, tensor in fused.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


@fits
@pytest.mark.parametrize(("saved_by", "kernels"), [(True, True), (None, True), (True, None)])
def test_a_snapshot_goes_on_on_either_kind_of_device(
    saved_by: bool | None, kernels: bool | None, fit: dict[str, Any], tmp_path: Path
) -> None:
    """Snapshots are contiguous, and fused kernels add up whatever lies at the same place in memory."""
    whole = fresh(fit, fused=saved_by)
    train_epoch(whole, BATCHES, FIRST, seed=0)
    save_checkpoint(
        tmp_path / "state", {"network": whole.network.state_dict(), "optimizer": whole.optimizer.state_dict()}
    )
    saved = load_checkpoint(tmp_path / "state")
    resumed = fresh(fit, fused=kernels)
    resumed.network.load_state_dict(saved["network"])
    restore_optimizer(resumed.optimizer, saved["optimizer"])
    assert all(bool(group["fused"]) is bool(kernels) for group in resumed.optimizer.param_groups)
    for each in (whole, resumed):
        train_epoch(each, BATCHES, FIRST, seed=1)
    wanted = whole.network.state_dict()
    assert same(resumed.network, wanted) or saved_by is not kernels
    for name, tensor in resumed.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


def test_momentum_begins_at_zero_whether_or_not_the_first_step_counts() -> None:
    made = fresh({"momentum": 0.9}, fused=True)
    assert [state["momentum_buffer"].any().item() for state in made.optimizer.state.values()] == [False] * 5
    assert not fresh({"momentum": 0.0}, fused=True).optimizer.state


def test_fp16_trains_fp32_weights_and_looks_for_its_scale(tmp_path: Path) -> None:
    def half() -> Trainer:
        made, _ = trainer(small(), lr=1e-4)
        fp16 = choose_precision("fp16", torch.device("cpu"))
        return Trainer(made.network, made.optimizer, made.objective, fp16, made.regime, made.report)

    made, exact = half(), fresh({"lr": 1e-4}, fused=None)
    train_epoch(made, BATCHES, FIRST, seed=0)  # its first gradients may overflow
    before, scale = tensors(made.network), made.scaler.get_scale()
    exact.network.load_state_dict(before)
    places = [train_epoch(each, BATCHES, FIRST, seed=0) for each in (made, exact)]
    assert places[0].skipped == 0
    assert places[0].mean_loss == pytest.approx(places[1].mean_loss, rel=0.01)
    assert places[0].mean_loss != places[1].mean_loss
    assert not same(made.network, before)
    assert {parameter.dtype for parameter in made.network.parameters()} == {torch.float32}
    assert train_epoch(made, Listed([BAD]), FIRST, seed=0).skipped == 1
    assert made.scaler.get_scale() == scale / 2
    save_checkpoint(tmp_path / "state", made.scaler.state_dict())
    again = half()
    again.scaler.load_state_dict(load_checkpoint(tmp_path / "state"))
    train_epoch(again, BATCHES, FIRST, seed=0)
    assert again.scaler.get_scale() == scale / 2
    assert not exact.scaler.is_enabled()


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


class Watch:
    """Makes torch raise where a step waits for the device; steps that `choose` are counted instead."""

    def __init__(self, every: int = 0) -> None:
        self._every, self._step = every, 0

    def before_step(self) -> None:
        chooses = self._every and self._step % self._every == 0
        warm = self._step == 0  # the first step loads kernels and pins memory
        torch.cuda.set_sync_debug_mode("default" if warm else "warn" if chooses else "error")

    def after_step(self, position: EpochPosition) -> None:  # noqa: ARG002
        self._step += 1
        torch.cuda.set_sync_debug_mode("default")


def on_cuda(optimizer: str, precision: str) -> Trainer:
    fit = TrainingConfig.model_validate({"optimizer": optimizer, "lr": 0.01, "warmup": 0.0, "distill": 0.5})
    where = choose_precision("fp16" if precision == "fp16" else "bf16", CUDA)
    network, teacher = (where.place(small()) for _ in range(2))
    optimizer_ = make_optimizer(fit, network.parameters())
    return Trainer(network, optimizer_, Objective(fit, teacher.eval()), where, DenseRegime(network), lambda *_: None)


@cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_waits_for_the_device(optimizer: str, precision: str) -> None:
    made, watch = on_cuda(optimizer, precision), Watch()
    try:
        position = train_epoch(made, Listed([*BATCHES, BAD, *BATCHES]), ScheduleSpan(0, 1, 0, 1), 0, None, watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (position.steps, position.skipped) == (7, 1)


@cuda
def test_a_searching_step_waits_twice_per_generation_and_else_never() -> None:
    """For the importance of the channels, and for the energies."""
    network = randomised(ZOO["residual"].network())
    space = trace_space(network, images(2))
    feasible = FeasibleStates(
        space, CostModel(space, network, images(2)), Target(macs=0.6), Constraints(round_to=1, min_ratio=0.0)
    )
    where, fit = Precision("bf16", CUDA), TrainingConfig(lr=0.01)
    network = where.place(network)
    regime = EDropoutRegime(SearchProblem(network, space, feasible, Search(evolve_every=3), where))
    made = Trainer(network, make_optimizer(fit, network.parameters()), Objective(fit), where, regime, lambda *_: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train_epoch(made, Listed([*BATCHES, *BATCHES]), ScheduleSpan(0, 1, 0, 1), 0, None, Watch(every=3))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert regime.generation == 2
    assert len([one for one in caught if "synchroniz" in str(one.message)]) == 2


@cuda
def test_a_device_trains_as_the_processor_does() -> None:
    made, plain = on_cuda("sgd", "bf16"), fresh({"lr": 0.01, "distill": 0.0}, fused=None)
    fp32 = Precision("fp32", CUDA)
    made = Trainer(made.network, made.optimizer, plain.objective, fp32, made.regime, made.report)
    places = [train_epoch(each, Listed([BAD, *BATCHES]), FIRST, seed=0) for each in (made, plain)]
    assert places[0].skipped == places[1].skipped == 1
    assert places[0].mean_loss == pytest.approx(places[1].mean_loss, rel=1e-2)  # convolutions in TF32
    wanted = plain.network.state_dict()
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), wanted[name], rtol=1e-2, atol=1e-2)
