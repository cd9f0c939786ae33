"""Small images of discs, squares and crosses in noise, with their classes and masks: data for the examples, made in a second."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

SIZE = 24
NAMES = ("disc", "square", "cross")


def draw(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images float32 [N, 1, 24, 24], the class of each int64 [N], and its mask int64 [N, 24, 24]: 0, or the class plus 1."""
    chance = Generator().manual_seed(seed)
    classes = torch.randint(len(NAMES), (count,), generator=chance)
    middle = 7 + 10 * torch.rand(count, 2, 1, 1, generator=chance)
    radius = 3 + 3 * torch.rand(count, 1, 1, generator=chance)
    down, right = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    y, x = (down - middle[:, 0]).abs(), (right - middle[:, 1]).abs()
    disc = x**2 + y**2 <= radius**2
    square = torch.maximum(x, y) <= 0.85 * radius
    cross = (torch.minimum(x, y) <= 1.2) & (torch.maximum(x, y) <= 1.2 * radius)
    inside = torch.stack([disc, square, cross])[classes, torch.arange(count)]
    light = 0.4 + 0.6 * torch.rand(count, 1, 1, generator=chance)
    images = inside * light + 0.12 * torch.randn(count, SIZE, SIZE, generator=chance)
    return images.unsqueeze(1), classes, inside * (classes + 1).view(-1, 1, 1)
