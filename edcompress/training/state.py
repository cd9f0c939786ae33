"""The state of unfinished training, from which it continues to the same result bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from edcompress.training.loop import Trainer
from edcompress.training.optimizers import restore_optimizer
from edcompress.training.position import EpochPosition


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The network, optimizer, loss scale and regime in epoch `epoch` of a phase, and the position in that epoch, None at its start.

    `scaler` is empty in checkpoints of versions that trained no fp16, `regime` for a regime without a state, and
    `average` where weights are not averaged.
    """

    epoch: int
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    regime: Mapping[str, Any]
    average: Mapping[str, Any] = field(default_factory=dict)
    position: EpochPosition | None = None

    @classmethod
    def of(cls, trainer: Trainer, epoch: int, position: EpochPosition | None = None) -> TrainingState:
        """Return the state of a trainer, whose tensors it shares."""
        return cls(
            epoch=epoch,
            network=trainer.network.state_dict(),
            optimizer=trainer.optimizer.state_dict(),
            scaler=trainer.scaler.state_dict(),
            regime=trainer.regime.snapshot(),
            average=trainer.average.snapshot() if trainer.average else {},
            position=position,
        )

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> TrainingState | None:
        """Return the state in the tree of a checkpoint; None for a checkpoint from before the first step of a phase."""
        if "optimizer" not in tree:
            return None
        return cls(
            epoch=int(tree["epoch"]),
            network=tree["network"],
            optimizer=tree["optimizer"],
            scaler=tree.get("scaler") or {},
            regime=tree.get("regime") or {},
            average=tree.get("average") or {},
            position=EpochPosition.from_tree(tree["place"]) if tree.get("place") else None,
        )

    def to_tree(self) -> dict[str, Any]:
        """Return the state as dicts, lists, tensors and plain values, for a checkpoint."""
        tree: dict[str, Any] = {"epoch": self.epoch}
        if self.position:
            tree["place"] = self.position.to_tree()
        tree |= {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        if self.regime:
            tree["regime"] = self.regime
        if self.average:
            tree["average"] = self.average
        return tree

    def restore(self, trainer: Trainer) -> None:
        """Load the state into a trainer of the same kind, on whichever device."""
        trainer.network.load_state_dict(self.network)
        restore_optimizer(trainer.optimizer, self.optimizer)
        if self.scaler:
            trainer.scaler.load_state_dict(dict(self.scaler))
        if self.regime:
            trainer.regime.restore(dict(self.regime))
        if self.average and trainer.average:
            trainer.average.restore(self.average)
