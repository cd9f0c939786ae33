"""How a verb runs, apart from what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.monitor import Logged, Monitor
from edcompress.core.system.signals import Interrupt
from edcompress.core.user_code import Trust


@dataclass(frozen=True)
class RunOptions:
    """How one call of a verb runs.

    Args:
        device: auto, cpu or cuda.
        trust_code: Run the user's own code (model.factory, data.factory, data.transform).
        trust_pickle: Unpickle a whole module, which can run any code in it.
        monitor: Shows progress and warnings.
        trackers: Names of trackers (`edcompress.runs.trackers`) that get the figures of each epoch.
        interrupt: Ends training early, between two steps.
        ranks: The processes that share the work.
        objects: The user's own losses and metrics in memory, by the `package.module:callable` that the recipe calls them, the network of
            `model.object`, and the data sets of `data.dataset: memory` as data.train, data.val and data.test; they need no trust.
    """

    device: str = "auto"
    trust_code: bool = False
    trust_pickle: bool = False
    monitor: Monitor = field(default_factory=Logged)
    trackers: tuple[str, ...] = ()
    interrupt: Interrupt = field(default_factory=Interrupt)
    ranks: ProcessGroup = ALONE
    objects: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trust(self) -> Trust:
        """What of the user's code may be used."""
        return Trust(self.trust_code, self.objects)


DEFAULT = RunOptions()
"""The options of a call that names none: any device, nothing of the user's runs, warnings go to Python's logging."""
