"""Private parts of torch that this package relies on, as they are in torch 2.14.

load_pruned.py, which works without this package, relies on two more: `Module._forward_pre_hooks` and `BasePruningMethod._tensor_name`.
"""

from __future__ import annotations

from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm
"""The base class of all batch norms."""

COMPILED = "_orig_mod"
"""The name of the original network inside one that torch.compile returned, also in the names of its tensors."""
