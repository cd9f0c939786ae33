"""What a recipe leaves open is chosen by the run, written down with the reasons, and kept when the run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits import Interrupter, digits, outcome, pruned
from torch import nn

from edcompress.core.errors import InputError, RecipeError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import RunOptions
from edcompress.core.system.tensor_files import save_tensors
from edcompress.networks.weight_files import read_state_dict
from edcompress.runs.folder import RunFolder
from edcompress.workflows.prune import prune
from edcompress.workflows.stages.plain_training import with_better_statistics
from edcompress.workflows.stages.recovery import resolve_recipe
from edcompress.workflows.stages.run_context import open_context
from edcompress.workflows.stages.starting_point import open_starting_point
from edcompress.workflows.stages.teacher import open_teacher

OPEN = (
    "data.limit=80", "data.batch_size=null", "data.augment=null", "search.epochs=null", "search.evolve_every=null",
    "finetune.epochs=null", "finetune.lr=null", "constraints.round_to=1", "precision=fp32",
)  # fmt: skip


class Stages(Interrupter):
    """Keeps what is announced."""

    def __init__(self, *at: object) -> None:
        super().__init__(*(at or ("never",)))  # type: ignore[arg-type]
        self.texts: list[str] = []

    def stage(self, text: str) -> None:
        self.texts.append(text)
        super().stage(text)


@pytest.fixture(scope="module")
def whole(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, list[str]]:
    folder, stages = tmp_path_factory.mktemp("open") / "run", Stages()
    return folder, pruned(dense, folder, digits(*OPEN), stages), stages.texts


def test_the_run_writes_down_what_it_chose_and_why(whole: tuple[Path, Report, list[str]]) -> None:
    folder, report, texts = whole
    recipe = RunFolder(folder).read_recipe()
    assert recipe.open_keys == []
    assert (recipe.data.batch_size, recipe.data.augment) == (16, "none")
    assert (recipe.finetune.optimizer, recipe.finetune.lr) == ("adamw", 1e-3)
    assert dict(recipe.chosen) == report.chosen
    assert {"data.batch_size", "finetune.lr", "search.evolve_every"} <= report.chosen.keys()
    assert f"chosen: finetune.lr = 0.001 ({report.chosen['finetune.lr']})" in texts
    assert report.machine["batch_size"] == 16


class Symmetric(nn.Module):
    """Answers as the average of an image and its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(images) + self.network(images.flip(-1))
        return output


def test_images_are_mirrored_where_the_dense_network_recognises_them(dense: Path) -> None:
    """Most digits are not themselves when mirrored."""
    recipe = digits(*OPEN, "data.limit=null", "data.image_size=24", "finetune.distill=0")
    context = open_context(recipe)
    start = open_starting_point(recipe.with_data(context.data), dense, RunOptions("cpu"))
    found, changed = resolve_recipe(recipe, context, start)
    assert (found.data.flip, changed.data.flip) == (False, False)
    assert " of mirrored held-out images and " in found.chosen["data.flip"]
    found, changed = resolve_recipe(recipe, context, replace(start, other_teacher=Symmetric(start.dense)))
    assert (found.data.flip, changed.data.flip) == (True, True)
    assert Recipe.model_validate(found.model_dump(mode="json")).open_keys == []
    new = recipe.model_copy(update={"model": recipe.model.model_copy(update={"reset_head": True})})
    assert "too weak to tell" in resolve_recipe(new, context, start)[0].chosen["data.flip"]


def test_the_search_announces_its_generations_and_has_enough(whole: tuple[Path, Report, list[str]]) -> None:
    _, report, texts = whole
    assert report.search.tightening is not None
    assert report.search.tightening >= 20
    assert any(
        f"{report.search.tightening} before the budget reaches the target" in text
        for text in texts
        if text.startswith("search:")
    )


@pytest.mark.integration
def test_a_resumed_run_keeps_what_it_chose_to_the_bit(
    whole: tuple[Path, Report, list[str]], dense: Path, tmp_path: Path
) -> None:
    folder, _, _ = whole
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", digits(*OPEN), Stages("finetune", 1, 2))
    again = Stages()
    pruned(dense, tmp_path / "run", digits(*OPEN), again, resume=True)
    assert not any(text.startswith("chosen:") for text in again.texts)
    assert outcome(tmp_path / "run") == outcome(folder)


def test_a_ranking_that_took_the_place_of_a_search_stays_when_the_run_goes_on(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*OPEN, "search.epochs=1", "finetune.epochs=1")
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", recipe, Interrupter("finetune", 1, 2))
    report = pruned(dense, tmp_path / "run", recipe, resume=True)
    assert (report.search.method, report.search.generations) == ("magnitude", 0)
    assert any("a ranking takes its place" in text for text in report.remarks)


