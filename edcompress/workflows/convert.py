"""Verb: one file for PyTorch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Proof
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_new_file
from edcompress.deploy.export.torch_archives import SUFFIXES, Form, save_archive
from edcompress.networks.build import example_images
from edcompress.runs.file_records import OF_PRUNING, require_as_written
from edcompress.runs.folder import FILES, RunFolder, RunOrPath
from edcompress.workflows.load import load_run

_OF_ONE_FORM = {".onnx", *SUFFIXES.values()}
"""Suffixes of which each belongs to one form alone."""

_OF_THE_RUN = {name for name in FILES if not name.endswith((SUFFIXES["pt2"], SUFFIXES["torchscript"]))}
"""Files of a run that `convert` does not make."""


def convert(
    folder: RunOrPath,
    form: Form,
    output: str | Path | None = None,
    *,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> tuple[Path, Proof]:
    """Write the pruned network of a finished run as one file for PyTorch.

    Args:
        folder: The run folder, or its path.
        form: pt2, torchscript or safetensors.
        output: The file to write; None: pruned.pt2 or pruned.torchscript.pt in the run, or NAME.safetensors in the working directory.
        force: Replace the file.
        options: Trust.

    Returns:
        The file, and the proof that it equals the network.

    Raises:
        InputError: The run is not finished, there is no such form, or the output cannot be used.
        ProofError: The file does not equal the network.
    """
    run = RunFolder.of(folder)
    run.require_finished("convert")
    if form not in SUFFIXES:
        raise InputError(f"--to {form}: choose {', '.join(SUFFIXES)}")
    file = _default_output(run.path, form) if output is None else Path(output)
    _require_output(file, form, run.path, force=force)
    written = run.read_report().files
    require_as_written(run, {name: written[name] for name in OF_PRUNING if name in written})
    elsewhere = not file.resolve().is_relative_to(run.path.resolve())
    # The next process that locks a run removes an unfinished file in it as one of a process that was killed.
    with nullcontext() if elsewhere and not run.writable else run.locked():
        network = load_run(run.path, options.trust)
        return file, save_archive(network, example_images(run.read_recipe().network_spec.image_shape), file, form)


def _default_output(run: Path, form: Form) -> Path:
    if form == "safetensors":  # a run has one already
        return Path(f"{run.resolve().name}.safetensors")
    return run / f"pruned{SUFFIXES[form]}"


def _require_output(file: Path, form: Form, run: Path, *, force: bool) -> None:
    """Raise InputError if a file of this form cannot be written there."""
    if file.suffix.lower() in _OF_ONE_FORM - {SUFFIXES[form]}:
        raise InputError(
            f"-o {file}: it would hold {form}; name it {file.with_suffix(SUFFIXES[form])}, or choose another --to "
            "(for ONNX: edcompress export --onnx)"
        )
    require_new_file(file, "-o", force=force)
    if file.name in _OF_THE_RUN and file.parent.resolve() == run.resolve():
        raise InputError(f"-o {file}: the run itself needs this file; choose another name")
