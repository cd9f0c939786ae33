"""Latency of ONNX files, measured side by side in fresh processes that hold nothing but the runtime. Imports no torch.

What one process measures differs from what the next one does by more than its calls differ among themselves: memory lies elsewhere, and
the machine does other things by then. So several short processes measure one after the other, and the speed-up's interval is drawn from
them (`edcompress.deploy.latency.bootstrap`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.recipe.deployment import Benchmark, Setting
from edcompress.core.results.measures import Environment, Latency
from edcompress.core.system.machine import usable_cores
from edcompress.deploy.latency.bootstrap import Blocks, pool, speedup_interval
from edcompress.deploy.runtime.external_data import require_own_data
from edcompress.deploy.runtime.sessions import DEFAULT_RUNTIME, require_provider

WORKER = "edcompress.deploy.latency.worker"
TIMEOUT_SECONDS = 1800.0
LEAST_RUNS, LEAST_SECONDS = 200, 3.0
"""Without a number of runs in the recipe: calls of each model, and the seconds of all calls together for each of the models."""

PROCESSES, FEWEST_PROCESSES = 5, 3
RUNS_PER_PROCESS = 40
"""Calls of a process at least: few runs take fewer processes, but not so few that nothing is known of how processes differ."""


def measure(
    models: Mapping[str, Path], benchmark: Benchmark, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, Latency]:
    """Return what `measure_all` does, at the first batch size and number of threads alone and without the peak memory."""
    _check(models, benchmark)
    return _measure_at(models, benchmark, benchmark.first, dict.fromkeys(models), timeout_seconds)


def measure_all(
    models: Mapping[str, Path], benchmark: Benchmark, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, tuple[Latency, ...]]:
    """Measure the latency of ONNX files at every setting of a benchmark, from interleaved calls of all files.

    Args:
        models: The files by name; every speed-up is over the first.
        benchmark: Batch sizes, threads, runs and provider.
        timeout_seconds: The longest that one measuring process may take.

    Returns:
        For each name, a latency per setting.

    Raises:
        InputError: A file, the provider or the number of threads cannot be used; nothing is timed then.
        EdcompressError: A measuring process fails or takes too long.
    """
    _check(models, benchmark)
    probe = _common(models, benchmark) | {"task": "probe", "settings": benchmark.settings}
    found = _ask_worker(probe, timeout_seconds)["peak_bytes"]
    timed = [
        _measure_at(models, benchmark, setting, peaks, timeout_seconds)
        for setting, peaks in zip(benchmark.settings, found, strict=True)
    ]
    return {name: tuple(latencies[name] for latencies in timed) for name in models}


def require_measurable(benchmark: Benchmark) -> None:
    """Raise InputError where this machine does not have the cores or the provider that a benchmark needs."""
    require_provider(benchmark.provider)
    threads, cores = max(benchmark.threads), len(usable_cores())
    if threads > cores:
        raise InputError(f"benchmark.threads is {threads}, but only {cores} cores may be used; lower it")


def _check(models: Mapping[str, Path], benchmark: Benchmark) -> None:
    if not models:
        raise InputError("no ONNX files to measure")
    for path in models.values():
        if not path.is_file():
            raise InputError(f"{path}: no such ONNX file")
        require_own_data(path.resolve())  # as the worker opens it
    require_measurable(benchmark)


def _common(models: Mapping[str, Path], benchmark: Benchmark) -> dict[str, Any]:
    """Return the part of the specification that is the same for every process."""
    files = {name: str(path.resolve()) for name, path in models.items()}
    return {"models": files, "provider": benchmark.provider, "runtime": DEFAULT_RUNTIME}


def _measure_at(
    models: Mapping[str, Path], benchmark: Benchmark, setting: Setting, peaks: Mapping[str, int | None], timeout: float
) -> dict[str, Latency]:
    """Return the latency of each model at one setting."""
    parts, common = _parts(setting, benchmark.runs, len(models)), _common(models, benchmark)
    return _latencies(setting, peaks, [_ask_worker(common | part, timeout) for part in parts])


def _parts(setting: Setting, runs: int | None, models: int) -> list[dict[str, Any]]:
    """Share a measurement out to processes: return the part of the specification that is each process's own."""
    about = {"task": "time", **setting._asdict()}
    if runs is None:
        share = {"runs": -(-LEAST_RUNS // PROCESSES), "seconds": LEAST_SECONDS * models / PROCESSES}
        return [about | share] * PROCESSES
    processes = min(PROCESSES, max(FEWEST_PROCESSES, runs // RUNS_PER_PROCESS))
    return [
        about | {"runs": runs // processes + (number < runs % processes), "seconds": 0} for number in range(processes)
    ]


def _ask_worker(specification: Mapping[str, Any], timeout_seconds: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", WORKER],  # -P: no file of the working directory is taken for a module
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


def _latencies(setting: Setting, peaks: Mapping[str, int | None], answers: list[dict[str, Any]]) -> dict[str, Latency]:
    """Return the latency of each model, by name, from the answers of the processes."""
    blocks: dict[str, list[Blocks]] = {name: [answer["blocks"][name] for answer in answers] for name in peaks}
    first = next(iter(blocks.values()))
    held_up = {key: _mean([answer[key] for answer in answers]) for key in ("waited", "throttled")}
    about = {**setting._asdict(), **held_up, "processes": len(answers),
             "provider": answers[0]["provider"], "environment": Environment.model_validate(answers[0]["environment"])}  # fmt: skip
    return {
        name: Latency(
            **_percentiles(found),
            **about,
            speedup=None if found is first else speedup_interval(first, found),
            peak_bytes=peaks[name],
        )
        for name, found in blocks.items()
    }


def _mean(shares: list[float | None]) -> float | None:
    """Return the mean of the processes' shares; None where one does not know its own."""
    known = [share for share in shares if share is not None]
    return sum(known) / len(shares) if len(known) == len(shares) else None


def _percentiles(blocks: list[Blocks]) -> dict[str, Any]:
    """Return percentiles in milliseconds of calls in nanoseconds, and how many calls there are."""
    calls = pool(blocks)
    p50, p90, p99 = (np.percentile(calls, [50, 90, 99]) / 1e6).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "n": len(calls)}
