"""Write a network as one file for PyTorch itself, and prove that the file gives the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.results.measures import Proof
from edcompress.core.system.files import replacing
from edcompress.core.system.quiet import EXPORTERS, cause_of, quiet
from edcompress.core.system.tensor_files import save_tensors
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.networks.load_weights import load_into
from edcompress.networks.modes import on_cpu
from edcompress.networks.weight_files import read_state_dict

Form = Literal["pt2", "torchscript", "safetensors"]
SUFFIXES: dict[Form, str] = {"pt2": ".pt2", "torchscript": ".torchscript.pt", "safetensors": ".safetensors"}
"""pt2 (torch.export) and torchscript hold the network; safetensors holds its tensors alone."""


def save_archive(network: nn.Module, example: Tensor, path: Path, form: Form) -> Proof:
    """Write a network as one file, read it back, and return how far its logits are from the network's.

    The batch size stays open.

    Args:
        network: The network, on any device and in any mode.
        example: Images [N, C, H, W], N at least 2, on which the two are compared.
        path: The file to write.
        form: What to write.

    Raises:
        EdcompressError: torch cannot write the form; `path` is as it was.
        ProofError: The two differ; `path` is as it was.
    """
    frozen = on_cpu(network)
    try:
        with replacing(path) as part, torch.no_grad():
            again = _write(form, frozen, example, part)
            images = torch.cat([example, example[:1]])
            proof = compare_logits(frozen(images), again(images), f"network and {form} on {len(images)} images")
            require_equal(proof)
    except EdcompressError:
        raise
    except Exception as error:
        raise EdcompressError(f"{path}: torch cannot write this network as {form}: {cause_of(error)}") from error
    return proof


def load_archive(path: Path) -> nn.Module:
    """Return the network in an archive of torch.export, which torch may run code to read; InputError if it cannot be read.

    It computes as in eval mode, and cannot be trained.
    """
    try:
        with quiet(*EXPORTERS):
            return _read_pt2(path)
    except Exception as error:  # torch raises all kinds for damaged archives
        raise InputError(f"{path}: torch cannot read this archive: {cause_of(error)}") from error


def _read_pt2(path: Path) -> nn.Module:
    with path.open("rb") as file:
        network: nn.Module = torch.export.load(file).module()
    return network


def _write(form: Form, network: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Any]:
    with quiet(*EXPORTERS):
        return _WRITERS[form](network, example, path)


def _pt2(network: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Any]:
    shapes: Any = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file)
    return _read_pt2(path)


def _torchscript(network: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Any]:
    torch.jit.save(torch.jit.trace(network, example, strict=False), str(path))  # type: ignore[no-untyped-call]
    return torch.jit.load(str(path))  # type: ignore[no-any-return,no-untyped-call]


def _safetensors(network: nn.Module, _: Tensor, path: Path) -> Callable[[Tensor], Any]:
    save_tensors(path, network.state_dict())
    again = on_cpu(network)
    load_into(again, read_state_dict(path), source=str(path))
    return again


_WRITERS = {"pt2": _pt2, "torchscript": _torchscript, "safetensors": _safetensors}
