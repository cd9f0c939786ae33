"""How a verb runs, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from edcompress.interrupt import Interrupt
from edcompress.monitor import Logged, Monitor
from edcompress.team import ALONE, Team


@dataclass(frozen=True)
class Session:
    """On which device (auto, cpu, cuda), what of the user's may run (factories, pickled modules), who watches, and
    which loggers (`edcompress.loggers`) are told of each epoch, what ends it early, and with which processes it runs."""

    device: str = "auto"
    trust_code: bool = False
    trust_pickle: bool = False
    monitor: Monitor = field(default_factory=Logged)
    loggers: tuple[str, ...] = ()
    interrupt: Interrupt = field(default_factory=Interrupt)
    team: Team = ALONE


DEFAULT = Session()
"""Whatever device there is, nothing of the user's runs, nobody watches but the log."""
