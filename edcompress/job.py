"""Everything a stage works on, opened and checked before any compute."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from edcompress.data.images import ImageSet
from edcompress.data.splits import Batch, Splits, check_divides, check_fits, eval_batches, open_splits
from edcompress.data.transforms import as_tested, normalised
from edcompress.deploy.external_data import MOST_BYTES
from edcompress.deploy.latency_table import measure_table
from edcompress.deploy.onnx_export import to_onnx
from edcompress.deploy.parity import FEWEST_IMAGES
from edcompress.digests import Running
from edcompress.errors import BudgetError, DataError, EdcompressError, InputError, NetworkError, first_line
from edcompress.measures import Accuracy
from edcompress.monitor import Monitor
from edcompress.networks.attention import free_heads
from edcompress.networks.checkpoints import read_state_dict
from edcompress.networks.fitting import load_into
from edcompress.networks.independence import require_independent
from edcompress.networks.modes import evaluating, on_cpu
from edcompress.networks.plain_weights import with_plain_weights
from edcompress.networks.registry import build
from edcompress.networks.user_code import require_repeatable, require_trainable, users_code
from edcompress.recipe import Recipe, Target
from edcompress.search.budget import Budget
from edcompress.session import DEFAULT, Session
from edcompress.sources import DEFAULT_BATCH
from edcompress.surgery.costs import CostModel
from edcompress.surgery.latency import LatencyTable
from edcompress.surgery.probe import lock_untrue
from edcompress.surgery.space import Space
from edcompress.surgery.tracing import trace_space
from edcompress.team import ALONE, Team
from edcompress.training.accuracy import Forward, measure_accuracy
from edcompress.training.precision import Precision, choose_precision

PROOF_IMAGES = 8
REAL_IMAGES = 256
WATCHED_IMAGES = 2000


@dataclass(frozen=True)
class Job:
    """A recipe with its data opened, on a device."""

    recipe: Recipe
    splits: Splits
    precision: Precision
    monitor: Monitor
    team: Team = ALONE

    def watched_by(self, monitor: Monitor) -> Job:
        """The same job under another monitor, which hears what the data's folders hold besides, and once of each image that is left out."""
        once = cache(lambda fault: monitor.warning(f"left out: {fault}"))
        if self.team.first:
            for note in self.splits.notes:
                monitor.warning(note)
            for doubt in self.splits.doubts:
                monitor.alarm(doubt)
        return replace(self, monitor=monitor, splits=self.splits.heard_by(once))

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
        return normalised(self.parity_pixels, self.recipe.data)

    @property
    def calibration_images(self) -> Tensor:
        """256 real images [N, C, H, W] spread over the search split, or all of a smaller one, to which int8 activations are scaled."""
        return normalised(self._spread_over(self.splits.search), self.recipe.data)

    @property
    def judging_batch(self) -> Batch:
        """Images of the search split, in one batch, on which states are judged: as many as a step or an evaluation takes at once."""
        data = self.recipe.data
        most = max(data.eval_batch_size, data.step_images // self.team.size)
        chosen = _spread(self.splits.search, most)
        images = self.splits.search.subset(chosen if len(chosen) > 1 else chosen.repeat(2))  # batch norm needs two
        return self._first_batch(images, most)

    def _first_batch(self, images: ImageSet, most: int) -> Batch:
        return next(iter(eval_batches(images, self.recipe.data.model_copy(update={"eval_batch_size": most}))))

    def _spread_over(self, images: ImageSet) -> Tensor:
        chosen = _spread(images, REAL_IMAGES)
        read = images.read(chosen.tolist(), as_tested(self.recipe.data))
        for fault in read.faults:
            images.warn(fault)
        return read.pixels

    def accuracy(self, network: nn.Module, forward: Forward | None = None, images: ImageSet | None = None) -> Accuracy:
        """Top-1 and top-5 of the network (or of `forward`, which uses it) on the test images, or on `images`, in fp32."""
        with evaluating(network):
            batches = eval_batches(images or self.splits.test, self.recipe.data).of(self.team)
            batches = batches.towards(self.precision.device)
            return measure_accuracy(
                forward or network, batches, self.precision.device, self.recipe.model.num_classes, self.team
            )

    def test_batches(self, phase: str, seen: Running | None = None, *, as_pixels: bool = False) -> Iterator[Batch]:
        """The test images, batch by batch; the monitor is told of each as a step of `phase`, and their pixels go into `seen`.

        `as_pixels`: as uint8 [N, H, W, C], which files with the preprocessing inside take.
        """
        batches = eval_batches(self.splits.test, self.recipe.data, as_pixels=True)
        self.monitor.epoch(phase, 0, 1)
        for step, (pixels, labels) in enumerate(batches, 1):
            if seen:
                seen.add(pixels)
            yield pixels.permute(0, 2, 3, 1) if as_pixels else normalised(pixels, self.recipe.data), labels
            self.monitor.step(step, len(batches), {})

    def watched_accuracy(self, network: nn.Module, forward: Forward) -> Accuracy:
        """What is shown while training: accuracy of `forward`, which uses the network, on 2000 images spread over the search split."""
        images = self.splits.search.subset(_spread(self.splits.search, WATCHED_IMAGES))
        batches = eval_batches(images, self.recipe.data).of(self.team)
        batches = batches.towards(self.precision.device)
        with evaluating(network), self.precision.autocast():
            return measure_accuracy(forward, batches, self.precision.device, self.recipe.model.num_classes, self.team)


def _spread(images: ImageSet, most: int) -> Tensor:
    """Which `most` of the images to take, or all, int64: test images lie class by class, so the first would be of a few classes."""
    return torch.linspace(0, len(images) - 1, min(len(images), most)).long()


def open_job(recipe: Recipe, session: Session = DEFAULT) -> Job:
    """The job of a recipe; DataError or InputError where data or device cannot be used."""
    precision = choose_precision(recipe.precision, session.team.device(pick_device(session.device)))
    listed = recipe.data.dataset == "webdataset"
    if listed:
        session.monitor.stage("opening the shards; those that are new or have changed are gone through once")
    if (recipe.data.download or listed) and session.team.size > 1:
        # Else all would download, or go through the shards, at once.
        session.team.from_first(
            lambda: bool(open_splits(recipe.data, seed=recipe.seed, announce=session.monitor.warning))
        )
    splits = open_splits(recipe.data, seed=recipe.seed, announce=session.monitor.warning)
    check_fits(splits, recipe.model, recipe.data)
    check_divides(splits, recipe.data, session.team)
    return Job(recipe, splits, precision, session.monitor, session.team).watched_by(session.monitor)


def open_provable_job(recipe: Recipe, session: Session = DEFAULT) -> Job:
    """`open_job` of what is to be exported some day: DataError too where its test images are too few to prove ONNX files on."""
    job = open_job(recipe, session)
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


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; InputError where there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def memory_told(recipe: Recipe, way_out: str) -> Iterator[None]:
    """A block whose end for want of the device's memory is an EdcompressError that names what it was asked to hold, and the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        data = recipe.data
        raise EdcompressError(
            f"the device is out of memory with data.batch_size {data.batch_size} and data.eval_batch_size {data.eval_batch_size}: "
            f"{first_line(error)}; {way_out}"
        ) from error


def _is_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that there is not: torch has no class of its own for that of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def _fitting(recipe: Recipe) -> Iterator[None]:
    """A block that builds the recipe's network; NetworkError where that takes more memory than there is."""
    try:
        yield
    except (EdcompressError, RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        model = recipe.model
        raise NetworkError(
            f"{model.called} with model.num_classes {model.num_classes} and data.image_size {recipe.data.image_size} takes more memory "
            f"than there is: {first_line(error)}; take a smaller network, or fewer classes"
        ) from error


def example_images(recipe: Recipe) -> Tensor:
    """Two random images [2, C, H, W] of the recipe's input shape; always the same ones."""
    size = recipe.data.image_size
    return torch.randn(2, recipe.model.in_channels, size, size, generator=Generator().manual_seed(0))


def new_network(recipe: Recipe, session: Session = DEFAULT) -> nn.Module:
    """The recipe's network with random weights, on the CPU; NetworkError where it cannot take the recipe's images or be exported."""
    with _fitting(recipe), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(recipe.model, trust_code=session.trust_code)
        _check_tensors(network, recipe)
        _check_size(network, recipe)
        network.float()  # as it is trained, proved and exported
        _check_forward(network, recipe)  # which makes the weights of lazy layers
    if spec := recipe.model.factory:
        images = example_images(recipe).flip(0)  # others than those that a hook may have kept
        require_repeatable(network, spec, images)
        require_independent(network, spec, images)
        require_trainable(network, spec, example_images(recipe), in_part=recipe.search.trains)
        free_heads(network, images)
    return network


def plain_network(recipe: Recipe, session: Session = DEFAULT) -> nn.Module:
    """`new_network` in the form that is pruned, and that run folders hold: every layer holds its weight as it uses it."""
    return with_plain_weights(new_network(recipe, session))


def read_network(recipe: Recipe, checkpoint: Path, session: Session = DEFAULT) -> nn.Module:
    """The recipe's network with the checkpoint's weights, on the CPU, in the form that is pruned."""
    tensors = read_state_dict(checkpoint, trust_pickle=session.trust_pickle, ema=recipe.model.ema)
    network = new_network(recipe, session)
    if begun := load_into(network, tensors, source=str(checkpoint), reset_head=recipe.model.reset_head):
        _tell_untrained(recipe, " and ".join(sorted(begun)), session.monitor)
    return with_plain_weights(network)


def _tell_untrained(recipe: Recipe, begun: str, monitor: Monitor) -> None:
    """Warn that the dense network's classifier, the tensors `begun`, knows nothing; InputError where the recipe goes by what it answers."""
    untrained = f"{begun} begin untrained (model.reset_head), and"
    if recipe.finetune.distill:
        raise InputError(
            f"{untrained} a dense network that knows nothing has nothing to teach; set finetune.distill to 0"
        )
    if recipe.target and recipe.target.max_top1_drop is not None:
        raise InputError(
            f"{untrained} there is no accuracy from which to drop; set another target than target.max_top1_drop"
        )
    monitor.warning(
        f"model.reset_head: {begun} begin untrained, so that the dense network's accuracy, and drops from it, say nothing; "
        "where they count, start from a checkpoint that was trained on these classes"
    )


def find_space(recipe: Recipe, network: nn.Module, images: Tensor | None = None, ranks: int = 1) -> Space:
    """What of the network can be removed exactly under the recipe's constraints, and what is locked and why.

    It is tried on random pixels, and on real `images` [N, C, H, W] where they are given, at the batch sizes of the recipe, in train mode
    shared by so many `ranks`.
    """
    example, constraints, data = example_images(recipe), recipe.constraints, recipe.data
    traced = trace_space(network, example, constraints.ignore, constraints.only)
    pixels = _random_pixels(recipe)
    seen = pixels if images is None else torch.cat([pixels[:1], images])
    step = DEFAULT_BATCH if data.batch_size == "auto" else data.step_images
    return lock_untrue(network, traced, example, seen, {"train": max(2, step // ranks), "eval": data.eval_batch_size})


def _random_pixels(recipe: Recipe) -> Tensor:
    """Two images [2, C, H, W] of random pixels, as the recipe normalises them; always the same ones."""
    size, generator = recipe.data.image_size, Generator().manual_seed(0)
    pixels = torch.randint(256, (2, recipe.model.in_channels, size, size), dtype=torch.uint8, generator=generator)
    return normalised(pixels, recipe.data)


def require_exportable(recipe: Recipe, network: nn.Module) -> None:
    """NetworkError where no ONNX file can be made of a network of the user's own code, which takes seconds to find out.

    The networks that have names were exported by benchmarks/zoo.py.
    """
    if recipe.model.factory:
        try:
            to_onnx(on_cpu(network), example_images(recipe), recipe.export.opset, recipe.export.batch)
        except EdcompressError as error:
            raise NetworkError(f"model.factory: {recipe.model.factory}: {error}") from error


def latency_table(recipe: Recipe, network: nn.Module, team: Team = ALONE) -> LatencyTable | None:
    """Where the network's time in onnxruntime goes, measured now by the first rank; None where the recipe's target is no latency."""
    if not recipe.in_time:
        return None
    return team.from_first(
        lambda: measure_table(
            on_cpu(network), example_images(recipe), recipe.export.opset, recipe.timing, recipe.export.batch
        )
    )


def costs_and_target(
    recipe: Recipe, network: nn.Module, space: Space, table: LatencyTable | None
) -> tuple[CostModel, Target | None]:
    """What states of the space cost, and the recipe's target as a share of the dense `network`; BudgetError for one above it."""
    target = recipe.share_target
    if table and target and target.latency_ms is not None and target.latency_ms >= table.milliseconds:
        raise BudgetError(
            f"target.latency_ms = {target.latency_ms:g}: the network takes {table.milliseconds:.3g} ms as it is; lower the target"
        )
    costs = CostModel(space, network, example_images(recipe), table)
    return costs, target.of_dense(table.milliseconds) if table and target else target


def open_budget(recipe: Recipe, network: nn.Module, space: Space, table: LatencyTable | None = None) -> Budget:
    """What the recipe's target and constraints make of a space; BudgetError where they cannot be met.

    `table` is the network's `latency_table`, which is measured where it is needed and not given.
    """
    costs, target = costs_and_target(recipe, network, space, table or latency_table(recipe, network))
    return Budget(space, costs, target, recipe.constraints)


def _check_tensors(network: nn.Module, recipe: Recipe) -> None:
    others = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise NetworkError(
            f"{recipe.model.called}: its state holds more than tensors: {others[0]} (get_extra_state), which neither "
            "safetensors nor ONNX can hold; keep it out of the state"
        )


def _check_size(network: nn.Module, recipe: Recipe) -> None:
    weights = (weight for weight in network.state_dict().values() if not is_lazy(weight))
    size = 4 * sum(weight.numel() for weight in weights)  # exported in fp32
    if size > MOST_BYTES:
        raise NetworkError(
            f"{recipe.model.called} has {size / (1 << 30):.2f} GiB of weights in fp32, and one ONNX file holds less "
            "than 2 GiB; take a smaller network"
        )


@torch.no_grad()
def _check_forward(network: nn.Module, recipe: Recipe) -> None:
    example, model = example_images(recipe), recipe.model
    size, classes = recipe.data.image_size, model.num_classes
    _require_one_input(network, model.called)
    taken = f"cannot take images of {model.in_channels}x{size}x{size}; see data.image_size and model.stem"
    with (
        users_code(f"{model.factory} {taken}") if model.factory else _library_code(f"{model.arch} {taken}"),
        evaluating(network),
    ):
        logits = network(example)
    if not isinstance(logits, Tensor):
        raise NetworkError(
            f"the network gives a {type(logits).__name__}, not one tensor of logits (2, {classes}) for two images"
        )
    if (shape := tuple(logits.shape)) != (2, classes):
        raise NetworkError(f"the network gives {shape} for two images, not (2, {classes}); see model.num_classes")


def _require_one_input(network: nn.Module, called: str) -> None:
    """Raise NetworkError for a forward that needs more than a batch of images."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has none
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise NetworkError(
            f"{called} takes {len(needed)} inputs ({', '.join(needed)}), and it is given one, a batch of images; have the factory return a "
            "module whose forward takes the images alone"
        )


@contextmanager
def _library_code(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        raise NetworkError(f"{what} ({first_line(error)})") from error
