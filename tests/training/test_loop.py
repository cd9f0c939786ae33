import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.core.errors import EdcompressError
from edcompress.core.recipe.training import TrainingConfig
from edcompress.training.loop import PATIENCE, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import EpochPosition, ScheduleSpan
from edcompress.training.precision import Precision
from edcompress.training.regime import DenseRegime

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


class Listed(list[Batch]):
    """Batches that can start anywhere."""

    def numbered(self, done: int) -> Iterator[tuple[int, Batch]]:
        return enumerate(self[done:], done + 1)


BATCHES = Listed((images(6, seed), torch.tensor([0, 1, 2, 0, 1, 2])) for seed in range(3))
FIRST = ScheduleSpan(epoch=0, epochs=2, offset=0, total=4)


def trainer(
    network: nn.Module, precision: str = "fp32", **fit: object
) -> tuple[Trainer, list[tuple[int, int, dict[str, Any]]]]:
    settings = TrainingConfig.model_validate({"lr": 0.05, "warmup": 0.0, **fit})
    where = Precision("bf16" if precision == "bf16" else "fp32", CPU)
    network = where.place(network)
    seen: list[tuple[int, int, dict[str, Any]]] = []
    made = Trainer(
        network, make_optimizer(settings, network.parameters()), Objective(settings), where, DenseRegime(network),
        lambda step, steps, figures: seen.append((step, steps, figures)),
    )  # fmt: skip
    return made, seen


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def test_an_epoch_lowers_the_loss_and_reports_every_step() -> None:
    made, seen = trainer(randomised(ZOO["chain"].network()))
    losses = [train_epoch(made, BATCHES, ScheduleSpan(epoch, 15, 0, 15), seed=0).mean_loss for epoch in range(15)]
    assert losses[-1] < losses[0] - 0.1
    assert [(step, steps) for step, steps, _ in seen[:3]] == [(1, 3), (2, 3), (3, 3)]
    assert losses[0] == pytest.approx(sum(figures["loss"] for _, _, figures in seen[:3]) / 3)
    assert all(figures["steps_per_s"] > 0 for _, _, figures in seen)
    assert made.network.training


def test_every_parameter_moves() -> None:
    made, _ = trainer(randomised(ZOO["no_batch_norm"].network()))
    before = tensors(made.network)
    train_epoch(made, BATCHES, FIRST, seed=0)
    assert not [key for key, p in made.network.named_parameters() if torch.equal(p, before[key])]


def test_one_step_of_plain_sgd_by_hand() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    nn.init.zeros_(network.get_parameter("1.weight"))
    made, _ = trainer(network, momentum=0.0, weight_decay=0.0, schedule="constant", lr=0.5)
    x = torch.tensor([[[[1.0, 2.0]]]])
    loss = train_epoch(made, Listed([(x, torch.tensor([0]))]), FIRST, seed=0).mean_loss
    assert loss == pytest.approx(0.6931472)  # two equal logits: ln 2
    # dL/dz = (1/2 - 1, 1/2), times x, times -0.5
    torch.testing.assert_close(network.get_parameter("1.weight").data, torch.tensor([[0.25, 0.5], [-0.25, -0.5]]))


def test_the_rate_follows_the_whole_schedule() -> None:
    made, _ = trainer(randomised(ZOO["chain"].network()), lr=1.0, schedule="cosine")
    train_epoch(made, Listed(BATCHES[:2]), ScheduleSpan(epoch=1, epochs=2, offset=2, total=4), seed=0)
    # the last step is step 1 of 2 in epoch 3 of 4: 7/8 of the way, 0.5 (1 + cos(7 pi / 8)) = 0.0380602
    assert [group["lr"] for group in made.optimizer.param_groups] == pytest.approx([0.0380602] * 2, abs=1e-6)


