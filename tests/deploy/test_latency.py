import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edcompress.deploy.latency import measure
from edcompress.errors import EdcompressError, InputError
from edcompress.recipe import Benchmark


def identity(path: Path, shape: list[int | str], element: int = TensorProto.FLOAT) -> Path:
    """An ONNX file that gives its one input back."""
    values = [helper.make_tensor_value_info(name, element, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def test_two_files_are_measured_side_by_side(onnx_file: Path, dead_onnx_file: Path) -> None:
    found = measure({"dense": onnx_file, "pruned": dead_onnx_file}, Benchmark(runs=25, batch_size=2))
    assert list(found) == ["dense", "pruned"]
    for latency in found.values():
        assert 0 < latency.p50 <= latency.p90 <= latency.p99
        assert (latency.n, latency.batch_size, latency.threads) == (25, 2, 1)
        assert latency.provider == "CPUExecutionProvider"


def test_the_worker_loads_no_torch() -> None:
    code = (
        "import sys, edcompress.deploy.latency_worker;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'onnx', 'onnxscript'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.onnx: no such ONNX file"):
        measure({"dense": tmp_path / "absent.onnx"}, Benchmark())
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"garbage\.onnx: onnxruntime cannot load"):
        measure({"dense": garbage}, Benchmark())


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InputError, match="no ONNX files"):
        measure({}, Benchmark())


@pytest.mark.parametrize(
    ("shape", "message"),
    [(["batch", 3, "height", "width"], "only the batch may be symbolic"), ([4, 3], "fixed at 4")],
)
def test_inputs_that_cannot_be_filled_are_named(tmp_path: Path, shape: list[int | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure({"net": identity(tmp_path / "net.onnx", shape)}, Benchmark())


def test_inputs_that_are_not_fp32_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one fp32 input"):
        measure({"net": identity(tmp_path / "net.onnx", ["batch", 3], TensorProto.INT64)}, Benchmark())


def test_more_threads_than_cores_are_an_error(onnx_file: Path) -> None:
    with pytest.raises(InputError, match=r"benchmark\.threads is 100000"):
        measure({"net": onnx_file}, Benchmark(threads=100000))


def test_a_slow_measurement_ends_with_a_clear_error(onnx_file: Path) -> None:
    with pytest.raises(EdcompressError, match=r"took longer than 0\.01 s"):
        measure({"net": onnx_file}, Benchmark(), timeout_seconds=0.01)
