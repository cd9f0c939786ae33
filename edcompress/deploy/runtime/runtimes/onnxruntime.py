"""onnxruntime, Microsoft's runtime: one session per file, whose nodes run one after the other. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnxruntime

from edcompress.core.errors import InputError
from edcompress.deploy.runtime.onnxruntime_private import BLOCKED, ERRORS, FUSED, KERNEL, NODE
from edcompress.deploy.runtime.sessions import Feed, ModelInput, NodeTime, Runtime, Session

_ERRORS_ONLY = 3  # onnxruntime's log severity; its warnings are about optimisations, not about results


class _Runtime(Runtime):
    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def providers(self) -> list[str]:
        return list(onnxruntime.get_available_providers())

    def open(self, path: Path, threads: int, provider: str, profile: Path | None) -> Session:
        try:
            opened = onnxruntime.InferenceSession(str(path), _options(threads, profile), providers=[provider])
        except ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot load it as an ONNX model: {error}") from error
        return _Session(opened)


class _Session(Session):
    runtime, errors = "onnxruntime", ERRORS

    def __init__(self, opened: onnxruntime.InferenceSession) -> None:
        self._opened = opened
        self.inputs = tuple(ModelInput(given.name, tuple(given.shape), given.type) for given in opened.get_inputs())
        self.outputs = tuple(str(given.name) for given in opened.get_outputs())

    @property
    def provider(self) -> str:
        return str(self._opened.get_providers()[0])

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self._opened.get_modelmeta().custom_metadata_map)

    def run(self, feed: Feed) -> list[Any]:
        return list(self._opened.run(None, feed))

    def bound(self, feed: Feed) -> Callable[[], object]:
        return partial(self._opened.run, None, feed)

    def node_times(self) -> list[NodeTime]:
        events = json.loads(Path(self._opened.end_profiling()).read_text(encoding="utf-8"))
        return [
            NodeTime(_plain_name(event["name"]), event["args"]["op_name"].removeprefix(FUSED), event["dur"])
            for event in events
            if event.get("cat") == NODE and event["name"].endswith(KERNEL)
        ]


def _plain_name(name: str) -> str:
    return name.removesuffix(KERNEL).partition("/")[0].removesuffix(BLOCKED)


def _options(threads: int, profile: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # Else a session's idle threads keep spinning after its call and take the cores of the session that runs next:
    # with two threads, one of three copies of the same file measured 1.7x slower than the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return options


RUNTIME: Final[Runtime] = _Runtime()
