"""Attention over more or fewer dimensions than four (windows of tokens, or no heads), as torch's ONNX exporter can write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FlatAttention(TorchFunctionMode):
    """While it is active, attention [..., N, d] is computed as attention [B, heads, N, d], which is the same."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].ndim != 4:
            return _flattened(*args, **kwargs)
        return func(*args, **kwargs)


def _flattened(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
) -> Tensor:
    lead = query.shape[:-3]
    if attn_mask is not None and attn_mask.ndim > 3:
        attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-3:])
    mask = attn_mask if attn_mask is None or attn_mask.ndim < 3 else _in_four(attn_mask)
    attended = F.scaled_dot_product_attention(_in_four(query), _in_four(key), _in_four(value), mask, *rest, **options)
    # The exporter's own form of attention lays its result out differently, and what follows may have been traced as a view.
    return attended.clone(memory_format=torch.contiguous_format).reshape(*query.shape[:-1], value.shape[-1])


def _in_four(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, *tensor.shape[-3:])
