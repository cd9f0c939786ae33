"""What the stages of a run train by, and on which images, read off what an interrupted run has saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import Interrupter, digits, pruned
from torch import Tensor, nn
from torch.nn import functional as F

from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.batches import eval_batches
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.runs.folder import RunFolder
from edcompress.training.schedules import learning_rate
from edcompress.workflows.stages.run_context import RunContext, open_context
from edcompress.workflows.stages.run_state import Checkpoint, last_checkpoint
from edcompress.workflows.stages.start_files import read_plan, read_space
from edcompress.workflows.stages.starting_point import load_dense

EXACT = ("precision=fp32", "data.augment=none", "constraints.round_to=1")
RANKED_ONCE = (*EXACT, "search.method=magnitude", "search.epochs=0", "finetune.epochs=1", "data.limit=300")


class Stopping(Interrupter):
    """Presses Ctrl-C at a step, and keeps the losses up to there."""

    def __init__(self, phase: str, epoch: int, step: int) -> None:
        super().__init__(phase, epoch, step)
        self.losses: list[float] = []

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        self.losses.append(figures["loss"])
        super().step(step, steps, figures)


@dataclass(frozen=True)
class Stopped:
    """A run that was interrupted: its recipe, its images, the losses of its steps, and its checkpoints, the newest first."""

    recipe: Recipe
    folder: Path
    context: RunContext
    losses: list[float]
    checkpoints: list[Checkpoint]

    @property
    def dense(self) -> nn.Module:
        """The network that the run began with, in eval mode."""
        return load_dense(self.recipe.network_spec, self.folder / "dense.safetensors")

    def smaller(self, weights: Any) -> nn.Module:
        """The pruned network with these weights, in train mode."""
        network = apply_plan(self.dense, read_plan(self.folder / "plan.json"), read_space(self.folder / "space.json"))
        network.load_state_dict(weights)
        return network.train()


def stopped(dense: Path, folder: Path, recipe: Recipe, *at: Any) -> Stopped:
    monitor = Stopping(*at)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder, recipe, monitor)
    paths = RunFolder(folder).checkpoints
    checkpoints = [last_checkpoint(paths[index:], NullMonitor()) for index in range(len(paths))]
    return Stopped(
        recipe, folder, open_context(recipe, RunOptions("cpu")), monitor.losses, [c for c in checkpoints if c]
    )


@pytest.mark.parametrize(("stage", "epoch", "before"), [("search", 1, 1), ("finetune", 0, 2)])
def test_one_schedule_spans_search_and_fine_tuning(
    dense: Path, tmp_path: Path, stage: str, epoch: int, before: int
) -> None:
    recipe = digits("search.epochs=2", "finetune.epochs=3", "finetune.warmup=0", "data.limit=300", "search.anneal=0.1")
    run = stopped(dense, tmp_path / "run", recipe, stage, epoch, 3)
    state = run.checkpoints[0].training
    assert state is not None
    steps = len(run.context.train_batches(epoch=0))
    whole = learning_rate(
        recipe.finetune.config, (before + 2 / steps) / 5, before
    )  # of the third step, in epoch `before` of all five
    assert [group["lr"] for group in state.optimizer["param_groups"]] == pytest.approx([whole, whole])


@pytest.fixture(scope="module")
def taught(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A run that ended after one step of fine-tuning by soft labels alone."""
    recipe = digits(*RANKED_ONCE, "finetune.distill=1.0", "finetune.distill_temperature=2.0")
    return stopped(dense, tmp_path_factory.mktemp("taught") / "run", recipe, "finetune", 0, 1)


def test_the_dense_network_in_eval_mode_teaches_the_pruned_one(taught: Stopped) -> None:
    images, _ = next(iter(taught.context.train_batches(epoch=0)))
    with torch.no_grad():
        student, teacher = taught.smaller(taught.checkpoints[1].network)(images), taught.dense(images)
    wanted = 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    assert taught.losses == pytest.approx([wanted.item()], rel=1e-4)
    assert wanted > 0.1


def mean_of_first_convolution(network: nn.Module, batches: Any) -> Tensor:
    """Mean over batches of the mean of the first convolution's channels, float[C]."""
    with torch.no_grad():
        means = [network.get_submodule("conv1")(images).mean((0, 2, 3)) for images, _ in batches]
    return torch.stack(means).mean(0)


def test_statistics_after_surgery_are_of_training_images(taught: Stopped) -> None:
    weights = taught.checkpoints[1].network
    assert weights is not None
    found, network = weights["bn1.running_mean"], taught.smaller(weights)
    of_training = mean_of_first_convolution(network, taught.context.train_batches(epoch=0))
    torch.testing.assert_close(found, of_training, rtol=1e-4, atol=1e-5)
    of_test = mean_of_first_convolution(network, eval_batches(taught.context.splits.test, taught.context.data))
    assert not torch.allclose(found, of_test, rtol=1e-3)
    kept = next(group.kept for group in read_plan(taught.folder / "plan.json").groups if group.name == "conv1")
    assert not torch.allclose(found, taught.dense.state_dict()["bn1.running_mean"][list(kept)], rtol=1e-3)
