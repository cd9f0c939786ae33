"""Shipped metrics beside scikit-learn-like definitions by hand, own metrics, and the paired bootstrap."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from edcompress.core.errors import InputError
from edcompress.core.registry import names_in
from edcompress.core.results.scores import MetricInfo, Score, ScoreDrop, Scores
from edcompress.training.metric import LogitsMetric, Metric, OwnMetric, Statistics, open_metric, paired_drop
from edcompress.training.scores import measure_scores

GENERATOR = torch.Generator().manual_seed(1)
LOGITS = torch.randn(40, 3, generator=GENERATOR)
LABELS = torch.randint(3, (40,), generator=GENERATOR)
SEVERAL = torch.rand(40, 3, generator=GENERATOR).round()


def value(name: str, logits: Tensor, labels: Tensor) -> float:
    metric = open_metric(name)
    assert metric.fault({"logits": logits}, labels) is None
    halves = [slice(None, len(labels) // 2), slice(len(labels) // 2, None)]
    found, _ = metric.score([metric.statistics({"logits": logits[half]}, labels[half]) for half in halves])
    assert found.images == len(labels)
    return found.value


def test_the_shipped_metrics_are_these() -> None:
    assert names_in("training.metrics") == ("auc", "macro_f1", "mean_average_precision", "mean_iou", "top1", "top5")


def test_top1_is_the_share_of_right_answers() -> None:
    assert value("top1", LOGITS, LABELS) == (LOGITS.argmax(1) == LABELS).double().mean().item()
    assert value("top5", LOGITS, LABELS) == 1.0


def test_macro_f1_counts_every_class_the_same() -> None:
    answers = LOGITS.argmax(1)
    f1 = []
    for k in range(3):
        right, given, there = ((answers == k) & (k == LABELS)).sum(), (answers == k).sum(), (k == LABELS).sum()
        precision, recall = right / given, right / there
        f1.append(2 * precision * recall / (precision + recall))
    assert value("macro_f1", LOGITS, LABELS) == pytest.approx(torch.stack(f1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS.round()])  # rounded: many ties
def test_auc_is_the_share_of_ordered_pairs(logits: Tensor) -> None:
    areas = []
    for k in range(3):
        scores, has = logits[:, k], SEVERAL[:, k] > 0
        pairs = [0.5 if a == b else float(a > b) for a, b in product(scores[has].tolist(), scores[~has].tolist())]
        areas.append(sum(pairs) / len(pairs))
    assert value("auc", logits, SEVERAL) == pytest.approx(sum(areas) / 3)


def test_auc_of_two_classes_is_that_of_the_second() -> None:
    labels = (LABELS > 0).long()
    expected = value("auc", (LOGITS[:, 1:2] - LOGITS[:, 0:1]), labels.float().unsqueeze(1))
    assert value("auc", LOGITS[:, :2], labels) == pytest.approx(expected)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS.round()])
def test_average_precision_is_the_sum_over_thresholds(logits: Tensor) -> None:
    found = []
    for k in range(3):
        scores, has = logits[:, k], SEVERAL[:, k] > 0
        before, total = 0.0, 0.0
        for threshold in sorted(set(scores.tolist()), reverse=True):
            taken = scores >= threshold
            recall = ((taken & has).sum() / has.sum()).item()
            total += (recall - before) * ((taken & has).sum() / taken.sum()).item()
            before = recall
        found.append(total)
    assert value("mean_average_precision", logits, SEVERAL) == pytest.approx(sum(found) / 3, rel=1e-5)


def test_mean_iou_is_of_all_pixels_that_count() -> None:
    maps = torch.randn(6, 3, 4, 5, generator=GENERATOR)
    labels = torch.randint(3, (6, 4, 5), generator=GENERATOR)
    labels[0, 0], labels[3] = 255, 2
    answers, counted = maps.argmax(1), labels != 255
    overlaps = []
    for k in range(3):
        given, there = (answers == k) & counted, labels == k
        overlaps.append(((given & there).sum() / (given | there).sum()).item())
    assert value("mean_iou", maps, labels) == pytest.approx(sum(overlaps) / 3)
    maps[1] = math.nan  # no answer: its pixels are in the union alone
    assert value("mean_iou", maps, labels) < sum(overlaps) / 3


@pytest.mark.parametrize(
    ("name", "logits", "labels", "says"),
    [
        ("top1", LOGITS, SEVERAL, "needs whole-number labels"),
        ("mean_iou", LOGITS, LABELS, r"is for a class per pixel, and the network gives \[40, 3\]"),
        ("macro_f1", torch.randn(40, 3, 2, 2), torch.zeros(40, 2, 2).long(), "is for one class per image"),
        ("mean_average_precision", LOGITS, LABELS, "needs float labels"),
    ],
)
def test_metrics_refuse_labels_of_other_kinds(name: str, logits: Tensor, labels: Tensor, says: str) -> None:
    fault = open_metric(name).fault({"logits": logits}, labels)
    assert fault is not None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(fault)


def test_a_metric_without_a_value_is_an_error() -> None:
    metric = open_metric("auc")
    with pytest.raises(InputError, match="metric: AUC is nan on the 40 images"):
        metric.score([metric.statistics({"logits": LOGITS}, torch.zeros(40, 3))])


def test_own_metrics_get_one_output_or_all_by_name() -> None:
    single = OwnMetric(lambda outputs, labels: (outputs.argmax(1) == labels).float().mean(), "mine:exact_match")
    assert single.info == MetricInfo(name="mine:exact_match", label="exact match", share=False)
    assert single.fault({"logits": LOGITS}, LABELS) is None
    several = OwnMetric(lambda outputs, _: sorted(outputs)[0] == "a" and outputs["output_1"].sum(), "mine:both")
    statistics = several.statistics({"a": LOGITS, "1": LOGITS + 1}, LABELS)
    assert several.value(statistics) == pytest.approx((LOGITS + 1).sum().item())


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("high", "must return one number; it returned str 'high'"),
        (LOGITS, "must return one number"),
        (None, "returned None"),
    ],
)
def test_own_metrics_return_a_number(returned: object, says: str) -> None:
    metric = OwnMetric(lambda *_: returned, "mine:metric")
    with pytest.raises(InputError, match=says):
        metric.fault({"logits": LOGITS}, LABELS)
    broken = OwnMetric(lambda outputs, labels: outputs @ labels, "mine:metric")
    with pytest.raises(InputError, match="metric: mine:metric failed in your code: RuntimeError"):
        broken.fault({"logits": LOGITS}, LABELS)


class Mean(LogitsMetric):
    """The mean of the first logit, whose bootstrap is known."""

    label = "mean"

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:  # noqa: ARG002
        return None

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:  # noqa: ARG002
        return (logits[:, 0].double(),)

    def value(self, statistics: Statistics) -> float:
        return statistics[0].mean().item()


def test_the_bootstrap_has_the_width_of_the_mean_and_pairs_images() -> None:
    x, noise = torch.randn(400, 1, generator=GENERATOR), torch.randn(400, 1, generator=GENERATOR) / 10
    metric: Metric = Mean("mean")
    dense, other = (metric.statistics({"logits": logits}, LABELS) for logits in (x, x - 0.3 + noise))
    drop = paired_drop(metric, dense, other)
    assert drop.value == pytest.approx((0.3 - noise).double().mean().item(), abs=1e-6)
    interval = drop.interval(0.95)
    assert interval is not None
    error = noise.double().std().item() / 20  # of x itself it is ten times as much
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert interval.low < drop.value < interval.high
    assert paired_drop(metric, dense, other) == drop  # seeded
    narrow = drop.interval(0.5)
    assert narrow is not None
    assert narrow.high - narrow.low < (interval.high - interval.low) / 2


def test_equal_models_have_a_drop_of_nothing() -> None:
    metric = open_metric("macro_f1")
    statistics = metric.statistics({"logits": LOGITS}, LABELS)
    drop = paired_drop(metric, statistics, statistics)
    assert (drop.value, set(drop.quantiles), drop.resamples) == (0, {0}, 1000)


def test_samples_without_a_value_leave_no_interval() -> None:
    def metric(_: Tensor, labels: Tensor) -> float:
        if int((labels == labels[0]).sum()) == len(labels) or len(set(labels.tolist())) < len(labels):
            raise ValueError("one image comes twice")
        return 1.0

    own = OwnMetric(metric, "mine:metric")
    labels = torch.arange(40)
    statistics = own.statistics({"logits": LOGITS}, labels)
    drop = paired_drop(own, statistics, statistics)
    assert (drop.quantiles, drop.interval(0.95)) == ((), None)


def test_an_interval_holds_its_drop() -> None:
    drop = ScoreDrop(value=0.5, quantiles=(0.0, 0.1, 0.2), resamples=3)
    interval = drop.interval(0.5)
    assert interval is not None
    assert (interval.low, interval.estimate, interval.high) == (pytest.approx(0.05), 0.5, 0.5)


def test_scores_have_the_accuracy_too_where_images_have_one_class() -> None:
    metric = open_metric("macro_f1")
    batches = [(LOGITS[:25], LABELS[:25]), (LOGITS[25:], LABELS[25:])]
    found = measure_scores(lambda images: {"out": images, "aux": images * 0}, batches, torch.device("cpu"), metric)
    assert found.accuracy is not None
    assert found.accuracy.top1.correct == int((LOGITS.argmax(1) == LABELS).sum())
    assert isinstance(found.headline, Score)
    assert isinstance(found.plain, Scores)
    several = measure_scores(lambda images: images, [(LOGITS, SEVERAL)], torch.device("cpu"), open_metric("auc"))
    assert several.accuracy is None
