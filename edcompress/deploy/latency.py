"""Latency of ONNX files, measured side by side in fresh processes that hold nothing but onnxruntime.

What one process measures differs from what the next one does by more than its calls differ among themselves: memory lies elsewhere, and
the machine does other things by then. So several short processes measure one after the other, and the speed-up's interval is drawn from
them (`edcompress.deploy.bootstrap`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edcompress.deploy.bootstrap import Blocks, pooled, speedup_interval
from edcompress.errors import EdcompressError, InputError
from edcompress.machine import usable_cores
from edcompress.recipe import Benchmark, Setting
from edcompress.results import Environment, Latency

WORKER = "edcompress.deploy.latency_worker"
TIMEOUT_SECONDS = 1800.0
LEAST_RUNS, LEAST_SECONDS = 200, 3.0
"""Of each model, where the recipe says no number of runs."""

PROCESSES = 5
RUNS_PER_PROCESS = 40
"""At least, so that few runs take fewer processes."""


def measure(
    models: Mapping[str, Path], benchmark: Benchmark, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, Latency]:
    """`measure_all` at the first batch size and number of threads alone."""
    size, threads = benchmark.first
    alone = benchmark.model_copy(update={"batch_size": (size,), "threads": (threads,)})
    return {name: found[0] for name, found in measure_all(models, alone, timeout_seconds=timeout_seconds).items()}


def measure_all(
    models: Mapping[str, Path], benchmark: Benchmark, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, tuple[Latency, ...]]:
    """The latency of each named ONNX file at every setting of the benchmark, from interleaved calls of all files.

    Every speed-up is over the first file. Raises InputError when a file, the provider or the number of threads cannot be used, before
    anything is timed, and EdcompressError when a measuring process fails or takes longer than `timeout_seconds`.
    """
    _check(models, benchmark)
    common = {"models": {name: str(path.resolve()) for name, path in models.items()}, "provider": benchmark.provider}
    probed = _ask_worker({**common, "task": "probe", "settings": benchmark.settings}, timeout_seconds)
    timed = [
        _at_setting(setting, peaks, [_ask_worker({**common, **part}, timeout_seconds) for part in parts])
        for setting, peaks in zip(benchmark.settings, probed["peak_bytes"], strict=True)
        for parts in [_parts(setting, benchmark.runs, len(models))]
    ]
    return {name: tuple(latencies[name] for latencies in timed) for name in models}


def _check(models: Mapping[str, Path], benchmark: Benchmark) -> None:
    if not models:
        raise InputError("no ONNX files to measure")
    for path in models.values():
        if not path.is_file():
            raise InputError(f"{path}: no such ONNX file")
    threads, cores = max(benchmark.threads), len(usable_cores())
    if threads > cores:
        raise InputError(f"benchmark.threads is {threads}, but only {cores} cores may be used; lower it")


def _parts(setting: Setting, runs: int | None, models: int) -> list[dict[str, Any]]:
    """What each of the processes shall do."""
    about = {"task": "time", **setting._asdict()}
    if runs is None:
        share = {"runs": -(-LEAST_RUNS // PROCESSES), "seconds": LEAST_SECONDS * models / PROCESSES}
        return [about | share] * PROCESSES
    processes = min(PROCESSES, max(1, runs // RUNS_PER_PROCESS))
    return [
        about | {"runs": runs // processes + (number < runs % processes), "seconds": 0} for number in range(processes)
    ]


def _ask_worker(specification: Mapping[str, Any], timeout_seconds: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", WORKER],
            input=json.dumps(specification),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EdcompressError(
            f"measuring the latency took longer than {timeout_seconds:g} s; "
            "lower benchmark.runs or benchmark.batch_size"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EdcompressError(f"the latency process failed with exit code {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "input_error" in answer:
        raise InputError(answer["input_error"])
    return answer


def _at_setting(setting: Setting, peaks: Mapping[str, int | None], answers: list[dict[str, Any]]) -> dict[str, Latency]:
    """The latency of each model, by name, from the answers of the processes."""
    blocks: dict[str, list[Blocks]] = {name: [answer["blocks"][name] for answer in answers] for name in peaks}
    first = next(iter(blocks))
    return {
        name: _latency(found, setting, answers[0]).model_copy(
            update={
                "processes": len(answers),
                "speedup": None if name == first else speedup_interval(blocks[first], found),
                "peak_bytes": peaks[name],
            }
        )
        for name, found in blocks.items()
    }


def _latency(blocks: list[Blocks], setting: Setting, answer: Mapping[str, Any]) -> Latency:
    """Percentiles of calls in nanoseconds, and what they were measured with."""
    calls = pooled(blocks)
    p50, p90, p99 = (np.percentile(calls, [50, 90, 99]) / 1e6).tolist()
    environment = Environment.model_validate(answer["environment"])
    return Latency(
        p50=p50, p90=p90, p99=p99, n=len(calls), batch_size=setting.batch_size, threads=setting.threads,
        provider=answer["provider"], environment=environment)  # fmt: skip
