"""onnxruntime 1.32 and later writes a device id and starts to send when it is imported; not in a process of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

SWITCHES = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY")

SEEN = """
import sys
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
from pathlib import Path
from edcompress.deploy.runtime.sessions import open_session
open_session(Path(sys.argv[1])).run({"images": [[1.0]]})
import json, os, time
time.sleep(0.3)  # as long as onnxruntime takes to write what it does
ends = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
sockets = [end for end in ends if end.startswith("socket:")]
print(json.dumps({"sockets": opened + sockets, "threads": len(os.listdir("/proc/self/task"))}))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = '<ir_version: 10, opset_import: ["": 18]> net (float[n, 1] images) => (float[n, 1] logits) { logits = Relu(images) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(home: Path, *arguments: str, given: str = "", **variables: str) -> str:
    """The output of a Python process whose home is empty, and in whose environment no switch is set but those given."""
    environment = {name: value for name, value in os.environ.items() if name not in (*SWITCHES, "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "OPENBLAS_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-B", *arguments]
    return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_process_of_ours_writes_nothing_and_opens_no_socket(model: Path, home: Path) -> None:
    seen = json.loads(run(home, "-c", SEEN, str(model)))
    assert seen == {"sockets": [], "threads": 1}
    assert list(home.rglob("*")) == []


def test_nor_does_the_latency_worker(model: Path, home: Path) -> None:
    asked = {"task": "probe", "models": {"a": str(model)}, "provider": "CPUExecutionProvider", "runtime": "onnxruntime",
             "settings": [[1, 1]]}  # fmt: skip
    answer = run(home, "-P", "-m", "edcompress.deploy.latency.worker", given=json.dumps(asked))
    assert "peak_bytes" in json.loads(answer)
    assert list(home.rglob("*")) == []


def test_it_is_off_before_anything_is_imported_and_what_the_user_set_stays(home: Path) -> None:
    shown = (
        "import edcompress, os, sys; print([os.environ[name] for name in sys.argv[1:]], 'onnxruntime' in sys.modules)"
    )
    assert run(home, "-c", shown, *SWITCHES) == "['1', 'true'] False\n"
    kept = run(home, "-c", shown, *SWITCHES, ORT_DISABLE_TELEMETRY="0", MLFLOW_DISABLE_TELEMETRY="")
    assert kept == "['0', ''] False\n"
