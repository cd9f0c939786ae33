"""A target in accuracy: trials between what is known to be within the drop and what is not."""

import math
from pathlib import Path

import pytest
from digits import ONE_EPOCH, Interrupter, digits, outcome, pruned
from safetensors.torch import load_file

from edcompress.errors import EdcompressError, InputError, RecipeError, RunFolderError
from edcompress.origin import open_origin
from edcompress.pipeline import export, load
from edcompress.results import Report
from edcompress.runs import RunFolder
from edcompress.session import Session

UNTRAINED = ("search.epochs=0", "finetune.epochs=0", "search.method=magnitude")
"""Nothing but the batch norms is adapted: the accuracy falls with every channel."""


def dropping(*overrides: str) -> tuple[str, ...]:
    return ("target.macs=null", "constraints.round_to=2", "benchmark.runs=20", *overrides)


def shares(report: Report) -> list[float]:
    """What the trials asked for, in their order."""
    return [float(point.name.split("=")[1]) for point in sorted(report.points, key=lambda point: point.name)]


def test_trials_close_in_on_the_smallest_network_within_the_drop(dense: Path, tmp_path: Path) -> None:
    asked = dropping(*UNTRAINED, "target.max_top1_drop=0.3", "target.trials=3", "data.search_fraction=0.3")
    report = pruned(dense, tmp_path / "run", digits(*asked))
    low = open_origin(digits(*asked), dense, Session("cpu")).budget.smallest
    high = 1.0
    for point in sorted(report.points, key=lambda point: point.name):
        share = float(point.name.split("=")[1])
        assert share == round(math.sqrt(low * high), 4)
        assert point.macs <= share
        assert point.judged_drop is not None
        low, high = (low, point.macs) if point.judged_drop <= 0.3 else (share, high)
    within = [point.judged_drop is not None and point.judged_drop <= 0.3 for point in report.points]
    assert not all(within)
    assert [point.chosen for point in report.points] == [index == within.index(True) for index in range(len(within))]
    (chosen,) = (point for point in report.points if point.chosen)
    assert report.target.kind == "max_top1_drop"
    assert (report.target.asked, report.target.achieved) == (0.3, chosen.judged_drop)
    assert report.pruned.accuracy.top1 == chosen.top1
    assert any(point.front for point in report.points)


def test_each_trial_goes_on_from_the_best_before_it(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    report = pruned(dense, folder, digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9", "target.trials=2")))
    first, second = sorted((folder / "trials").iterdir())
    assert shares(report)[1] < shares(report)[0]
    before, after = (
        {group["name"]: set(group["kept"]) for group in plan(trial)["groups"]} for trial in (first, second)
    )
    assert all(after[name] <= before[name] for name in before)
    chosen = RunFolder(second).read_report()
    assert report.pruned == chosen.pruned
    assert report.dense == chosen.dense
    for name in ("plan.json", "pruned.safetensors", "dense.safetensors"):
        assert (folder / name).read_bytes() == (second / name).read_bytes()
    weights = load(folder).state_dict()
    assert all((weights[name] == tensor).all() for name, tensor in load_file(folder / "pruned.safetensors").items())
    assert export(RunFolder(folder), session=Session("cpu")).points == report.points
    assert pruned(
        dense, folder, digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9", "target.trials=2")), resume=True
    ).points


def test_an_interrupted_series_goes_on_and_ends_alike(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9", "target.trials=2"))
    whole = pruned(dense, tmp_path / "whole", recipe)
    for place in ("trial 2", "surgery"):
        with pytest.raises(KeyboardInterrupt):
            pruned(dense, tmp_path / "broken", recipe, Interrupter(place), resume=True)
        assert RunFolder(tmp_path / "broken").resumable == (place == "trial 2")
    again = pruned(tmp_path / "is_not_read", tmp_path / "broken", recipe, resume=True)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    assert [point.judged_drop for point in again.points] == [point.judged_drop for point in whole.points]
    assert not (tmp_path / "broken" / "state").exists()


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


def test_images_that_the_network_was_trained_on_cannot_judge(tmp_path: Path, cli: object, quick: object) -> None:
    known = tmp_path / "known.safetensors"
    everything = ("train.epochs=12", "data.search_fraction=0.001", "data.limit=150", "data.augment=none")
    assert cli("train", *quick(*everything), "-o", known).code == 0  # type: ignore[operator]
    asked = dropping(*ONE_EPOCH, "target.max_top1_drop=0.1", "data.limit=150", "data.search_fraction=0.6")
    with pytest.raises(InputError, match=r"\d% on the 90 held-out training images and .* data\.search_from=test"):
        pruned(known, tmp_path / "run", digits(*asked))
    assert not (tmp_path / "run").exists()
    fair = digits(*asked, "data.search_from=test", "target.max_top1_drop=0.9", "target.trials=1")
    report = pruned(known, tmp_path / "run", fair)
    assert report.pruned.accuracy.top1.total == 359 - 215


def test_a_plan_and_a_drop_do_not_go_together(dense: Path) -> None:
    with pytest.raises(RecipeError, match="looks for channels, and search"):
        digits(*dropping("target.max_top1_drop=0.1", "search.method=plan", f"search.plan={dense}"))


def test_a_series_is_not_resumed_with_another_drop(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pruned(
            dense, tmp_path / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.9")), Interrupter("trial 1")
        )
    with pytest.raises(RunFolderError, match=r"begun with another target\.max_top1_drop"):
        pruned(dense, tmp_path / "run", digits(*dropping(*ONE_EPOCH, "target.max_top1_drop=0.5")), resume=True)


def plan(folder: Path) -> dict[str, list[dict[str, object]]]:
    import json

    return dict(json.loads((folder / "plan.json").read_text()))
