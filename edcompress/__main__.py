"""`edcompress` and `python -m edcompress`: the one place that catches errors and turns them into exit codes."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from edcompress.cli import app
from edcompress.ending import INTERRUPTED, ending_together
from edcompress.errors import EdcompressError


def main() -> None:
    """Run the command line. Exit codes: 0 passed, 1 a gate limit failed, 2 bad input, 3 the run failed, 130 interrupted."""
    try:
        with ending_together(_say):
            app(standalone_mode=True)
    except EdcompressError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _say(message: str) -> None:
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


if __name__ == "__main__":
    main()