def test_statistics_stay_or_are_recalibrated_as_the_held_out_images_prefer(dense: Path) -> None:
    recipe = digits("data.limit=600")
    context = open_context(recipe, RunOptions("cpu"))
    network = open_starting_point(recipe, dense, RunOptions("cpu")).network
    kept, statistics = with_better_statistics(context, network)
    assert statistics is not None
    assert statistics.kept == ("recalibrated" if statistics.recalibrated < statistics.trained else "trained")
    assert (kept is network) == (statistics.kept == "trained")
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_mean * 0 + 3.0  # type: ignore[operator]
    mended, statistics = with_better_statistics(context, network)
    assert statistics is not None
    assert statistics.kept == "recalibrated"
    assert context.held_out_loss(mended) == statistics.recalibrated < statistics.trained


def test_a_network_without_batch_norm_has_no_statistics_to_choose(dense: Path) -> None:
    context = open_context(digits("data.limit=600"), RunOptions("cpu"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    assert with_better_statistics(context, network) == (network, None)
    assert dense.exists()


AVERAGED = (
    "search.method=magnitude", "search.epochs=0", "finetune.epochs=2", "data.limit=100", "finetune.ema=0.9", "finetune.mixup=0.3",
    "finetune.cutmix=0.5", "precision=fp32",
)  # fmt: skip


@pytest.mark.integration
def test_averaged_weights_and_mixed_images_resume_to_the_bit(dense: Path, tmp_path: Path) -> None:
    recipe = digits(*AVERAGED)
    pruned(dense, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", recipe, Interrupter("finetune", 1, 2))
    pruned(dense, tmp_path / "run", recipe, resume=True)
    results = [(tmp_path / name / "pruned.safetensors").read_bytes() for name in ("whole", "run")]
    assert results[0] == results[1]
    pruned(dense, tmp_path / "plain", digits(*AVERAGED, "finetune.ema=0"))
    one, other = (read_state_dict(tmp_path / name / "pruned.safetensors") for name in ("whole", "plain"))
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_a_schedule_that_restarts_reaches_its_peak_again_after_surgery(dense: Path, tmp_path: Path) -> None:
    def last_rate(*more: str) -> float:
        folder = tmp_path / ("restart" if more else "one")
        recipe = digits("search.epochs=2", "finetune.epochs=2", "finetune.warmup=0", "data.limit=300", *more)
        rates: list[float] = []
        from edcompress.training import loop

        original = loop.learning_rate
        loop.learning_rate = lambda *a: rates.append(original(*a)) or rates[-1]  # type: ignore[func-returns-value]
        try:
            pruned(dense, folder, recipe)
        finally:
            loop.learning_rate = original
        return rates[len(rates) // 2]

    assert last_rate() == pytest.approx(0.025)  # half of the way down from 0.05
    assert last_rate("finetune.restart=true") == pytest.approx(0.05)


def with_teacher(path: Path, **others: object) -> Recipe:
    values = {"teacher": "resnet20", "teacher_weights": str(path), **others}
    return digits(*(f"finetune.{key}={value}" for key, value in values.items()))


def test_a_different_teacher_is_built_loaded_and_learnt_from(dense: Path, tmp_path: Path) -> None:
    from edcompress.networks.build import plain_network

    recipe = digits("model.arch=resnet20")
    save_tensors(tmp_path / "teacher.safetensors", plain_network(recipe.network_spec).state_dict())
    teacher = open_teacher(with_teacher(tmp_path / "teacher.safetensors").finetune, digits().network_spec)
    assert teacher is not None
    assert len(list(teacher.parameters())) > len(read_state_dict(dense)) // 5
    assert not teacher.training
    short = (
        "search.method=magnitude",
        "search.epochs=0",
        "finetune.epochs=1",
        "data.limit=200",
        "finetune.distill=1.0",
    )
    taught = [f"finetune.teacher_weights={tmp_path / 'teacher.safetensors'}", "finetune.teacher=resnet20"]
    report = prune(dense, digits(*short, *taught), tmp_path / "run", options=RunOptions("cpu"))
    alone = prune(dense, digits(*short), tmp_path / "alone", options=RunOptions("cpu"))
    assert report.pruned.accuracy.top1.correct < alone.pruned.accuracy.top1.correct  # its teacher knows nothing


def test_what_is_wrong_with_a_teacher_is_said_before_any_compute(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="teacher and teacher_weights go together"):
        digits("finetune.teacher=resnet20")
    with pytest.raises(InputError, match=r"no-such\.pt"):
        prune(dense, with_teacher(tmp_path / "no-such.pt"), tmp_path / "run", options=RunOptions("cpu"))
    recipe = with_teacher(dense, teacher="my.module:network")
    with pytest.raises(InputError, match="trust-code"):
        prune(dense, recipe, tmp_path / "run", options=RunOptions("cpu"))
    assert not (tmp_path / "run").exists()
