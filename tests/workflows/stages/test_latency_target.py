"""A target in time, from the recipe to the report."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits import ONE_EPOCH, Interrupter, digits, pruned
from torch import nn

from edcompress.core.errors import BudgetError, RunFolderError
from edcompress.core.results.measures import Latency
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.networks.build import example_images
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.cost.network_size import measure_size
from edcompress.runs.folder import RunFolder
from edcompress.workflows.inspect import inspect
from edcompress.workflows.load import load
from edcompress.workflows.stages.latency_target import TOLERANCE, NetworkTimer, match_latency_target
from edcompress.workflows.stages.run_context import open_context
from edcompress.workflows.stages.starting_point import open_starting_point

IN_TIME = (*ONE_EPOCH, "target.macs=null", "constraints.round_to=2", "benchmark.runs=40")


@pytest.mark.integration
def test_a_share_of_the_time_is_predicted_measured_and_reported(dense: Path, tmp_path: Path) -> None:
    report = pruned(dense, tmp_path / "run", digits(*IN_TIME, "target.latency=0.7"))
    target = report.target
    assert (target.kind, target.asked) == ("latency", 0.7)
    assert target.predicted is not None
    assert 0.2 < target.predicted < 1
    assert (
        0.2 < target.achieved < 1
    )  # as measured, on a network of a tenth of a millisecond and a machine with other work
    assert report.pruned.size.macs < report.dense.size.macs
    table = LatencyTable.model_validate_json((tmp_path / "run" / "latency.json").read_text())
    start = open_starting_point(digits(*IN_TIME, "target.latency=0.7"), dense, RunOptions("cpu"))
    assert start.table is not None
    assert [layer.name for layer in table.layers] == [layer.name for layer in start.table.layers]
    kept = json.loads((tmp_path / "run" / "search.jsonl").read_text().splitlines()[-1])["budget"]
    assert kept == 0.7
    load(tmp_path / "run")


@pytest.mark.integration
def test_milliseconds_become_a_share(dense: Path) -> None:
    whole = open_starting_point(digits(*IN_TIME, "target.latency=1.0"), dense, RunOptions("cpu")).table
    assert whole is not None
    asked = 0.6 * whole.milliseconds
    start = open_starting_point(digits(*IN_TIME, f"target.latency_ms={asked}"), dense, RunOptions("cpu"))
    assert start.table is not None
    assert start.feasible.target is not None
    assert start.feasible.target.fraction == pytest.approx(asked / start.table.milliseconds)
    with pytest.raises(BudgetError, match=r"target\.latency_ms = 1000: the network takes \d\.\d+ ms as it is; lower"):
        open_starting_point(digits(*IN_TIME, "target.latency_ms=1000"), dense, RunOptions("cpu"))


def test_an_unreachable_time_names_what_binds() -> None:
    warnings = inspect(None, digits(*IN_TIME, "target.latency=0.001"), RunOptions("cpu")).warnings
    (warning,) = (warning for warning in warnings if "target.latency = 0.001 is below" in warning)
    shares = [float(share) for share in re.findall(r"([\d.]+)% \(", warning)]
    assert len(shares) == 3
    assert 0 < sum(shares) < 100


@pytest.mark.integration
def test_a_run_goes_on_with_the_times_it_began_with(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*IN_TIME, "target.latency=0.7")
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", recipe, Interrupter("finetune", 0))
    before = (tmp_path / "run" / "latency.json").read_bytes()
    assert pruned(dense, tmp_path / "run", recipe, resume=True).target.kind == "latency"
    assert (tmp_path / "run" / "latency.json").read_bytes() == before


@pytest.mark.integration
def test_a_run_by_time_is_not_resumed_with_other_threads(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*IN_TIME, "target.latency=0.7")
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", recipe, Interrupter("search", 0))
    with pytest.raises(RunFolderError, match=r"started with a different benchmark\.batch_size"):
        pruned(dense, tmp_path / "run", digits(*IN_TIME, "target.latency=0.7", "benchmark.batch_size=2"), resume=True)


class Listener(NullMonitor):
    """Keeps the stages about times."""

    def __init__(self) -> None:
        self.times: list[str] = []

    def stage(self, text: str) -> None:
        if text.startswith("latency:"):
            self.times.append(text)


def test_no_state_is_timed_twice(dense: Path) -> None:
    """The least that the constraints allow takes more than the target's share of the time: there is nothing else to try."""
    recipe, listener = digits("target.macs=0.1", "constraints.round_to=2", "benchmark.runs=20"), Listener()
    context, start = (
        open_context(recipe, RunOptions("cpu", monitor=listener)),
        open_starting_point(recipe, dense, RunOptions("cpu")),
    )
    start = replace(start, table=LatencyTable(layers=(), milliseconds=1.0))
    feasible, space = start.feasible, start.space
    state = feasible.repair(
        torch.full((1, len(space.free)), 0.5), torch.full((1, space.genes), 0.5), feasible.smallest
    )[0]
    timer = NetworkTimer(context.example, recipe.export, recipe.timing, context.monitor)
    found, share = match_latency_target(start, start.network, state, timer)
    assert (torch.equal(found, state), len(listener.times)) == (True, 1)
    assert f"latency: {share:.1%} of the dense network's measured" in listener.times[0]


