"""How a verb runs, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from edcompress.monitor import Monitor, Silent


@dataclass(frozen=True)
class Session:
    """On which device (auto, cpu, cuda), what of the user's may run (factories, pickled modules), and who watches."""

    device: str = "auto"
    trust_code: bool = False
    trust_pickle: bool = False
    monitor: Monitor = field(default_factory=Silent)


DEFAULT = Session()
"""Whatever device there is, nothing of the user's runs, nobody watches."""
