"""A separate process that reads hostile files within a time limit, and reports the cost of each."""

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from edcompress.core.recipe.loading import read_recipe
from edcompress.networks.registry import build

MOST_SECONDS, MOST_BYTES = 20, 2 * 2**30


@dataclass(frozen=True)
class Outcome:
    """The error's kind (empty: it was read) and text, and the time and the peak memory of the whole process so far."""

    kind: str
    text: str
    seconds: float
    peak: int


class Reader:
    """Reads one file after the other in one process; in a new one after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path, *, fit: bool = False) -> Outcome:
        """What became of the file, read as a checkpoint of the digits recipe's network (`fit`) or of any."""
        process = self._process or self._start()
        assert process.stdin
        process.stdin.write(json.dumps({"path": str(path), "fit": fit}) + "\n")
        process.stdin.flush()
        outcome = Outcome(**self._answer(process, MOST_SECONDS))
        if outcome.peak > MOST_BYTES:
            self.end()  # the peak would stay with the cases after this one
        return outcome

    def end(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("reader.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer(self._process, 120)
        return self._process

    def _answer(self, process: subprocess.Popen[str], seconds: float) -> dict[str, object]:
        assert process.stdout
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.end()
            pytest.fail(
                f"the reader crashed (exit code {process.returncode})" if ready else f"no answer in {seconds} s"
            )
        answer: dict[str, object] = json.loads(line)
        return answer


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """The process that reads hostile files."""
    began = Reader()
    yield began
    began.end()


@pytest.fixture
def refused(reader: Reader) -> Callable[..., str]:
    """Read a file that must be refused, within time and memory and by name, and return the message."""

    def read(path: Path, *, fit: bool = False) -> str:
        outcome = reader.read(path, fit=fit)
        assert outcome.kind == "WeightsError", outcome
        assert str(path) in outcome.text
        assert outcome.peak < MOST_BYTES, outcome
        return outcome.text

    return read


@pytest.fixture(scope="session")
def dense_state() -> dict[str, Tensor]:
    """Weights of the digits recipe's network."""
    return build(read_recipe("digits").model).state_dict()
