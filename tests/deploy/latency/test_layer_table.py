import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.system import machine
from edcompress.deploy.latency import layer_table
from edcompress.deploy.latency.layer_grid import Grid, LayerShape, measure_grid
from edcompress.deploy.latency.layer_table import GridCache, layer_shape, measure_table

CONV = LayerShape(16, 32, 1, (3, 3), (2, 2), (1, 1), (1, 1), (9, 9), linear=False)
DEPTHWISE = LayerShape(1, 24, 24, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8), linear=False)
GROUPED = LayerShape(4, 32, 4, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8), linear=False)
LINEAR = LayerShape(32, 10, 1, (), (), (), (), (5,), linear=True)
HEAD = LayerShape(32, 10, 1, (), (), (), (), (), linear=True)


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [
        (CONV, (8, 16), (8, 16, 24, 32)),
        (DEPTHWISE, (1,), (3, 6, 9, 12, 18, 24)),
        (GROUPED, (4,), (8, 16, 24, 32)),
        (LINEAR, (8, 16, 24, 32), (8, 10)),
        (HEAD, (8, 16, 24, 32), (8, 10)),
    ],
)
def test_a_grid_has_a_time_for_every_pair_of_widths(
    shape: LayerShape, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    grid = measure_grid(shape, Benchmark(batch_size=2))
    assert (grid.inputs, grid.outputs) == (inputs, outputs)
    times = torch.tensor(grid.milliseconds)
    assert times.shape == (len(inputs), len(outputs))
    assert (times >= 0).all()
    assert times[-1, -1] > 0


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding="same", groups=24)
        self.unused = nn.Conv2d(24, 24, 1)
        self.tokens, self.fc = nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x).relu())
        logits: Tensor = self.fc(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))
        return logits


def test_shapes_are_those_of_the_layers() -> None:
    network = Mixed()
    assert layer_shape(network.stem, torch.Size([2, 3, 8, 6])) == (
        3, 24, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 6), False)  # fmt: skip
    assert layer_shape(network.depthwise, torch.Size([2, 24, 8, 8])) is None
    assert layer_shape(network.tokens, torch.Size([2, 64, 24])) == (24, 16, 1, (), (), (), (), (64,), True)
    assert layer_shape(network.fc, torch.Size([2, 16])) == (16, 3, 1, (), (), (), (), (), True)
    assert layer_shape(nn.Linear(5000, 1000), torch.Size([2, 5000])) is None


def test_a_table_tells_where_the_time_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = measure_table(Mixed().eval(), torch.randn(2, 3, 16, 16), 18, Benchmark(runs=20))
    layers = {layer.name: layer for layer in table.layers}
    assert list(layers) == ["stem", "depthwise", "tokens", "fc"]
    assert 0 < sum(layer.share for layer in table.layers) <= 1
    assert (layers["depthwise"].inputs, layers["depthwise"].outputs) == ((1,), (24,))  # not measured alone
    assert layers["tokens"].inputs == (8, 16, 24)
    assert table.milliseconds > 0


class OneByOne(nn.Module):
    """A network whose graph depends on the number of images: it is exported with a fixed batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 2)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.fc(image.flatten()[None]) for image in images])


def test_a_network_that_needs_a_fixed_batch_is_timed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = measure_table(OneByOne().eval(), torch.randn(2, 3, 2, 2), 20, Benchmark(batch_size=4, runs=20), 4)
    assert [layer.name for layer in table.layers] == ["fc"]
    assert table.milliseconds > 0


def test_what_was_measured_while_it_waited_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, delays = GridCache(Benchmark()), iter([0, 0, 0, 3_600_000_000_000])
    monkeypatch.setattr(machine, "run_delay", lambda: next(delays))
    for shape in (HEAD, LINEAR):
        cache.grid(shape)
    cache.save()
    (path,) = (tmp_path / "edcompress").iterdir()
    assert list(json.loads(path.read_text())) == [json.dumps(HEAD)]


def test_what_was_measured_once_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "run_delay", lambda: None)  # else other tests beside this one count
    cache = GridCache(Benchmark())
    grid = cache.grid(CONV)
    cache.save()
    (path,) = (tmp_path / "edcompress").iterdir()
    content = json.loads(path.read_text())
    (key,) = content
    content[key][2][0][0] = 1234.5  # what no measuring gives
    path.write_text(json.dumps(content))
    again = GridCache(Benchmark()).grid(CONV)
    assert again.milliseconds[0][0] == 1234.5
    assert again.milliseconds[1:] == grid.milliseconds[1:]
    assert GridCache(Benchmark(batch_size=2)).grid(CONV).milliseconds[0][0] < 1000  # another batch is another file
    path.write_text("{")
    assert GridCache(Benchmark()).grid(CONV).milliseconds[0][0] < 1000  # a broken cache is measured again


class OtherRuntime:
    version = "0.9"


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (Benchmark(), "processor", lambda: "another processor"),
        (Benchmark(), "load_runtime", OtherRuntime),
        (Benchmark(threads=2), None, None),
        (Benchmark(batch_size=2), None, None),
        (Benchmark(provider="CUDAExecutionProvider"), None, None),
    ],
    ids=["processor", "version", "threads", "batch_size", "provider"],
)
def test_a_grid_that_was_measured_elsewhere_or_otherwise_is_measured_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Benchmark,
    name: str | None,
    value: Callable[[], object] | None,
) -> None:
    """As in a home folder that several machines share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "run_delay", lambda: None)
    times = iter([((1.0,),), ((2.0,),)])
    monkeypatch.setattr(layer_table, "measure_grid", lambda *_: Grid((1,), (1,), next(times)))
    cache = GridCache(Benchmark())
    cache.grid(HEAD)
    cache.save()
    assert GridCache(Benchmark()).grid(HEAD).milliseconds == ((1.0,),)
    if name:
        monkeypatch.setattr(layer_table, name, value)
    assert GridCache(options).grid(HEAD).milliseconds == ((2.0,),)


def test_a_cache_that_cannot_be_kept_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose home is another's, or where a file is in the way."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = GridCache(Benchmark())
    grid = cache.grid(HEAD)
    cache.save()
    assert cache.grid(HEAD) == grid
