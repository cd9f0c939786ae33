"""edcompress: a trained image classifier in, a smaller and faster ONNX file out, and the proof.

The functions are those of the command line; they are imported on first use, so that `import edcompress` loads no torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What keeps onnxruntime and MLflow from reporting to their makers, in this process and those that it starts; both read it when they are
imported, which here is later. A value that the user has set stays."""

os.environ.update({name: value for name, value in _NO_TELEMETRY.items() if name not in os.environ})

_HOMES = {
    "prune": "pipeline",
    "export": "pipeline",
    "convert": "pipeline",
    "run": "pipeline",
    "sweep": "sweeps",
    "evaluate": "pipeline",
    "benchmark": "pipeline",
    "inspect": "pipeline",
    "train": "pipeline",
    "load": "pipeline",
    "gate": "reports",
    "read_recipe": "recipebook",
    "RunFolder": "runs",
    "EdcompressError": "errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edcompress' has no attribute {name!r}")
    return getattr(import_module(f"edcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
