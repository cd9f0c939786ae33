"""Worker processes that load images, and the end of a run when one dies."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from edcompress.core.errors import EdcompressError
from edcompress.core.recipe.data import Data
from edcompress.data.batches import Batches, train_batches
from edcompress.data.splits import open_splits


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """80 batches from two workers, which torch checks more often than every five seconds."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    data = Data(dataset="digits", image_size=8, batch_size=16, workers=2)
    return train_batches(open_splits(data, seed=0).train, data, seed=0, epoch=0)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Keep processes that start inside from making a larger file, also in shared memory."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_killed_worker_is_reported_where_the_next_batch_is_asked_for(batches: Batches) -> None:
    rest = iter(batches)
    next(rest)
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with pytest.raises(EdcompressError, match=r"images died \(DataLoader worker .*memory .*data\.workers .*--resume"):
        list(rest)
    assert EdcompressError.exit_code == 3


def test_full_shared_memory_ends_the_run_instead_of_halting_it(batches: Batches) -> None:
    with largest_file(1000), pytest.raises(EdcompressError, match=r"cannot hand over a batch \(.*/dev/shm is full"):
        list(batches)


def test_the_handler_of_child_signals_is_restored(batches: Batches) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    next(iter(batches))
    assert signal.getsignal(signal.SIGCHLD) is before
