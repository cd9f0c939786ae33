"""How a verb runs, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.monitor import Logged, Monitor
from edcompress.core.system.signals import Interrupt


@dataclass(frozen=True)
class RunOptions:
    """On which device (auto, cpu, cuda), what of the user's may run (factories, pickled modules), who watches, and
    which loggers (`edcompress.loggers`) are told of each epoch, what ends it early, and with which processes it runs."""

    device: str = "auto"
    trust_code: bool = False
    trust_pickle: bool = False
    monitor: Monitor = field(default_factory=Logged)
    loggers: tuple[str, ...] = ()
    interrupt: Interrupt = field(default_factory=Interrupt)
    ranks: ProcessGroup = ALONE


DEFAULT = RunOptions()
"""Whatever device there is, nothing of the user's runs, nobody watches but the log."""
