"""Checks of a smaller network against its mask, on several images, with several weights, and in both modes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError, first_line
from edcompress.core.results.measures import TOLERANCE
from edcompress.networks.equality import compare_logits
from edcompress.networks.modes import evaluating
from edcompress.networks.outputs import joined
from edcompress.networks.random_weights import in_doubles
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.masks import call_with, masked_forward
from edcompress.pruning.surgery.remove import remove_channels

Mode = Literal["train", "eval"]

MOST_IMAGES = 32
"""Most images in a run that tries a batch size, where the network does not run on tensors without values."""

SUSPICIOUS, PRECISE, COARSE = 1e-5, 1e-6, 1e-3
"""Differences relative to the logits' scale: above the first, float64 decides by the second, or else float32 by the third."""


class Check(Protocol):
    """One way to check a removal; the message of a fault ends with `where`."""

    @property
    def where(self) -> str: ...

    def holds(self, space: PruningSpace, state: Tensor, smaller: nn.Module) -> bool:
        """Return whether `smaller`, the network without what the state bool[D] drops, does what the masked network does; or raise."""
        ...


@dataclass(frozen=True)
class SameLogits:
    """The same logits in eval mode on images [N, C, H, W]; raises ProofError where the masked network gives NaN."""

    network: nn.Module
    images: Tensor
    where: str = ""

    @torch.no_grad()
    def holds(self, space: PruningSpace, state: Tensor, smaller: nn.Module) -> bool:
        """Return whether the logits are the same."""
        with evaluating(self.network), evaluating(smaller):
            masked = joined(masked_forward(self.network, space, state, self.images))
            pruned = joined(smaller(self.images))
        # NaN and a number differ, too
        return masked.shape == pruned.shape and compare_logits(masked, pruned, "probe").relative <= TOLERANCE


@dataclass(frozen=True)
class SameFunction:
    """The same logits [N, classes] of a network with random weights in a mode, unless the network draws random numbers there.

    A difference that float32 may have made is checked in float64. A network that does not run in the mode passes.
    """

    network: nn.Module
    images: Tensor
    mode: Mode

    @property
    def where(self) -> str:
        """How the check differs from a run."""
        return " in train mode" if self.mode == "train" else " with random weights"

    def holds(self, space: PruningSpace, state: Tensor, smaller: nn.Module) -> bool:
        """Return whether the logits are the same, or depend on random numbers."""
        try:
            if self._same(self.network, space, state, smaller, SUSPICIOUS):
                return True
            if (precise := self._precise) is None:
                return self._same(self.network, space, state, smaller, COARSE)
            return self._same(precise, space, state, remove_channels(precise, state, space), PRECISE)
        except Exception:
            if self._runs:
                raise
            return True

    def _same(
        self, network: nn.Module, space: PruningSpace, state: Tensor, smaller: nn.Module, tolerance: float
    ) -> bool:
        images = self.images.to(next(network.parameters()).dtype)
        masked, drawn = self._called(network, lambda: masked_forward(network, space, state, images))
        pruned, _ = self._called(smaller, lambda: smaller(images))
        return _equal(masked, pruned, torch.inf if drawn else tolerance)

    @torch.no_grad()
    def _called(self, network: nn.Module, call: Callable[[], Any]) -> tuple[Tensor, bool]:
        """Return what a call gives with the network in the mode, always with the same seed, and whether it drew random numbers."""
        with _in_mode(network, self.mode), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            before = torch.get_rng_state()
            return joined(call()), not torch.equal(before, torch.get_rng_state())

    @cached_property
    def _precise(self) -> nn.Module | None:
        return in_doubles(self.network, self.images)

    @cached_property
    def _runs(self) -> bool:
        with suppress(Exception):
            return isinstance(self._called(self.network, lambda: self.network(self.images))[0], Tensor)
        return False


@dataclass(frozen=True)
class RunsAt:
    """A forward pass at batches of `size` in a mode, in train mode with a backward pass.

    It runs on tensors without values; only a network that cannot run on these is run on real ones. Raises NetworkError where the whole
    network fails at this size.
    """

    network: nn.Module
    image: tuple[int, ...]
    mode: Mode
    size: int

    @property
    def where(self) -> str:
        """The mode and the batch size."""
        return f" in {self.mode} mode at batches of {self.size}"

    def holds(self, _space: PruningSpace, _state: Tensor, smaller: nn.Module) -> bool:
        """Return True, or raise what the smaller network raises."""
        fault = self._fault(smaller, "meta")
        if fault and self._fault(self.network, "meta"):
            fault = self._fault(smaller, "cpu")
            if fault and (own := self._fault(self.network, "cpu")):
                raise NetworkError(
                    f"the network fails{self.where}: {type(own).__name__}: {first_line(own)}; fix its forward, or change "
                    f"data.{'batch_size' if self.mode == 'train' else 'eval_batch_size'}"
                )
        if fault:
            raise fault
        return True

    def _fault(self, network: nn.Module, device: str) -> Exception | None:
        """Return what a copy of the network raises on a device, or None."""
        try:
            if device == "cpu":
                with torch.no_grad():
                    copied = copy.deepcopy(network).train(self.mode == "train")
                    copied(torch.randn(min(self.size, MOST_IMAGES), *self.image))
            else:
                self._run_without_values(network)
        except Exception as error:
            return error
        return None

    def _run_without_values(self, network: nn.Module) -> None:
        training = self.mode == "train"
        tensors = {
            name: tensor.detach().to("meta")
            for name, tensor in chain(network.named_parameters(), network.named_buffers())
        }
        for name, parameter in network.named_parameters():
            tensors[name].requires_grad_(training and parameter.is_floating_point())
        with (
            _in_mode(network, self.mode),
            torch.random.fork_rng(devices=[]),
            torch.set_grad_enabled(training),
            torch.device("meta"),
        ):
            output = call_with(network, tensors, torch.empty(self.size, *self.image))
            if training:
                joined(output).sum().backward()  # type: ignore[no-untyped-call]


@contextmanager
def _in_mode(network: nn.Module, mode: Mode) -> Iterator[None]:
    with evaluating(network):
        network.train(mode == "train")
        yield


def _equal(masked: Tensor, pruned: Tensor, tolerance: float) -> bool:
    """Return whether logits [N, classes] differ by at most the tolerance relative to their scale, and are finite at the same places."""
    finite = masked.isfinite()
    if masked.shape != pruned.shape or not torch.equal(finite, pruned.isfinite()):
        return False
    difference, scale = (masked - pruned)[finite].abs(), masked[finite].abs()
    return not len(scale) or tolerance == torch.inf or bool(difference.max() <= tolerance * scale.max())
