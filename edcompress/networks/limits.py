"""A bound on the memory that reading somebody's file may take: a few bytes of pickle can ask for all there is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "linux":
    import resource

    @contextmanager
    def bounded_memory(more: int) -> Iterator[None]:
        """MemoryError (torch: RuntimeError) in the block where the process takes `more` bytes beyond what it has.

        The kernel counts for us, so the bound holds for the whole process; other systems than Linux do not count.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (soft, _data_bytes() + more) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _data_bytes() -> int:
        """What the kernel compares with RLIMIT_DATA: sixth figure of statm, in pages (man 5 proc)."""
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()

else:

    @contextmanager
    def bounded_memory(more: int) -> Iterator[None]:  # noqa: ARG001
        """Nothing is bounded here."""
        yield
