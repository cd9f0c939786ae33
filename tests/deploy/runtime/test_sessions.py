"""Runtimes by name, and sessions that run what was requested."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.registry import names_in
from edcompress.deploy.runtime import sessions
from edcompress.deploy.runtime.sessions import (
    CPU,
    DEFAULT_RUNTIME,
    RUNTIMES,
    load_runtime,
    open_session,
    require_provider,
)


@pytest.mark.parametrize("name", names_in(RUNTIMES))
def test_every_runtime_runs_a_file_on_the_cpu(name: str, onnx_file: Path) -> None:
    import numpy as np

    assert load_runtime(name).version
    opened = open_session(onnx_file, runtime=name)
    assert opened.runtime == name
    (logits,) = opened.run({"images": np.zeros((2, 3, 8, 8), np.float32)})
    assert logits.shape == (2, 4)


def test_the_default_is_among_them_and_others_are_named() -> None:
    assert DEFAULT_RUNTIME in names_in(RUNTIMES)
    with pytest.raises(ValueError, match="choose 'onnxruntime'"):
        load_runtime("tensorflow")


def test_a_provider_that_is_not_installed_is_named_with_those_that_are() -> None:
    require_provider(CPU)
    with pytest.raises(InputError, match=r"^Abacus is not available in this onnxruntime; available: .*CPUExecution"):
        require_provider("Abacus")


def test_another_provider_than_the_requested_one_is_an_error(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where onnxruntime finds no driver and takes the CPU."""
    session = SimpleNamespace(provider=CPU)
    found = SimpleNamespace(providers=lambda: [CPU, "CUDAExecutionProvider"], open=lambda *_: session)
    monkeypatch.setattr(sessions, "load_runtime", lambda _: found)
    assert open_session(onnx_file) is session
    with pytest.raises(
        EdcompressError, match=r"CUDAExecutionProvider was requested, but onnxruntime runs CPUExecutionProvider; check"
    ):
        open_session(onnx_file, provider="CUDAExecutionProvider")
