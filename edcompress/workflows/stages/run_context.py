"""The data of a run, opened on a device and checked before any compute, and the images that stages draw from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.errors import DataError, InputError
from edcompress.core.recipe.choices import chosen_data
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import NetworkSpec
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy
from edcompress.core.results.report import Preprocessing
from edcompress.core.results.scores import Scores
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import pick_device
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.hashing import TensorDigest
from edcompress.core.system.monitor import Monitor
from edcompress.data.batches import Batch, Batches, eval_batches, train_batches
from edcompress.data.images import ImageSet, spread
from edcompress.data.own_sets import PARTS, Given
from edcompress.data.splits import Splits, check_divides, check_fits, fingerprint, open_splits, splits_of_objects
from edcompress.data.transforms import eval_geometry, normalise, preprocessing_spec
from edcompress.deploy.runtime.parity import FEWEST_IMAGES
from edcompress.networks.build import example_images
from edcompress.networks.modes import evaluating
from edcompress.networks.outputs import logits_of
from edcompress.training.accuracy import Forward, mean_loss, measure_accuracy, summed_cross_entropy
from edcompress.training.metric import LogitsMetric
from edcompress.training.objective import Criterion, TrainingLabels
from edcompress.training.precision import Precision, choose_precision
from edcompress.training.scores import measure_scores
from edcompress.workflows.stages.task import NO_TASK, Task, open_task, require_measurable_by, require_trainable_by

PROOF_IMAGES = 8
REAL_IMAGES = 256
WATCHED_IMAGES = 2000


@dataclass(frozen=True)
class RunContext:
    """The images of a run as the recipe's `data` prepares them for the network of `spec`, the device, the monitor and the ranks."""

    spec: NetworkSpec
    data: Data
    splits: Splits
    precision: Precision
    monitor: Monitor
    ranks: ProcessGroup = ALONE
    task: Task = NO_TASK

    def watched_by(self, monitor: Monitor) -> RunContext:
        """Return the context under another monitor, which gets the notes on the data, and one warning per image that is left out."""
        once = cache(lambda fault: monitor.warning(f"left out: {fault}"))
        if self.ranks.is_main:
            for note in self.splits.notes:
                monitor.warning(note)
            for doubt in self.splits.doubts:
                monitor.alarm(doubt)
        return replace(self, monitor=monitor, splits=self.splits.with_warnings_to(once))

    def with_batch_size(self, size: int) -> RunContext:
        """Return the context with another data.batch_size; raise InputError if the ranks cannot share such batches."""
        data = self.data.model_copy(update={"batch_size": size})
        check_divides(self.splits, data, self.ranks)
        return replace(self, data=data)

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.spec.seed

    @property
    def device(self) -> torch.device:
        """The device on which networks train."""
        return self.precision.device

    @property
    def preprocessing(self) -> Preprocessing:
        """How a test image becomes the network's input."""
        return preprocessing_spec(self.data, self.splits.channels, prepared=self.splits.prepared)

    @cached_property
    def example(self) -> Tensor:
        """Two random images [2, C, H, W] of the network's input shape, for tracing and counting."""
        return example_images(self.spec.image_shape)

    @cached_property
    def proof_images(self) -> Tensor:
        """Eight real images [8, C, H, W] of the search split, on which models are proved equal; repeated if it has fewer."""
        images, _ = self._first_batch(self.splits.search, max(self.data.eval_batch_size, PROOF_IMAGES))
        repeats = -(-PROOF_IMAGES // len(images))
        return images.repeat(repeats, 1, 1, 1)[:PROOF_IMAGES]

    @cached_property
    def probe_images(self) -> Tensor:
        """Two real images [2, C, H, W] of the search split, or one, on which removals are tried; few images are read."""
        few = self.splits.search.subset(spread(len(self.splits.search), PROOF_IMAGES))
        return self._first_batch(few, PROOF_IMAGES)[0][:2]

    @cached_property
    def first_batch(self) -> Batch:
        """Eight real images of the search split, or all of fewer, a single one twice, with labels: loss and metric are tried on them."""
        return self._sample(self.splits.search, PROOF_IMAGES)

    @cached_property
    def parity_pixels(self) -> Tensor:
        """256 real images, uint8 [N, C, H, W], spread over the test split, or all of a smaller one: files must equal networks on them."""
        return self._spread_over(self.splits.test)

    @property
    def parity_images(self) -> Tensor:
        """The images of `parity_pixels` as the network takes them, float32."""
        return normalise(self.parity_pixels, self.data)

    @property
    def calibration_images(self) -> Tensor:
        """256 real images [N, C, H, W] spread over the search split, or all of a smaller one, that set the scale of int8 activations."""
        return normalise(self._spread_over(self.splits.search), self.data)

    @property
    def scoring_batch(self) -> Batch:
        """One batch of images of the search split that scores states, as large as a training step or an evaluation."""
        most = max(self.data.eval_batch_size, self.data.step_images // self.ranks.size)
        return self._sample(self.splits.search, most)

    def train_batches(self, epoch: int, ranks: ProcessGroup = ALONE) -> Batches:
        """Return the batches of an epoch, counted from 0, in the order and with the augmentation that the seed fixes."""
        return train_batches(self.splits.train, self.data, seed=self.seed, epoch=epoch, ranks=ranks)

    def test_batches(self, phase: str, seen: TensorDigest | None = None, *, as_pixels: bool = False) -> Iterator[Batch]:
        """Yield the test images, batch by batch, each a step of `phase` to the monitor; their pixels are added to `seen`.

        `as_pixels`: as uint8 [N, H, W, C], for files that normalise the images themselves.
        """
        if as_pixels:
            _require_pixels(self.splits)
        batches = eval_batches(self.splits.test, self.data, as_pixels=True)
        self.monitor.epoch(phase, 0, 1)
        for step, (pixels, labels) in enumerate(batches, 1):
            if seen:
                seen.update(pixels)
            yield pixels.permute(0, 2, 3, 1) if as_pixels else normalise(pixels, self.data), labels
            self.monitor.step(step, len(batches), {})

    @property
    def measured(self) -> str:
        """What stages call the recipe's metric: "accuracy" for top-1 and top-5."""
        info = self.task.metric.info
        return "accuracy" if info.counted else info.label

    def accuracy(self, network: nn.Module, forward: Forward | None = None, images: ImageSet | None = None) -> Accuracy:
        """Return top-1 and top-5 of the network, or of `forward`, which uses it, on the test images, or on `images`, in fp32."""
        with evaluating(network):
            return self._accuracy(forward or network, images or self.splits.test)

    def scores(self, network: nn.Module, forward: Forward | None = None, images: ImageSet | None = None) -> Scores:
        """Return the recipe's metric, and top-1 and top-5 where each image has one class, as `accuracy` measures them."""
        with evaluating(network):
            return self._scores(forward or network, images or self.splits.test)

    def watched_scores(self, network: nn.Module, forward: Forward) -> Scores:
        """Return the scores of `forward`, which uses the network, on 2000 images spread over the search split, to watch training."""
        with evaluating(network), self.precision.autocast():
            return self._scores(forward, self.splits.search.subset(spread(len(self.splits.search), WATCHED_IMAGES)))

    def _scores(self, forward: Forward, images: ImageSet) -> Scores:
        metric = self.task.metric
        if metric.info.counted:
            return Scores(accuracy=self._accuracy(forward, images), metric=metric.info)
        batches = eval_batches(images, self.data).pinned_for(
            self.device
        )  # all images on every rank: a metric is not a sum over images
        return measure_scores(forward, batches, self.device, metric, self.spec.model.output)

    def held_out_loss(self, network: nn.Module) -> float:
        """Return the mean loss of the network on 2000 images spread over the search split, or all of fewer."""
        images = self.splits.search.subset(spread(len(self.splits.search), WATCHED_IMAGES))
        with evaluating(network), self.precision.autocast():
            return mean_loss(network, eval_batches(images, self.data), self.device, self._summed_loss)

    def _summed_loss(self, output: Any, labels: Tensor) -> Tensor:
        """Return the sum of the loss over the images of a batch; of a plain classifier the cross-entropy without smoothed labels."""
        criterion = self.task.finetune
        if criterion is None or criterion.plain:
            return summed_cross_entropy(logits_of(output, self.spec.model.output), labels)
        return criterion(output, labels.to(self.device)) * len(labels)

    def _accuracy(self, forward: Forward, images: ImageSet) -> Accuracy:
        batches = eval_batches(images, self.data).for_rank(self.ranks).pinned_for(self.device)
        chosen = self.spec.model.output
        return measure_accuracy(
            lambda given: logits_of(forward(given), chosen),
            batches,
            self.device,
            self.spec.model.num_classes,
            self.ranks,
        )

    def require_usable(self, network: nn.Module, criterion: Criterion | None) -> None:
        """Raise InputError if the loss or the metric of the recipe does not fit the network, tried on some images of the search split."""
        require_trainable_by(criterion, network, *self.first_batch)
        self.require_measurable(network)

    def require_measurable(self, network: nn.Module) -> None:
        """Raise InputError if the metric of the recipe does not fit the network, tried on some images."""
        chosen, metric = self.spec.model.output, self.task.metric
        few = self.first_batch if isinstance(metric, LogitsMetric) else self._sample(self.splits.test, REAL_IMAGES)
        require_measurable_by(metric, network, chosen, *few)

    def _sample(self, images: ImageSet, most: int) -> Batch:
        chosen = spread(len(images), most)
        several = chosen if len(chosen) > 1 else chosen.repeat(2)  # batch norm needs two
        return self._first_batch(images.subset(several), most)

    def _first_batch(self, images: ImageSet, most: int) -> Batch:
        return next(iter(eval_batches(images, self.data.model_copy(update={"eval_batch_size": most}))))

    def _spread_over(self, images: ImageSet) -> Tensor:
        chosen = spread(len(images), REAL_IMAGES)
        read = images.read(chosen.tolist(), eval_geometry(self.data))
        for fault in read.faults:
            images.warn(fault)
        return read.pixels


def open_context(recipe: Recipe, options: RunOptions = DEFAULT) -> RunContext:
    """Open the recipe's data; raise DataError or InputError if data or device cannot be used."""
    data, model, monitor, ranks = recipe.data, recipe.model, options.monitor, options.ranks
    _precision(recipe, options)  # refuses a device that is not there before data are read
    if indexing := data.facts.indexing:
        monitor.stage(indexing)

    any_labels = recipe.finetune.loss_is_own or recipe.train.loss_is_own

    def split() -> Splits:
        if data.dataset == "memory" and "data.train" in options.objects:
            given = Given(*(options.objects.get(f"data.{part}") for part in PARTS))
            return splits_of_objects(given, data, recipe.seed, classes=model.num_classes, any_labels=any_labels)
        return open_splits(
            data,
            seed=recipe.seed,
            announce=monitor.warning,
            trust_code=options.trust_code,
            classes=model.num_classes,
            any_labels=any_labels,
        )

    if (data.download or indexing) and ranks.size > 1:
        ranks.run_on_rank0(lambda: bool(split()))  # otherwise all would download, or index the data, at once
    return make_context(recipe, split(), options)


def make_context(recipe: Recipe, splits: Splits, options: RunOptions = DEFAULT) -> RunContext:
    """Return the context of opened data; raise DataError or InputError if they do not fit the recipe, or the device cannot be used."""
    data, model, ranks = recipe.data, recipe.model, options.ranks
    precision = _precision(recipe, options)
    chosen = chosen_data(data, len(splits.train))
    data = data.model_copy(update={key.removeprefix("data."): choice.value for key, choice in chosen.items()})
    check_fits(splits, model, data)
    check_divides(splits, data, ranks)
    if data.own_code or data.dataset == "memory":
        ranks.require_same("data", *fingerprint(splits))
    sections = {"finetune": recipe.finetune.config, "train": recipe.train}
    labels = _training_labels(splits.train, data, model.num_classes)
    task = open_task(model, sections, recipe.metric, labels, options.trust)
    context = RunContext(recipe.network_spec, data, splits, precision, options.monitor, ranks, task)
    return context.watched_by(options.monitor)


def _training_labels(images: ImageSet, data: Data, classes: int) -> TrainingLabels:
    """Return the labels of the training images, of the first by reading it where the data set shows none."""
    labels = images.labels
    first = images.read([0], eval_geometry(data)).labels if labels is None else labels[:1]
    return TrainingLabels(labels, first, classes)


def _precision(recipe: Recipe, options: RunOptions) -> Precision:
    """Return the precision on this rank's device."""
    return choose_precision(recipe.precision, options.ranks.device_for_rank(pick_device(options.device)))


def _require_pixels(splits: Splits) -> None:
    """Raise InputError where test images are floats, so that no file can take their pixels."""
    if splits.prepared:
        raise InputError(
            "export.with_preprocessing: the test images come as float tensors from your own code, so that no file can take their pixels; "
            "leave it off (export.with_preprocessing=false), or return uint8 pixels"
        )


def open_provable_context(recipe: Recipe, options: RunOptions = DEFAULT) -> RunContext:
    """Open the data of a run that will be exported; raise DataError too for too few test images to prove ONNX files on."""
    context = open_context(recipe, options)
    if recipe.export.with_preprocessing:
        _require_pixels(context.splits)
    found = len(context.splits.test)
    if context.data.skip_broken and found >= FEWEST_IMAGES:
        found = len(context.parity_pixels)  # those that can be read
    if found < FEWEST_IMAGES:
        search = "; data.search_from=test takes its images from there" if context.data.search_from == "test" else ""
        raise DataError(
            f"data: the test split (val/, test_shards) has {found} images, but proving ONNX files takes at least {FEWEST_IMAGES}; "
            f"add images to it{search}"
        )
    return context
