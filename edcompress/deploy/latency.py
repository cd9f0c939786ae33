"""Latency of ONNX files, measured side by side in a fresh process that holds nothing but onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edcompress.errors import EdcompressError, InputError
from edcompress.recipe import Benchmark
from edcompress.results import Latency

WORKER = "edcompress.deploy.latency_worker"
TIMEOUT_SECONDS = 1800.0


def measure(
    models: Mapping[str, Path], benchmark: Benchmark, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, Latency]:
    """p50, p90 and p99 in milliseconds of each named ONNX file, from interleaved calls of all of them.

    Raises InputError when a file, the provider or the number of threads cannot be used, and EdcompressError when the
    measuring process fails or takes longer than `timeout_seconds`.
    """
    if not models:
        raise InputError("no ONNX files to measure")
    for path in models.values():
        if not path.is_file():
            raise InputError(f"{path}: no such ONNX file")
    answer = _ask_worker(_specification(models, benchmark), timeout_seconds)
    return {name: _latency(answer["models"][name], answer["provider"], benchmark) for name in models}


def _specification(models: Mapping[str, Path], benchmark: Benchmark) -> dict[str, Any]:
    return {"models": {name: str(path.resolve()) for name, path in models.items()}, **benchmark.model_dump(mode="json")}


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


def _latency(percentiles: Mapping[str, float], provider: str, benchmark: Benchmark) -> Latency:
    return Latency(
        **percentiles,
        n=benchmark.runs,
        batch_size=benchmark.batch_size,
        threads=benchmark.threads,
        provider=provider,
    )
