"""Verb: check this environment. Imports that may be broken are inside functions."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edcompress.core.frozen import Value
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Rate
from edcompress.core.system.machine import cpu_quota, data_home, governor, memory_bytes, processor, usable_cores
from edcompress.core.system.monitor import Monitor
from edcompress.report.render.formatting import human

LITTLE_DISK = 1_000_000_000
LITTLE_MEMORY = 1_000_000_000
LITTLE_SHARED = 256_000_000
OF_DEVELOPERS = ("dev", "docs")
SHARED = Path("/dev/shm")


class Finding(Value):
    """One thing that was checked: fine, worth a note, or a fault; the text says how to fix it."""

    name: str
    level: Literal["ok", "note", "fault"]
    text: str


def examine(runs: Path = Path("runs")) -> list[Finding]:
    """Check versions, devices, providers, processor, memory and disk; `runs` is the folder of runs."""
    return [
        *_versions(),
        *_torch(),
        _providers(),
        *_processor(),
        *_memory(),
        _disk("disk of runs", runs, "choose another folder with -o", written=True),
        _data(),
        _disk("disk of data", data_home(), "set EDCOMPRESS_DATA or data.root"),
    ]


def examine_rates(recipe: Recipe, monitor: Monitor, *, trust_code: bool = False) -> list[Finding]:
    """Check whether the recipe's images come as fast as its network trains on them here; this takes about two seconds per rate.

    Raises InputError if its data or network cannot be used. The monitor gets warnings of images that are left out.
    """
    from edcompress.core.system.context import RunOptions
    from edcompress.core.system.devices import oom_as_error
    from edcompress.networks.build import new_network
    from edcompress.workflows.stages.batch_size import sized_for_training
    from edcompress.workflows.stages.run_context import open_context
    from edcompress.workflows.throughput import input_rates, training_rate

    options = RunOptions(trust_code=trust_code, monitor=monitor)
    network = new_network(recipe.network_spec, trust=options.trust)
    context = sized_for_training(open_context(recipe, options), network, recipe.train)
    batch = next(iter(context.train_batches(epoch=0)))
    with oom_as_error(context.data, "lower data.batch_size, or end other processes on it"):
        trained = training_rate(network, batch, recipe.finetune.config, context.precision).per_second
    rates = input_rates(context.splits.train, context.data)
    return compared(rates, trained, context.data.workers, context.device.type)


def compared(inputs: Mapping[int, Rate], trained: float, workers: int, device: str) -> list[Finding]:
    """Compare the rates of the input, by its workers, with that of training on a device; a note if the input with `workers` is slower."""
    found = [
        _finding(f"input, workers: {number}", f"{rate.per_second:.0f} images/s") for number, rate in inputs.items()
    ]
    fix = "images come slower than that: raise data.workers up to the cores, or keep smaller images on the disk"
    slow = inputs[workers].per_second < trained
    return [*found, _finding("training", f"{trained:.0f} images/s on one {device}", fix if slow else None)]


def limited(quota: float | None, cores: int) -> Finding:
    """Check a container's CPU limit, as the time of so many cores; a note if that is less than its cores."""
    if quota is None:
        return _finding("CPU quota", "none")
    fix = (
        "it stops processes for a part of each period, so that latencies cannot be trusted: measure without it (docker run without "
        "--cpus, Kubernetes without limits.cpu)"
    )
    return _finding("CPU quota", f"time of {quota:g} of {cores} cores", fix if quota < cores else None)


def check_requirement(requirement: Requirement, extra: str | None = None) -> Finding:
    """Check the installed version of a requirement; that of an extra may be missing."""
    name, wanted = requirement.name, str(requirement.specifier)
    fix = f"pip install 'edcompress[{extra}]'" if extra else f"pip install '{name}{wanted}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return _finding(
            name, "optional" if extra else "required", f"not installed: {fix}", "note" if extra else "fault"
        )
    fits = requirement.specifier.contains(found, prereleases=True)
    return _finding(
        name, f"{found} ({wanted or 'any'})", None if fits else f"a different version is needed: {fix}", "fault"
    )


def _finding(name: str, text: str, trouble: str | None = None, level: Literal["note", "fault"] = "note") -> Finding:
    """Return a finding that is fine, or of this level if there is trouble, which follows the text."""
    return Finding(name=name, level=level if trouble else "ok", text=f"{text}; {trouble}" if trouble else text)


