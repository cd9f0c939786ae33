"""The process that measures latency: a specification (JSON) on stdin, the percentiles (JSON) on stdout.

It imports no torch, whose thread pool would fight onnxruntime's. `edcompress.deploy.latency` starts it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edcompress.deploy.sessions import session
from edcompress.errors import InputError

WINDOW = 10  # calls per warm-up window, and per measured block of one model
MIN_WARMUP, MAX_WARMUP, MAX_WARMUP_SECONDS = 2 * WINDOW, 20 * WINDOW, 5.0
STEADY = 0.05  # relative difference of two successive windows' medians


class Contestant:
    """One open model, its fixed input, and the milliseconds of its measured calls."""

    def __init__(self, path: Path, specification: dict[str, Any]) -> None:
        """Open `path` and make its input; raises InputError unless it takes one [batch, fixed ...] fp32 tensor."""
        self.session = session(path, specification["threads"], specification["provider"])
        self.feed = _feed(self.session, path, specification["batch_size"])
        self.milliseconds: list[float] = []

    def call(self) -> float:
        """Run the model once; returns the milliseconds it took, with the copies to and from the provider."""
        started = time.perf_counter_ns()
        self.session.run(None, self.feed)
        return (time.perf_counter_ns() - started) / 1e6

    def warm_up(self) -> None:
        """Call until two successive windows agree, at least 20 times; then stop at 200 calls or 5 seconds."""
        deadline = time.perf_counter() + MAX_WARMUP_SECONDS
        times = [self.call() for _ in range(MIN_WARMUP)]
        while not _steady(times) and len(times) < MAX_WARMUP and time.perf_counter() < deadline:
            times += [self.call() for _ in range(WINDOW)]

    def run_block(self, runs: int) -> None:
        """Measure one window of calls, or what is left of `runs`, after one unmeasured call that refills the caches."""
        self.call()
        self.milliseconds += [self.call() for _ in range(min(WINDOW, runs - len(self.milliseconds)))]

    def percentiles(self) -> dict[str, float]:
        """p50, p90 and p99 in milliseconds of the measured calls."""
        values = np.percentile(self.milliseconds, [50, 90, 99])
        return dict(zip(("p50", "p90", "p99"), values.tolist(), strict=True))


def measure_all(specification: dict[str, Any]) -> dict[str, Any]:
    """{"provider": ..., "models": {name: percentiles}} of interleaved blocks; who goes first alternates."""
    _pin(specification["threads"])
    contestants = {name: Contestant(Path(path), specification) for name, path in specification["models"].items()}
    for contestant in contestants.values():
        contestant.warm_up()
    order = list(contestants.values())
    gc.disable()
    for _ in range(0, specification["runs"], WINDOW):
        for contestant in order:
            contestant.run_block(specification["runs"])
        order.reverse()
    return {
        "provider": order[0].session.get_providers()[0],
        "models": {name: contestant.percentiles() for name, contestant in contestants.items()},
    }


def _pin(threads: int) -> None:
    """Bind this process to `threads` of the cores it may use; raises InputError when there are fewer."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if threads > len(cores):
        raise InputError(f"benchmark.threads is {threads}, but only {len(cores)} cores may be used; lower it")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores[:threads])


def _feed(opened: onnxruntime.InferenceSession, path: Path, batch_size: int) -> dict[str, NDArray[np.float32]]:
    inputs = opened.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not inputs[0].shape:
        found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise InputError(f"{path}: expected one fp32 input with a batch dimension, found: {found or 'none'}")
    batch, *rest = inputs[0].shape
    if not all(isinstance(size, int) for size in rest):
        raise InputError(
            f"{path}: input {inputs[0].name!r} has shape {inputs[0].shape}; only the batch may be symbolic"
        )
    if isinstance(batch, int) and batch != batch_size:
        raise InputError(f"{path}: its batch size is fixed at {batch}, but benchmark.batch_size is {batch_size}")
    images = np.random.default_rng(0).standard_normal((batch_size, *rest), dtype=np.float32)
    return {inputs[0].name: images}


def _steady(times: list[float]) -> bool:
    before, after = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(after - before) <= STEADY * before)


def main() -> None:
    """Answer one specification; what the user can mend is {"input_error": message}, all else a traceback."""
    try:
        answer = measure_all(json.load(sys.stdin))
    except InputError as error:
        answer = {"input_error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
