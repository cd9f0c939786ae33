"""The process that measures latency: a specification (JSON) on stdin, what was measured (JSON) on stdout.

It imports no torch, whose thread pool would compete with the runtime's. `edcompress.deploy.latency.benchmark` starts it for one task:
`probe` opens and runs each model alone, `time` times them all.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edcompress.core.errors import InputError
from edcompress.core.system.machine import WaitTimer, governor, processor, resident_bytes, throttling, usable_cores
from edcompress.deploy.runtime.dummy_inputs import make_inputs
from edcompress.deploy.runtime.sessions import load_runtime, open_session

WINDOW = 10
"""Calls per window of the warm-up, and the least calls of a measured block of one model."""

BLOCKS = 50
"""About the most blocks of one model: calls of microseconds come in longer blocks."""

MIN_WARMUP, MAX_WARMUP, MAX_WARMUP_SECONDS = 2 * WINDOW, 20 * WINDOW, 5.0
STEADY = 0.05
"""Relative difference of the medians of two successive windows at which the warm-up ends."""

PROBES = 3
"""Calls after which the memory of a model has been seen."""


class TimedModel:
    """One open model, its fixed input, and the nanoseconds of its measured calls, block by block."""

    def __init__(self, path: Path, batch_size: int, threads: int, provider: str, runtime: str) -> None:
        """Open a file and make its inputs; InputError where it cannot be opened or its inputs cannot be made."""
        # The process that started this one has checked the file; here, that would count as memory of the model's.
        self.session = open_session(path, threads, provider, checked=True, runtime=runtime)
        self.feed = make_inputs(self.session.inputs, path, batch_size)
        self._run = self.session.bound(self.feed)
        self.typical = 0.0  # nanoseconds of a call, by the end of the warm-up
        self.blocks: list[list[int]] = []

    def call(self) -> int:
        """Run the model once and return the nanoseconds that it took, with the copies to and from the provider."""
        started = time.perf_counter_ns()
        self._run()
        return time.perf_counter_ns() - started

    def warm_up(self) -> None:
        """Call until two successive windows agree, at least 20 times; but stop at 200 calls or 5 seconds."""
        deadline = time.perf_counter() + MAX_WARMUP_SECONDS
        times = [self.call()]
        while not _steady(times) and len(times) < MAX_WARMUP and time.perf_counter() < deadline:
            times.append(self.call())
        self.typical = float(np.median(times[-WINDOW:]))

    def run_block(self, calls: int) -> None:
        """Measure a block of calls, after one unmeasured call that refills the caches."""
        self.call()
        self.blocks.append([self.call() for _ in range(calls)])


def probe(specification: dict[str, Any]) -> dict[str, Any]:
    """Return {"peak_bytes": for each setting {name: bytes or None}}; each model is opened and run in a process that holds no other."""
    provider, runtime = specification["provider"], specification["runtime"]
    load_runtime(runtime)  # here, so that it counts as the memory of no model
    return {
        "peak_bytes": [
            {
                name: _peak_alone(Path(path), batch_size, threads, provider, runtime)
                for name, path in specification["models"].items()
            }
            for batch_size, threads in specification["settings"]
        ]
    }


def _peak_alone(path: Path, *options: Any) -> int | None:
    """Return `_peak` of a fork of this process, which starts without the memory of the models before."""
    if resident_bytes("VmHWM") is None:
        return _peak(path, *options)
    with ProcessPoolExecutor(1, get_context("fork")) as alone:
        return alone.submit(_peak, path, *options).result()


def _peak(path: Path, batch_size: int, threads: int, provider: str, runtime: str) -> int | None:
    """Return the most bytes of memory that this process held while it opened and ran the model, less what it held before."""
    before = resident_bytes("VmRSS")
    model = TimedModel(path, batch_size, threads, provider, runtime)
    try:
        for _ in range(PROBES):
            model.call()
    except model.session.errors as error:
        raise InputError(f"{path}: {runtime} cannot run it on made-up inputs: {error}") from error
    most = resident_bytes("VmHWM")
    return None if before is None or most is None else most - before


def time_all(specification: dict[str, Any]) -> dict[str, Any]:
    """Return {"provider", "environment", "waited", "throttled", "blocks": {name: nanoseconds}} of models timed in turn."""
    cores = _pin(specification["threads"])
    options = [specification[key] for key in ("batch_size", "threads", "provider", "runtime")]
    models = {name: TimedModel(Path(path), *options) for name, path in specification["models"].items()}
    for model in models.values():
        model.warm_up()
    watch, stopped_before = WaitTimer(), throttling()
    interleave(list(models.values()), specification["runs"], specification["seconds"])
    waited, stopped = watch.waited(specification["threads"]), throttling()
    return {
        "provider": next(iter(models.values())).session.provider,
        "environment": _environment(cores, specification["runtime"]),
        "waited": waited,
        "throttled": None if stopped_before is None or stopped is None else _share_between(stopped_before, stopped),
        "blocks": {name: model.blocks for name, model in models.items()},
    }


def _share_between(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of the periods between two readings of `throttling` in which a quota stopped this process; 0 of no periods."""
    stopped, periods = (later - earlier for earlier, later in zip(before, after, strict=True))
    return min(1.0, stopped / periods) if periods else 0.0


def interleave(models: Sequence[TimedModel], runs: int, seconds: float) -> None:
    """Measure blocks of all models in turn; which one goes first alternates.

    Args:
        models: Models that are warm.
        runs: Calls of each: just so many, or at least so many where seconds are given.
        seconds: The least time of all calls together; 0 for none.
    """
    order, done, spent = list(models), 0, 0.0
    expected = max(runs, seconds * 1e9 / sum(model.typical for model in order))
    window = max(WINDOW, int(expected / BLOCKS))
    gc.disable()
    while done < runs or spent < seconds:
        calls = window if seconds else min(window, runs - done)
        for model in order:
            model.run_block(calls)
            spent += sum(model.blocks[-1]) / 1e9
        order.reverse()
        done += calls


def _pin(threads: int) -> tuple[int, ...]:
    """Bind this process to the first cores that it may use, one for each thread; return none where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return ()
    cores = tuple(usable_cores()[:threads])
    os.sched_setaffinity(0, cores)
    return cores


def _environment(cores: tuple[int, ...], runtime: str) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": cores,
        "governor": governor(cores or usable_cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": load_runtime(runtime).version,
    }


def _steady(times: Sequence[int]) -> bool:
    if len(times) < MIN_WARMUP or len(times) % WINDOW:
        return False
    before, after = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(after - before) <= STEADY * before)


def main() -> None:
    """Answer one specification; what the user can fix is {"input_error": message}, all else a traceback."""
    specification = json.load(sys.stdin)
    tasks = {"probe": probe, "time": time_all}
    try:
        answer = tasks[specification["task"]](specification)
    except InputError as error:
        answer = {"input_error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