class Slowing(NetworkTimer):
    """Says that a network takes a power of its share of the multiply-accumulates; exports nothing."""

    power = 0.7

    def export(self, network: nn.Module, path: Path) -> Path:
        path.write_text(str(measure_size(network, self.example).macs))
        return path

    def measure(self, files: Mapping[str, Path]) -> dict[str, Latency]:
        macs = {name: int(path.read_text()) for name, path in files.items()}
        times = {name: (count / macs["dense"]) ** self.power for name, count in macs.items()}
        return {
            name: Latency(p50=ms, p90=ms, p99=ms, n=1, batch_size=1, threads=1, provider="CPU")
            for name, ms in times.items()
        }


@pytest.mark.parametrize(("power", "most", "trials"), [(0.7, 4, 3), (0.97, 4, 1), (0.7, 1, 1)])
def test_a_state_is_corrected_until_its_time_is_near_the_target(
    dense: Path, power: float, most: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a power of 0.97 the first state is within the tolerance; at 0.7 it takes 23 % more time than asked for."""
    monkeypatch.setattr(Slowing, "power", power)
    recipe, listener = digits("target.macs=0.5", "constraints.round_to=1"), Listener()
    start = replace(
        open_starting_point(recipe, dense, RunOptions("cpu")), table=LatencyTable(layers=(), milliseconds=1.0)
    )
    timer = Slowing(example_images(recipe.network_spec.image_shape), recipe.export, recipe.timing, listener)
    wish = torch.full((1, len(start.space.free)), 0.5), torch.full((1, start.space.genes), 0.5)
    state = start.feasible.repair(*wish, 0.5)[0]
    found, share = match_latency_target(start, start.network, state, timer, most)
    assert share is not None
    assert len(listener.times) == trials
    assert torch.equal(found, state) == (trials == 1)
    assert (abs(share / 0.5 - 1) <= TOLERANCE) == (most > 1)
    assert start.feasible.share(start.feasible.widths(found)).item() ** power == pytest.approx(share, abs=1e-4)


@pytest.mark.integration
def test_a_given_plan_is_timed_and_not_corrected(dense: Path, tmp_path: Path) -> None:
    quick = ("search.epochs=0", "finetune.epochs=0", "data.limit=200", "constraints.round_to=2", "benchmark.runs=40")
    pruned(dense, tmp_path / "first", digits(*quick, "search.method=magnitude", "target.macs=0.2"))
    plan = tmp_path / "first" / "plan.json"
    given = (*quick, "search.method=plan", f"search.plan={plan}", "target.macs=null", "target.latency=0.99")
    report = pruned(dense, tmp_path / "second", digits(*given))
    assert (tmp_path / "second" / "plan.json").read_text() == plan.read_text()
    assert report.target.predicted is not None


@pytest.mark.integration
@pytest.mark.slow
def test_a_run_is_pruned_again_by_time(dense: Path, tmp_path: Path) -> None:
    first = pruned(dense, tmp_path / "first", digits(*ONE_EPOCH, "target.macs=0.6", "constraints.round_to=2"))
    second = pruned(tmp_path / "first", tmp_path / "second", digits(*IN_TIME, "target.latency=0.5"))
    assert second.dense == first.dense
    assert second.pruned.size.macs < first.pruned.size.macs
    assert (RunFolder(tmp_path / "second") / "latency.json").is_file()
