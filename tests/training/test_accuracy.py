import math

import pytest
import torch
from torch import Tensor

from edcompress.training.accuracy import accuracy_of, count_agreeing, count_correct, measure_accuracy, top_classes

CPU = torch.device("cpu")


def test_top_1_and_top_5_by_hand() -> None:
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3], [9.0, 8, 7, 6, 5, 4, 3], [9.0, 8, 7, 6, 5, 4, 3]])
    # class 0 is first, class 4 fifth, class 5 sixth
    assert count_correct(logits, torch.tensor([0, 4, 5])) == (1, 2)


def test_fewer_than_five_classes_are_all_in_the_top() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert count_correct(logits, torch.tensor([2, 2])) == (1, 2)


def test_of_equal_logits_the_first_class_wins() -> None:
    """Logits in eight bits are often equal; argmax, which programs print, takes the first."""
    logits = torch.randint(4, (300, 20), generator=torch.Generator().manual_seed(0)).float()
    by_hand = [sorted(range(20), key=lambda k, row=row: (-row[k], k))[:5] for row in logits.tolist()]
    assert top_classes(logits).tolist() == by_hand
    assert torch.equal(top_classes(logits)[:, 0], logits.argmax(dim=1))
    assert count_correct(torch.zeros(2, 7), torch.tensor([0, 5])) == (1, 1)


def test_images_agree_by_their_top_class() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [math.nan, 0.0, 0.0], [0.0, 1.0, 2.0]])
    others = torch.tensor([[1.0, 0.0, 0.0], [math.nan, 0.0, 0.0], [2.0, 1.0, 0.0]])
    assert count_agreeing(top_classes(logits), top_classes(others)) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_image_is_wrong(broken: float) -> None:
    logits = torch.tensor([[5.0, broken, 0.0], [5.0, 1.0, 0.0]])
    assert count_correct(logits, torch.tensor([0, 0])) == (1, 1)
    logits = torch.tensor([[5.0, broken, 0.0]])
    assert count_correct(logits, torch.tensor([1])) == (0, 0)


def test_batches_of_any_size_add_up() -> None:
    def forward(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return (20 * torch.nn.functional.one_hot(images.long(), 7) - torch.arange(7)).bfloat16()

    said, labels = torch.tensor([0.0, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 0, 6])
    batches = [(said[:2], labels[:2]), (said[2:4], labels[2:4]), (said[4:], labels[4:])]
    accuracy = measure_accuracy(forward, batches, CPU, 7)
    assert (accuracy.top1.correct, accuracy.top1.total) == (3, 5)
    assert accuracy.top1.fraction == 0.6
    # the rest stand in the order of their number: 3 0 1 2 4 holds class 0, 4 0 1 2 3 does not hold class 6
    assert (accuracy.top5.correct, accuracy.top5.total) == (4, 5)


def test_the_chance_level_is_that_of_the_answers_and_labels_by_class() -> None:
    measured = accuracy_of(3, 4, torch.tensor([3, 1]), torch.tensor([2, 2]))
    assert measured.chance == (3 * 2 + 1 * 2) / 4**2
    assert accuracy_of(0, 0, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)).chance is None
