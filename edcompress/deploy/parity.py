"""An ONNX file's logits against the PyTorch network's, through onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from edcompress.deploy.sessions import session
from edcompress.errors import InputError
from edcompress.networks.modes import on_cpu
from edcompress.results import Count, Proof

__all__ = ["compare_with_onnx", "run_onnx", "session"]

BATCH_SIZES = (1, 2, 5)
FEWEST_IMAGES = 8
CHUNK = 32
"""Images per call, where the batch size is not what is tested."""


def run_onnx(model: Path | onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """The logits [N, classes] of images [N, C, H, W], fp32 on the CPU, from onnxruntime.

    Raises InputError when the model cannot be loaded or does not take one input of this shape.
    """
    opened = session(model) if isinstance(model, Path) else model
    taken = opened.get_inputs()
    fits = len(taken) == 1 and len(taken[0].shape) == images.ndim and _same_shape(taken[0].shape, images)
    if not fits:
        wanted = [f"{value.name} {value.shape}" for value in taken]
        raise InputError(f"the ONNX model takes {', '.join(wanted)}, not images of shape {list(images.shape)}")
    values = images.detach().to("cpu", torch.float32).contiguous().numpy()
    return torch.from_numpy(opened.run(None, {taken[0].name: values})[0])


def _same_shape(dimensions: list[int | str | None], images: Tensor) -> bool:
    """Whether all dimensions that the model fixes are those of the images; the others are symbolic names or None."""
    pairs = zip(dimensions, images.shape, strict=True)
    return all(not isinstance(fixed, int) or fixed == given for fixed, given in pairs)


@torch.inference_mode()
def compare_with_onnx(network: nn.Module, path: Path, images: Tensor) -> Proof:
    """How far the logits of the network (eval, fp32, CPU) and of its ONNX file are apart over images [N, C, H, W].

    The file runs all images, and the first eight also at batch sizes 1, 2 and 5; NaN logits make the differences NaN.
    Raises InputError with fewer than 8 images, or when the file cannot be loaded.
    """
    if len(images) < FEWEST_IMAGES:
        raise InputError(f"comparing with ONNX needs at least {FEWEST_IMAGES} images, not {len(images)}")
    images = images.to("cpu", torch.float32)
    frozen, opened = on_cpu(network), session(path)
    logits = torch.cat([frozen(batch) for batch in torch.split(images, CHUNK)])
    found = torch.cat([run_onnx(opened, batch) for batch in torch.split(images, CHUNK)])
    few = images[:FEWEST_IMAGES]
    again = torch.stack(
        [torch.cat([run_onnx(opened, batch) for batch in torch.split(few, size)]) for size in BATCH_SIZES]
    )
    differences = (found - logits).abs()
    largest = torch.stack([differences.max(), (again - logits[:FEWEST_IMAGES]).abs().max()]).max()
    agreeing = int((found.argmax(dim=1) == logits.argmax(dim=1)).sum())
    return Proof(
        max_abs_diff=float(largest),
        mean_abs_diff=float(differences.mean()),
        scale=float(logits.abs().max()),
        of=f"logits of {len(images)} images, of {FEWEST_IMAGES} at batch 1, 2 and 5 too",
        agreeing=Count(correct=agreeing, total=len(images)),
    )
