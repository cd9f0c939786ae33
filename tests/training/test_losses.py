"""Shipped losses beside their definitions, and what is said of labels that do not fit."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.core.errors import InputError, NetworkError
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.registry import names_in
from edcompress.core.user_code import NO_TRUST
from edcompress.networks.equality import compare_logits
from edcompress.networks.outputs import joined, logits_of, named_outputs, outputs_of
from edcompress.pruning.search.scoring import energy_of
from edcompress.training.objective import Criterion, Objective, TrainingLabels, open_criterion, own_criterion

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 1, 1, 2, 3])
MAPS, PIXELS = torch.randn(2, 4, 3, 5, generator=GENERATOR), torch.randint(4, (2, 3, 5), generator=GENERATOR)
SEVERAL = torch.rand(6, 4, generator=GENERATOR).round()


def opened(loss: str, labels: Tensor = LABELS, output: str | None = None, **more: Any) -> Criterion:
    config = TrainingConfig.model_validate({"loss": loss, **more})
    return open_criterion("finetune", config, output, TrainingLabels(labels, labels[:1], 4), NO_TRUST)


def test_the_shipped_losses_are_these() -> None:
    assert names_in("training.losses") == ("bce", "cross_entropy", "focal", "pixel_cross_entropy")


def test_cross_entropy_weighs_classes() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = opened("cross_entropy", loss_options={"class_weights": weights.tolist()})(LOGITS, LABELS)
    picked = -LOGITS.log_softmax(1)[torch.arange(6), LABELS]
    torch.testing.assert_close(found, (weights[LABELS] * picked).sum() / weights[LABELS].sum())
    balanced = opened("cross_entropy", loss_options={"class_weights": "balanced"})(LOGITS, LABELS)
    each = [picked[c == LABELS].mean() for c in range(4)]  # every class counts the same
    torch.testing.assert_close(balanced, torch.stack(each).mean())


def test_focal_loss_is_its_equation_and_without_gamma_the_cross_entropy() -> None:
    p = LOGITS.softmax(1)[torch.arange(6), LABELS]
    torch.testing.assert_close(
        opened("focal", loss_options={"gamma": 1.5})(LOGITS, LABELS), (-((1 - p) ** 1.5) * p.log()).mean()
    )
    for smoothing in (0.0, 0.2):
        plain = opened("focal", label_smoothing=smoothing, loss_options={"gamma": 0})(LOGITS, LABELS)
        torch.testing.assert_close(plain, F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))
    mixed = F.one_hot(LABELS, 4).float()
    torch.testing.assert_close(opened("focal")(LOGITS, mixed), opened("focal")(LOGITS, LABELS))


def test_bce_is_the_mean_over_images_and_labels() -> None:
    p = LOGITS.sigmoid()
    by_hand = -(SEVERAL * p.log() + (1 - SEVERAL) * (1 - p).log()).mean()
    torch.testing.assert_close(opened("bce", SEVERAL)(LOGITS, SEVERAL), by_hand)


def test_pixels_with_the_ignored_label_do_not_count() -> None:
    ignoring = PIXELS.clone()
    ignoring[0, 0] = 255
    picked = -MAPS.log_softmax(1).gather(1, PIXELS.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(opened("pixel_cross_entropy")(MAPS, ignoring), picked[ignoring != 255].mean())
    assert opened("pixel_cross_entropy")(MAPS, torch.full_like(PIXELS, 255)) == 0  # nothing counts, and nothing is NaN


@pytest.mark.parametrize(
    ("loss", "logits", "labels", "says"),
    [
        ("cross_entropy", LOGITS, SEVERAL, r"needs whole-number labels \[6\] .* got torch.float32 \[6, 4\]"),
        ("cross_entropy", MAPS, PIXELS, r"is for one class per image, and the network gives \[2, 4, 3, 5\]"),
        ("focal", LOGITS, LABELS.float(), "needs whole-number labels"),
        ("bce", LOGITS, LABELS, r"needs float labels \[6, 4\], .* got torch.int64 \[6\]"),
        ("bce", LOGITS, SEVERAL * 2, "needs labels between 0 and 1"),
        ("pixel_cross_entropy", MAPS, PIXELS[:, 1:], "needs whole-number labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_loss(loss: str, logits: Tensor, labels: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=rf"finetune.loss: {loss} {says}"):
        opened(loss).require_fits(logits.clone().requires_grad_(), labels)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_weights": [1, 2]}, "class_weights has 2 values for 4 classes"),
        ({"class_weights": "balanced"}, "class 3 has no training images"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options: Mapping[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        opened("cross_entropy", LABELS[:5], loss_options=options)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"), r"scalar tensor.*a tensor \[6\]"),
        (lambda *_: 0.5, "must return a scalar tensor.*it returned float 0.5"),
        (lambda outputs, _: outputs.sum() * math.nan, "is nan on the first images"),
        (lambda outputs, _: outputs.detach().sum(), "does not depend on what the network returns"),
        (lambda outputs, _: outputs["logits"], "failed in your code"),
    ],
)
def test_an_own_loss_that_cannot_train_is_refused(returned: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"finetune.loss: mine:loss .*{says}|finetune.loss: mine:loss {says}"):
        own_criterion(returned, "finetune.loss: mine:loss").require_fits(LOGITS.clone().requires_grad_(), LABELS)


class Heads(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


@dataclass
class Answer:
    logits: Tensor
    features: Tensor | None = None


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (LOGITS, ["logits"]),
        (Heads(LOGITS, LOGITS), ["logits", "aux_logits"]),
        (Answer(LOGITS), ["logits"]),
        (OrderedDict(out=LOGITS, aux=LOGITS, count=3, ids=LABELS), ["out", "aux"]),
        ((LOGITS, [LOGITS, LOGITS]), ["0", "1.0", "1.1"]),
    ],
)
def test_outputs_have_the_names_of_their_containers(output: Any, names: list[str]) -> None:
    assert list(named_outputs(output)) == names
    assert joined(output).shape == (6, 4 * len(names))


def test_the_chosen_output_counts_else_the_only_one_that_is_not_auxiliary() -> None:
    assert logits_of({"a": LOGITS, "b": LOGITS + 1}, "b") is not LOGITS
    assert logits_of(Heads(LOGITS, LOGITS + 1)) is LOGITS
    assert list(outputs_of({"a": LOGITS, "b": LOGITS})) == ["a", "b"]
    with pytest.raises(NetworkError, match=r"2 outputs \(a, b\); choose one with model.output=a"):
        logits_of({"a": LOGITS, "b": LOGITS})
    with pytest.raises(NetworkError, match=r"model.output: the network gives no 'c', but a, b"):
        logits_of({"a": LOGITS, "b": LOGITS}, "c")


def test_auxiliary_heads_count_by_their_weight() -> None:
    other = LOGITS.roll(1, 0)
    plain = F.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(
        opened("cross_entropy", aux_weight=0.4)(Heads(LOGITS, other), LABELS),
        plain + 0.4 * F.cross_entropy(other, LABELS),
    )
    assert opened("cross_entropy", aux_weight=0)(Heads(LOGITS, other), LABELS) == plain


def test_soft_labels_of_maps_are_averaged_over_pixels() -> None:
    """A map of one pixel is a class, and a map of equal pixels has the loss of one."""
    config = TrainingConfig(distill=1.0, loss="pixel_cross_entropy")
    wide = LOGITS[:, :, None, None].expand(-1, -1, 3, 5)
    found = Objective(config, lambda _: wide.roll(1, 0), opened("pixel_cross_entropy"))
    plain = Objective(TrainingConfig(distill=1.0), lambda _: LOGITS.roll(1, 0))
    maps = LABELS[:, None, None].expand(-1, 3, 5)
    torch.testing.assert_close(found.loss(wide, LOGITS, maps), plain.loss(LOGITS, LOGITS, LABELS))


def test_soft_labels_of_several_labels_are_probabilities_of_each() -> None:
    config = TrainingConfig(distill=1.0, distill_temperature=2.0, loss="bce")
    teacher = LOGITS.roll(1, 0)
    found = Objective(config, lambda _: teacher, opened("bce", SEVERAL)).loss(LOGITS, LOGITS, SEVERAL)
    q, p = (teacher / 2).sigmoid(), (LOGITS / 2).sigmoid()
    torch.testing.assert_close(found, -4 * (q * p.log() + (1 - q) * (1 - p).log()).mean())


def test_states_are_compared_by_the_loss_where_images_have_no_single_class() -> None:
    margin = energy_of("margin", opened("focal"))(LOGITS, LABELS)
    torch.testing.assert_close(margin, energy_of("margin", None)(LOGITS, LABELS))
    by_loss = energy_of("margin", opened("bce", SEVERAL))(LOGITS, SEVERAL)
    torch.testing.assert_close(by_loss, F.binary_cross_entropy_with_logits(LOGITS, SEVERAL))
    own = energy_of("margin", own_criterion(lambda outputs, _: outputs["a"].sum() * math.nan, "mine"))
    assert own({"a": LOGITS}, LABELS) == math.inf


def test_every_output_is_compared_on_its_own_scale() -> None:
    small, large = LOGITS, 1000 * LOGITS
    moved = {"large": large, "small": small + 0.01}
    proof = compare_logits({"large": large, "small": small}, moved, "two heads")
    assert proof.max_abs_diff == pytest.approx(0.01, rel=1e-3)
    assert proof.scale == small.abs().max()
