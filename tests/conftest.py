"""What the tests of the whole tool share: the command line, in this process or in its own, and one small finished run."""

import atexit
import contextlib
import functools
import io
import logging
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the networks here are too small for two

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(
    prefix="edcompress-tests-"
)  # no times of other machines' or of the user's
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a test starts compiles the package again

os.environ.update(
    GITHUB_ACTIONS="", GITHUB_STEP_SUMMARY=""
)  # else the gates of the tests speak to the project's own CI

from edcompress.__main__ import main

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
pytest_plugins = ["resnet56_report"]

QUICK = ("train.epochs=2", "search.epochs=1", "finetune.epochs=1", "benchmark.runs=20", "gate.disturbed=allow")


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow files first, so that both processes end at about the same time."""
    items.sort(key=lambda item: "workflows" not in item.path.parts)


def call(*arguments: object) -> Outcome:
    """`edcompress ARGUMENTS` in this process, through the entry point; exceptions other than SystemExit come through."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["edcompress", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def settings(*more: str) -> tuple[str, ...]:
    """The digits recipe with so few epochs that a run takes seconds, and further overrides."""
    return ("--recipe", "digits", *(word for pair in (*QUICK, *more) for word in ("--set", pair)))


@pytest.fixture(scope="session", autouse=True)
def _operators_are_read_once() -> None:
    """torch's exporter reads the same operators at every export, which takes most of the time where networks are small.

    The names are private to torch; where a version lacks one, its exports take longer.
    """
    for path, name in (
        ("torch.onnx._internal._lazy_import.onnxscript_apis", "get_torchlib_ops"),
        ("torch.onnx._internal.exporter._registration.ONNXRegistry", "from_torchlib"),
        ("torch._export.utils", "_collect_all_valid_cia_ops_for_namespace"),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            owner = pkgutil.resolve_name(path)
            read = functools.cache(getattr(owner, name))
            setattr(owner, name, staticmethod(read) if isinstance(owner, type) else read)


@pytest.fixture(scope="session", autouse=True)
def _torch_traces_nothing() -> None:
    """pytest listens to loggers that do not propagate, and torch then describes every step of an export to it."""
    logging.getLogger("torch.__trace").propagate = True


@pytest.fixture(scope="session")
def networks_are_outlined_once() -> Iterator[None]:
    """Each test that recognises a network would build the outlines of all the others again."""
    from edcompress.networks import recognition  # takes seconds, which the process that only hands out tests can save

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognition, "_outline_of", functools.cache(recognition._outline_of))
        yield


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs a command in this process."""
    return call


@pytest.fixture(scope="session")
def quick() -> Callable[..., tuple[str, ...]]:
    """The options of a run that takes seconds."""
    return settings


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m edcompress ARGUMENTS` in a process of its own."""

    def begin(*arguments: object, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edcompress", *map(str, arguments)]
        if (
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        ):  # a shell's background job would hand it on, and Ctrl-C be deaf
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]

    return begin


@pytest.fixture(scope="session")
def process(start: Callable[..., subprocess.Popen[str]]) -> Cli:
    """Runs a command in a process of its own, to its end."""

    def run(*arguments: object, **options: object) -> Outcome:
        with start(*arguments, **options) as begun:
            out, err = begun.communicate(timeout=900)
        return Outcome(begun.returncode, out, err)

    return run


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` is a path that `make` wrote to; of the processes that run the tests, the first that needs it makes it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        own = folder / f"once-{name}"
        with FileLock(folder / f"{own.name}.lock"):
            if not (folder / f"{own.name}.done").exists():
                own.mkdir()
                make(own / name)
                (folder / f"{own.name}.done").touch()
        return own / name

    return made


@pytest.fixture(scope="session")
def dense(once: Once) -> Path:
    """A checkpoint of the digits recipe's network after two epochs."""

    def train(path: Path) -> None:
        assert call("train", *settings(), "-o", path).code == 0

    return once("dense.safetensors", train)


@pytest.fixture(scope="session")
def finished_once(once: Once, dense: Path) -> Path:
    def prune_and_export(folder: Path) -> None:
        pruned = call("prune", dense, *settings(), "-o", folder)
        assert pruned.code == 0, pruned.err
        exported = call("export", folder, "--onnx", "--int8", "--with-preprocessing")
        assert exported.code == 0, exported.err

    return once("finished", prune_and_export)


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A pruned and exported run of the digits recipe; each test has its own copy."""
    return Path(shutil.copytree(finished_once, tmp_path / "finished"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real data sets and checkpoints."""
    if not os.environ.get("EDCOMPRESS_DATA"):
        pytest.skip("needs EDCOMPRESS_DATA, the folder of the real data sets and checkpoints")
    return Path(os.environ["EDCOMPRESS_DATA"])
