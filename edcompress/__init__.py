"""edcompress: turn a trained image classifier into a smaller, faster ONNX file, and prove it.

The functions are the commands of the command line: `edcompress.prune(...)` does what `edcompress prune` does. `prune` and `inspect` take
networks and data sets in memory, too. They are imported on first use, so that `import edcompress` loads no torch. Every error that they
raise on purpose is an `EdcompressError`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edcompress.core.errors import EdcompressError as EdcompressError
    from edcompress.core.recipe.loading import read_recipe as read_recipe
    from edcompress.runs.folder import RunFolder as RunFolder
    from edcompress.workflows.benchmark import benchmark as benchmark
    from edcompress.workflows.convert import convert as convert
    from edcompress.workflows.evaluate import evaluate as evaluate
    from edcompress.workflows.export import export as export
    from edcompress.workflows.gate import gate as gate
    from edcompress.workflows.inspect import inspect as inspect
    from edcompress.workflows.load import load as load
    from edcompress.workflows.prune import prune as prune
    from edcompress.workflows.prune_result import PruneResult as PruneResult
    from edcompress.workflows.run import run as run
    from edcompress.workflows.sweep import sweep as sweep
    from edcompress.workflows.train import train as train

    __version__: str

_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Variables that keep onnxruntime and MLflow from sending usage data, in this process and those that it starts. Both read them when they
are imported, which is later. A value that the user has set stays."""

os.environ.update({name: value for name, value in _NO_TELEMETRY.items() if name not in os.environ})

_HOMES = {
    "prune": "workflows.prune",
    "export": "workflows.export",
    "convert": "workflows.convert",
    "run": "workflows.run",
    "sweep": "workflows.sweep",
    "evaluate": "workflows.evaluate",
    "benchmark": "workflows.benchmark",
    "inspect": "workflows.inspect",
    "train": "workflows.train",
    "load": "workflows.load",
    "gate": "workflows.gate",
    "read_recipe": "core.recipe.loading",
    "PruneResult": "workflows.prune_result",
    "RunFolder": "runs.folder",
    "EdcompressError": "core.errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edcompress")
    if name not in _HOMES:
        raise AttributeError(f"module 'edcompress' has no attribute {name!r}")
    return getattr(import_module(f"edcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
