"""What a checkpoint holds of unfinished training, also one that an earlier version wrote."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import BATCHES, FIRST, Listed, tensors, trainer
from torch import Tensor, nn
from zoo import ZOO, randomised

from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint
from edcompress.training.loop import Trainer, train_epoch
from edcompress.training.position import EpochPosition, Tally
from edcompress.training.state import TrainingState

EPOCH = Listed([(torch.full((6, 3, 8, 8), float("nan")), BATCHES[0][1]), *BATCHES])


def fresh() -> Trainer:
    return trainer(randomised(ZOO["residual"].network()))[0]


def same(one: nn.Module, other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


class Stopping:
    """Hooks that end the epoch after some steps, and keep the position there."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.position = EpochPosition()

    def before_step(self) -> None:
        if self.position.steps == self._after:
            raise KeyboardInterrupt

    def after_step(self, position: EpochPosition) -> None:
        self.position = position


def stopped(after: int) -> tuple[Trainer, EpochPosition]:
    """A trainer that ended after some steps of an epoch of four, the first of which is skipped, and its position."""
    made, hooks = fresh(), Stopping(after)
    with suppress(KeyboardInterrupt), torch.random.fork_rng():
        train_epoch(made, EPOCH, FIRST, 0, None, hooks)
    return made, hooks.position


def test_a_tally_counts_what_the_steps_were() -> None:
    tally = Tally()
    for loss in (2.0, float("nan"), 3.0, float("nan"), float("nan")):
        tally = tally.after(torch.tensor(loss))
    assert torch.isnan(tally.last_loss)
    assert [float(value) for value in (tally.loss_sum, tally.skipped, tally.skipped_in_a_row)] == [5.0, 3.0, 2.0]
    again = Tally.from_packed(tally.packed())
    assert torch.equal(again.packed()[1:], tally.packed()[1:])
    following = tally.for_next_epoch()
    assert following.packed().tolist() == [0.0, 0.0, 0.0, 2.0]


def test_a_state_goes_through_a_file_and_training_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = stopped(4)
    half, position = stopped(2)
    save_checkpoint(tmp_path / "state", TrainingState.of(half, 3, position).to_tree())
    state, other = TrainingState.from_tree(load_checkpoint(tmp_path / "state")), fresh()
    assert state is not None
    assert state.position is not None
    assert (state.epoch, state.position.steps, state.position.skipped) == (3, 2, 1)
    state.restore(other)
    end = train_epoch(other, EPOCH, FIRST, 0, state.position)
    assert (end.steps, end.skipped) == (4, 1)
    assert same(other.network, tensors(whole.network))


def as_written_before(made: Trainer, position: EpochPosition | None) -> dict[str, Any]:
    """The tree of an earlier version, in which the tally is one tensor and no scale of fp16 is saved."""
    tree: dict[str, Any] = {"epoch": 0}
    if position:
        tally = torch.stack([position.tally.last_loss, torch.tensor(position.loss, dtype=torch.float64),
                             torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)])  # fmt: skip
        tree["place"] = {"steps": position.steps, "tally": tally, "generators": list(position.generators)}
    return tree | {"network": made.network.state_dict(), "optimizer": made.optimizer.state_dict()}


@pytest.mark.parametrize("within", [True, False])
def test_a_checkpoint_of_an_earlier_version_is_continued(tmp_path: Path, within: bool) -> None:
    whole, end = stopped(4)
    half, position = stopped(2)
    tree = as_written_before(half, position) if within else as_written_before(whole, None)
    save_checkpoint(tmp_path / "state", tree)
    state, other = TrainingState.from_tree(load_checkpoint(tmp_path / "state")), fresh()
    assert state is not None
    state.restore(other)
    if within:
        last = train_epoch(other, EPOCH, FIRST, 0, state.position)
        assert (last.loss, last.skipped, last.left_out) == (end.loss, 1, 0)
    else:
        assert state.position is None
    assert same(other.network, tensors(whole.network))


def test_before_the_first_step_there_is_no_state() -> None:
    assert TrainingState.from_tree({"stage": "finetune", "epoch": 0, "network": {}}) is None
