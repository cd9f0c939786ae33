"""Read files of torch.save without running code, and within a memory bound."""

from __future__ import annotations

import argparse
import mmap
import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO

import torch

from edcompress.core.errors import WeightsError, first_line
from edcompress.core.user_code import importable_working_directory

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""The first bytes of torch's format since 1.6, and of the one before."""

ENCODE = b"c_codecs\nencode\n"
"""A pickle's reference to a function that encodes text; some of its codecs take minutes for a page."""

MOST_TUPLES = 60_000
"""Tuples in one pickle; each tensor has five."""

LEGACY_PICKLES = 5
"""Pickles in torch's format before 1.6: a magic number, a version, the machine, the object, the storages' keys."""


def read_torch(path: Path, *, trust_pickle: bool) -> object:
    """Read a file of torch.save.

    Args:
        path: The file.
        trust_pickle: Unpickle anything, which may run code from the file.

    Returns:
        Tensors, and the plain data around them.

    Raises:
        WeightsError: The file is damaged, or holds more than tensors and plain data and is not trusted.
        MemoryError: It asks for more memory than there is.
    """
    try:
        if not trust_pickle:
            _require_bounded_cost(path)
        # Namespace holds only data, and reference training scripts save their arguments with the weights.
        # A file, not its path: torch.load would choose the format by the suffix.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # torch warns that it "might" not read newer pickle protocols; it then reads them, or raises.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        return content
    except pickle.UnpicklingError as error:
        if _is_cut_short(path, str(error)):
            raise WeightsError(f"{path}: is truncated; copy or download it again") from error
        if not trust_pickle:
            raise WeightsError(_holds_code(path, str(error))) from error
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # whatever torch and Python raise for nonsense in place of a pickle
        if "can't allocate memory" in str(error):
            raise MemoryError from error
        if "TorchScript" in str(error):
            raise WeightsError(f"{path}: is a TorchScript archive; save network.state_dict() instead") from error
        raise WeightsError(f"{path}: is damaged or truncated: {first_line(error)}") from error
    return _unpickle(path)


def _require_bounded_cost(path: Path) -> None:
    """Refuse what torch.load allows although a small file can cost hours, gigabytes or a crash: compression, encoding, nesting."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(ENCODE) >= 0:
            raise WeightsError(_holds_code(path, "GLOBAL _codecs.encode"))
        if content[: len(ZIP)] != ZIP:
            for _ in range(LEGACY_PICKLES):
                _require_shallow(path, file)
            return
        with zipfile.ZipFile(file) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if packed and not any(
                name.endswith("/constants.pkl") for name in archive.namelist()
            ):  # which marks TorchScript
                raise WeightsError(
                    f"{path}: {packed[0]} in it is compressed, which torch.save never does; unzip, and zip with -0"
                )
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    with archive.open(name) as program:
                        _require_shallow(path, program)


def _require_shallow(path: Path, program: IO[bytes]) -> None:
    """Refuse too many tuples: Python's hash of tuples nested about 100 000 deep crashes the process."""
    tuples = (opcode for opcode, _, _ in pickletools.genops(program) if "TUPLE" in opcode.name)
    with suppress(ValueError):  # where the program breaks off, which torch.load reports
        if next(islice(tuples, MOST_TUPLES, None), None):
            raise WeightsError(f"{path}: holds more than {MOST_TUPLES} tuples, which weights never do; save only them")


def _unpickle(path: Path) -> object:
    """Unpickle anything, which runs code in the file; only after the user allowed it."""
    try:
        with path.open("rb") as file, importable_working_directory():
            content: object = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise WeightsError(
            f"{path}: the pickled object cannot be rebuilt here: {type(error).__name__}: {first_line(error)}; "
            "run where the code that made it can be imported, or save network.state_dict()"
        ) from error
    return content


def _is_cut_short(path: Path, text: str) -> bool:
    return "truncated" in text or "Ran out of input" in text or path.stat().st_size < len(PICKLE) + 1


def _holds_code(path: Path, text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"a pickled object or code ({found[1]})" if found else "a pickled object or code"
    return (
        f"{path}: holds {what}, not only tensors, and loading it would run code from the file; nothing was run. "
        "Save the weights alone, torch.save(network.state_dict(), ...), or add --trust-pickle if you trust its origin"
    )


if sys.platform == "linux":
    import resource

    @contextmanager
    def bounded_memory(more: int) -> Iterator[None]:
        """Raise MemoryError (torch: RuntimeError) in the block where the process takes `more` bytes beyond what it has.

        Linux enforces the bound, for the whole process; other systems cannot.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (soft, _data_bytes() + more) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _data_bytes() -> int:
        """Return the bytes that the kernel compares with RLIMIT_DATA: the sixth figure of statm, in pages (man 5 proc)."""
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()

else:

    @contextmanager
    def bounded_memory(more: int) -> Iterator[None]:  # noqa: ARG001
        """Do nothing: this system cannot bound the memory of a block."""
        yield