def test_progress_of_the_phase_and_of_the_schedule() -> None:
    span = ScheduleSpan(epoch=1, epochs=4, offset=3, total=10)
    assert span.phase_progress(2, 8) == 1.25 / 4
    assert span.schedule_progress(2, 8) == 4.25 / 10


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["no_batch_norm", "residual"])
def test_a_step_without_a_finite_loss_is_skipped_and_counted(name: str, broken: float) -> None:
    made, seen = trainer(randomised(ZOO[name].network()))
    bad = (torch.full((6, 3, 8, 8), broken), BATCHES[0][1])
    before = tensors(made.network)
    position = train_epoch(made, Listed([bad]), FIRST, seed=0)
    assert (position.steps, position.skipped, position.skipped_in_a_row) == (1, 1, 1)
    assert math.isnan(position.mean_loss)
    assert all(torch.equal(tensor, before[key]) for key, tensor in made.network.state_dict().items())
    position = train_epoch(made, Listed([BATCHES[0], bad, BATCHES[1]]), FIRST, seed=0)
    assert (position.steps, position.skipped, position.skipped_in_a_row) == (3, 1, 0)
    losses = [figures["loss"] for _, _, figures in seen[1:]]
    assert position.mean_loss == (losses[0] + losses[2]) / 2
    assert all(torch.isfinite(tensor).all() for tensor in made.network.state_dict().values())


def test_gradients_that_are_not_finite_skip_the_step_too() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale.sqrt() + 0 * x.flatten(1)[:, :3]  # the gradient of sqrt at 0 is infinite

    made, _ = trainer(Steep())
    assert train_epoch(made, BATCHES, FIRST, seed=0).skipped == 3
    assert torch.equal(made.network.get_parameter("scale").data, torch.zeros(3))


def test_steps_that_fail_in_a_row_end_the_run_with_advice() -> None:
    made, _ = trainer(randomised(ZOO["no_batch_norm"].network()))
    bad = (torch.full((6, 3, 8, 8), float("nan")), BATCHES[0][1])
    batches = Listed([bad] * (PATIENCE - 1) + [BATCHES[0]] + [bad] * PATIENCE + [BATCHES[1]])
    message = rf"diverged: no finite loss .* in 8 steps, up to epoch 2, step {2 * PATIENCE}; .* lower finetune\.lr"
    with pytest.raises(EdcompressError, match=message):
        train_epoch(made, batches, ScheduleSpan(epoch=1, epochs=2, offset=0, total=2), seed=0)


def test_short_epochs_of_steps_that_fail_end_the_run_too() -> None:
    made, _ = trainer(randomised(ZOO["no_batch_norm"].network()))
    made = replace(made, section="train")
    bad = (torch.full((6, 3, 8, 8), float("nan")), BATCHES[0][1])
    first = train_epoch(made, Listed([bad] * 3), FIRST, seed=0).next_epoch()
    assert (first.steps, first.skipped_in_a_row, first.skipped, first.loss) == (0, 3, 0, 0.0)
    assert train_epoch(made, Listed([BATCHES[0], bad]), FIRST, 0, first).skipped_in_a_row == 1
    second = train_epoch(made, Listed([bad] * 3), FIRST, 0, first).next_epoch()
    with pytest.raises(EdcompressError, match=r"in 8 steps, up to epoch 1, step 2; .* a lower train\.lr"):
        train_epoch(made, Listed([bad] * 3), FIRST, 0, second)


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_an_epoch_goes_on_from_any_step_bit_for_bit(stop: int) -> None:
    def fresh() -> Trainer:
        return trainer(randomised(_Dropping()))[0]

    whole = fresh()
    end = train_epoch(whole, BATCHES, FIRST, seed=0)
    half = fresh()
    positions: list[EpochPosition] = [EpochPosition()]

    class Stopping:
        def before_step(self) -> None:
            if len(positions) > stop:
                raise KeyboardInterrupt

        def after_step(self, position: EpochPosition) -> None:
            positions.append(position)

    with suppress(KeyboardInterrupt), torch.random.fork_rng():
        train_epoch(half, BATCHES, FIRST, 0, None, Stopping())
    other = fresh()
    other.network.load_state_dict(half.network.state_dict())
    other.optimizer.load_state_dict(half.optimizer.state_dict())
    resumed = train_epoch(other, BATCHES, FIRST, 0, positions[stop])
    assert (resumed.steps, resumed.loss) == (3, end.loss)
    assert all(
        torch.equal(tensor, whole.network.state_dict()[key]) for key, tensor in other.network.state_dict().items()
    )


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(x.flatten(1)))
        return logits


