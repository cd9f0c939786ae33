"""Trials of removals: with random weights, on given images, in train mode and at the batch sizes of a recipe."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import ZOO, images, randomised
from zoo_awkward import AWKWARD, Between

from edcompress.core.errors import NetworkError, ProofError
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.tracing.probe import lock_inexact, prove_masked
from edcompress.pruning.tracing.tracing import trace_space

Function = Callable[[Tensor], Tensor]

MIXES: dict[str, Function] = {
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "softmax": lambda x: x.softmax(1),
    "centre": lambda x: x - x.mean(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(1),
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "sort": lambda x: x.sort(1).values,
}


class Skipped(Between):
    """x + alpha f(x), as in blocks that start with alpha = 0."""

    def __init__(self, f: Function, alpha: Tensor) -> None:
        super().__init__()
        self.f, self.alpha = f, nn.Parameter(alpha.clone())

    def between(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.f(x)


class Normed(Between):
    """x + norm(flipped x), with the initial weight of the last norm of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.flip(1))
        return x + y


class Applied(Between):
    """A function of the features, and of whether they are trained on."""

    def __init__(self, f: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.f = f

    def between(self, x: Tensor) -> Tensor:
        return self.f(x, self.training)


class Auxiliary(Between):
    """A second classifier, whose logits are added only in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.conv(image))
        logits = self.read(x)
        return logits + self.aux(x.mean((2, 3))) if self.training else logits


class Held(Between):
    """A layer between the convolutions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def reason(network: nn.Module, seen: Tensor | None = None, **batches: int) -> str | None:
    """Return why `conv` is locked, or None; `conv2` after it is always free."""
    x = images(2)
    space = lock_inexact(network.eval(), trace_space(network, x), x, seen, batches)  # type: ignore[arg-type]
    locked = {group.name: group.locked for group in space.groups}
    assert locked["conv2"] is None
    return locked["conv"]


@pytest.mark.parametrize("scale", [0.0, 1e-8])
@pytest.mark.parametrize("name", MIXES)
def test_groups_whose_mixing_a_scale_of_zero_hides_are_locked(name: str, scale: float) -> None:
    network = randomised(Skipped(MIXES[name], torch.zeros(())))
    nn.init.constant_(network.get_parameter("alpha"), scale)
    assert "changes the result with random weights" in (reason(network) or "")


def test_groups_whose_mixing_a_norm_of_weight_zero_hides_are_locked() -> None:
    network = randomised(Normed())
    nn.init.zeros_(network.get_parameter("norm.weight"))
    assert "changes the result with random weights" in (reason(network) or "")


def test_a_block_that_starts_at_zero_and_mixes_nothing_is_free() -> None:
    assert reason(Skipped(lambda x: F.avg_pool2d(x, 3, 1, 1), torch.zeros(()))) is None


@pytest.mark.parametrize("layer", [nn.LocalResponseNorm(3), nn.CrossMapLRN2d(3), nn.ChannelShuffle(2), nn.Softmax2d()])
def test_layers_that_mix_channels_are_known_by_name(layer: nn.Module) -> None:
    kind = type(layer).__name__
    assert reason(Held(layer)) == f"layer is a {kind}, whose result depends on all channels at once"


def test_a_function_that_mixes_channels_a_little_is_locked() -> None:
    assert "changes the result" in (reason(Applied(lambda x, _: F.local_response_norm(x, 3, alpha=3e-3))) or "")


def test_a_fault_that_only_the_given_images_show_locks_the_group() -> None:
    network = randomised(Applied(lambda x, _: torch.where(x.amax((1, 2, 3), keepdim=True) > 50, x.flip(1), x)))
    assert reason(network) is None
    assert "changes the result" in (reason(network, 127 * images(2)) or "")


@pytest.mark.parametrize("left", [1, 2])
def test_removals_are_tried_down_to_one_channel_and_to_a_half(left: int) -> None:
    assert "changes the result" in (reason(Applied(lambda x, _: x + 1 if x.shape[1] == left else x)) or "")


class Narrow(Between):
    """Doubles the features where both convolutions have lost channels, and only there."""

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.conv(image))
        y = F.relu(self.conv2(x))
        return self.classify(2 * y if x.shape[1] < 4 and y.shape[1] < 5 else y)


def test_removals_are_tried_together() -> None:
    network = randomised(Narrow()).eval()
    space = trace_space(network, images(2))
    assert [group.name for group in space.free] == ["conv", "conv2"]
    found = lock_inexact(network, space, images(2))
    assert [group.name for group in found.free] == [
        "conv"
    ]  # either could lose channels without the other; the first stays free
    assert "changes the result" in next(group.locked or "" for group in found.groups if group.name == "conv2")


def test_code_that_runs_only_in_training_is_tried() -> None:
    assert "cannot be removed in train mode (RuntimeError: mat1 and mat2" in (reason(Auxiliary()) or "")
    mixing = Applied(lambda x, training: x.softmax(1) if training else x)
    assert "changes the result in train mode" in (reason(mixing) or "")


def test_random_numbers_in_training_lock_nothing() -> None:
    assert reason(Held(nn.Dropout(0.5))) is None
    assert reason(Held(nn.Dropout2d(0.5))) is None


def test_a_network_that_cannot_be_trained_here_locks_nothing() -> None:
    assert reason(Held(nn.SyncBatchNorm(4)), train=4) is None


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("depends", [False, True])
def test_code_that_only_large_batches_run_is_tried(mode: str, depends: bool) -> None:
    offset = torch.ones(1, 4, 1, 1)

    def ghost(x: Tensor, training: bool) -> Tensor:
        if depends and x.sum() > 1e9:  # which fails on tensors without values
            return -x
        return x + offset.to(x) if len(x) >= 16 and training == (mode == "train") else x

    assert reason(Applied(ghost), **{mode: 8}) is None
    assert f"cannot be removed in {mode} mode at batches of 16 (" in (reason(Applied(ghost), **{mode: 16}) or "")


def test_a_network_that_fails_at_the_batch_size_is_refused() -> None:
    def ghost(x: Tensor, training: bool) -> Tensor:
        return x.view(-1, 6, *x.shape[1:]).flatten(0, 1) if training and len(x) > 4 else x

    assert reason(Applied(ghost), train=12) is None
    with pytest.raises(NetworkError, match=r"fails in train mode at batches of 16: RuntimeError: .*data\.batch_size"):
        reason(Applied(ghost), train=16)


def test_a_failed_proof_names_the_groups_and_what_to_do() -> None:
    network, x = randomised(AWKWARD["Softmax"]()), images(4)
    space = trace_space(network, x)
    assert [group.name for group in space.free] == ["conv", "conv2"]
    state = space.full_state()
    state[[1, 5]] = False
    with pytest.raises(
        ProofError, match=r"above 0.0001 relative.* removed exactly: conv\. .*constraints\.ignore=\[conv\]"
    ):
        prove_masked(network, space, state, x)
    state[1] = True
    smaller, proof = prove_masked(network, space, state, x)
    assert proof.relative < 1e-4
    assert smaller.get_parameter("conv2.weight").shape[0] == 4


@pytest.mark.parametrize("name", ZOO)
def test_no_exact_group_is_locked_at_a_batch_size(name: str) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    tried: PruningSpace = lock_inexact(network, space, images(2), 3 * images(3), {"train": 32, "eval": 20})
    assert tried == space
