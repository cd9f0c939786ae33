import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.results.measures import MOST_WAITED
from edcompress.core.system import machine
from edcompress.core.system.machine import usable_cores
from edcompress.deploy.latency import benchmark as module
from edcompress.deploy.latency import worker
from edcompress.deploy.latency.benchmark import measure, measure_all
from edcompress.deploy.latency.worker import TimedModel, interleave
from edcompress.report.gate.noise import noise_warning

Shape = list[int | str | None]
ON_CPU = {"provider": "CPUExecutionProvider", "runtime": "onnxruntime"}


def identity(path: Path, *inputs: tuple[Shape, int]) -> Path:
    """An ONNX file that gives its inputs x0, x1 ... back, each a shape and an element type."""
    given, taken = (
        [helper.make_tensor_value_info(f"{letter}{k}", element, shape) for k, (shape, element) in enumerate(inputs)]
        for letter in "xy"
    )
    nodes = [helper.make_node("Identity", [f"x{k}"], [f"y{k}"]) for k in range(len(inputs))]
    return saved(path, helper.make_graph(nodes, "identity", given, taken))


def saved(path: Path, graph: onnx.GraphProto) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_two_files_are_measured_side_by_side(onnx_file: Path, dead_onnx_file: Path) -> None:
    every = measure_all({"dense": onnx_file, "pruned": dead_onnx_file}, Benchmark(runs=25, batch_size=2))
    found = {name: latencies[0] for name, latencies in every.items()}
    assert list(found) == ["dense", "pruned"]
    for latency in found.values():
        assert 0 < latency.p50 <= latency.p90 <= latency.p99
        assert (latency.n, latency.batch_size, latency.threads) == (25, 2, 1)
        assert latency.provider == "CPUExecutionProvider"
        assert latency.environment is not None
        assert latency.environment.onnxruntime == onnxruntime.__version__
        assert len(latency.environment.cores) == 1
        assert 1e5 < (latency.peak_bytes or 0) < 1e9
    assert found["dense"].speedup is None
    speedup = found["pruned"].speedup
    assert speedup is not None
    assert speedup.estimate == pytest.approx(found["dense"].p50 / found["pruned"].p50)
    assert 0 < speedup.low <= speedup.estimate <= speedup.high


def test_few_runs_are_just_as_many_and_seconds_are_seconds(onnx_file: Path) -> None:
    contestants = [TimedModel(onnx_file, 1, 1, **ON_CPU) for _ in range(2)]
    for contestant in contestants:
        contestant.warm_up()
    interleave(contestants, 25, 0)
    assert [[len(block) for block in contestant.blocks] for contestant in contestants] == [[10, 10, 5]] * 2
    for contestant in contestants:
        contestant.blocks.clear()
    interleave(contestants, 25, 0.2)
    spent = sum(time for contestant in contestants for block in contestant.blocks for time in block)
    assert 0.2e9 <= spent < 2e9
    assert sum(len(block) for block in contestants[0].blocks) >= 25
    assert len(contestants[0].blocks) < 200


class Noted:
    """A model that notes in a diary when it is measured, and takes a millisecond per call."""

    def __init__(self, name: str, diary: list[tuple[str, int]]) -> None:
        self._name, self._diary, self.typical, self.blocks = name, diary, 1e6, list[list[int]]()

    def run_block(self, calls: int) -> None:
        self._diary.append((self._name, calls))
        self.blocks.append([1_000_000] * calls)


def test_which_model_goes_first_alternates_from_block_to_block() -> None:
    """So that what drifts while they are measured falls on both alike."""
    diary: list[tuple[str, int]] = []
    interleave([Noted("a", diary), Noted("b", diary)], 35, 0)  # type: ignore[list-item]
    assert diary == [("a", 10), ("b", 10), ("b", 10), ("a", 10), ("a", 10), ("b", 10), ("b", 5), ("a", 5)]


def asked(*paths: Path, threads: int = 1) -> dict[str, object]:
    """What a worker is given to time files."""
    models = {f"{number}": str(path) for number, path in enumerate(paths)}
    return {"models": models, "batch_size": 1, "threads": threads, **ON_CPU, "runs": 25, "seconds": 0}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that pins processes")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_worker_pins_a_core_per_thread_before_it_opens_a_model(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """The threads of a session that is open already would keep their cores."""
    events: list[object] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: events.append((pid, tuple(cores))))
    monkeypatch.setattr(worker, "usable_cores", lambda: [3, 5, 8])
    monkeypatch.setattr(worker, "TimedModel", lambda *given: events.append("open") or TimedModel(*given))
    found = worker.time_all(asked(onnx_file, threads=threads))
    assert events == [(0, (3, 5)[:threads]), "open"]
    assert found["environment"]["cores"] == (3, 5)[:threads]


def test_models_are_warm_before_any_is_measured(
    onnx_file: Path, dead_onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is called 20 times at least, and once more before each of its blocks, to have the caches back from the other."""
    diary: list[str] = []

    class Watched(TimedModel):
        def call(self) -> int:
            diary.append("call")
            return super().call()

        def run_block(self, calls: int) -> None:
            diary.append("block")
            super().run_block(calls)

    monkeypatch.setattr(worker, "TimedModel", Watched)
    monkeypatch.setattr(worker, "_pin", lambda _: ())
    found = worker.time_all(asked(onnx_file, dead_onnx_file))
    first = diary.index("block")
    assert first >= 2 * 20
    assert [[len(block) for block in blocks] for blocks in found["blocks"].values()] == [[10, 10, 5]] * 2
    assert diary[first:].count("call") == 2 * (25 + 3)


