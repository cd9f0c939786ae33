"""Everything a stage works on, opened and checked before any compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from edcompress.core.errors import DataError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import pick_device
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.hashing import TensorDigest
from edcompress.core.system.monitor import Monitor
from edcompress.data.batches import Batch, eval_batches
from edcompress.data.images import ImageSet
from edcompress.data.splits import Splits, check_divides, check_fits, open_splits
from edcompress.data.transforms import eval_geometry, normalise
from edcompress.deploy.runtime.parity import FEWEST_IMAGES
from edcompress.networks.build import example_images
from edcompress.networks.modes import evaluating
from edcompress.training.accuracy import Forward, measure_accuracy
from edcompress.training.precision import Precision, choose_precision

PROOF_IMAGES = 8
REAL_IMAGES = 256
WATCHED_IMAGES = 2000


@dataclass(frozen=True)
class RunContext:
    """A recipe with its data opened, on a device."""

    recipe: Recipe
    splits: Splits
    precision: Precision
    monitor: Monitor
    ranks: ProcessGroup = ALONE

    def watched_by(self, monitor: Monitor) -> RunContext:
        """The same job under another monitor, which hears what the data's folders hold besides, and once of each image that is left out."""
        once = cache(lambda fault: monitor.warning(f"left out: {fault}"))
        if self.ranks.is_main:
            for note in self.splits.notes:
                monitor.warning(note)
            for doubt in self.splits.doubts:
                monitor.alarm(doubt)
        return replace(self, monitor=monitor, splits=self.splits.with_warnings_to(once))

    @cached_property
    def example(self) -> Tensor:
        """Two random images [2, C, H, W] of the network's input shape, for tracing and counting."""
        return example_images(self.recipe)

    @cached_property
    def proof_images(self) -> Tensor:
        """Eight real images [8, C, H, W] of the search split, on which models are proved equal; repeated where it has fewer."""
        images, _ = self._first_batch(self.splits.search, max(self.recipe.data.eval_batch_size, PROOF_IMAGES))
        repeats = -(-PROOF_IMAGES // len(images))
        return images.repeat(repeats, 1, 1, 1)[:PROOF_IMAGES]

    @cached_property
    def probe_images(self) -> Tensor:
        """Two real images [2, C, H, W] of the search split, or one, on which removals are tried; few are read."""
        few = self.splits.search.subset(_spread(self.splits.search, PROOF_IMAGES))
        return self._first_batch(few, PROOF_IMAGES)[0][:2]

    @cached_property
    def parity_pixels(self) -> Tensor:
        """256 real images, uint8 [N, C, H, W], spread over the test split, or all of a smaller one, to hold files against networks on."""
        return self._spread_over(self.splits.test)

    @property
    def parity_images(self) -> Tensor:
        """The same images as the network takes them, float32."""
        return normalise(self.parity_pixels, self.recipe.data)

    @property
    def calibration_images(self) -> Tensor:
        """256 real images [N, C, H, W] spread over the search split, or all of a smaller one, to which int8 activations are scaled."""
        return normalise(self._spread_over(self.splits.search), self.recipe.data)

    @property
    def scoring_batch(self) -> Batch:
        """Images of the search split, in one batch, on which states are judged: as many as a step or an evaluation takes at once."""
        data = self.recipe.data
        most = max(data.eval_batch_size, data.step_images // self.ranks.size)
        chosen = _spread(self.splits.search, most)
        images = self.splits.search.subset(chosen if len(chosen) > 1 else chosen.repeat(2))  # batch norm needs two
        return self._first_batch(images, most)

    def _first_batch(self, images: ImageSet, most: int) -> Batch:
        return next(iter(eval_batches(images, self.recipe.data.model_copy(update={"eval_batch_size": most}))))

    def _spread_over(self, images: ImageSet) -> Tensor:
        chosen = _spread(images, REAL_IMAGES)
        read = images.read(chosen.tolist(), eval_geometry(self.recipe.data))
        for fault in read.faults:
            images.warn(fault)
        return read.pixels

    def accuracy(self, network: nn.Module, forward: Forward | None = None, images: ImageSet | None = None) -> Accuracy:
        """Top-1 and top-5 of the network (or of `forward`, which uses it) on the test images, or on `images`, in fp32."""
        with evaluating(network):
            batches = eval_batches(images or self.splits.test, self.recipe.data).for_rank(self.ranks)
            batches = batches.pinned_for(self.precision.device)
            return measure_accuracy(
                forward or network, batches, self.precision.device, self.recipe.model.num_classes, self.ranks
            )

    def test_batches(self, phase: str, seen: TensorDigest | None = None, *, as_pixels: bool = False) -> Iterator[Batch]:
        """The test images, batch by batch; the monitor is told of each as a step of `phase`, and their pixels go into `seen`.

        `as_pixels`: as uint8 [N, H, W, C], which files with the preprocessing inside take.
        """
        batches = eval_batches(self.splits.test, self.recipe.data, as_pixels=True)
        self.monitor.epoch(phase, 0, 1)
        for step, (pixels, labels) in enumerate(batches, 1):
            if seen:
                seen.update(pixels)
            yield pixels.permute(0, 2, 3, 1) if as_pixels else normalise(pixels, self.recipe.data), labels
            self.monitor.step(step, len(batches), {})

    def watched_accuracy(self, network: nn.Module, forward: Forward) -> Accuracy:
        """What is shown while training: accuracy of `forward`, which uses the network, on 2000 images spread over the search split."""
        images = self.splits.search.subset(_spread(self.splits.search, WATCHED_IMAGES))
        batches = eval_batches(images, self.recipe.data).for_rank(self.ranks)
        batches = batches.pinned_for(self.precision.device)
        with evaluating(network), self.precision.autocast():
            return measure_accuracy(forward, batches, self.precision.device, self.recipe.model.num_classes, self.ranks)


def _spread(images: ImageSet, most: int) -> Tensor:
    """Which `most` of the images to take, or all, int64: test images lie class by class, so the first would be of a few classes."""
    return torch.linspace(0, len(images) - 1, min(len(images), most)).long()


def open_job(recipe: Recipe, options: RunOptions = DEFAULT) -> RunContext:
    """The job of a recipe; DataError or InputError where data or device cannot be used."""
    precision = choose_precision(recipe.precision, options.ranks.device_for_rank(pick_device(options.device)))
    indexing = recipe.data.facts.indexing
    if indexing:
        options.monitor.stage(indexing)
    if (recipe.data.download or indexing) and options.ranks.size > 1:
        # Else all would download, or go through the shards, at once.
        options.ranks.run_on_rank0(
            lambda: bool(open_splits(recipe.data, seed=recipe.seed, announce=options.monitor.warning))
        )
    splits = open_splits(recipe.data, seed=recipe.seed, announce=options.monitor.warning)
    check_fits(splits, recipe.model, recipe.data)
    check_divides(splits, recipe.data, options.ranks)
    return RunContext(recipe, splits, precision, options.monitor, options.ranks).watched_by(options.monitor)


def open_provable_job(recipe: Recipe, options: RunOptions = DEFAULT) -> RunContext:
    """`open_job` of what is to be exported some day: DataError too where its test images are too few to prove ONNX files on."""
    job = open_job(recipe, options)
    found = len(job.splits.test)
    if recipe.data.skip_broken and found >= FEWEST_IMAGES:
        found = len(job.parity_pixels)  # those that can be read
    if found < FEWEST_IMAGES:
        search = "; data.search_from=test takes its images from there" if recipe.data.search_from == "test" else ""
        raise DataError(
            f"data: the test split (val/, test_shards) has {found} images, and ONNX files are proved on {FEWEST_IMAGES} of them at least; "
            f"add images to it{search}"
        )
    return job
