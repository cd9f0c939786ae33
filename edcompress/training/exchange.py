"""What a step of one rank tells the others: no wrapper around the network, which the search runs cut to a state."""

from __future__ import annotations

from torch import Tensor, nn

from edcompress.team import Team
from edcompress.training.batchnorm import running_statistics


def exchanged(team: Team, network: nn.Module, loss: Tensor, images: int) -> Tensor:
    """The mean loss over the images of all ranks, a scalar, after the backward pass of a step on this rank's `images`.

    The network's gradients become those of that loss, and its batch-norm statistics the mean of the ranks', in one message.
    """
    if team.size == 1:
        return loss.detach()
    loss = loss.detach().clone()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    team.average([*gradients, *running_statistics(network), loss], images)
    return loss
