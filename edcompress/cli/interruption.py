"""What Ctrl-C saved, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shlex import quote

from edcompress.cli.console import err, say
from edcompress.core.errors import DataError, RankLostError, StorageError
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.signals import Interrupt
from edcompress.runs.folder import RunFolder


@contextmanager
def saying_how_to_resume(
    ranks: ProcessGroup, resumable: Callable[[], bool], saved: Callable[[], str]
) -> Iterator[Interrupt]:
    """A block that Ctrl-C and the signals of schedulers end with what it computed `saved`; the first rank says so, and how to go on."""
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


def resumable(
    folder: RunFolder, ranks: ProcessGroup, *, resume: bool, force: bool
) -> AbstractContextManager[Interrupt]:
    """`_telling` of a run."""
    before = None if resume else folder.began
    return saying_how_to_resume(ranks, lambda: folder.resumable, lambda: saved(folder, before, force=force))


def how_to_go_on(*, force: bool) -> str:
    return (
        f"what was computed is saved; go on with the same command and --resume{' in place of --force' if force else ''}"
    )


def written(path: Path) -> int | None:
    """When a file was written last, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def saved(folder: RunFolder, before: int | None, *, force: bool) -> str:
    """What is in the folder of an interrupted run, and how to go on; `before` is when an earlier run in it began, of which --force was to
    make a new one."""
    if before is not None and folder.began == before:
        return f"nothing was saved yet; the earlier run in {folder.path} is as it was"
    if folder.resumable or folder.finished:  # the export of `run` may be what was interrupted
        return f"{how_to_go_on(force=force)} -o {quote(str(folder.path))}"
    return f"nothing was saved yet in {folder.path}"
