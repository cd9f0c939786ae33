"""One failing rank ends all ranks of a run, and is reported once, by rank 0."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

from edcompress.core.errors import EdcompressError
from edcompress.core.system.distributed import ProcessGroup, destroy, from_environment, open_store

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0
"""How long a rank may take to notice that another one failed before it is ended: gloo and NCCL do not always report it."""

SAVING_SECONDS = 25.0
"""How long the other ranks wait for rank 0 to save and report: once one is gone torchrun ends all, after 30 s by force."""

ShowError = Callable[[str], None]
"""Shows an error message to the user."""

_FAILURE, _REPORTED = "edcompress/failure", "edcompress/reported"
"""Keys of torchrun's store: the first failure as JSON, and whether rank 0 has reported it."""


@dataclass(frozen=True)
class RankFailure:
    """A rank that failed, its exit code, and its message; `detailed` where the rank reports more itself: a bug, or an interruption."""

    rank: int
    code: int
    message: str = ""
    detailed: bool = False


@contextmanager
def ending_together(show: ShowError) -> Iterator[None]:
    """End the block on all ranks where it fails on one, each with the same exit code.

    Args:
        show: Shows an error message; called on rank 0.
    """
    ranks = from_environment()
    if ranks.size == 1:
        yield
        return
    board = _FailureBoard(ranks, show)
    watcher = threading.Thread(target=board.watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        failure = _failure_of(error, ranks.rank)
        if failure is None:
            raise
        first = board.post(failure)
        destroy()
        if first == failure and failure.detailed and isinstance(error, Exception):
            sys.excepthook(type(error), error, error.__traceback__)  # at exit, torchrun might be faster
        board.conclude(failure, first)
        sys.exit(first.code)
    finally:
        board.done.set()
        watcher.join()  # a thread that asks the store while Python ends aborts the process
        destroy()


def _failure_of(error: BaseException, rank: int) -> RankFailure | None:
    """Return the failure that an error means; None where the process exits with success."""
    if isinstance(error, EdcompressError):
        return RankFailure(rank, error.exit_code, str(error))
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, KeyboardInterrupt) or code == INTERRUPTED:
        return RankFailure(rank, INTERRUPTED, "interrupted", detailed=True)
    if isinstance(error, SystemExit):
        return RankFailure(rank, code if isinstance(code, int) else 1) if code else None
    return RankFailure(rank, 1, f"{type(error).__name__}: {error}", detailed=True)


class _FailureBoard:
    """Torchrun's store, in which the ranks post and read that one of them has failed."""

    def __init__(self, ranks: ProcessGroup, show: ShowError) -> None:
        self._ranks, self._show, self.done = ranks, show, threading.Event()
        self._store = open_store()

    def post(self, failure: RankFailure) -> RankFailure:
        """Post a failure, and return the first one posted; `failure` itself where torchrun is gone, and the store with it."""
        text = json.dumps(asdict(failure))
        try:
            return RankFailure(**json.loads(self._store.compare_set(_FAILURE, "", text)))
        except RuntimeError:
            return failure

    def conclude(self, own: RankFailure, first: RankFailure) -> None:
        """Report the first failure on rank 0; elsewhere wait until it is, for torchrun ends all as soon as one rank is gone."""
        if self._ranks.is_main or (not self._wait_for_report(SAVING_SECONDS) and own == first):
            self._report_failure(first, own)

    def watch(self) -> None:
        """End this process where another rank failed and this one, waiting for it, does not notice; also where torchrun is gone."""
        try:
            while not self._store.check([_FAILURE]):
                if self.done.wait(POLL_SECONDS):
                    return
        except RuntimeError:
            if not self.done.wait(PATIENCE_SECONDS):
                os.kill(os.getpid(), signal.SIGTERM)  # as torchrun does to end its processes
            return
        first = self.post(RankFailure(self._ranks.rank, 1))
        patience = SAVING_SECONDS if first.code == INTERRUPTED else PATIENCE_SECONDS
        if first.rank == self._ranks.rank or self.done.wait(patience):
            return
        if self._ranks.is_main:
            self._report_failure(first)
        sys.stderr.flush()
        os._exit(first.code)

    def _report_failure(self, first: RankFailure, own: RankFailure | None = None) -> None:
        everywhere = own is not None and own.message == first.message  # as a fault of the recipe is
        if first.message and not (everywhere and first.detailed):
            self._show(first.message if everywhere else f"rank {first.rank} of {self._ranks.size}: {first.message}")
        with suppress(RuntimeError):  # torchrun is gone: nobody waits for it
            self._store.set(_REPORTED, "1")

    def _wait_for_report(self, seconds: float) -> bool:
        """Return whether rank 0 has reported within this time."""
        try:
            self._store.wait([_REPORTED], timedelta(seconds=seconds))
        except RuntimeError:  # not in time, or torchrun is gone
            return False
        return True
