"""The process group of one run, as torchrun starts it: each rank trains on its part of every batch, and rank 0 alone writes.

Nothing else imports torch.distributed, and a single process does not either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from edcompress.core.errors import EdcompressError, InputError, RankLostError, first_line
from edcompress.core.system.hashing import digest_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up: longer than rank 0 measures alone."""

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """This process as rank `rank` of `size`, and number `local` on its machine.

    Methods that exchange values have to be called by all ranks. A single process returns at once from each.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes, evolves the population and reports."""
        return self.rank == 0

    def device_for_rank(self, chosen: torch.device) -> torch.device:
        """Return this rank's device of the chosen kind; InputError where a machine has more ranks than CUDA devices."""
        import torch

        if self.size == 1 or chosen.type != "cuda":
            return chosen
        if self.local >= (count := torch.cuda.device_count()):
            raise InputError(
                f"torchrun: {self.local + 1} ranks or more, {count} CUDA devices; set --nproc-per-node {count}"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def average_(self, tensors: Sequence[Tensor], weight: int) -> None:
        """Replace the tensors, in place, by their mean over the ranks.

        Args:
            tensors: On one device; the same shapes on every rank.
            weight: The number of images of this rank, by which its tensors are weighted.
        """
        import torch

        if self.size == 1:
            return
        with torch.no_grad():
            flat = torch.cat([*(tensor.reshape(-1) for tensor in tensors), tensors[0].new_ones(1)]) * weight
            self._reduce(flat)
            flat /= flat[-1].clone()
            for tensor, mean in zip(
                tensors, torch.split(flat[:-1], [tensor.numel() for tensor in tensors]), strict=True
            ):
                tensor.copy_(mean.view(tensor.shape))

    def sum(self, *numbers: int) -> tuple[int, ...]:
        """Return each number summed over the ranks."""
        import torch

        if self.size == 1:
            return numbers
        return tuple(self._reduce(torch.tensor(numbers)).tolist())

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is set on at least one rank."""
        return self.sum(int(flag)) != (0,)

    def run_on_rank0(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 alone, and return its result on all ranks."""
        if self.size == 1:
            return make()
        import torch.distributed as dist

        values: list[Any] = [make() if self.is_main else None]
        with _connected():
            dist.broadcast_object_list(values)
        result: T = values[0]
        return result

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors, in place, by those of rank 0."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for tensor in tensors:
            values = tensor.detach().clone(memory_format=torch.contiguous_format)
            data = values.reshape(-1).view(torch.uint8)  # gloo does not know all types
            with _connected():
                dist.broadcast(data, 0)
            tensor.copy_(values)

    def require_same(self, what: str, *parts: Tensor | str) -> None:
        """Raise EdcompressError, on all ranks, where the parts of `what` are not the same bytes on all of them."""
        import torch

        if self.size == 1:
            return
        digests = torch.zeros(self.size, dtype=torch.int64)
        digests[self.rank] = int.from_bytes(digest_of(parts, size=7))  # fits an int64
        found = self._reduce(digests).tolist()
        if others := [str(rank) for rank, digest in enumerate(found) if digest != found[0]]:
            raise EdcompressError(f"{what} differs between rank 0 and rank {', '.join(others)}")

    def _reduce(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        with _connected():
            dist.all_reduce(tensor)
        return tensor


ALONE = ProcessGroup()


def from_environment() -> ProcessGroup:
    """Return the process group that torchrun set up in the environment; ALONE without torchrun."""
    if not all(os.environ.get(name) for name in _TORCHRUN_VARIABLES):
        return ALONE
    rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return ProcessGroup(rank, size, local) if size > 1 else ALONE


def require_alone(verb: str) -> None:
    """Raise InputError where torchrun started several processes."""
    if (ranks := from_environment()).size > 1:
        raise InputError(f"edcompress {verb} runs in one process, not in {ranks.size}; start it without torchrun")


def init_process_group(device: str) -> ProcessGroup:
    """Connect the ranks, by gloo on the CPU, and by NCCL too where they train on CUDA devices; return the process group."""
    ranks = from_environment()
    if ranks.size > 1:
        import torch
        import torch.distributed as dist

        cuda = device != "cpu" and torch.cuda.is_available()
        with _connected():
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    return ranks


def open_store() -> Store:
    """Open torchrun's key-value store, which the ranks share whether they are connected or not."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://"))[0]
    return store


def destroy() -> None:
    """Disconnect from the other ranks, which ends their waiting for this one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _connected() -> Iterator[None]:
    """Turn the RuntimeErrors that torch.distributed raises for a lost rank into RankLostError."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"another rank is gone or does not answer; torchrun reports how each ended ({first_line(error)})"
        ) from error
