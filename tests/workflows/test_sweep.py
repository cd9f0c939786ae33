"""Several runs of one checkpoint, side by side."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edcompress.core.errors import RecipeError
from edcompress.core.recipe.loading import read_recipe, variants
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Point
from edcompress.core.system.monitor import NullMonitor
from edcompress.core.system.tensor_files import save_tensors
from edcompress.report.pareto import with_front
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import recording
from edcompress.workflows.stages.file_metadata import TRAINING

Cli = Callable[..., Any]
AT_ONCE = ("--recipe", "digits", "--set", "search.method=magnitude", "--set", "search.epochs=0", "--set", "finetune.epochs=0",
           "--set", "data.limit=100", "--set", "benchmark.runs=20", "--set", "constraints.round_to=2")  # fmt: skip
TWO = ("--set", "target.macs=0.7,0.4")


@pytest.fixture(scope="module")
def swept(dense: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    ended = cli("sweep", dense, *AT_ONCE, *TWO, "-o", folder)
    assert ended.code == 0, ended.err
    assert "target.macs=0.4" in ended.out
    return folder


def test_a_sweep_is_a_run_per_value_side_by_side(swept: Path) -> None:
    found = json.loads((swept / "sweep.json").read_text())
    small, large = found["points"]
    assert (small["name"], large["name"]) == ("target.macs=0.4", "target.macs=0.7")
    assert small["macs"] <= 0.4 < large["macs"] <= 0.7
    for point in (small, large):
        report = json.loads((swept / point["name"] / "report.json").read_text())
        assert point["top1"] == report["pruned"]["accuracy"]["top1"]
        assert point["speedup"] == report["dense"]["latency_ms"]["p50"] / report["pruned"]["latency_ms"]["p50"]
        assert point["passed"] == report["verdict"]["passed"]
        assert report["dense"]["accuracy"] == found["dense"]["accuracy"]
    page = (swept / "sweep.html").read_text()
    page = re.sub(r"<p[^>]*>Warning: .*?</p>", "", page)  # of times that other tests disturbed
    assert page.count("target.macs=0.4") == 2  # beside its dot, and in the table
    assert "http" not in page


def test_points_that_are_finished_are_gated_as_is_said_now_and_later_too(
    swept: Path, dense: Path, cli: Cli, tmp_path: Path
) -> None:
    shutil.copytree(swept, tmp_path / "sweep")
    again = cli("sweep", dense, *AT_ONCE, *TWO, "--set", "gate.min_speedup=1000", "-o", tmp_path / "sweep")
    assert again.code == 0, again.err
    assert cli("gate", tmp_path / "sweep" / "target.macs=0.7", "--json").code == 1


def test_what_is_done_is_not_done_again(swept: Path, dense: Path, cli: Cli) -> None:
    before = (swept / "sweep.json").read_bytes()
    files = {path: path.stat().st_mtime_ns for path in swept.glob("*/p*.*")}
    (swept / "target.macs=0.4" / "report.html").unlink()
    again = cli("sweep", dense, *AT_ONCE, *TWO, "-o", swept, "--json")
    assert json.loads(again.out) == json.loads(before)
    assert {path: path.stat().st_mtime_ns for path in swept.glob("*/p*.*")} == files
    assert (swept / "target.macs=0.4" / "report.html").is_file()


def test_what_cannot_be_swept_is_said_before_any_run(dense: Path, cli: Cli, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        ended = cli("sweep", *arguments, "-o", tmp_path / "sweep")
        assert ended.code == 2
        assert not (tmp_path / "sweep").exists()
        return ended.err

    assert "give a key several values, e.g. --set target.macs=0.7,0.5,0.3" in refused(dense, *AT_ONCE)
    assert "target.macs: give a number above 0 and at most 1" in refused(dense, *AT_ONCE, "--set", "target.macs=0.5,5")
    assert "target.macs = 0.001 is below" in refused(dense, *AT_ONCE, "--set", "target.macs=0.5,0.001")
    assert "seed=1: without weights one network is trained for all points, but seed differ" in refused(
        *AT_ONCE, "--set", "seed=0,1"
    )


def test_a_folder_of_another_sweep_is_left_alone(swept: Path, cli: Cli, tmp_path: Path) -> None:
    before = (swept / "sweep.json").read_bytes()
    other = cli("sweep", tmp_path / "other.pt", *AT_ONCE, *TWO, "-o", swept)
    assert (other.code, (swept / "sweep.json").read_bytes()) == (2, before)
    assert "holds a sweep of dense.safetensors, not of other.pt; choose another folder with -o" in other.err
    (tmp_path / "file").touch()
    assert (
        "is a file; choose another folder"
        in cli("sweep", tmp_path / "other.pt", *AT_ONCE, *TWO, "-o", tmp_path / "file").err
    )


def test_points_of_other_weights_or_measured_otherwise_do_not_come_side_by_side(
    swept: Path, dense: Path, cli: Cli, tmp_path: Path
) -> None:
    before = (swept / "sweep.json").read_bytes()
    retrained = tmp_path / dense.name
    save_file({name: tensor * 1.01 for name, tensor in load_file(dense).items()}, retrained)
    third = ("--set", "target.macs=0.3,0.4")
    for given, more, words in (
        (
            retrained,
            (),
            f"target.macs=0.4 was started with weights other than those in {retrained}; choose another folder",
        ),
        (
            dense,
            ("--set", "benchmark.threads=2"),
            "exported and measured with a different benchmark.threads; choose another",
        ),
    ):
        ended = cli("sweep", given, *AT_ONCE, *third, *more, "-o", swept)
        assert (ended.code, words in ended.err) == (2, True), ended.err
    assert (swept / "sweep.json").read_bytes() == before
    assert not (swept / "target.macs=0.3").exists()


def test_every_point_of_a_run_is_checked_before_the_first(swept: Path, cli: Cli, tmp_path: Path) -> None:
    """What a run has left, 0.4 of the MACs, is less than the second value."""
    values = ("--set", "target.macs=0.2,0.5")
    ended = cli("sweep", swept / "target.macs=0.4", *AT_ONCE, *values, "-o", tmp_path / "sweep")
    assert (ended.code, "target.macs = 0.5 is not below" in ended.err) == (2, True), ended.err
    assert not (tmp_path / "sweep").exists()


def test_a_point_of_another_checkpoint_is_not_gone_on_with(cli: Cli, tmp_path: Path) -> None:
    point = RunFolder(tmp_path / "sweep" / "target.macs=0.7")
    point.create(force=False)
    (point / "recipe.yaml").write_text(dump(read_recipe("digits", ["target.macs=0.7"])))
    with (
        pytest.raises(KeyboardInterrupt),
        recording(point, NullMonitor(), read_recipe("digits").label, "prune", weights="a.pt"),
    ):
        raise KeyboardInterrupt  # before the first point was done, and with it a sweep.json
    for checkpoint in ([tmp_path / "b.pt"], []):
        other = cli("sweep", *checkpoint, *AT_ONCE, *TWO, "-o", tmp_path / "sweep")
        asked = "b.pt" if checkpoint else "dense.safetensors"
        assert (other.code, f"holds a sweep of a.pt, not of {asked}; choose" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("trained", "says"),
    [
        (
            ["train.epochs=7", "data.root=elsewhere", "data.workers=2"],
            "was trained with a different train.epochs; choose another folder",
        ),
        (None, "was not trained by `edcompress train`; choose another folder"),
    ],
)
def test_a_network_trained_otherwise_is_no_beginning_of_points(
    cli: Cli, tmp_path: Path, trained: list[str] | None, says: str
) -> None:
    path = tmp_path / "sweep" / "dense.safetensors"
    path.parent.mkdir()
    about = (
        {}
        if trained is None
        else {TRAINING: json.dumps(read_recipe("digits", [*trained, "data.limit=100"]).training_settings)}
    )
    save_tensors(path, {"weight": torch.zeros(1)}, about)
    ended = cli("sweep", *AT_ONCE, *TWO, "-o", tmp_path / "sweep")
    assert (ended.code, says in ended.err) == (2, True), ended.err
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_network_trained_otherwise_is_no_beginning_of_further_points(cli: Cli, tmp_path: Path) -> None:
    point = RunFolder(tmp_path / "sweep" / "target.macs=0.9")
    point.create(force=False)
    (point / "recipe.yaml").write_text(dump(read_recipe("digits", ["data.limit=100", "train.epochs=7"])))
    save_file({}, tmp_path / "sweep" / "dense.safetensors")
    free = ("--set", "data.workers=1", "--set", "data.batch_size=auto")  # what a resumed run may change, or has found
    ended = cli("sweep", *AT_ONCE, *TWO, *free, "-o", tmp_path / "sweep")
    assert (ended.code, "was trained with a different train.epochs; choose another folder" in ended.err) == (2, True)


def test_values_are_parted_outside_brackets_and_quotes() -> None:
    assert list(variants("digits", ["target.macs=0.7, 0.5", "seed=1", "search.method=random,magnitude"])) == [
        "target.macs=0.7,search.method=random", "target.macs=0.7,search.method=magnitude",
        "target.macs=0.5,search.method=random", "target.macs=0.5,search.method=magnitude"]  # fmt: skip
    one, other = variants("digits", ["data.mean=[0.1],[0.2]", "constraints.ignore=['a,b']"]).values()
    assert (one.data.mean, other.data.mean) == ((0.1,), (0.2,))
    assert one.constraints.ignore == ("a,b",)
    none, some = variants("digits", ["target=null,{macs: 0.3}"]).values()
    assert none.target is None
    assert some.target is not None
    assert some.target.macs == 0.3
    with pytest.raises(RecipeError, match=r"target.macs: .* \(got '0.5,\['\)"):
        variants("digits", ["target.macs=0.5,[", "seed=0,1"])


def test_the_front_has_what_no_other_beats() -> None:
    def point(name: str, speedup: float, drop: float) -> Point:
        return Point(
            name=name,
            macs=1 / speedup,
            params=0.5,
            p50_ms=1.0,
            speedup=speedup,
            top1=Count(correct=1, total=2),
            top1_drop=drop,
        )

    points = with_front(
        [
            point("a", 2.0, 0.01),
            point("b", 1.5, 0.02),
            point("c", 3.0, 0.05),
            point("d", 2.0, 0.01),
            point("e", 2.0, 0.02),
        ]
    )
    assert [(one.name, one.front) for one in points] == [
        ("c", True),
        ("a", True),
        ("d", True),
        ("e", False),
        ("b", False),
    ]