def _versions() -> Iterator[Finding]:
    try:
        about, lines = metadata("edcompress"), requires("edcompress") or ()
    except PackageNotFoundError:
        yield _finding("edcompress", "not installed", "in the checkout: pip install .", "fault")
        return
    yield _finding("edcompress", about["Version"])
    found, wanted = platform.python_version(), about["Requires-Python"]
    fits = SpecifierSet(wanted).contains(found, prereleases=True)
    yield _finding("python", f"{found} ({wanted})", None if fits else "install edcompress in another Python", "fault")
    extras = [extra for extra in about.get_all("Provides-Extra", ()) if extra not in OF_DEVELOPERS]
    for requirement in map(Requirement, lines):
        needed_by = [extra for extra in (None, *extras) if _needed(requirement, extra)]
        if needed_by:
            yield check_requirement(requirement, needed_by[0])


def _needed(requirement: Requirement, extra: str | None) -> bool:
    """Whether a requirement is one of this system, with an extra or without one."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from edcompress.training.precision import choose_precision
    except (ImportError, OSError) as error:
        yield _finding("torch devices", f"torch cannot be loaded: {error}", "install it again", "fault")
        return
    cores, threads = len(usable_cores()), torch.get_num_threads()
    more = f"more than cores: set OMP_NUM_THREADS={cores}" if threads > cores else None
    yield _finding("torch threads", f"{threads}", more)
    native = choose_precision("auto", torch.device("cpu")).name == "bf16"
    yield _finding("bf16 on the CPU", "native" if native else "emulated, so precision: auto trains in fp32")
    if torch.cuda.is_available():
        yield from _cuda()
    else:
        driver = Path("/dev/nvidiactl").exists()
        fix = "there is an NVIDIA driver: install a torch built for its CUDA (pytorch.org)" if driver else None
        yield _finding("CUDA devices", "none that torch sees: it computes on the CPU", fix)


def _cuda() -> Iterator[Finding]:
    import torch

    from edcompress.training.precision import choose_precision

    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(index):
            found = torch.cuda.get_device_properties(index)
            native = choose_precision("auto", torch.device("cuda", index)).name == "bf16"
        memory, bf16 = human(found.total_memory, "B"), "native" if native else "not native"
        text = f"{found.name}, {memory}, compute capability {found.major}.{found.minor}, bf16 {bf16}"
        yield _finding(f"cuda:{index}", text)


def _providers() -> Finding:
    try:
        from edcompress.deploy.runtime.sessions import load_runtime

        found = load_runtime().providers()
    except (ImportError, OSError) as error:
        return _finding("providers", f"onnxruntime cannot be loaded: {error}", "install it again", "fault")
    missing = None if "CPUExecutionProvider" in found else "no CPUExecutionProvider: install onnxruntime again"
    return _finding("providers", ", ".join(found), missing, "fault")


def _processor() -> Iterator[Finding]:
    cores = usable_cores()
    yield _finding("processor", processor())
    yield _finding("cores", f"{len(cores)} of {os.cpu_count()} may be used")
    yield limited(cpu_quota(), len(cores))
    steers = governor(cores)
    fix = "latencies vary less under performance: sudo cpupower frequency-set -g performance"
    text = steers or "the system names none, as virtual machines do"
    yield _finding("governor", text, None if steers in (None, "performance") else fix)


def _memory() -> Iterator[Finding]:
    if found := memory_bytes():
        total, available = (human(size, "B") for size in found)
        little = found[1] < LITTLE_MEMORY
        fix = "end other programs, or lower data.batch_size" if little else None
        yield _finding("memory", f"{available} of {total} available", fix)
    if SHARED.is_dir():
        free = shutil.disk_usage(SHARED).free
        little = free < LITTLE_SHARED
        fix = "data.workers pass images through it: docker run --shm-size=2g, or data.workers=0" if little else None
        yield _finding("shared memory", f"{human(free, 'B')} free", fix)


def _disk(name: str, path: Path, fix: str, *, written: bool = False) -> Finding:
    """Check room, and permission if it is `written` to, at `path` or at its nearest parent that exists."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{human(free, 'B')} free at {there}"
    if written and not os.access(there, os.W_OK):
        return _finding(name, text, f"it cannot be written to: {fix}", "fault")
    return _finding(name, text, fix if free < LITTLE_DISK else None)


def _data() -> Finding:
    asked, home = os.environ.get("EDCOMPRESS_DATA"), data_home()
    if asked:
        missing = None if home.is_dir() else "not a directory; create it or change the variable"
        return _finding("EDCOMPRESS_DATA", asked, missing, "fault")
    return _finding("EDCOMPRESS_DATA", "not set", f"data sets are looked for in {home} where data.root says nothing")
