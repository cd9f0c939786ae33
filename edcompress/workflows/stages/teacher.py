"""The network whose soft labels are learnt, where it is not the dense network itself."""

from __future__ import annotations

from torch import nn

from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.recipe.training import Finetune
from edcompress.core.user_code import NO_TRUST, Trust
from edcompress.networks.build import read_network


def open_teacher(
    finetune: Finetune, spec: NetworkSpec, *, trust: Trust = NO_TRUST, trust_pickle: bool = False
) -> nn.Module | None:
    """Return the network of `finetune.teacher` with its weights, in eval mode, for a network of `spec`; None where the dense one teaches.

    Raises InputError if it cannot be built, or does not take the same images or give the same classes.
    """
    name, weights, pruned = finetune.teacher, finetune.teacher_weights, spec.model
    if name is None or weights is None:
        return None
    model = Model(
        arch=None if finetune.teacher_is_own else name,
        factory=name if finetune.teacher_is_own else None,
        num_classes=pruned.num_classes,
        in_channels=pruned.in_channels,
        stem=pruned.stem,
    )
    own = NetworkSpec(model, spec.image_size, spec.seed, searched=False)
    return read_network(own, weights, trust=trust, trust_pickle=trust_pickle).eval()