def test_dropout_is_a_function_of_seed_and_epoch_and_the_global_state_is_given_back() -> None:
    def after(seed: int, epoch: int, disturb: int) -> Tensor:
        made, _ = trainer(randomised(_Dropping()), schedule="constant")
        torch.manual_seed(disturb)
        state = torch.get_rng_state()
        train_epoch(made, BATCHES, ScheduleSpan(epoch, 9, 0, 9), seed)
        assert torch.equal(torch.get_rng_state(), state)
        return made.network.state_dict()["fc.weight"]

    with torch.random.fork_rng():
        assert torch.equal(after(0, 1, disturb=5), after(0, 1, disturb=6))
        assert not torch.equal(after(0, 1, disturb=5), after(0, 2, disturb=5))
        assert not torch.equal(after(0, 1, disturb=5), after(1, 1, disturb=5))


def test_bf16_trains_fp32_weights_on_the_cpu() -> None:
    made, _ = trainer(randomised(ZOO["residual"].network()), "bf16")
    exact, _ = trainer(randomised(ZOO["residual"].network()))
    loss, reference = (train_epoch(t, BATCHES, FIRST, seed=0).mean_loss for t in (made, exact))
    assert loss == pytest.approx(reference, rel=0.05)
    assert loss != reference
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}
    conv = made.network.get_parameter("conv1.weight")
    assert conv.is_contiguous(memory_format=torch.channels_last)
    with made.precision.autocast():
        assert made.network(made.precision.images(BATCHES[0][0])).dtype == torch.bfloat16


LOGITS, LABELS = torch.tensor([[2.0, 0.0]]), torch.tensor([0])


def _objective(teacher: Tensor | None = None, **fit: object) -> float:
    teach = None if teacher is None else (lambda _: teacher)
    return Objective(TrainingConfig.model_validate(fit), teach).loss(LOGITS, torch.zeros(1), LABELS).item()


def test_cross_entropy_and_smoothing_by_hand() -> None:
    # ln(1 + e^-2) = 0.126928; smoothed by 0.2 the target is (0.9, 0.1): 0.126928 + 0.1 x 2
    assert _objective() == pytest.approx(0.126928, abs=1e-6)
    assert _objective(label_smoothing=0.2) == pytest.approx(0.326928, abs=1e-6)


def test_distillation_by_hand() -> None:
    # T = 2: student (1, 0) -> p = (0.731059, 0.268941), teacher (0, 2) -> (0, 1) -> q = (0.268941, 0.731059)
    # KL(q || p) = 0.268941 ln(0.367879) + 0.731059 ln(2.718282) = 0.462117; T^2 KL = 1.848468
    teacher = torch.tensor([[0.0, 2.0]])
    assert _objective(teacher, distill=1.0, distill_temperature=2.0) == pytest.approx(1.848468, abs=1e-5)
    half = 0.5 * 0.126928 + 0.5 * 1.848468
    assert _objective(teacher, distill=0.5, distill_temperature=2.0) == pytest.approx(half, abs=1e-5)
    assert _objective(teacher, distill=0.0) == _objective()
    assert _objective(None, distill=0.5) == _objective()
    assert _objective(LOGITS, distill=1.0, distill_temperature=3.0) == pytest.approx(0.0, abs=1e-6)  # nothing to learn


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = randomised(ZOO["chain"].network())
    student = randomised(ZOO["chain"].network(), 1)
    Objective(TrainingConfig(distill=0.7), teacher).loss(student(images(1)), images(1), LABELS).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
