"""Rates are of what was read and trained on, and take as long as they may."""

import pytest
import torch

from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.training import TrainingConfig
from edcompress.data.batches import train_batches
from edcompress.data.splits import open_splits
from edcompress.networks.registry import build
from edcompress.training.precision import choose_precision
from edcompress.workflows.throughput import input_rate, input_rates, training_rate

DIGITS = Data(dataset="digits", image_size=8, batch_size=500, workers=1)
MODEL = Model(arch="resnet8", num_classes=10, in_channels=1)


def test_input_is_measured_without_workers_and_with_the_recipes() -> None:
    rates = input_rates(open_splits(DIGITS, seed=0).train, DIGITS, seconds=0.1)
    assert set(rates) == {0, 1}
    for rate in rates.values():
        assert 0.1 <= rate.seconds < 2.0
        assert rate.per_second == pytest.approx(rate.images / rate.seconds)


def test_input_of_several_epochs_is_counted_image_by_image() -> None:
    """Of 1294 images a batch of 500 is not counted, and the epochs follow."""
    images = open_splits(DIGITS, seed=0).train
    rate = input_rate(images, DIGITS.model_copy(update={"workers": 0}), seconds=0.1)
    assert (rate.images + 500) % 1294 in (0, 500, 1000)


def test_one_batch_is_read_and_one_step_done_however_little_time_there_is() -> None:
    images = open_splits(DIGITS, seed=0).train
    assert input_rate(images, DIGITS.model_copy(update={"workers": 0}), seconds=0.0).images == 500
    batch = next(iter(train_batches(images, DIGITS, seed=0, epoch=0)))
    network = build(MODEL)
    rate = training_rate(network, batch, TrainingConfig(), choose_precision("fp32", torch.device("cpu")), seconds=0.0)
    assert rate.images == 500
    assert rate.seconds > 0
