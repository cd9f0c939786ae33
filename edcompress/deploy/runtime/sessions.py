"""onnxruntime sessions whose provider and threads are the asked ones. Imports no torch: the latency worker runs it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.system.files import require_utf8

ERRORS_ONLY = 3  # onnxruntime's log severity; its warnings speak of optimisations, not of results
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def session(
    path: Path,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    profile: Path | None = None,
    *,
    checked: bool = False,
) -> onnxruntime.InferenceSession:
    """An open session of `path` on `provider` with `threads` intra-op threads, nodes run one after the other.

    With `profile` it records the time of every node, in a file whose name begins so. `checked` says that `require_own_data` has seen the
    file.

    Raises InputError when the file is missing or no ONNX model, reads tensors from elsewhere, or the provider is not installed, and
    EdcompressError when onnxruntime would run another provider than the asked one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    require_utf8(path)
    require_provider(provider)
    if not checked:
        from edcompress.deploy.runtime.external_data import require_own_data

        require_own_data(path)
    opened = _load(path, provider, _options(threads, profile))
    running = opened.get_providers()[0]
    if running != provider:
        raise EdcompressError(f"{path}: asked for {provider}, but onnxruntime runs {running}; check its installation")
    return opened


def providers() -> list[str]:
    """Names of what this onnxruntime can run models on."""
    return list(onnxruntime.get_available_providers())


def require_provider(name: str) -> None:
    """InputError where this onnxruntime cannot run models on it."""
    if name not in providers():
        raise InputError(f"{name} is not available in this onnxruntime; available: {', '.join(providers())}")


def _options(threads: int, profile: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    # Else a session's idle threads keep spinning after its call and take the cores of the session that runs next:
    # with two threads, one of three copies of the same file measured 1.7x slower than the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return options


def _load(path: Path, provider: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except ORT_ERRORS as error:
        raise InputError(f"{path}: onnxruntime cannot load it as an ONNX model: {error}") from error
