"""`data.batch_size: auto`: what is tried, what is taken, and that a run keeps it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import ONE_EPOCH, Interrupter, digits, pruned
from hypothesis import given
from hypothesis import strategies as st

from edcompress.core.errors import InputError, RecipeError, RunFolderError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ProcessGroup
from edcompress.networks.build import new_network
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.batch_size import (
    largest_fitting,
    most_images,
    search_step,
    sized_for_training,
    training_step,
)
from edcompress.workflows.stages.run_context import open_context
from edcompress.workflows.stages.starting_point import open_starting_point

AUTO = "data.batch_size=auto"


class Listener(Interrupter):
    """Keeps the stages, and presses Ctrl-C at a step of the first epoch of the search."""

    def __init__(self, step: int) -> None:
        super().__init__("search", 0, step)
        self.stages: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)


def memory_for(images: int, tried: list[int]) -> Callable[[int], None]:
    """A step on a device with room for so many images."""

    def step(size: int) -> None:
        tried.append(size)
        if size > images:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {size}")

    return step


@given(room=st.integers(0, 3000), most=st.integers(2, 3000))
def test_the_largest_power_of_two_that_fits_is_found_from_above(room: int, most: int) -> None:
    tried: list[int] = []
    found = largest_fitting(memory_for(room, tried), most)
    assert tried[0] <= most < 2 * tried[0]
    assert all(half * 2 == size for size, half in pairwise(tried))
    if found:
        assert found == tried[-1] <= room
    else:
        assert (tried[-1], room < 2) == (2, True)


def test_another_fault_of_a_step_is_not_taken_for_too_little_memory() -> None:
    def faulty(_: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        largest_fitting(faulty, 64)


@pytest.mark.parametrize(
    ("training", "ranks", "most"),
    [
        (45_000, 1, 351),
        (1_268_355, 1, 1024),
        (1_268_355, 16, 619),
        (1_294, 1, 128),
        (1_294, 4, 32),
        (50, 1, 50),
        (3, 4, 2),
    ],
)
def test_an_epoch_keeps_its_steps(training: int, ranks: int, most: int) -> None:
    assert most_images(training, ranks) == most


@pytest.mark.parametrize("method", ["edropout", "gradual_magnitude", "magnitude"])
def test_a_step_that_is_tried_leaves_the_run_as_it_was(dense: Path, method: str) -> None:
    recipe, options = digits(f"search.method={method}", "finetune.distill=0.5", AUTO), RunOptions("cpu")
    context, start = open_context(recipe, options), open_starting_point(recipe, dense, options)
    before, generator = copy.deepcopy(start.network.state_dict()), torch.get_rng_state()
    search_step(context, start, recipe.search, recipe.finetune.config, 4)
    training_step(context, start.network, recipe.train, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def stood(recipe: Recipe) -> tuple[int | str, list[str]]:
    """What plain training takes on a CPU, and what is said of it."""
    listener = Listener(1)
    opened = open_context(recipe, RunOptions("cpu", monitor=listener))
    context = sized_for_training(opened, new_network(recipe.network_spec), recipe.train)
    return context.data.batch_size, listener.stages


def test_a_cpu_takes_the_default_and_says_so() -> None:
    assert stood(digits(AUTO)) == (
        128,
        ["data.batch_size: auto takes 128 (the default: memory is tried on CUDA only); learning rates stay as they are in the recipe"],
    )  # fmt: skip
    assert stood(digits()) == (64, [])


def test_the_number_that_was_found_must_fit_the_ranks() -> None:
    recipe = digits(AUTO)
    context = replace(open_context(recipe, RunOptions("cpu")), ranks=ProcessGroup(0, 100))
    with pytest.raises(InputError, match="100 ranks share a batch of 128 images"):
        sized_for_training(context, new_network(recipe.network_spec), recipe.train)


def stages_of(dense: Path, folder: Path, *overrides: str, resume: bool = False) -> list[str]:
    """The stages of a run that is interrupted at its first step, or when resumed at the second."""
    listener = Listener(2 if resume else 1)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder, digits(*ONE_EPOCH, *overrides), listener, resume=resume)
    return listener.stages


def test_a_run_writes_down_what_it_found(dense: Path, tmp_path: Path) -> None:
    stages = stages_of(dense, tmp_path / "run", AUTO)
    assert RunFolder(tmp_path / "run").read_recipe().data == digits(*ONE_EPOCH, "data.batch_size=128").data
    assert len([text for text in stages if "auto takes 128" in text]) == 1


def test_a_resumed_run_keeps_the_batch_size_that_it_began_with(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stages_of(dense, folder, "data.batch_size=256")
    with pytest.raises(RunFolderError, match=r"started with a different data\.batch_size"):
        pruned(dense, folder, digits(*ONE_EPOCH), resume=True)
    assert not any("auto" in text for text in stages_of(dense, folder, AUTO, resume=True))
    assert RunFolder(folder).read_recipe().data.batch_size == 256


@pytest.mark.integration
def test_trials_share_one_batch_size(dense: Path, tmp_path: Path) -> None:
    of_trials = ("target.macs=null", "target.max_top1_drop=0.9", "target.trials=1", "benchmark.runs=20")
    report = pruned(dense, tmp_path / "run", digits(*ONE_EPOCH, *of_trials, AUTO))
    trial = next(RunFolder(tmp_path / "run").trials.iterdir())
    assert [RunFolder(path).read_recipe().data.batch_size for path in (tmp_path / "run", trial)] == [128, 128]
    assert report.machine["batch_size"] == 128


@pytest.mark.parametrize("size", ["1", "0", "-4", "auto2", "2.5", "many"])
def test_what_is_no_batch_size(size: str) -> None:
    with pytest.raises(RecipeError, match=r"data\.batch_size: give auto, or a number of at least 2 \(got "):
        digits(f"data.batch_size={size}")


@pytest.mark.integration
def test_doctor_and_train_take_it(cli: Callable[..., Any], tmp_path: Path) -> None:
    trained = cli(
        "train", "--recipe", "digits", "--set", AUTO, "--set", "train.epochs=1", "-o", tmp_path / "a.safetensors"
    )
    assert (trained.code, "auto takes" in trained.err) == (0, True), trained.err
    (tmp_path / "my.yaml").write_text(dump(digits(AUTO)), encoding="utf-8")
    assert cli("doctor", "--recipe", tmp_path / "my.yaml").code == 0
