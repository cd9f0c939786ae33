"""Values that a recipe leaves open follow from the images and the network; what it gives stays."""

import math

import pytest

from edcompress.core.recipe.choices import Facts, Mirroring, chosen, chosen_data, chosen_flip
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.search import FEWEST_GENERATIONS

SMALL = {"dataset": "digits", "image_size": 16}


def recipe(**sections: object) -> Recipe:
    return Recipe.model_validate(
        {"model": {"arch": "resnet8", "num_classes": 10}, "data": SMALL, "target": {"macs": 0.5}, **sections}
    )


def facts(images: int = 1000, batch: int = 32, accuracy: float | None = 0.9, **others: object) -> Facts:
    return Facts(**{"images": images, "batch": batch, "accuracy": accuracy, "norm": True, "target": 0.5, **others})


def test_every_open_key_gets_a_value_and_a_reason() -> None:
    found = chosen(recipe(), facts())
    assert [key for key in found.open_keys if not key.startswith("data.")] == []
    assert set(found.chosen) == {key for key in recipe().open_keys if not key.startswith("data.")}
    assert all(found.chosen.values())


def test_what_is_given_stays() -> None:
    given = {"epochs": 5, "optimizer": "sgd", "lr": 0.02, "weight_decay": 1e-4, "warmup": 0.2, "distill": 0.3}
    found = chosen(recipe(finetune=given, search={"epochs": 2, "evolve_every": 3, "anneal": 0.2}), facts())
    assert found.chosen == {}
    assert found == recipe(finetune=given, search={"epochs": 2, "evolve_every": 3, "anneal": 0.2})


@pytest.mark.parametrize(
    ("images", "size", "steps"), [(100, 16, 7), (499, 16, 32), (500, 32, 16), (3999, 32, 125), (12000, 128, 94)]
)
def test_few_images_get_small_batches(images: int, size: int, steps: int) -> None:
    data = Data.model_validate(SMALL)
    batch = chosen_data(data, images)["data.batch_size"].value
    assert batch == size
    assert facts(images, batch).steps == steps
    assert "data.batch_size" not in chosen_data(data.model_copy(update={"batch_size": 7}), images)


@pytest.mark.parametrize(
    ("pixels", "augment"), [(224, "resized_crop"), (64, "resized_crop"), (32, "crop"), (16, "none")]
)
def test_photos_are_cropped_and_resized_and_small_images_shifted_at_most(pixels: int, augment: str) -> None:
    data = Data.model_validate({**SMALL, "image_size": pixels})
    assert chosen_data(data, 100)["data.augment"].value == augment
    assert "data.augment" not in chosen_data(data.model_copy(update={"augment": "crop_flip"}), 100)


@pytest.mark.parametrize(("images", "batch", "epochs"), [(240, 16, 40), (1000, 32, 25), (50000, 128, 8)])
def test_few_images_get_more_epochs(images: int, batch: int, epochs: int) -> None:
    found = chosen(recipe(), facts(images, batch))
    assert found.total_epochs == epochs
    assert 0.2 < found.search.length / epochs < 0.35


def test_the_search_takes_a_quarter_of_given_epochs() -> None:
    assert chosen(recipe(finetune={"epochs": 15}), facts()).search.epochs == 5
    assert chosen(recipe(search={"epochs": 3}), facts()).total_epochs == 25


@pytest.mark.parametrize(
    ("given", "optimizer", "rate", "decay"),
    [
        ({}, "adamw", 1e-3, 0.01),
        ({"lr": 1e-4}, "adamw", 1e-4, 0.01),
        ({"lr": 0.05}, "sgd", 0.05, 5e-4),
        ({"optimizer": "sgd"}, "sgd", 0.02, 5e-4),
        ({"optimizer": "adadelta"}, "adadelta", 1.0, 5e-4),
    ],
)
def test_rate_and_optimizer_suit_each_other(
    given: dict[str, object], optimizer: str, rate: float, decay: float
) -> None:
    found = chosen(recipe(finetune=given), facts()).finetune
    assert (found.optimizer, found.lr, found.weight_decay) == (optimizer, rate, decay)


@pytest.mark.parametrize(("accuracy", "weight"), [(None, 0.0), (0.1, 0.0), (0.4, 0.5), (0.95, 0.9)])
def test_a_dense_network_teaches_as_far_as_it_is_strong(accuracy: float | None, weight: float) -> None:
    assert chosen(recipe(), facts(accuracy=accuracy)).finetune.distill == weight


@pytest.mark.parametrize("images", [60, 189, 1000, 20000, 1_000_000])
@pytest.mark.parametrize("target", [0.9, 0.5, 0.1])
def test_the_search_has_enough_generations_before_the_budget_is_reached(images: int, target: float) -> None:
    batch = chosen_data(Data.model_validate(SMALL), images)["data.batch_size"].value
    given = facts(images, batch, target=target)
    found = chosen(recipe(), given)
    falling = min(0.85, found.search.annealing * math.log2(1 / target)) * found.search.length * given.steps
    assert found.search.method == "edropout"
    assert falling / (found.search.evolve_every or 1) >= FEWEST_GENERATIONS


def test_a_search_that_is_too_short_becomes_a_ranking_and_says_so() -> None:
    found = chosen(recipe(search={"epochs": 1}), facts(300, 16))
    assert found.search.method == "magnitude"
    assert "19 steps of search are too few for 20 generations" in found.chosen["search.method"]
    kept = chosen(recipe(search={"epochs": 1, "evolve_every": 4}), facts(300, 16))
    assert kept.search.method == "edropout"


def test_the_settings_of_a_finished_run_leave_nothing_open() -> None:
    found = chosen(recipe(data={**SMALL, "batch_size": 32, "augment": "none"}), facts())
    assert Recipe.model_validate(found.model_dump(mode="json")).open_keys == []
    assert found.digest == found.model_copy(update={"chosen": {}}).digest


def test_networks_without_batch_norm_get_a_lower_rate() -> None:
    assert chosen(recipe(), facts(norm=False)).finetune.lr == 3e-4
    assert chosen(recipe(finetune={"optimizer": "sgd"}), facts(norm=False)).finetune.lr == 5e-3


@pytest.mark.parametrize(
    ("plain", "mirrored", "total", "flip"),
    [(950, 760, 1000, True), (950, 759, 1000, False), (40, 32, 40, True), (40, 31, 40, False), (20, 25, 40, True)],
)
@pytest.mark.parametrize("augment", ["crop", "resized_crop"])
def test_mirrored_images_train_where_the_network_recognises_them(
    plain: int, mirrored: int, total: int, flip: bool, augment: str
) -> None:
    data = Data.model_validate({**SMALL, "augment": augment})
    choice = chosen_flip(data, Mirroring(plain, mirrored, total))
    assert choice.value is flip
    assert f"{mirrored / total:.1%} of mirrored held-out images and {plain / total:.1%} of others" in choice.why


def test_a_network_that_cannot_tell_leaves_the_usual_flips() -> None:
    for augment, flip in (("crop", False), ("resized_crop", True)):
        assert chosen_flip(Data.model_validate({**SMALL, "augment": augment}), None).value is flip


def test_flips_are_open_only_with_the_augmentation() -> None:
    for data, is_open in (({}, True), ({"augment": "crop"}, False), ({"flip": False}, False)):
        assert ("data.flip" in recipe(data={**SMALL, **data}).open_keys) is is_open
