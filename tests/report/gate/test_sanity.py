"""A gate on drops does not pass networks that guess."""

import copy
from pathlib import Path
from typing import Any

import pytest

from edcompress.cli.output import show_report
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.results.measures import Accuracy, Count
from edcompress.core.results.report import Report
from edcompress.data.transforms import preprocessing_spec
from edcompress.report.gate.recommendation import recommend
from edcompress.report.gate.sanity import alarms, at_chance, lower_bound
from edcompress.report.gate.verdict import judge
from edcompress.report.render.html_page import render_page
from edcompress.report.render.model_card import CardSubject, render_card

LIMITS = Gate(max_top1_drop=0.01, min_speedup=None, max_parity=None)
NONE = Gate(max_top1_drop=None, min_speedup=None, max_parity=None)


def measured(correct: int, total: int, chance: float | None) -> Accuracy:
    count = Count(correct=correct, total=total)
    return Accuracy(top1=count, top5=count, chance=chance)


def weak(content: dict[str, Any], dense: int = 1000, pruned: int = 990, **more: Any) -> Report:
    """Return the report with so many of 10000 images right, of ten equally frequent classes."""
    changed = copy.deepcopy(content) | more
    for name, correct in (("dense", dense), ("pruned", pruned)):
        top1 = {"correct": correct, "total": 10000}
        changed[name]["accuracy"] = changed[name]["onnx_accuracy"] = {"top1": top1, "top5": top1, "chance": 0.1}
    pairs = {"both": 0, "dense_only": dense, "other_only": pruned, "neither": 10000 - dense - pruned}
    changed["pruned"]["paired"] = {"top1": pairs, "top5": pairs, "same_class": pairs["neither"]}
    return Report.model_validate(changed)


@pytest.mark.parametrize(("correct", "total", "bound"), [(0, 10, 0.0), (10, 10, 0.72247), (50, 100, 0.40383)])
def test_the_bound_is_wilsons(correct: int, total: int, bound: float) -> None:
    """The expected values are those of scipy.stats.binomtest(...).proportion_ci(method="wilson")."""
    assert lower_bound(Count(correct=correct, total=total)) == pytest.approx(bound, abs=1e-5)


@pytest.mark.parametrize(
    ("correct", "total", "chance", "is_weak"),
    [
        (40, 400, 0.1, True),  # ten classes, 10 %
        (43, 400, 0.1, True),
        (60, 400, 0.1, False),
        (0, 400, 0.0, True),  # none of the answers is a class of the test images
        (190, 200, 0.95, True),  # always the frequent one of two classes
        (184, 200, 0.80, False),  # of the same classes, nine of ten of each
        (7, 10, 0.5, True),  # too few images to tell
        (300, 300, 0.5, False),
    ],
)
def test_chance_is_distinguished_from_knowledge(correct: int, total: int, chance: float, is_weak: bool) -> None:
    assert (at_chance(measured(correct, total, chance), "net") is not None) == is_weak


def test_without_a_count_of_chance_there_is_no_warning(report: Report) -> None:
    assert at_chance(measured(0, 400, None), "net") is None
    assert judge(report, LIMITS).warnings == ()


@pytest.mark.parametrize(
    ("correct", "total", "is_said"), [(9367, 10000, False), (9366, 10000, True), (9410, 9990, True)]
)
def test_files_that_score_otherwise_than_their_networks_give_a_warning(
    content: dict[str, Any], correct: int, total: int, is_said: bool
) -> None:
    content["dense"]["onnx_accuracy"] = {kind: {"correct": correct, "total": total} for kind in ("top1", "top5")}
    said = [
        text
        for text in alarms(Report.model_validate(content))
        if "the test images or their classes have changed" in text
    ]
    assert [text.startswith(f"dense.onnx has {correct} of {total} test images right, but") for text in said] == [
        True
    ] * is_said


@pytest.mark.parametrize("limits", [LIMITS, NONE])
def test_a_dense_network_at_chance_fails_the_gate_and_ships_nothing(content: dict[str, Any], limits: Gate) -> None:
    report = weak(content)
    shipped = recommend(report, limits)
    assert shipped.file is None
    assert "pruned.onnx fails dense top-1 above chance (9.43 %, limit > 10.00 %)" in shipped.why
    allowed = limits.model_copy(update={"allow_weak_dense": True})
    assert recommend(report, allowed).file == "pruned.onnx"


def test_the_verdict_says_why_and_can_be_overridden(content: dict[str, Any]) -> None:
    report = weak(content)
    verdict = judge(report, LIMITS)
    assert [(check.name, check.passed) for check in verdict.checks] == [
        ("top1_drop", True),
        ("dense_above_chance", False),
    ]
    assert not verdict.passed
    assert "dense.onnx is at chance level: top-1 is 10.00 % of 10000 images" in verdict.warnings[0]
    assert verdict.warnings[0].endswith("set gate.allow_weak_dense (--allow-weak-dense)")
    allowed = judge(report, LIMITS.model_copy(update={"allow_weak_dense": True}))
    assert (allowed.passed, len(allowed.checks), len(allowed.warnings)) == (True, 1, 1)


def test_if_the_dense_classifier_was_untrained_the_pruned_network_counts(content: dict[str, Any]) -> None:
    report = weak(content, dense=1000, pruned=9000, untrained_head=True)
    verdict = judge(report, LIMITS)
    assert verdict.passed
    assert "the dense network's classifier was untrained at the start (model.reset_head)" in verdict.warnings[0]
    report = weak(content, dense=1000, pruned=1000, untrained_head=True)
    assert [check.name for check in judge(report, LIMITS).checks if not check.passed] == ["pruned_above_chance"]


def test_terminal_page_and_card_say_it(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, recipe = weak(content), read_recipe("resnet20_cifar10")
    assert '<p class="fail-text">Warning: dense.onnx is at chance' in render_page(report, [], {"groups": []}, ())
    assert "**Warning: dense.onnx is at chance" in render_card(
        report, CardSubject("cifar10", 10, "dynamic"), preprocessing_spec(recipe.data, 3), ()
    )
    show_report(report, tmp_path, as_json=False)
    assert "WARNING: dense.onnx is at chance level" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "achieved", "method", "said"),
    [
        (0.5, 0.28, "edropout", True),
        (0.5, 0.46, "edropout", False),
        (0.1, 0.07, "edropout", True),
        (0.1, 0.09, "edropout", False),
        (0.5, 0.28, "plan", False),
    ],
)
def test_a_run_far_below_its_target_says_so(
    content: dict[str, Any], asked: float, achieved: float, method: str, said: bool
) -> None:
    target = content["target"] | {"kind": "macs", "asked": asked, "achieved": achieved, "round_to": 32}
    report = Report.model_validate(content | {"target": target, "search": content["search"] | {"method": method}})
    words = f"{achieved:.1%} of the macs are left although {asked:.1%} may stay"
    assert any(words in text and "lower constraints.round_to (32)" in text for text in alarms(report)) == said
