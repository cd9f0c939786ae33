import math

import pytest
import torch
from zoo import ZOO, images, randomised

from edcompress.core.errors import NetworkError
from edcompress.core.recipe.training import TrainingConfig
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.optimizers import make_optimizer
from edcompress.training.schedules import learning_rate


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0.0, 0.04),  # the rise starts at a twenty-fifth
        (0.05, 0.52),  # half way up: (0.04 + 1) / 2
        (0.1, 1.0),
        (0.325, 0.5 * (1 + math.sqrt(0.5))),  # a quarter of the way down: cos(pi / 4)
        (0.55, 0.5),
        (1.0, 0.0),
    ],
)
def test_cosine_by_hand(progress: float, rate: float) -> None:
    fit = TrainingConfig(lr=2.0, schedule="cosine", warmup=0.1)
    assert learning_rate(fit, progress, 0) == pytest.approx(2 * rate, abs=1e-12)


def test_cosine_without_warmup_starts_at_the_peak() -> None:
    fit = TrainingConfig(lr=2.0, schedule="cosine", warmup=0.0)
    assert [learning_rate(fit, p, 0) for p in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(("warmup", "peak"), [(0.05, 0.3), (0.3, 0.3), (0.5, 0.5)])
def test_onecycle_rises_for_at_least_three_tenths(warmup: float, peak: float) -> None:
    fit = TrainingConfig(lr=1.0, schedule="onecycle", warmup=warmup)
    assert learning_rate(fit, 0.0, 0) == pytest.approx(0.04)
    assert learning_rate(fit, peak / 2, 0) == pytest.approx(0.52)
    assert learning_rate(fit, peak, 0) == pytest.approx(1.0)
    assert learning_rate(fit, (1 + peak) / 2, 0) == pytest.approx(0.5)
    assert learning_rate(fit, 1.0, 0) == pytest.approx(0.0, abs=1e-12)


def test_a_rise_that_fills_everything_never_falls() -> None:
    fit = TrainingConfig(lr=1.0, schedule="cosine", warmup=1.0)
    assert [learning_rate(fit, p, 0) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.52, 1.0])


def test_steps_drop_by_epochs_alone() -> None:
    fit = TrainingConfig(lr=1.0, schedule="step", step_epochs=3, step_gamma=0.1)
    rates = [learning_rate(fit, 0.9, epoch) for epoch in (0, 2, 3, 5, 6)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_constant_is_constant() -> None:
    fit = TrainingConfig(lr=0.3, schedule="constant", warmup=0.5)
    assert {learning_rate(fit, p, e) for p in (0.0, 0.2, 1.0) for e in (0, 99)} == {0.3}


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("adadelta", torch.optim.Adadelta)]
)
def test_each_parameter_is_in_one_group_and_vectors_are_not_decayed(name: str, kind: type) -> None:
    network = ZOO["chain"].network()
    frozen = network.get_parameter("conv1.weight").requires_grad_(False)
    optimizer = make_optimizer(
        TrainingConfig.model_validate({"optimizer": name, "weight_decay": 0.3, "lr": 0.7}), network.parameters()
    )
    assert isinstance(optimizer, kind)
    assert optimizer.defaults["lr"] == 0.7
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == sum(1 for _ in network.parameters()) - 1
    assert all(p is not frozen for p in grouped)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.3 if group["params"][0].dim() > 1 else 0.0)
        assert len({p.dim() > 1 for p in group["params"]}) == 1


def test_the_papers_adadelta() -> None:
    optimizer = make_optimizer(TrainingConfig(optimizer="adadelta", lr=1.0), ZOO["chain"].network().parameters())
    assert (optimizer.defaults["rho"], optimizer.defaults["eps"]) == (0.9, 1e-6)


def test_sgd_without_momentum_is_plain() -> None:
    optimizer = make_optimizer(TrainingConfig(momentum=0.0), ZOO["chain"].network().parameters())
    assert not optimizer.defaults["nesterov"]
    assert make_optimizer(TrainingConfig(momentum=0.9), ZOO["chain"].network().parameters()).defaults["nesterov"]


@pytest.mark.parametrize("name", ["sgd", "adamw", "adadelta"])
def test_after_surgery_every_parameter_is_trained(name: str) -> None:
    network = randomised(ZOO["residual"].network())
    space = trace_space(network, images(2))
    state = space.full_state()
    state[[0, 5]] = False
    smaller = remove_channels(network, state, space).train()
    optimizer = make_optimizer(TrainingConfig.model_validate({"optimizer": name, "lr": 0.1}), smaller.parameters())
    before = {key: tensor.clone() for key, tensor in smaller.named_parameters()}
    # the bias of a convolution before a batch-norm has no gradient but rounding; the loss asks for every logit's own value
    (smaller(images()) - torch.arange(12.0).view(4, 3)).square().sum().backward()
    optimizer.step()
    still = {key for key, tensor in smaller.named_parameters() if torch.equal(tensor, before[key])}
    assert not still


def test_a_network_that_is_frozen_as_a_whole_is_refused_and_one_in_part_is_not() -> None:
    network = ZOO["chain"].network().requires_grad_(False)
    with pytest.raises(NetworkError, match=r"no parameter .* asks for a gradient, .* without requires_grad_\(False\)"):
        make_optimizer(TrainingConfig(), network.parameters())
    network.get_submodule("fc").requires_grad_(True)
    assert (
        sum(len(group["params"]) for group in make_optimizer(TrainingConfig(), network.parameters()).param_groups) == 2
    )
