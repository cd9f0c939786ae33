"""How a verb runs, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from edcompress.interrupt import Interrupt
from edcompress.monitor import Monitor, Silent


@dataclass(frozen=True)
class Session:
    """On which device (auto, cpu, cuda), what of the user's may run (factories, pickled modules), who watches, and
    which loggers (`edcompress.loggers`) are told of each epoch, and what ends it early."""

    device: str = "auto"
    trust_code: bool = False
    trust_pickle: bool = False
    monitor: Monitor = field(default_factory=Silent)
    loggers: tuple[str, ...] = ()
    interrupt: Interrupt = field(default_factory=Interrupt)


DEFAULT = Session()
"""Whatever device there is, nothing of the user's runs, nobody watches."""
