"""A target in accuracy: trials between what is known to be within the drop and what is not."""

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
from digits import ONE_EPOCH, Interrupter, digits, outcome, pruned
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from edcompress.core.errors import EdcompressError, InputError, RecipeError, RunFolderError
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Report
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import read_progress
from edcompress.workflows import accuracy_target
from edcompress.workflows.accuracy_target import Bracket, accuracy_drop
from edcompress.workflows.load import load


def dropping(*overrides: str) -> tuple[str, ...]:
    return ("target.macs=null", "constraints.round_to=2", "benchmark.runs=20", *overrides)


TWO_TRIALS = dropping(*ONE_EPOCH, "target.max_top1_drop=0.9", "target.trials=2")


def shares(report: Report) -> list[float]:
    """What the trials asked for, in their order."""
    return [float(point.name.split("=")[1]) for point in sorted(report.points, key=lambda point: point.name)]


@given(least=st.floats(0.01, 0.9), needed=st.floats(0.01, 1.0), waste=st.floats(0.0, 0.02))
def test_trials_close_in_on_what_is_needed(least: float, needed: float, waste: float) -> None:
    """Each halves what is open, on a logarithmic scale, whether the network then uses its share or wastes a little of it."""
    bracket = Bracket(least, 1.0)
    for _ in range(12):
        if (share := bracket.share) is None:
            break
        assert bracket.least < share < bracket.most
        achieved = max(least, share * (1 - waste))
        narrower = bracket.after(share, achieved if share >= needed else None)
        assert narrower.most / narrower.least <= math.sqrt(bracket.most / bracket.least) * 1.01
        bracket = narrower
        assert bracket.most >= needed * (1 - waste) or bracket.most == 1.0
        assert bracket.least <= max(needed, least)
    assert bracket.share is None


