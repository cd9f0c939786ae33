"""A finished run that is pruned further."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from digits import ONE_EPOCH, Interrupter, digits, outcome, pruned
from safetensors.torch import load_file, save_file

from edcompress.core.errors import BudgetError, InputError, NetworkError, RunFolderError
from edcompress.core.system.context import RunOptions
from edcompress.pruning.cost.network_size import measure_size
from edcompress.runs.folder import RunFolder
from edcompress.workflows.export import export
from edcompress.workflows.load import load
from edcompress.workflows.resume import require_same_weights
from edcompress.workflows.stages.start_files import read_plan, read_space
from edcompress.workflows.stages.starting_point import open_starting_point

QUICK = ("search.epochs=0", "finetune.epochs=0", "data.limit=200", "constraints.round_to=1")


@pytest.fixture(scope="module")
def first(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at six tenths of the multiply-accumulates."""
    folder = tmp_path_factory.mktemp("first") / "run"
    pruned(dense, folder, digits(*ONE_EPOCH, "target.macs=0.6", "constraints.round_to=2"))
    return folder


def kept(folder: Path) -> dict[str, set[int]]:
    return {group.name: set(group.kept) for group in read_plan(folder / "plan.json").groups}


def test_ratios_figures_and_plan_are_of_the_network_that_the_first_run_began_with(first: Path, tmp_path: Path) -> None:
    report = pruned(
        first,
        tmp_path / "run",
        digits(*ONE_EPOCH, "target.macs=0.35", "constraints.ignore=[layer2*]", "benchmark.runs=20"),
    )
    before = RunFolder(first).read_report()
    assert report.dense == before.dense
    assert (tmp_path / "run" / "dense.safetensors").read_bytes() == (first / "dense.safetensors").read_bytes()
    network = load(tmp_path / "run")
    size = measure_size(network, torch.zeros(2, 1, 16, 16))
    assert size == report.pruned.size
    assert 0.2 < report.target.achieved <= 0.35 < before.target.achieved
    assert report.target.achieved == pytest.approx(size.macs / before.dense.size.macs)
    log = [json.loads(line) for line in (tmp_path / "run" / "search.jsonl").read_text().splitlines()]
    assert before.target.achieved >= log[0]["budget"] > log[-1]["budget"] == 0.35
    assert read_space(tmp_path / "run" / "space.json") == read_space(first / "space.json")
    now, then = kept(tmp_path / "run"), kept(first)
    assert now.keys() == then.keys()
    assert all(now[name] <= then[name] for name in then)
    ignored = [
        group.name for group in read_space(first / "space.json").free if any("layer2" in m for m in group.layers)
    ]
    assert "layer2.0.conv1" in ignored
    assert [now[name] for name in ignored] == [then[name] for name in ignored]
    export(RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run" / "state").exists()


def test_a_floor_is_a_share_of_the_network_that_the_first_run_began_with(first: Path, tmp_path: Path) -> None:
    floor = (*QUICK, "search.method=random", "target.macs=null", "target.channels=0.43", "constraints.min_ratio=0.4")
    report = pruned(first, tmp_path / "run", digits(*floor))
    groups = read_plan(tmp_path / "run" / "plan.json").groups
    assert all(len(group.kept) >= min(0.4 * group.channels, len(kept(first)[group.name])) for group in groups)
    assert report.target.achieved == pytest.approx(
        sum(len(group.kept) for group in groups) / sum(group.channels for group in groups)
    )


def test_what_the_first_recipe_locked_the_second_may_prune(dense: Path, tmp_path: Path) -> None:
    quick = (*QUICK, "search.method=magnitude")
    pruned(dense, tmp_path / "1", digits(*quick, "constraints.only=[layer1.0.bn1]", "target.macs=0.95"))
    pruned(tmp_path / "1", tmp_path / "2", digits(*quick, "constraints.only=[layer3.0.bn1]", "target.macs=0.8"))
    one, two = kept(tmp_path / "1"), kept(tmp_path / "2")
    assert (list(one), list(two)) == (["layer1.0.conv1"], ["layer1.0.conv1", "layer3.0.conv1"])
    assert two["layer1.0.conv1"] == one["layer1.0.conv1"]
    assert load(tmp_path / "2").get_parameter("layer3.0.conv1.weight").shape[0] == len(two["layer3.0.conv1"]) < 64
    report = pruned(tmp_path / "2", tmp_path / "3", digits(*quick, "target.macs=0.5"))  # and a third time
    assert report.target.achieved <= 0.5
    assert all(kept(tmp_path / "3")[name] <= channels for name, channels in two.items())
    assert report.dense == RunFolder(tmp_path / "1").read_report().dense


@pytest.mark.integration
@pytest.mark.parametrize("place", [("search", 0, 2), ("finetune", 0, 3)], ids=lambda place: place[0])
def test_an_interrupted_run_goes_on_without_the_first_one(
    first: Path, tmp_path: Path, place: tuple[str, int, int]
) -> None:
    recipe = digits(*ONE_EPOCH, "target.macs=0.4")
    pruned(first, tmp_path / "whole", recipe)
    gone = Path(shutil.copytree(first, tmp_path / "gone"))
    with pytest.raises(KeyboardInterrupt):
        pruned(gone, tmp_path / "broken", recipe, Interrupter(*place))
    require_same_weights(RunFolder(tmp_path / "broken"), gone, RunOptions("cpu"))
    retrained = {name: tensor * 1.01 for name, tensor in load_file(gone / "pruned.safetensors").items()}
    save_file(retrained, gone / "pruned.safetensors")
    for other in (gone, gone / "dense.safetensors"):
        with pytest.raises(
            RunFolderError, match=f"was started with weights other than those in {other}; choose another"
        ):
            pruned(other, tmp_path / "broken", recipe, resume=True)
    shutil.rmtree(gone)
    report = pruned(gone, tmp_path / "broken", recipe, resume=True)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    assert report.pruned == RunFolder(tmp_path / "whole").read_report().pruned
    assert not (tmp_path / "broken" / "state").exists()


def test_a_run_that_cannot_be_pruned_again_is_refused_before_any_compute(first: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BudgetError, match=r"target\.macs = 0\.6 is not below 0\.\d+, which .*run has left of the macs"):
        pruned(first, out, digits(*ONE_EPOCH, "target.macs=0.6"))
    with pytest.raises(BudgetError, match=r"target\.macs = 0\.01 is below"):
        pruned(first, out, digits(*ONE_EPOCH, "target.macs=0.01"))
    with pytest.raises(InputError, match=r"run holds a network other than the recipe's: model\.arch differ"):
        pruned(first, out, digits(*ONE_EPOCH, "model.arch=resnet20"))
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / "space.json").write_text((first / "space.json").read_text().replace("layer2.0.bn1", "layer3.0.bn1"))
    with pytest.raises(NetworkError, match=r"differ in layer2\.0\.conv1; .*start from the weights again"):
        pruned(broken, out, digits(*ONE_EPOCH, "target.macs=0.3"))
    (broken / "report.json").unlink()
    with pytest.raises(RunFolderError, match="broken has not finished pruning, which pruning it again needs"):
        pruned(broken, out, digits(*ONE_EPOCH, "target.macs=0.3"))
    assert not out.exists()


