"""A model's scores on labelled images: accuracy where each image has one class, and the recipe's metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from edcompress.core.results.measures import Accuracy
from edcompress.core.results.scores import Scores
from edcompress.core.system.device_transfer import to_device
from edcompress.networks.outputs import outputs_of
from edcompress.training.accuracy import Forward, LabelledBatches, accuracy_of_answers, top_classes
from edcompress.training.metric import Metric, Outputs


def has_one_class(logits: Tensor, labels: Tensor) -> bool:
    """Return whether images have one class each, for logits [N, classes] and labels int64 [N]."""
    return logits.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point()


def on_cpu(output: Any, chosen: str | None) -> Outputs:
    """Return the outputs that count as float32 on the CPU."""
    return {name: value.float().cpu() for name, value in outputs_of(output, chosen).items()}


@torch.no_grad()
def measure_scores(
    forward: Forward, batches: LabelledBatches, device: torch.device, metric: Metric, chosen: str | None = None
) -> Scores:
    """Return the scores of `forward` over labelled batches, in fp32.

    Args:
        forward: Maps images [N, C, H, W] to what the network returns.
        batches: Images and labels.
        device: Where `forward` computes.
        metric: The recipe's metric, other than top-1 and top-5.
        chosen: Which output counts (`model.output`).

    Raises:
        InputError: The metric is not defined for these images, or the user's own metric fails.
    """
    statistics, answers = [], []
    for images, labels in batches:
        outputs = on_cpu(forward(to_device(images, device)), chosen)
        statistics.append(metric.statistics(outputs, labels))
        first = next(iter(outputs.values()))
        if len(outputs) == 1 and has_one_class(first, labels):
            answers.append((labels, top_classes(first)))
    score, _ = metric.score(statistics)
    return Scores(accuracy=accuracy_from(answers), score=score, metric=metric.info)


def accuracy_from(answers: Iterable[tuple[Tensor, Tensor]]) -> Accuracy | None:
    """Return the accuracy of pairs of labels [N] and top classes [N, K]; None without a pair."""
    pairs = list(answers)
    if not pairs:
        return None
    return accuracy_of_answers(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
