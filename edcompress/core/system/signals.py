"""Signals that ask a run to end: what it was computing is saved first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edcompress.core.system.distributed import ALONE, ProcessGroup


class Interrupt:
    """Turns SIGINT, SIGTERM and SIGUSR1 (by which schedulers of clusters warn) into a KeyboardInterrupt between two training steps.

    Outside `held` it is raised at once, and so it is at the second signal. Without `listening` nothing is different from usual: SIGINT
    alone is a KeyboardInterrupt, wherever it comes.

    Ranks stop after the same step, whichever was asked: from the first `hold` to `settle` nothing else ends them.
    """

    def __init__(self, ranks: ProcessGroup = ALONE) -> None:
        self._ranks = ranks
        self._held = self._asked = self._raised = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A block in which the signals are taken; in the main thread only, as Python has it.

        An error after a KeyboardInterrupt is one of compiled code that was interrupted (safetensors' while it reads), and becomes it again.
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
        """A step begins that shall not be torn apart."""
        self._held = True

    def release(self) -> None:
        """The step is done; raises the KeyboardInterrupt that was asked for meanwhile."""
        self._held = self._ranks.size > 1  # one that left alone would leave the others waiting in the next step
        if self._ranks.any(self._asked):
            raise KeyboardInterrupt

    def settle(self) -> None:
        """The steps are done, and what they made is saved; raises the KeyboardInterrupt that was asked for meanwhile."""
        self.release()
        self._held = False

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        again, self._asked = self._asked, True
        if again or not self._held:
            self._raised = True
            raise KeyboardInterrupt


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
