"""Verb: one file for PyTorch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Proof
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_file_place
from edcompress.deploy.export.torch_archives import SUFFIXES, Form, save_archive
from edcompress.networks.build import example_images
from edcompress.runs.file_records import OF_PRUNING, require_as_written
from edcompress.runs.folder import FILES, RunFolder
from edcompress.workflows.load import load

_OF_ANOTHER_FORM = {".onnx", *SUFFIXES.values()}
"""How names of files end that `convert` gives to one form alone."""

_OF_THE_RUN = {name for name in FILES if not name.endswith((SUFFIXES["pt2"], SUFFIXES["torchscript"]))}
"""Files of a run that `convert` does not make."""


def convert(
    folder: RunFolder, form: Form, output: Path | None = None, *, force: bool = False, options: RunOptions = DEFAULT
) -> tuple[Path, Proof]:
    """Write the pruned network of a finished run as pt2, torchscript or safetensors; the file, and the proof that it is equal.

    The default file is pruned.pt2, pruned.torchscript.pt or, outside the run that has one already, NAME.safetensors.
    """
    folder.require_finished("convert")
    if form not in SUFFIXES:
        raise InputError(f"--to {form}: choose {', '.join(SUFFIXES)}")
    if output is None:
        output = (
            Path(f"{folder.path.resolve().name}.safetensors")
            if form == "safetensors"
            else folder / f"pruned{SUFFIXES[form]}"
        )
    if output.suffix.lower() in _OF_ANOTHER_FORM - {SUFFIXES[form]}:
        raise InputError(
            f"-o {output}: it would hold {form}; name it {output.with_suffix(SUFFIXES[form])}, or choose another --to "
            "(for ONNX: edcompress export --onnx)"
        )
    require_file_place(output, "-o")
    if output.exists() and not force:
        raise InputError(f"{output} exists; choose another with -o, or overwrite it with --force")
    if output.name in _OF_THE_RUN and output.parent.resolve() == folder.path.resolve():
        raise InputError(f"-o {output}: the run needs this file of its own; choose another name")
    if not output.parent.is_dir():
        raise InputError(f"-o {output}: there is no folder {output.parent}")
    told = folder.read_report().files
    require_as_written(folder, {name: told[name] for name in OF_PRUNING if name in told})
    elsewhere = not output.resolve().is_relative_to(folder.path.resolve())
    # Who locks a run next takes an unfinished file in it for that of a process that was killed.
    with nullcontext() if elsewhere and not folder.writable else folder.locked():
        network = load(folder.path, trust_code=options.trust_code)
        return output, save_archive(network, example_images(folder.read_recipe()), output, form)
