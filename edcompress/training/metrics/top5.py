"""Top-5: the share of images whose class is among the five largest logits."""

from __future__ import annotations

from edcompress.training.metrics.top1 import Top1


class Top5(Top1):
    """The share of images whose class is among the network's first five answers."""

    label = "top-5"
    answers = 5


METRIC = Top5