def test_without_a_number_of_runs_there_are_enough_of_them_in_several_processes(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (module.LEAST_RUNS, module.LEAST_SECONDS, module.PROCESSES) == (200, 3.0, 5)
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.4)
    monkeypatch.setattr(module, "PROCESSES", 2)
    found = measure({"net": onnx_file}, Benchmark())["net"]
    assert found.processes == 2
    assert found.n >= 200
    # Of 400 ms in all: p99 is more than the mean, but for what a shared core stalls now and then.
    assert found.n * found.p99 >= 40


def test_few_calls_are_shared_by_three_processes(onnx_file: Path) -> None:
    found = measure({"net": onnx_file}, Benchmark(runs=20))["net"]
    assert (found.processes, found.n) == (3, 20)


def test_calls_that_waited_for_their_core_say_so(onnx_file: Path, dead_onnx_file: Path) -> None:
    core = usable_cores()[0]
    busy = [
        sys.executable,
        "-c",
        f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass",
    ]
    with subprocess.Popen(busy, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout
            other.stdout.readline()
            found = measure({"dense": onnx_file, "pruned": dead_onnx_file}, Benchmark(runs=1000))
        finally:
            other.kill()
    shares = [latency.waited or 0.0 for latency in found.values()]
    assert MOST_WAITED < max(shares) < 1
    assert f"other processes had the cores for {max(shares):.0%} of the measured time" in (
        noise_warning(found.values()) or ""
    )


def test_what_the_system_does_not_report_is_not_made_up(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_pin", lambda _: ())
    assert 0 <= worker.time_all(asked(onnx_file))["waited"] <= 1
    monkeypatch.setattr(machine, "run_delay", lambda: None)
    assert worker.time_all(asked(onnx_file))["waited"] is None


def test_periods_that_a_quota_cut_short_are_reported(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(3, 10), (5, 14)])
    monkeypatch.setattr(worker, "_pin", lambda _: ())
    monkeypatch.setattr(worker, "throttling", lambda: next(readings))
    assert worker.time_all(asked(onnx_file))["throttled"] == 0.5


@pytest.mark.parametrize(
    ("module_name", "absent"), [("worker", ("torch", "onnx", "onnxscript")), ("benchmark", ("torch", "onnxruntime"))]
)
def test_measuring_loads_no_torch(module_name: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, edcompress.deploy.latency.{module_name}; print(sorted({set(absent)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_worker_loads_none_while_it_works(onnx_file: Path) -> None:
    code = (
        "import json, sys; from edcompress.deploy.latency.worker import time_all; time_all(json.loads(sys.argv[1]));"
        "print(sorted({'torch', 'onnx', 'onnxscript'} & set(sys.modules)))"
    )
    given = [sys.executable, "-c", code, json.dumps(asked(onnx_file))]
    assert subprocess.run(given, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_worker_takes_no_file_of_the_working_directory_for_a_module(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not the queue of Python')")
    monkeypatch.chdir(tmp_path)
    assert measure({"net": onnx_file}, Benchmark(runs=20))["net"].n == 20


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
    ("shape", "element", "message"),
    [
        (["batch", 3, "height", 7], TensorProto.FLOAT, r"only the batch .* --input_name x0 --input_shape 2,3,SIZE2,7 "),
        (["batch", None], TensorProto.FLOAT, r"'x0' has shape \['batch', None\]; only the batch may be symbolic"),
        ([4, 3], TensorProto.FLOAT, "fixed at 4, but benchmark.batch_size is 2; measure it with --batch-size 4"),
        (
            ["batch", 3],
            TensorProto.STRING,
            r"'x0' is tensor\(string\), which cannot be made up; only tensors of float, ",
        ),
    ],
)
def test_inputs_that_cannot_be_made_up_are_named(tmp_path: Path, shape: Shape, element: int, message: str) -> None:
    path = identity(tmp_path / "net.onnx", (shape, element))
    with pytest.raises(InputError, match=message):
        TimedModel(path, 2, 1, **ON_CPU)


@pytest.mark.parametrize("batch", [2, "N", None])
def test_inputs_of_any_number_name_and_kind_are_made_up(tmp_path: Path, batch: int | str | None) -> None:
    path = identity(
        tmp_path / "net.onnx",
        ([], TensorProto.DOUBLE),
        ([batch, 3, 5], TensorProto.FLOAT16),
        ([batch, 4], TensorProto.INT64),
        ([7, "N" if batch == "N" else 2], TensorProto.BOOL),
    )
    feed = TimedModel(path, 2, 1, **ON_CPU).feed
    shapes = {name: (value.shape, value.dtype.name) for name, value in feed.items()}
    assert shapes == {
        "x0": ((), "float64"),
        "x1": ((2, 3, 5), "float16"),
        "x2": ((2, 4), "int64"),
        "x3": ((7, 2), "bool"),
    }


def test_a_model_that_made_up_inputs_break_is_named_before_anything_is_timed(tmp_path: Path) -> None:
    given = helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])
    taken = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["batch"])
    table = helper.make_tensor("table", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Gather", ["table", "index"], ["found"])
    path = saved(tmp_path / "net.onnx", helper.make_graph([node], "lookup", [given], [taken], [table]))
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot run it on made-up inputs: .*indices"):
        measure_all({"net": path}, Benchmark())


def test_more_threads_than_cores_are_an_error(onnx_file: Path) -> None:
    with pytest.raises(InputError, match=r"benchmark\.threads is 100000"):
        measure({"net": onnx_file}, Benchmark(threads=100000))


def test_a_slow_measurement_ends_with_a_clear_error(onnx_file: Path) -> None:
    with pytest.raises(EdcompressError, match=r"took longer than 0\.01 s"):
        measure({"net": onnx_file}, Benchmark(), timeout_seconds=0.01)