def test_an_interrupted_run_that_searched_other_groups_is_refused(dense: Path, tmp_path: Path) -> None:
    recipe, folder = digits(*QUICK, "search.method=magnitude"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder, recipe, Interrupter("surgery"))
    space = (folder / "space.json").read_text()
    (folder / "space.json").write_text(space.replace("layer2.0.bn1", "layer3.0.bn1"))
    with pytest.raises(NetworkError, match=r"differ in layer2\.0\.conv1; resume with the version .*--force"):
        pruned(dense, folder, recipe, resume=True)
    (folder / "space.json").write_text(space)
    assert pruned(dense, folder, recipe, resume=True).pruned.size.params > 0


def test_how_the_first_checkpoint_was_read_makes_no_other_network(first: Path) -> None:
    recipe = digits(*ONE_EPOCH, "target.macs=0.35", "model.ema=true", "model.reset_head=true")
    assert open_starting_point(recipe, first, RunOptions("cpu")).space.genes > 0


def test_the_run_itself_is_never_the_place_of_the_second(cli, quick, first: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(first, tmp_path / "run"))
    options = quick("target.macs=0.4", "search.method=random", "search.epochs=0", "finetune.epochs=0")
    ended = cli("prune", run, *options, "-o", tmp_path / "." / "run", "--force")
    assert (ended.code, "is the run to be pruned again; choose another" in ended.err) == (2, True)
    assert outcome(run) == outcome(first)
    (tmp_path / "second").mkdir()
    assert "exists; continue with --resume" in cli("prune", run, *options, "-o", tmp_path / "second").err
    assert cli("prune", run, *options, "-o", tmp_path / "second", "--force").code == 0
    assert outcome(run) == outcome(first)
