"""Pruning space, costs and budget, checked before any compute."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from edcompress.core.errors import BudgetError, EdcompressError, NetworkError
from edcompress.core.recipe.data import DEFAULT_BATCH, Data
from edcompress.core.recipe.deployment import Benchmark, Export
from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.data.transforms import normalise
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.layer_table import measure_table
from edcompress.networks.build import example_images
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space


def find_space(
    network: nn.Module,
    example: Tensor,
    data: Data,
    constraints: Constraints,
    images: Tensor | None = None,
    ranks: int = 1,
) -> PruningSpace:
    """Return the groups of channels that can be removed exactly under the constraints, and those that are locked, with the reason.

    Removals are tried on `example` [N, C, H, W], on random pixels, and on real `images` [N, C, H, W] if given, at the batch sizes of
    `data`, in train mode shared by so many `ranks`.
    """
    traced = trace_space(network, example, constraints.ignore, constraints.only)
    pixels = _random_pixels(example, data)
    seen = pixels if images is None else torch.cat([pixels[:1], images])
    step = data.batch_size if isinstance(data.batch_size, int) else DEFAULT_BATCH
    return lock_inexact(network, traced, example, seen, {"train": max(2, step // ranks), "eval": data.eval_batch_size})


def _random_pixels(example: Tensor, data: Data) -> Tensor:
    """Return two images of random pixels like `example` [2, C, H, W], normalise as the data says; always the same ones."""
    pixels = torch.randint(256, example.shape, dtype=torch.uint8, generator=Generator().manual_seed(0))
    return normalise(pixels, data)


def require_exportable(network: nn.Module, example: Tensor, model: Model, export: Export) -> None:
    """Raise NetworkError for a network of the user's own factory that cannot become an ONNX file; finding out takes seconds.

    Networks that have names were exported by benchmarks/zoo.py.
    """
    if model.own:
        try:
            to_onnx(on_cpu(network), example, export.opset, export.batch, model.output)
        except EdcompressError as error:
            raise NetworkError(f"{model.own}: {error}") from error


def latency_table(
    network: nn.Module, spec: NetworkSpec, export: Export, timing: Benchmark, ranks: ProcessGroup = ALONE
) -> LatencyTable:
    """Return where the network's time in onnxruntime goes, measured now by the first rank."""
    images, batch, output = example_images(spec.image_shape), export.batch, spec.model.output
    return ranks.run_on_rank0(lambda: measure_table(on_cpu(network), images, export.opset, timing, batch, output))


def costs_and_target(
    network: nn.Module, example: Tensor, space: PruningSpace, target: Target | None, table: LatencyTable | None
) -> tuple[CostModel, Target | None]:
    """Return the cost model of the space, and the target as a share of the dense `network`; raise BudgetError for one above it."""
    if table and target and target.latency_ms is not None and target.latency_ms >= table.milliseconds:
        raise BudgetError(
            f"target.latency_ms = {target.latency_ms:g}: the network takes {table.milliseconds:.3g} ms as it is; lower the target"
        )
    costs = CostModel(space, network, example, table)
    return costs, target.of_dense(table.milliseconds) if table and target else target


def find_feasible_states(
    network: nn.Module,
    example: Tensor,
    space: PruningSpace,
    target: Target | None,
    constraints: Constraints,
    table: LatencyTable | None = None,
) -> FeasibleStates:
    """Return the feasible states of a space under a target and constraints; raise BudgetError if they cannot be met.

    A target in time needs the `latency_table` of the network.
    """
    costs, share = costs_and_target(network, example, space, target, table)
    return FeasibleStates(space, costs, share, constraints)
