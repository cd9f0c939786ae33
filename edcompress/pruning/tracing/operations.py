"""What torch's operations in a network's own code do to channels, as far as their autograd nodes say.

The dimension of the channels is recognised by its size, where no other has it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edcompress.pruning.torch_private import result_sizes, saved

_TAKEN_OVER = {
    "Amax": "maximum", "Max": "maximum", "Amin": "minimum", "Min": "minimum", "Mean": "mean", "Sum": "sum", "Prod": "product",
    "Std": "standard deviation", "Var": "variance", "LinalgVectorNorm": "norm", "Logsumexp": "logsumexp", "Softmax": "softmax",
}  # fmt: skip
_REARRANGED_BY = {
    "PixelShuffle": "pixel_shuffle", "PixelUnshuffle": "pixel_unshuffle", "ChannelShuffle": "channel_shuffle", "Repeat": "repeat",
}  # fmt: skip


def goes_over(node: Any, width: int | None) -> bool | None:
    """Return whether a dimension that an operation works along holds the `width` channels; None if unknown."""
    sizes, dims = _sizes(node), _dims(node)
    along = [dim for dim in range(1, len(sizes)) if sizes[dim] == width]
    if not dims or len(along) != 1:
        return None
    return along[0] in {dim % len(sizes) for dim in dims}


def size_along(node: Any) -> int | None:
    """Return the size of the dimension that an operation works along, or None."""
    sizes, dims = _sizes(node), _dims(node)
    return sizes[dims[0] % len(sizes)] if dims and sizes else None


def channel_fault(node: Any, width: int | None) -> str | None:
    """Return what an operation does to the `width` channels that surgery does not follow, or None."""
    kind = _kind(node)
    if kind in _REARRANGED_BY and (kind != "Repeat" or goes_over(node, width)):
        return f"the network's code rearranges its channels by {_REARRANGED_BY[kind]}, which surgery does not follow"
    if kind == "ConstantPadNd" and any(saved(node, "pad")[2 * (len(_sizes(node)) - 2) :]):
        return "the network's code pads its channels by a fixed number"
    if (
        kind == "Cat"
        and _dims(node) == [1]
        and len(_sizes(node)) == 4
        and any(f is None for f, _ in node.next_functions)
    ):
        return "the network's code concatenates its channels with some that no layer makes (the image, coordinates, a constant)"
    return None


def taken_over(node: Any, width: int | None) -> str | None:
    """Return what an operation computes of all `width` channels together, where it makes one value of them, or None."""
    over = _TAKEN_OVER.get(_kind(node)) if goes_over(node, width) else None
    return (
        f"the network's code takes the {over} over all of its channels, which changes with their number"
        if over
        else None
    )


def _kind(node: Any) -> str:
    return str(node.name()).partition("Backward")[0]


def _dims(node: Any) -> list[int]:
    """Return the dimensions that an operation works along; torch keeps negative ones as unsigned numbers."""
    if _kind(node) == "Repeat":
        return [dim for dim, times in enumerate(saved(node, "repeats")) if times > 1]
    kept = next((value for value in (saved(node, "dim"), saved(node, "dims")) if value is not None), ())
    dims = kept if isinstance(kept, tuple) else (kept,)
    return [dim - (1 << 64) if dim >> 63 else dim for dim in dims]


def _sizes(node: Any) -> list[int]:
    """Return the sizes of what an operation takes, or else of what it gives; for unbind, with 0 for the dimension that it removes."""
    if sizes := saved(node, "self_sym_sizes"):
        return list(sizes)
    taken = saved(node, "self")
    sizes = list(taken.shape) if isinstance(taken, Tensor) else result_sizes(node)
    if _kind(node) == "Unbind":
        sizes.insert(_dims(node)[0] % (len(sizes) + 1), 0)
    return sizes
