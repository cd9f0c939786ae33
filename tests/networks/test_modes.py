import torch
from torch import nn

from edcompress.networks.modes import on_cpu


def test_the_copy_is_independent_eval_and_fp32() -> None:
    layer = nn.Conv2d(2, 2, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    copied = on_cpu(layer).get_parameter("weight")
    assert not on_cpu(layer).training
    assert copied.dtype == torch.float32
    assert copied.is_contiguous()
    assert layer.training
    assert layer.weight.dtype == torch.bfloat16
    assert not layer.weight.is_contiguous()
