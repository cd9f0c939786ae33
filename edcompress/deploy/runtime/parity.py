"""An ONNX file's logits compared with the PyTorch network's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Count, Proof
from edcompress.deploy.runtime.half_precision import faithful_session
from edcompress.deploy.runtime.sessions import Session
from edcompress.networks.modes import on_cpu
from edcompress.networks.outputs import outputs_of
from edcompress.training.accuracy import count_agreeing, top_classes

BATCH_SIZES = (1, 2, 5)
FEWEST_IMAGES = 8
CHUNK = 32
"""Images per call, where the batch size is not what is tested."""


def run_onnx(model: Path | Session, images: Tensor) -> Tensor:
    """Return the first output, the logits [N, classes], of images [N, C, H, W], or of uint8 pixels [N, H, W, C], on the CPU.

    The model is called with 32 images at most, or with as many as it insists on. A file's float16 is computed in float16 (see
    `faithful_session`).

    Args:
        model: An ONNX file, or a session of one.
        images: The images.

    Raises:
        InputError: The model cannot be loaded, does not take one input of this shape, or fails on these images.
    """
    return next(iter(run_outputs(model, images).values()))


def run_outputs(model: Path | Session, images: Tensor) -> dict[str, Tensor]:
    """Return every output [N, ...] by name, for images that `run_onnx` takes; raise InputError as it does."""
    opened = faithful_session(model) if isinstance(model, Path) else model
    taken = opened.inputs
    fits = len(taken) == 1 and len(taken[0].shape) == images.ndim and _same_shape(taken[0].shape, images)
    pixels = images.dtype == torch.uint8
    if not fits or taken[0].type != ("tensor(uint8)" if pixels else "tensor(float)"):
        wanted = [f"{value.name} {list(value.shape)} of {value.type}" for value in taken]
        raise InputError(f"the ONNX model takes {', '.join(wanted)}, not images of shape {list(images.shape)}")
    images = images.detach().to("cpu", torch.uint8 if pixels else torch.float32)
    batches = [_run_batch(opened, batch) for batch in torch.split(images, batch_limit(opened))]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def fixed_batch(opened: Session) -> int | None:
    """Return the batch size that a model insists on; None where it takes any."""
    size = opened.inputs[0].shape[0]
    return size if isinstance(size, int) else None


def batch_limit(opened: Session) -> int:
    """Return how many images a model is given per call at most."""
    return fixed_batch(opened) or CHUNK


def _run_batch(opened: Session, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of floating-point numbers, by name, for at most as many images as the model takes."""
    found = dict(zip(opened.outputs, compute_outputs(opened, images), strict=True))
    floats = {
        name: values for name, values in found.items() if isinstance(values, np.ndarray) and values.dtype.kind == "f"
    }
    if opened.outputs[0] not in floats:
        raise InputError("the first output of the ONNX model is not a tensor of floating-point logits")
    return {name: torch.from_numpy(values)[: len(images)] for name, values in floats.items()}


def compute_outputs(opened: Session, images: Tensor) -> list[Any]:
    """Return all outputs for at most as many images as the model takes; the last image is repeated where it wants more."""
    missing = (fixed_batch(opened) or len(images)) - len(images)
    values = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]).contiguous().numpy()
    try:
        return opened.run({opened.inputs[0].name: values})
    except opened.errors as error:
        shape = list(values.shape)
        raise InputError(f"{opened.runtime} cannot run the ONNX model on images of shape {shape}: {error}") from error


def _same_shape(dimensions: Sequence[int | str | None], images: Tensor) -> bool:
    """Check that the images have all dimensions of an image that the model fixes; others are symbolic names or None."""
    pairs = zip(dimensions[1:], images.shape[1:], strict=True)
    return all(not isinstance(fixed, int) or fixed == given for fixed, given in pairs)


@torch.inference_mode()
def compare_with_onnx(network: nn.Module, path: Path, images: Tensor, output: str | None = None) -> Proof:
    """Measure how far the outputs of a network (eval, fp32, CPU) and of its ONNX file, in the file's own precision, are apart.

    The file runs all images, and the first eight also at batch sizes 1, 2 and 5 unless its own is fixed. NaN logits make the
    differences NaN. With several outputs the proof is of the one that differs most for its scale.

    Args:
        network: The network, on any device and in any mode.
        path: Its ONNX file.
        images: Images [N, C, H, W].
        output: Which output counts (`model.output`).

    Raises:
        InputError: There are fewer than eight images, or the file cannot be loaded.
    """
    if len(images) < FEWEST_IMAGES:
        raise InputError(f"comparing with ONNX needs at least {FEWEST_IMAGES} images, not {len(images)}")
    images = images.to("cpu", torch.float32)
    frozen, opened = on_cpu(network), faithful_session(path)
    batches = [outputs_of(frozen(batch), output) for batch in torch.split(images, CHUNK)]
    wanted = [torch.cat([batch[name] for batch in batches]) for name in batches[0]]
    found = list(run_outputs(opened, images).values())
    fixed, few = fixed_batch(opened), images[:FEWEST_IMAGES]
    runs = [_in_batches(opened, few, size) for size in (BATCH_SIZES if fixed is None else (fixed,))]
    again = [torch.stack(values) for values in zip(*runs, strict=True)]
    of = f"logits of {len(images)} images" + (
        f", of {FEWEST_IMAGES} at batch 1, 2 and 5 too" if fixed is None else f" at batch {fixed}"
    )
    proofs = [_proof(*tensors, of) for tensors in zip(wanted, found, again, strict=True)]
    if len(proofs) == 1:
        return proofs[0]
    worst = max(proofs, key=lambda proof: math.inf if math.isnan(proof.relative) else proof.relative)
    return worst.model_copy(update={"of": f"{len(proofs)} outputs, {of}", "agreeing": None})


def _in_batches(opened: Session, images: Tensor, size: int) -> list[Tensor]:
    """Return every output for images that the model gets so many at a time."""
    runs = [run_outputs(opened, batch) for batch in torch.split(images, size)]
    return [torch.cat([run[name] for run in runs]) for name in runs[0]]


def _proof(logits: Tensor, found: Tensor, again: Tensor, of: str) -> Proof:
    """Compare an output [N, ...] of a network with its file's, and with that of the first images in small batches [runs, n, ...]."""
    differences = (found - logits).abs()
    largest = torch.stack([differences.max(), (again - logits[:FEWEST_IMAGES]).abs().max()]).max()
    ours, theirs = top_classes(logits), top_classes(found)
    return Proof(
        max_abs_diff=float(largest),
        mean_abs_diff=float(differences.mean()),
        scale=float(logits.abs().max()),
        of=of,
        agreeing=Count(correct=count_agreeing(theirs, ours), total=ours[:, 0].numel()),
    )
