"""The latency table of a network: where its time goes, and where it would go at other widths; measurements are cached."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from edcompress.core.errors import StorageError
from edcompress.core.recipe.deployment import Batch, Benchmark
from edcompress.core.results.measures import MOST_WAITED, Latency
from edcompress.core.system.files import replacing
from edcompress.core.system.machine import WaitTimer, cache_home, processor
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.benchmark import measure
from edcompress.deploy.latency.layer_grid import Grid, LayerShape, measure_grid
from edcompress.deploy.latency.layer_profile import measure_layer_shares
from edcompress.deploy.runtime.sessions import load_runtime
from edcompress.networks.modes import run_once
from edcompress.pruning.cost.latency_model import LatencyTable, LayerTime
from edcompress.pruning.space.layers import CONVS

MOST_WEIGHTS = 1 << 22
"""Weights of a layer that is measured at other widths; the time of a larger one is proportional to its weights, which must all be read."""


def measure_table(
    network: nn.Module,
    example: Tensor,
    opset: int,
    options: Benchmark,
    batch: Batch = "dynamic",
    output: str | None = None,
) -> LatencyTable:
    """Measure the latency table of a network.

    Args:
        network: The network on the CPU in eval mode.
        example: Images [N, ...] like those that it takes.
        opset: Version of ONNX's operators.
        options: How times are measured.
        batch: Images per call that its file insists on, the batch size of the options then.
        output: Which output counts (`model.output`).
    """
    model = to_onnx(network, example, opset, batch, output)
    shares = measure_layer_shares(network, model, example, options)
    cache = GridCache(options)
    layers = []
    for name, layer, image in _inputs(network, example):
        outputs, inputs = layer.get_parameter("weight").shape[:2]
        shape = layer_shape(layer, image)
        grid = cache.grid(shape) if shape and name in shares else Grid((inputs,), (outputs,), ((1.0,),))
        layers.append(
            LayerTime(
                name=name,
                share=shares.get(name, 0.0),
                inputs=grid.inputs,
                outputs=grid.outputs,
                times=grid.milliseconds,
            )
        )
    cache.save()
    whole = _measured(model, options)
    return LatencyTable(layers=tuple(layers), milliseconds=whole.p50, lost=whole.lost)


def _measured(model: onnx.ModelProto, options: Benchmark) -> Latency:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        onnx.save_model(model, str(path))
        return measure({"dense": path}, options)["dense"]


def layer_shape(layer: nn.Module, image: torch.Size) -> LayerShape | None:
    """Return the shape of a layer that takes inputs [N, ...] of this size; None for one that is not measured alone."""
    if isinstance(layer, nn.Linear) and layer.weight.numel() <= MOST_WEIGHTS:
        return LayerShape(layer.in_features, layer.out_features, 1, (), (), (), (), tuple(image[1:-1]), linear=True)
    if isinstance(layer, nn.Conv2d) and layer.weight.numel() <= MOST_WEIGHTS and isinstance(layer.padding, tuple):
        return LayerShape(
            layer.weight.shape[1], layer.out_channels, layer.groups, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, tuple(image[2:]), linear=False)  # fmt: skip
    return None


def _inputs(network: nn.Module, example: Tensor) -> Iterator[tuple[str, nn.Module, torch.Size]]:
    """Yield each convolution and linear layer with the size of its input [N, ...], of the first call where there are several."""
    sizes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.setdefault(layer, args[0].shape)

    counted = {name: layer for name, layer in network.named_modules() if isinstance(layer, (*CONVS, nn.Linear))}
    run_once(network, example, [layer.register_forward_pre_hook(note) for layer in counted.values()])
    yield from ((name, layer, sizes[layer]) for name, layer in counted.items() if layer in sizes)


class GridCache:
    """Grids that were measured with the same processor, provider, threads, batch size and version of the runtime.

    A grid whose measurement waited for its cores is not kept for later runs.
    """

    def __init__(self, options: Benchmark) -> None:
        self._options = options
        about = (
            processor(),
            options.provider,
            options.first.threads,
            options.first.batch_size,
            load_runtime().version,
        )
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        self._path = cache_home() / f"latency-{name}.json"
        self._grids: dict[str, Grid] = self._read()
        self._distrusted: set[str] = set()

    def grid(self, shape: LayerShape) -> Grid:
        """Return the grid of a shape, measured now if it was not before."""
        key = json.dumps(shape)
        if key not in self._grids:
            watch = WaitTimer()
            self._grids[key] = measure_grid(shape, self._options)
            if (watch.waited() or 0.0) > MOST_WAITED:
                self._distrusted.add(key)
        return self._grids[key]

    def save(self) -> None:
        """Write the grids to the cache, where that is possible; what is not kept is measured again."""
        kept = {key: grid for key, grid in self._grids.items() if key not in self._distrusted}
        with suppress(OSError, StorageError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as part:
                part.write_text(json.dumps(kept), encoding="utf-8")

    def _read(self) -> dict[str, Grid]:
        """Read the grids of the cache; none where it is damaged or may not be read, because they can be measured again."""
        try:
            if not self._path.is_file():
                return {}
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {key: Grid(tuple(i), tuple(o), tuple(map(tuple, times))) for key, (i, o, times) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