@pytest.fixture(scope="module")
def series(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A series of two trials that are both within the drop: its folder and report."""
    folder = tmp_path_factory.mktemp("series") / "run"
    return folder, pruned(dense, folder, digits(*TWO_TRIALS))


def test_a_run_keeps_its_own_log_and_its_trials_keep_theirs(series: tuple[Path, Report]) -> None:
    folder = series[0]
    first, second = sorted((folder / "trials").iterdir())
    own, *others = (
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()] for path in (folder, first, second)
    )
    said = [line["stage"] for line in own if line["event"] == "stage"]
    assert " pp beside the dense network's on " in said[1]
    stages = [text.split(":")[0] for text in said]
    assert stages[:4] == ["trial 1", "trial 1", "trial 2", "trial 2"]
    events = [line for line in own if "other processes had the cores" not in line.get("warning", "")]
    assert [line["event"] for line in events if line["event"] != "stage"] == ["begin", "end"]
    for log in others:
        assert [line["phase"] for line in log if line["event"] == "epoch"] == ["search", "finetune"]
    for path in (folder, first, second):
        progress = read_progress(RunFolder(path))
        assert progress is not None
        assert (progress.state, progress.checkpoint) == ("finished", "dense.safetensors")


def test_each_trial_goes_on_from_the_best_before_it(series: tuple[Path, Report]) -> None:
    folder, report = series
    first, second = sorted((folder / "trials").iterdir())
    assert not (folder / "state").exists()
    assert shares(report)[1] < shares(report)[0]
    before, after = (kept(trial) for trial in (first, second))
    assert all(after[name] <= before[name] for name in before)
    chosen = RunFolder(second).read_report()
    assert (report.pruned, report.dense) == (chosen.pruned, chosen.dense)
    for name in ("plan.json", "pruned.safetensors", "dense.safetensors"):
        assert (folder / name).read_bytes() == (second / name).read_bytes()
    weights = load(folder).state_dict()
    assert all((weights[name] == tensor).all() for name, tensor in load_file(folder / "pruned.safetensors").items())
    assert pruned(folder / "is_not_read", folder, digits(*TWO_TRIALS), resume=True) == report


@pytest.mark.integration
def test_an_interrupted_series_goes_on_and_ends_alike(series: tuple[Path, Report], dense: Path, tmp_path: Path) -> None:
    recipe, broken = digits(*TWO_TRIALS), tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, broken, recipe, Interrupter("trial 1: at most"))
    assert not RunFolder(broken).resumable
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, broken, recipe, Interrupter("trial 2: at most"), resume=True)
    assert RunFolder(broken).resumable
    again = pruned(tmp_path / "is_not_read", broken, recipe, resume=True)
    assert outcome(broken) == outcome(series[0])
    assert [point.judged_drop for point in again.points] == [point.judged_drop for point in series[1].points]
    assert not (broken / "state").exists()


def test_no_network_within_the_drop_says_how_near_it_came(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*dropping("search.epochs=0", "finetune.epochs=0", "search.method=random",
                              "target.max_top1_drop=0.0", "target.trials=1"))  # fmt: skip
    with pytest.raises(
        EdcompressError, match=r"max_top1_drop = 0 was found in 1 trials; the nearest lost \d+\.\d+%: .*1-macs="
    ):
        pruned(dense, tmp_path / "run", recipe)
    assert RunFolder(tmp_path / "run" / "trials" / "1-macs=0.2").finished or list(
        (tmp_path / "run" / "trials").glob("1-*/report.json")
    )


def test_a_trial_beyond_the_drop_is_followed_by_a_larger_network(dense: Path, tmp_path: Path) -> None:
    settings = ("search.epochs=0", "finetune.epochs=0", "search.method=random", "data.limit=200", "data.augment=null")
    with suppress(EdcompressError):  # the second may be beyond the drop too
        pruned(dense, tmp_path / "run", digits(*dropping(*settings, "target.max_top1_drop=0.0", "target.trials=2")))
    first, second = (RunFolder(path) for path in sorted((tmp_path / "run" / "trials").iterdir()))
    asked = [folder.read_recipe().target for folder in (first, second)]
    assert asked[0] is not None
    assert asked[1] is not None
    assert asked[0].macs < asked[1].macs < 1.0  # type: ignore[operator]
    assert "data.augment" in first.read_recipe().chosen
    assert first.read_report().target.achieved < second.read_report().target.achieved


def test_a_drop_equal_to_the_limit_is_within_it() -> None:
    for dense, other in ((920, 910), (917, 907), (999, 989)):
        assert accuracy_drop(Count(correct=dense, total=1000), Count(correct=other, total=1000)) <= 0.01
    assert accuracy_drop(Count(correct=9200, total=10_000), Count(correct=9099, total=10_000)) > 0.01


def test_what_a_series_goes_on_from_stays_until_its_report_is_written(tmp_path: Path) -> None:
    """The report may not be written, as on a full disk; without state/start.safetensors the series would begin with another network."""
    folder, chosen = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run" / "trials" / "1-macs=0.5")
    for path in (folder.state, chosen.path):
        path.mkdir(parents=True)
    (chosen / "plan.json").write_text("{}")
    accuracy_target._copy_files(chosen.path, folder.path)
    assert (folder / "plan.json").read_text() == "{}"
    assert folder.state.is_dir()


def test_images_that_the_network_was_trained_on_cannot_judge(tmp_path: Path, cli: object, quick: object) -> None:
    known = tmp_path / "known.safetensors"
    everything = ("train.epochs=12", "data.search_fraction=0.001", "data.limit=150", "data.augment=none")
    assert cli("train", *quick(*everything), "-o", known).code == 0  # type: ignore[operator]
    asked = dropping(*ONE_EPOCH, "target.max_top1_drop=0.1", "data.limit=150", "data.search_fraction=0.6")
    with pytest.raises(InputError, match=r"\d% on the 90 held-out training images and .* data\.search_from=test"):
        pruned(known, tmp_path / "run", digits(*asked))
    assert not (tmp_path / "run").exists()


def test_a_plan_and_a_drop_do_not_go_together(dense: Path) -> None:
    with pytest.raises(RecipeError, match="searches for channels, and search"):
        digits(*dropping("target.max_top1_drop=0.1", "search.method=plan", f"search.plan={dense}"))


def test_a_series_is_not_resumed_with_another_drop(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pruned(
            dense, tmp_path / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9")), Interrupter("trial 1")
        )
    with pytest.raises(RunFolderError, match=r"started with a different target\.max_top1_drop"):
        pruned(dense, tmp_path / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.5")), resume=True)


def kept(folder: Path) -> dict[str, set[int]]:
    """The kept channels of each group of a run."""
    groups = json.loads((folder / "plan.json").read_text())["groups"]
    return {group["name"]: set(group["kept"]) for group in groups}


def test_a_folder_that_cannot_be_used_is_told_before_any_accuracy(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stop = Interrupter("dense network: accuracy")
    with pytest.raises(RunFolderError, match="cannot be used as run folder"):
        pruned(dense, tmp_path / "file" / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9")), stop)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9")), stop)
    assert not (tmp_path / "run").exists()
