"""A bad result is said with its course and what to try; figures that say little have a remark."""

import copy
from typing import Any

import pytest

from edcompress.core.results.measures import Count
from edcompress.core.results.report import Report
from edcompress.report.gate.outcome import loud_warnings, noise, remarks


def outcome(content: dict[str, Any], dense: int, pruned: int, total: int = 1000, **more: Any) -> Report:
    """Return the report of a run with so many of `total` images right, and 1 % allowed to be lost."""
    changed = copy.deepcopy(content) | {"limits": {"max_top1_drop": 0.01}, **more}
    course = {"dense": dense, "masked": pruned // 4, "after_surgery": pruned // 2, "pruned": pruned}
    for name, correct in course.items():
        top1 = {"correct": correct, "total": total}
        changed[name]["accuracy"] = {"top1": top1, "top5": top1}
    changed["search"] |= {"converged": True, "generations": 30, "tightening": 25}
    return Report.model_validate(changed)


def said(report: Report) -> list[str]:
    return [text for text in loud_warnings(report) if "top-1 fell" in text]


def test_a_drop_beyond_the_gate_is_said_with_its_course_and_what_to_try(content: dict[str, Any]) -> None:
    settings = {"finetune": {"epochs": 6, "lr": 0.05, "distill": 0.0}}
    (text,) = said(
        outcome(content, 900, 400, settings=settings, target={**content["target"], "kind": "macs", "asked": 0.5})
    )
    assert "top-1 fell by 50.00 points, and gate.max_top1_drop allows 1.00 points" in text
    assert "90.00% dense, 10.00% masked, 20.00% after surgery, 40.00% after fine-tuning" in text.replace(" %", "%")
    order = [
        "finetune.epochs: 12",
        "finetune.distill: 0.9",
        "finetune.lr 0.05",
        "target.macs: 0.75",
        "target.max_top1_drop",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_what_the_run_chose_itself_is_not_advised(content: dict[str, Any]) -> None:
    settings = {"finetune": {"epochs": 6, "lr": 0.001, "distill": 0.9}}
    (text,) = said(outcome(content, 900, 400, settings=settings, chosen={"finetune.lr": "for adamw"}))
    assert "finetune.lr" not in text
    assert "soft labels" not in text


@pytest.mark.parametrize(
    ("limit", "pruned", "is_said"), [(0.01, 890, False), (0.01, 889, True), (0.5, 850, False), (0.5, 399, True)]
)
def test_a_drop_beyond_the_gate_is_said(content: dict[str, Any], limit: float, pruned: int, is_said: bool) -> None:
    report = outcome(content, 900, pruned, limits={"max_top1_drop": limit})
    assert bool(said(report)) == is_said


def test_without_a_limit_noise_decides(content: dict[str, Any]) -> None:
    assert not said(outcome(content, 900, 880, limits={"max_top1_drop": None}))
    (text,) = said(outcome(content, 900, 850, limits={"max_top1_drop": None}))
    assert "noise of 1000 test images explains" in text


def test_a_dense_network_with_a_new_classifier_cannot_be_fallen_from(content: dict[str, Any]) -> None:
    assert not said(outcome(content, 900, 400, untrained_head=True))


def test_noise_is_that_of_two_proportions() -> None:
    # p = 0.9, n = 1000: 1.95996 sqrt(2 x 0.09 / 1000) = 0.02630
    assert noise(Count(correct=900, total=1000), Count(correct=900, total=1000)) == pytest.approx(0.026296, abs=1e-6)


def test_too_few_test_images_are_named_with_how_many_would_do(content: dict[str, Any]) -> None:
    (text,) = remarks(outcome(content, 90, 90, total=100))
    assert (
        "100 test images are too few to tell a drop of 1.00 points (gate.max_top1_drop) from noise, which is 8.32 points"
        in text
    )
    assert "about 6915 are enough" in text
    assert remarks(outcome(content, 9900, 9900, total=10000)) == ()


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"converged": False, "diversity": 0.123}, "had not converged after 30 generations"),
        ({"tightening": 1}, "the budget reached its target after 1 generations"),
        ({"tightening": None}, ""),
    ],
)
def test_a_search_that_was_too_short_is_remarked(content: dict[str, Any], search: dict[str, Any], words: str) -> None:
    report = outcome(content, 9900, 9900, total=10000)
    tree = report.model_dump(mode="json")
    tree["search"] |= {"method": "edropout", **search}
    found = remarks(Report.model_validate(tree))
    assert (words in found[0]) if words else found == ()


def test_a_ranking_in_place_of_a_search_is_remarked(content: dict[str, Any]) -> None:
    report = outcome(content, 9900, 9900, total=10000, chosen={"search.method": "5 steps are too few"})
    tree = report.model_dump(mode="json")
    tree["search"] |= {"method": "magnitude", "generations": 0}
    assert remarks(Report.model_validate(tree)) == ("search: 5 steps are too few",)
