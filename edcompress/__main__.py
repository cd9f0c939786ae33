"""`edcompress` and `python -m edcompress`: the one place that catches errors and turns them into exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from io import TextIOWrapper
from typing import NoReturn, TextIO

from rich.text import Text

from edcompress.cli.app import app
from edcompress.cli.console import Terminal, harmless_warnings
from edcompress.core.errors import EdcompressError, InputError, StorageError
from edcompress.core.plain_text import harmless
from edcompress.core.system.files import FEWER_FILES
from edcompress.core.system.rank_failure import INTERRUPTED, ending_together


def main() -> None:
    """Run the command line. Exit codes: 0 passed, 1 a gate limit failed, 2 bad input, 3 the run failed, 130 interrupted.

    A bug shows its traceback and exits with 3: Python's own exit code would say that a gate limit failed.
    """
    try:
        _main()
    except Exception:
        sys.stderr.write(harmless(traceback.format_exc()))
        sys.exit(EdcompressError.exit_code)


def _main() -> None:
    _open_outputs()
    _replace_what_the_locale_lacks()
    try:
        with harmless_warnings(), ending_together(_say):
            app(standalone_mode=True)
    except EdcompressError as error:
        _exit(str(error), error.exit_code)
    except OSError as error:
        _exit_with_system_error(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _exit_with_system_error(error: OSError) -> NoReturn:
    """Exit with a message about the user's path or disk; raise the error again if it is a bug."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # stdout into a file: for other files there is StorageError
        _exit(
            f"{error.filename or 'the output'} cannot be written: {error.strerror}; free space on that disk",
            StorageError.exit_code,
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        _exit(f"{error.filename or 'a file'} cannot be opened: {error.strerror}; {FEWER_FILES}", StorageError.exit_code)
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):  # pathlib looks at a given path, and may not
        _exit(
            f"{error.filename}: {error.strerror}; give another path, or the permission to read it",
            InputError.exit_code,
        )
    raise error


def _open_outputs() -> None:
    """Discard what is written to a stdout or stderr that is closed, or open for reading only: it has no reader."""
    for name in ("stdout", "stderr"):
        if not _is_writable(getattr(sys, name)):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _is_writable(stream: TextIO | None) -> bool:
    if stream is None or stream.closed:
        return False
    try:
        os.write(stream.fileno(), b"")
    except OSError as error:  # a stream in memory has no file descriptor, and a disk may be full
        return error.errno != errno.EBADF
    return True


def _replace_what_the_locale_lacks() -> None:
    """Print "?" for characters that the locale's encoding lacks: an arrow in a table must not turn a passed gate into exit code 1.

    In the C locale Python lets bytes of file names through ("surrogateescape"), but no other letter. Stderr always prints something.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")


def _exit(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    Terminal(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


if __name__ == "__main__":
    main()
