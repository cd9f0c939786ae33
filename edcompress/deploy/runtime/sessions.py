"""Sessions of a runtime whose provider and threads are the requested ones. Imports no torch: the latency worker runs it.

A runtime is one module in `edcompress.deploy.runtime.runtimes`, whose `RUNTIME` follows the protocol `Runtime`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from numpy.typing import NDArray

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.registry import load
from edcompress.core.system.files import require_utf8

RUNTIMES = "deploy.runtime.runtimes"
"""The package of the runtimes."""

DEFAULT_RUNTIME, CPU = "onnxruntime", "CPUExecutionProvider"

Feed = Mapping[str, NDArray[Any]]
"""A tensor for each input of a model, by name."""


class ModelInput(NamedTuple):
    """An input of a model: symbolic sizes are texts or None, and the type is ONNX's, such as tensor(float)."""

    name: str
    shape: tuple[int | str | None, ...]
    type: str


class NodeTime(NamedTuple):
    """One run of one node.

    `name` is that of a node of the file or, where the runtime has fused several into one, of what the last of them gives; `operation` is
    the operator of the node that does most of the work.
    """

    name: str
    operation: str
    microseconds: int


class Session(Protocol):
    """An open model: the name of its runtime, its inputs and outputs, and what the runtime raises where it cannot run the model."""

    runtime: str
    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...]
    errors: tuple[type[Exception], ...]

    @property
    @abstractmethod
    def provider(self) -> str:
        """Name of the provider that runs the model."""

    @property
    @abstractmethod
    def metadata(self) -> dict[str, str]:
        """Metadata of the file."""

    @abstractmethod
    def run(self, feed: Feed) -> list[Any]:
        """Run the model and return its outputs in order."""

    @abstractmethod
    def bound(self, feed: Feed) -> Callable[[], object]:
        """Return what runs the model on this feed at the least cost per call, to be timed."""

    @abstractmethod
    def node_times(self) -> list[NodeTime]:
        """End the profile of a session that was opened with one, and return every node's run in order."""


class Runtime(Protocol):
    """A library that runs ONNX files."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the installed runtime."""

    @abstractmethod
    def providers(self) -> list[str]:
        """Return the names of the devices, as the runtime calls them, on which it can run models."""

    @abstractmethod
    def open(self, path: Path, threads: int, provider: str, profile: Path | None) -> Session:
        """Open a file on one provider, with so many threads within a node and one node at a time.

        With `profile` the session records the time of every node, in a file whose name begins with it. Raises InputError where the runtime
        cannot load the file.
        """


def load_runtime(name: str = DEFAULT_RUNTIME) -> Runtime:
    """Import and return the runtime of this name; ValueError for a name that no runtime has."""
    return cast(Runtime, load(RUNTIMES, name).RUNTIME)


def open_session(
    path: Path,
    threads: int = 1,
    provider: str = CPU,
    profile: Path | None = None,
    *,
    checked: bool = False,
    runtime: str = DEFAULT_RUNTIME,
) -> Session:
    """Open an ONNX file, nodes run one after the other.

    Args:
        path: The file.
        threads: Threads within a node.
        provider: Name of what to run it on.
        profile: Prefix of the file in which the time of every node is recorded; None records none.
        checked: Whether `require_own_data` has seen the file already.
        runtime: Name of the runtime.

    Raises:
        InputError: The file is missing or not an ONNX model, reads tensors from elsewhere, or the provider is not installed.
        EdcompressError: The runtime would run a provider other than the requested one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    require_utf8(path)
    require_provider(provider, runtime)
    if not checked:
        from edcompress.deploy.runtime.external_data import require_own_data

        require_own_data(path)
    opened = load_runtime(runtime).open(path, threads, provider, profile)
    if opened.provider != provider:
        raise EdcompressError(
            f"{path}: {provider} was requested, but {runtime} runs {opened.provider}; check its installation"
        )
    return opened


def require_provider(provider: str, runtime: str = DEFAULT_RUNTIME) -> None:
    """Raise InputError where the installed runtime cannot run models on a provider."""
    found = load_runtime(runtime).providers()
    if provider not in found:
        raise InputError(f"{provider} is not available in this {runtime}; available: {', '.join(found)}")
