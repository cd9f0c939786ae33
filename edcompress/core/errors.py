"""The error tree. One place catches it: the command line (`edcompress.__main__`).

    EdcompressError              exit code 3: the run itself failed
    ├── InputError               exit code 2: what the user gave cannot be used; raised before any compute
    │   ├── RecipeError          a recipe or an override (`--set`)
    │   ├── NetworkError         an architecture or a network factory
    │   ├── WeightsError         a weights file
    │   ├── CheckpointError      the saved state of an unfinished run
    │   ├── DataError            a data set on disk
    │   ├── BudgetError          a target outside what the constraints allow
    │   └── RunFolderError       a run folder that exists, is missing, or has not come far enough
    ├── RankLostError            another process of a run on several is gone
    ├── ProofError               two models that must be equal are not
    └── StorageError             a file cannot be written: the disk is full, read-only or gone

A message names the thing, the value, the bound and the fix. A bug is not in this tree; it shows its traceback, and exits with 3.
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class EdcompressError(Exception):
    """A failure that edcompress foresaw; its message is for the user.

    Every error that a function of `import edcompress` raises on purpose is one of this class. Catch it to handle them all; anything
    else is a bug.

    Attributes:
        exit_code: The exit code of the command line: 2 where an input cannot be used, 3 where the run itself failed.
    """

    exit_code = 3


class InputError(EdcompressError):
    """An input of the user cannot be used."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe file or an override is not valid."""


class NetworkError(InputError):
    """An architecture is unknown, or a network cannot be built as asked."""


class WeightsError(InputError):
    """A weights file cannot be read, or does not fit the network."""


class CheckpointError(InputError):
    """The saved state of an unfinished run is damaged, or is not one."""


class DataError(InputError):
    """A data set is missing, broken, or does not fit the network."""


class BudgetError(InputError):
    """A target cannot be met under the constraints."""


class RunFolderError(InputError):
    """A run folder is in the way, missing, or has not come far enough."""


class RankLostError(EdcompressError):
    """Another process of a run is gone, or does not answer."""


class ProofError(EdcompressError):
    """Two models that must give equal logits do not."""


class StorageError(EdcompressError):
    """A file cannot be written; what was there before it is still there."""
