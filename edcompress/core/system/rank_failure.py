"""How the ranks of a run end together: the first failure ends all of them, and is said once, by rank 0."""

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
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0
"""How long a rank may take to notice that another one failed, before it is ended where it stands: gloo and NCCL do not always tell."""

SAVING_SECONDS = 25.0
"""How long the other ranks wait for rank 0 to save and to speak: when one is gone torchrun ends all, after 30 s by force."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Failure:
    """The exit code of a rank that failed, and its message; `spoken` where the rank says more itself: a bug, or an interruption."""

    rank: int
    code: int
    message: str = ""
    spoken: bool = False


@contextmanager
def ending_together(say: Say) -> Iterator[None]:
    """A block that ends on all ranks where it fails on one; `say` is called on rank 0, and each rank leaves with the same code."""
    ranks = from_environment()
    if ranks.size == 1:
        yield
        return
    board = _FailureBoard(ranks, say)
    watcher = threading.Thread(target=board.watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        end = _end_of(error, ranks.rank)
        if end is None:
            raise
        first = board.first(end)
        destroy()
        if first == end and end.spoken and isinstance(error, Exception):
            sys.excepthook(type(error), error, error.__traceback__)  # at exit, torchrun might be faster
        board.close(end, first)
        sys.exit(first.code)
    finally:
        board.done.set()
        watcher.join()  # a thread that asks the store while Python ends aborts the process
        destroy()


def _end_of(error: BaseException, rank: int) -> Failure | None:
    """None where the process ends well."""
    if isinstance(error, EdcompressError):
        return Failure(rank, error.exit_code, str(error))
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, KeyboardInterrupt) or code == INTERRUPTED:
        return Failure(rank, INTERRUPTED, "interrupted", spoken=True)
    if isinstance(error, SystemExit):
        return Failure(rank, code if isinstance(code, int) else 1) if code else None
    return Failure(rank, 1, f"{type(error).__name__}: {error}", spoken=True)


class _FailureBoard:
    """Where the ranks write and read that one has failed: torchrun's store."""

    def __init__(self, ranks: ProcessGroup, say: Say) -> None:
        self._ranks, self._say, self.done = ranks, say, threading.Event()
        self._store = open_store()

    def first(self, end: Failure) -> Failure:
        """The end that was written first; it is `end` where none was, or where torchrun is gone and the store with it."""
        text = json.dumps(asdict(end))
        try:
            return Failure(**json.loads(self._store.compare_set("edcompress/end", "", text)))
        except RuntimeError:
            return end

    def close(self, own: Failure, first: Failure) -> None:
        """Rank 0 says what happened; the others wait until it has, for torchrun ends all as soon as one is gone."""
        if self._ranks.is_main or (not self._told(SAVING_SECONDS) and own == first):
            self._speak(first, own)

    def watch(self) -> None:
        """Ends this process where another one failed and it does not notice, for it waits for that one; or where torchrun is gone."""
        try:
            while not self._store.check(["edcompress/end"]):
                if self.done.wait(POLL_SECONDS):
                    return
        except RuntimeError:
            if not self.done.wait(PATIENCE_SECONDS):
                os.kill(os.getpid(), signal.SIGTERM)  # what torchrun sends when it is told to end
            return
        first = self.first(Failure(self._ranks.rank, 1))
        patience = SAVING_SECONDS if first.code == INTERRUPTED else PATIENCE_SECONDS
        if first.rank == self._ranks.rank or self.done.wait(patience):
            return
        if self._ranks.is_main:
            self._speak(first)
        sys.stderr.flush()
        os._exit(first.code)

    def _speak(self, first: Failure, own: Failure | None = None) -> None:
        everywhere = own is not None and own.message == first.message  # as a fault of the recipe is
        if first.message and not (everywhere and first.spoken):
            self._say(first.message if everywhere else f"rank {first.rank} of {self._ranks.size}: {first.message}")
        with suppress(RuntimeError):  # torchrun is gone: nobody waits for it
            self._store.set("edcompress/told", "1")

    def _told(self, seconds: float) -> bool:
        """Whether rank 0 has spoken by then."""
        try:
            self._store.wait(["edcompress/told"], timedelta(seconds=seconds))
        except RuntimeError:  # not in time, or torchrun is gone
            return False
        return True
