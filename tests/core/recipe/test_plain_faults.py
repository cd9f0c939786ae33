"""Faults in plain words: each kind that pydantic can find in a recipe names the key, the value and what to give."""

import pytest

from edcompress.core.errors import RecipeError
from edcompress.core.plain_text import SYNONYMS, did_you_mean, same_meaning
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe

JARGON = (
    "Input should",
    "should have",
    "should match",
    "valid ",
    "unable to parse",
    "Extra inputs",
    "Field required",
    "instance of",
)
"""Words of pydantic's own messages."""


def fault(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits", overrides)
    text = str(caught.value)
    assert not any(word in text for word in JARGON), text
    return text.split(" with --set: ", 1)[1]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("target.macs=0", "target.macs: give a number above 0 and at most 1 (got 0)"),
        ("target.macs=50", "target.macs: give a number above 0 and at most 1; 50 % is 0.5 (got 50)"),
        ("target.macs=50%", "target.macs: give a number above 0 and at most 1; 50% is 0.5 (got '50%')"),
        ("target.macs='0,5'", "target.macs: give a number above 0 and at most 1; write 0.5, with a point (got '0,5')"),
        ("target.macs=[1]", "target.macs: give a number above 0 and at most 1 (got [1])"),
        ("finetune.momentum=1", "finetune.momentum: give a number of at least 0 and below 1 (got 1)"),
        ("finetune.lr=.inf", "finetune.lr: give a finite number (got inf)"),
        ("search.epochs=2.5", "search.epochs: give a whole number of at least 0 (got 2.5)"),
        ("search.epochs=few", "search.epochs: give a whole number of at least 0 (got 'few')"),
        ("search.population=300", "search.population: give a whole number from 4 to 256 (got 300)"),
        ("seed=-1", "seed: give a whole number of at least 0 and below 2147483648 (got -1)"),
        ("data.std=[0]", "data.std.0: give a number above 0 and at most 1 (got 0)"),
        ("data.mean=0.5", "data.mean: give a list, as in [0.5] (got 0.5)"),
        ("constraints.ignore=layer1", "constraints.ignore: give a list, as in [layer1] (got 'layer1')"),
        ("constraints.ignore={a: 1}", "constraints.ignore: give a list in brackets (got {'a': 1})"),
        ("constraints.ignore=[1]", "constraints.ignore.0: give a text, in quotes (got 1)"),
        ("benchmark.threads=[]", "benchmark.threads: give a list with at least 1 value (got [])"),
        ("name=3", "name: give a text, in quotes (got 3)"),
        (
            "name=a/b",
            "name: give a name without / and \\ and control characters that does not begin with a dot (got 'a/b')",
        ),
        ("data.root=3", "data.root: give a path as text (got 3)"),
        ("compile=maybe", "compile: give true or false (got 'maybe')"),
        ("compile=[1]", "compile: give true or false (got [1])"),
        ("search=null", "search: a section has keys and values; drop it to take its defaults (got None)"),
        ("search.options=3", "search.options: give keys and values (got 3)"),
        (
            "finetune.optimizer=adam",
            "finetune.optimizer: choose 'sgd', 'adamw' or 'adadelta'; did you mean 'adamw'? (got 'adam')",
        ),
        ("search.genes=zz", "search.genes: choose 'widths' or 'channels' (got 'zz')"),
        ("search.method=l1", "'random' or 'taylor'; did you mean 'magnitude'? (got 'l1')"),
        ("data.dataset=imagefolder", "'memory' or 'webdataset'; did you mean 'image_folder'? (got 'imagefolder')"),
    ],
)
def test_each_kind_of_fault_says_what_to_give(override: str, text: str) -> None:
    assert text in fault(override)


def test_a_name_that_is_too_long_and_a_missing_key_are_plain_too() -> None:
    assert "name: give at most 100 characters (got" in fault(f"name={'x' * 101}")
    with pytest.raises(RecipeError, match="data: required, but missing"):
        check({"model": {"arch": "resnet8", "num_classes": 10}}, "mine.yaml")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("finetune.learning_rate=0.1", "finetune.learning_rate: unknown key; did you mean 'lr'? (got 0.1)"),
        ("target.flops=0.5", "target.flops: unknown key; did you mean 'macs'? (got 0.5)"),
        ("target.GFLOPs=0.5", "did you mean 'macs'?"),
        ("data.batch=8", "did you mean 'batch_size'?"),
        ("data.imageSize=8", "did you mean 'image_size'?"),
        ("momentum=0.9", "did you mean 'train.momentum' or 'finetune.momentum'?"),
        ("search.lr=0.1", "did you mean 'train.lr' or 'finetune.lr'?"),
        ("num_workers=2", "did you mean 'data.workers'?"),
        ("fine_tuning={epochs: 1}", "did you mean 'finetune'?"),
        ("search.epoch=3", "did you mean 'epochs'?"),
        ("data.sparkle=3", "data.sparkle: unknown key (got 3)"),
    ],
)
def test_an_unknown_key_leads_to_the_one_that_is_meant_here_or_elsewhere(override: str, hint: str) -> None:
    assert hint in fault(override)


@pytest.mark.parametrize("name", ["resnet20-cifar10", "ResNet20 CIFAR10", "resnet20"])
def test_names_of_recipes_are_found_by_meaning(name: str) -> None:
    with pytest.raises(RecipeError, match="did you mean 'resnet20_cifar10'"):
        read_recipe(name)


def test_names_that_differ_in_punctuation_come_before_those_that_look_alike() -> None:
    assert did_you_mean("resnet-20", ["resnet200", "resnet20"]) == "; did you mean 'resnet20'?"
    assert did_you_mean("nothing", ["else"]) == ""
    assert same_meaning("Learning-Rate", ["lr", "epochs"]) == ["lr"]


def test_every_synonym_is_of_a_key_or_a_value() -> None:
    keys = {
        name for section in Recipe.model_fields.values() for name in getattr(section.annotation, "model_fields", {})
    }
    target = {"macs", "params", "latency_ms", "max_top1_drop", "finetune", "seed", "precision"}
    values = {"image_folder", "kmnist", "magnitude", "edropout", "adamw"}
    assert set(SYNONYMS) <= keys | target | values
