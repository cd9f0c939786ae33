"""SIGINT and SIGTERM between two training steps, so that a run can be saved before it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edcompress.core.system.distributed import ALONE, ProcessGroup


class Interrupt:
    """Turns SIGINT, SIGTERM and SIGUSR1 (a cluster scheduler's warning) into a KeyboardInterrupt between two training steps.

    Between `hold` and `release` a first signal is deferred; otherwise, and at the second signal, it is raised at once. Outside `listening`
    signals have their usual effect: only SIGINT raises KeyboardInterrupt.

    All ranks stop after the same step, whichever received the signal: from the first `hold` to `finish` nothing else ends them.
    """

    def __init__(self, ranks: ProcessGroup = ALONE) -> None:
        self._ranks = ranks
        self._held = self._requested = self._raised = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; in the main thread only, as Python requires.

        An error after a KeyboardInterrupt is from compiled code that was interrupted, such as safetensors', and is turned back into it.
        """
        before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        try:
            yield
        except Exception as error:
            if self._raised:
                raise KeyboardInterrupt from error
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """Defer signals until `release`."""
        self._held = True

    def release(self) -> None:
        """End the step; raise KeyboardInterrupt where a signal came in the meantime."""
        self._held = self._ranks.size > 1  # a rank that left alone would leave the others waiting in the next step
        if self._ranks.any_rank(self._requested):
            raise KeyboardInterrupt

    def finish(self) -> None:
        """End the last step, whose result is saved; raise KeyboardInterrupt where a signal came in the meantime."""
        self.release()
        self._held = False

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        again, self._requested = self._requested, True
        if again or not self._held:
            self._raised = True
            raise KeyboardInterrupt


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
