"""Optimizers: make one, make a conditional step, restore one from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edcompress.core.errors import NetworkError
from edcompress.core.recipe.training import TrainingConfig


def make_optimizer(
    config: TrainingConfig, parameters: Iterable[nn.Parameter], *, fused: bool | None = None
) -> Optimizer:
    """Return the recipe's optimizer over `parameters`; biases and norm scales (one dimension) are not decayed.

    SGD and AdamW use torch's fused kernels, which can skip a step (see `step_if`), if `fused`; by default on a CUDA device.
    Raises NetworkError if all parameters are frozen.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise NetworkError(
            "no parameter of the network asks for a gradient, so none can be trained; give it without "
            "requires_grad_(False)"
        )
    fused = any(parameter.device.type == "cuda" for parameter in trained) if fused is None else fused
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return _sgd(groups, config, fused=fused)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused or None)
    return torch.optim.Adadelta(groups, lr=config.lr, rho=0.9, eps=1e-6)


def step_if(finite: Tensor, optimizer: Optimizer) -> None:
    """Make a step of the optimizer if the bool scalar `finite` is true.

    Fused kernels read it on the device. For the others, on a CUDA device Adadelta alone, this process waits for the device.
    """
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the `state_dict` of such an optimizer, saved on whichever device, in whichever memory layout.

    Kernels stay those that the optimizer was made with; they need the state of a weight in that weight's layout.
    """
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**group, "fused": own["fused"]} if "fused" in own else group for group, own in pairs]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _sgd(groups: list[dict[str, Any]], config: TrainingConfig, *, fused: bool) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused or None
    )
    if fused and config.momentum > 0:
        # The kernel makes these at the first step, and leaves them unfilled if it skips that step.
        for parameter in (parameter for group in groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
