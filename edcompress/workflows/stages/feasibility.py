"""Space, costs and budget, checked before compute."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from edcompress.core.errors import BudgetError, EdcompressError, NetworkError
from edcompress.core.recipe.data import DEFAULT_BATCH
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.target import Target
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.data.transforms import normalise
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.layer_table import measure_table
from edcompress.networks.build import example_images
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space


def find_space(recipe: Recipe, network: nn.Module, images: Tensor | None = None, ranks: int = 1) -> PruningSpace:
    """What of the network can be removed exactly under the recipe's constraints, and what is locked and why.

    It is tried on random pixels, and on real `images` [N, C, H, W] where they are given, at the batch sizes of the recipe, in train mode
    shared by so many `ranks`.
    """
    example, constraints, data = example_images(recipe), recipe.constraints, recipe.data
    traced = trace_space(network, example, constraints.ignore, constraints.only)
    pixels = _random_pixels(recipe)
    seen = pixels if images is None else torch.cat([pixels[:1], images])
    step = DEFAULT_BATCH if data.batch_size == "auto" else data.step_images
    return lock_inexact(network, traced, example, seen, {"train": max(2, step // ranks), "eval": data.eval_batch_size})


def _random_pixels(recipe: Recipe) -> Tensor:
    """Two images [2, C, H, W] of random pixels, as the recipe normalises them; always the same ones."""
    size, generator = recipe.data.image_size, Generator().manual_seed(0)
    pixels = torch.randint(256, (2, recipe.model.in_channels, size, size), dtype=torch.uint8, generator=generator)
    return normalise(pixels, recipe.data)


def require_exportable(recipe: Recipe, network: nn.Module) -> None:
    """NetworkError where no ONNX file can be made of a network of the user's own code, which takes seconds to find out.

    The networks that have names were exported by benchmarks/zoo.py.
    """
    if recipe.model.factory:
        try:
            to_onnx(on_cpu(network), example_images(recipe), recipe.export.opset, recipe.export.batch)
        except EdcompressError as error:
            raise NetworkError(f"model.factory: {recipe.model.factory}: {error}") from error


def latency_table(recipe: Recipe, network: nn.Module, ranks: ProcessGroup = ALONE) -> LatencyTable | None:
    """Where the network's time in onnxruntime goes, measured now by the first rank; None where the recipe's target is no latency."""
    if not recipe.targets_latency:
        return None
    return ranks.run_on_rank0(
        lambda: measure_table(
            on_cpu(network), example_images(recipe), recipe.export.opset, recipe.timing, recipe.export.batch
        )
    )


def costs_and_target(
    recipe: Recipe, network: nn.Module, space: PruningSpace, table: LatencyTable | None
) -> tuple[CostModel, Target | None]:
    """What states of the space cost, and the recipe's target as a share of the dense `network`; BudgetError for one above it."""
    target = recipe.share_target
    if table and target and target.latency_ms is not None and target.latency_ms >= table.milliseconds:
        raise BudgetError(
            f"target.latency_ms = {target.latency_ms:g}: the network takes {table.milliseconds:.3g} ms as it is; lower the target"
        )
    costs = CostModel(space, network, example_images(recipe), table)
    return costs, target.of_dense(table.milliseconds) if table and target else target


def open_budget(recipe: Recipe, network: nn.Module, space: PruningSpace, table: LatencyTable | None = None) -> Budget:
    """What the recipe's target and constraints make of a space; BudgetError where they cannot be met.

    `table` is the network's `latency_table`, which is measured where it is needed and not given.
    """
    costs, target = costs_and_target(recipe, network, space, table or latency_table(recipe, network))
    return Budget(space, costs, target, recipe.constraints)
