"""What Ctrl-C saved, and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shlex import quote

from edcompress.cli.console import err, say
from edcompress.core.errors import DataError, RankLostError, StorageError
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.signals import Interrupt
from edcompress.runs.folder import RunFolder


def interruptible_run(
    folder: RunFolder, ranks: ProcessGroup, *, resume: bool, force: bool
) -> AbstractContextManager[Interrupt]:
    """Return a block that computes a run; if it is interrupted, rank 0 says what of it is in the folder and how to continue."""
    before = None if resume else folder.started_ns

    def saved() -> str:
        if before is not None and folder.started_ns == before:
            return f"nothing was saved yet; the earlier run in {folder.path} is as it was"
        if folder.resumable or folder.finished:  # the export of `run` may be what was interrupted
            return f"{_how_to_continue(force=force)} -o {quote(str(folder.path))}"
        return f"nothing was saved yet in {folder.path}"

    return _interruptible(ranks, lambda: folder.resumable, saved)


def interruptible_training(checkpoint: Path, *, resume: bool, force: bool) -> AbstractContextManager[Interrupt]:
    """Return a block that trains a dense network and keeps its unfinished state in `checkpoint`."""
    before = None if resume else _last_written(checkpoint)

    def saved() -> str:
        if _last_written(checkpoint) != before:
            return _how_to_continue(force=force)
        return "nothing was saved yet" + (f"; {checkpoint} is as it was" if before else "")

    return _interruptible(ALONE, checkpoint.exists, saved)


@contextmanager
def _interruptible(ranks: ProcessGroup, resumable: Callable[[], bool], saved: Callable[[], str]) -> Iterator[Interrupt]:
    """Let Ctrl-C and the signals of schedulers end a block, and have rank 0 say then what is `saved`.

    Rank 0 also says so if the block fails because of its disk, its data or another rank, and is `resumable`.
    """
    interrupt = Interrupt(ranks)
    try:
        with interrupt.listening():
            yield interrupt
    except KeyboardInterrupt:
        if ranks.is_main:
            say(f"\ninterrupted: {saved()}", err)
        raise
    except (StorageError, DataError, RankLostError):
        if ranks.is_main and resumable():
            say(saved(), err)
        raise


def _how_to_continue(*, force: bool) -> str:
    instead = " instead of --force" if force else ""
    return f"what was computed is saved; continue with the same command and --resume{instead}"


def _last_written(path: Path) -> int | None:
    """Return when a file was written last, in nanoseconds, or None if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else None
