import pytest
import torch

from edcompress.core.recipe.training import TrainingConfig
from edcompress.training.mixing import make_mix

IMAGES = torch.stack([torch.full((1, 8, 8), float(value)) for value in range(4)])
LABELS = torch.tensor([0, 1, 2, 0])


def test_without_alpha_nothing_is_mixed() -> None:
    assert make_mix(TrainingConfig(), 3) is None


@pytest.mark.parametrize("config", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 0.5}])
def test_labels_are_mixed_in_the_share_of_the_pixels(config: dict[str, float]) -> None:
    mix = make_mix(TrainingConfig(**config), 3)
    assert mix is not None
    torch.manual_seed(3)
    images, labels = mix(IMAGES, LABELS)
    assert images.shape == IMAGES.shape
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    # the second image is made of 1 and its predecessor 0: its mean is the share of its own label
    torch.testing.assert_close(images[1].mean(), labels[1, 1])
    assert 0 < labels[1, 1] < 1


def test_mixing_draws_from_the_default_generator() -> None:
    mix = make_mix(TrainingConfig(mixup=1.0), 3)
    assert mix is not None
    torch.manual_seed(1)
    first, _ = mix(IMAGES, LABELS)
    torch.manual_seed(1)
    again, _ = mix(IMAGES, LABELS)
    assert torch.equal(first, again)
