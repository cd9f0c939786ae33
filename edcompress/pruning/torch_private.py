"""Private parts of torch that this package relies on, as they are in torch 2.14; no other module of it uses any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

BatchNorm = nn.modules.batchnorm._BatchNorm
"""The base class of all batch norms."""

DispatchMode = TorchDispatchMode
"""A context in which a method is called for every operation."""

TRILINEAR = torch.ops.aten._trilinear
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def packet_of(operation: Any) -> Any:
    """Return the operation that an overload is of."""
    return getattr(operation, "_overloadpacket", operation)


def takes_tensors(formula: Callable[..., int]) -> Callable[..., int]:
    """Mark a formula of torch's FlopCounterMode: it is called with tensors, not with their shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


def saved(node: Any, name: str) -> Any:
    """Return what an autograd node keeps of its operation under a name of torch's, or None."""
    return getattr(node, f"_saved_{name}", None)


def result_sizes(node: Any) -> list[int]:
    """Return the sizes of what the operation of an autograd node gives."""
    return list(node._input_metadata[0].shape)
