"""`edcompress` and `python -m edcompress`: the one place that catches errors and turns them into exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from io import TextIOWrapper
from typing import TextIO

from rich.text import Text

from edcompress.cli.app import app
from edcompress.cli.console import Terminal, harmless_warnings
from edcompress.core.errors import EdcompressError, InputError, StorageError
from edcompress.core.plain_text import harmless
from edcompress.core.system.files import FEWER_FILES
from edcompress.core.system.rank_failure import INTERRUPTED, ending_together


def main() -> None:
    """Run the command line. Exit codes: 0 passed, 1 a gate limit failed, 2 bad input, 3 the run failed, 130 interrupted.

    A bug shows its traceback and is a run that failed: Python's own exit code would say that a gate did.
    """
    try:
        _main()
    except Exception:
        sys.stderr.write(harmless(traceback.format_exc()))
        sys.exit(EdcompressError.exit_code)


def _main() -> None:
    _open_outputs()
    _write_what_can_be()
    try:
        with harmless_warnings(), ending_together(_say):
            app(standalone_mode=True)
    except EdcompressError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # of a path that was given: pathlib asks whether it is there, and may not
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of what is printed, into a file: others are StorageErrors
            _say(f"{error.filename or 'the output'} cannot be written: {error.strerror}; make room on that disk")
            sys.exit(StorageError.exit_code)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _say(f"{error.filename or 'a file'} cannot be opened: {error.strerror}; {FEWER_FILES}")
            sys.exit(StorageError.exit_code)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        _say(f"{error.filename}: {error.strerror}; give another path, or the permission to read it")
        sys.exit(InputError.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _open_outputs() -> None:
    """Send nowhere what is written to a stdout or stderr that is closed, or open for reading alone: nobody waits for it."""
    for name in ("stdout", "stderr"):
        if not _takes_writes(getattr(sys, name)):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _takes_writes(stream: TextIO | None) -> bool:
    if stream is None or stream.closed:
        return False
    try:
        os.write(stream.fileno(), b"")
    except OSError as error:  # a stream in memory has no number, and a disk may be full
        return error.errno != errno.EBADF
    return True


def _write_what_can_be() -> None:
    """Have "?" stand for what the locale's encoding lacks: an arrow in a table must not end a gate that passed with exit code 1.

    In the C locale Python lets through what came from bytes ("surrogateescape"), and no other letter. Stderr always writes something.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")


def _say(message: str) -> None:
    Terminal(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


if __name__ == "__main__":
    main()
