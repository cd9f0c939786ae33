"""Accuracy class by class: 190 images of one class and 10 of another, which the pruned file no longer gives to any image."""

import json
from pathlib import Path
from typing import Any

import pytest

from edcompress.cli.output import show_accuracy, show_report
from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.measures import Accuracy, Count, Recalls
from edcompress.core.results.report import Preprocessing, Report
from edcompress.report.gate.class_recall import lost_classes, worst_class
from edcompress.report.gate.consistency import require_possible
from edcompress.report.gate.verdict import judge
from edcompress.report.render.html_page import render_page
from edcompress.report.render.model_card import CardSubject, render_card
from edcompress.report.render.rows import comparison_rows, stage_rows
from edcompress.report.render.verdict_rows import check_notes

ONLY: dict[str, Any] = {"max_top1_drop": None, "min_speedup": None, "max_parity": None}
LOST = "pruned.onnx gives none of the test images the class rust, which dense.onnx gives to some"


@pytest.fixture
def uneven(content: dict[str, Any]) -> dict[str, Any]:
    """Return the report of a network of two classes: dense.onnx has all of 200 images right, pruned.onnx those of the first class."""
    for name, right in (("dense", (190, 10)), ("pruned", (190, 0))):
        top1, top5 = {"correct": sum(right), "total": 200}, {"correct": 200, "total": 200}
        content[name]["accuracy"] = content[name]["onnx_accuracy"] = {"top1": top1, "top5": top5}
        given = (190, 10) if name == "dense" else (200, 0)
        content[name]["recalls"] = {"images": (190, 10), "right": right, "given": given}
    pairs = {"both": 190, "dense_only": 10, "other_only": 0, "neither": 0}
    content["pruned"]["paired"] = {"top1": pairs, "top5": pairs | {"both": 200, "dense_only": 0}, "same_class": 190}
    content["tested_on"]["count"] = 200
    return content | {"classes": ("clean", "rust")}


def test_a_class_that_is_no_longer_given_is_named_and_can_be_limited(uneven: dict[str, Any]) -> None:
    report = Report.model_validate(uneven)
    require_possible(report, "it")
    passed = judge(report, Gate(**ONLY | {"max_top1_drop": 0.05}))
    assert passed.passed
    assert [text.startswith(LOST) for text in passed.warnings] == [True]
    verdict = judge(report, Gate(**ONLY, max_class_drop=0.5))
    (check,) = verdict.checks
    assert (check.name, check.value, check.margin, check.passed) == ("class_drop", 1.0, -0.5, False)
    assert check.note == "the class is rust: of its 10 images dense.onnx has 10 right, pruned.onnx 0"
    assert f"class drop: {check.note}" in check_notes(verdict)
    assert judge(report, Gate(**ONLY, max_class_drop=1.0)).passed


def test_terminal_page_and_card_show_it(
    uneven: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report.model_validate(uneven)
    show_report(report, tmp_path, as_json=False)
    preprocessing = Preprocessing(
        channels="RGB", image_size=32, resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    card = render_card(report, CardSubject("cifar10", 10, "dynamic"), preprocessing, ["clean", "rust"])
    for text in (capsys.readouterr().out, render_page(report, [], {"groups": []}), card):
        assert LOST in text.replace("\\", "")
        assert "worst class: rust" in text
    row = next(row for row in comparison_rows(report) if row.name == "worst class: rust")
    assert row[1:] == ("100.00 %", "0.00 %", "-100.00 pp")


@pytest.mark.parametrize(("limit", "shown"), [(None, False), (0.1, True)])
def test_without_a_loss_the_worst_class_is_shown_only_if_it_is_limited(
    uneven: dict[str, Any], limit: float | None, shown: bool
) -> None:
    uneven["pruned"]["recalls"] = uneven["dense"]["recalls"]
    report = Report.model_validate(uneven | {"limits": Gate(max_class_drop=limit)})
    assert any(row.name.startswith("worst class") for row in comparison_rows(report)) is shown


def test_classes_without_images_have_no_recall_and_of_equal_drops_the_larger_class_counts(
    uneven: dict[str, Any],
) -> None:
    uneven["classes"] = ("a", "b", "c", "d")
    uneven["dense"]["recalls"] = Recalls(images=(4, 0, 8, 8), right=(2, 0, 4, 8), given=(2, 6, 4, 8))
    uneven["pruned"]["recalls"] = Recalls(images=(4, 0, 8, 8), right=(1, 0, 2, 8), given=(4, 0, 8, 8))
    report = Report.model_validate(uneven)
    worst = worst_class(report, report.pruned)
    assert worst is not None
    assert (worst.name, worst.drop) == ("c", 0.25)
    assert lost_classes(report, report.pruned) == ["b"]


def test_recalls_that_contradict_the_accuracy_are_refused(uneven: dict[str, Any]) -> None:
    uneven["pruned"]["recalls"] |= {"right": (189, 0)}
    with pytest.raises(
        InputError, match=r"pruned\.recalls has 189 of 200 images right in 2 classes, but pruned\.onnx_acc"
    ):
        require_possible(Report.model_validate(uneven), "it")


def test_a_report_without_recalls_says_how_to_measure_them(report: Report) -> None:
    report = report.model_copy(update={"dense": report.dense.model_copy(update={"recalls": None})})
    assert worst_class(report, report.pruned) is None
    with pytest.raises(
        InputError, match="there is no accuracy by class yet, which max_class_drop needs; run `edcompress export"
    ):
        judge(report, Gate(**ONLY, max_class_drop=0.5))


def test_a_top5_of_two_classes_is_neither_shown_nor_checked(
    uneven: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report.model_validate(uneven)
    assert next(row for row in comparison_rows(report) if row.name == "top-5")[1:] == ("–", "–", "n/a: 2 classes")
    assert {row.top5 for row in stage_rows(report)} == {"–"}
    verdict = judge(report, Gate(max_top5_drop=0.01, max_top1_drop=0.5))
    assert [(one.name, one.reason) for one in verdict.skipped] == [("top5_drop", "n/a: 2 classes")]
    with pytest.raises(InputError, match=r"checks nothing.*top5_drop: n/a: 2 classes"):
        judge(report, Gate(**ONLY, max_top5_drop=0.01))
    accuracy = Accuracy(top1=Count(correct=1, total=4), top5=Count(correct=4, total=4))
    show_accuracy(accuracy, 2, as_json=False)
    show_accuracy(accuracy, 6, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "top-1  1 of 4  (25.00%)",
        "top-5  n/a: 2 classes",
        "top-1  1 of 4  (25.00%)",
        "top-5  4 of 4  (100.00%)",
    ]


def test_recalls_and_class_names_survive_their_json(uneven: dict[str, Any]) -> None:
    report = Report.model_validate(uneven | {"classes": ("été", "雪")})
    assert Report.model_validate(json.loads(report.model_dump_json())) == report
