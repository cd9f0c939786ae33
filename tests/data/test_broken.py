"""Image files that cannot be decoded: they stop the run, or are left out and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import ONE_EPOCH, Interrupter, digits, outcome, pruned
from PIL import Image

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.batches import Batches, eval_batches, train_batches
from edcompress.data.decoding import decode
from edcompress.data.images import FileImages
from edcompress.data.splits import open_splits
from edcompress.workflows.stages.run_context import open_context

TEN = ("cat", "dog", "elk", "emu", "fox", "gnu", "hen", "owl", "pig", "rat")
"""The number of classes of the digits recipe's network."""


class Listener(NullMonitor):
    """Keeps the warnings, and the numbers of the last epoch's steps."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[int] = []

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        self.steps = []

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
        self.steps.append(step)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def cut_off(path: Path | str) -> str:
    """Cut an image in half, and return its path."""
    Path(path).write_bytes(Path(path).read_bytes()[:60])
    return str(path)


def skipping(data: Data, **changes: object) -> Data:
    return Data(**{**data.model_dump(), "skip_broken": True, **changes})


def lengths(batches: Batches) -> list[int]:
    return [len(labels) for _, labels in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_the_run_by_name(folder_data: Data, workers: int) -> None:
    data = skipping(folder_data, skip_broken=False, workers=workers)
    splits = open_splits(data, seed=0)
    broken = cut_off(splits.test.paths[3])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=rf"^{broken}: cannot be read as an image: .*replace or .*skip_broken=true"):
        list(eval_batches(splits.test, data))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_left_out_of_its_batch_and_named(folder_data: Data, workers: int) -> None:
    data, warnings = skipping(folder_data, workers=workers, eval_batch_size=4), list[str]()
    splits = open_splits(data, seed=0).with_warnings_to(warnings.append)
    whole = list(eval_batches(splits.test, data))
    broken = cut_off(splits.test.paths[1])  # type: ignore[attr-defined]
    first, second = eval_batches(splits.test, data)
    rest = torch.tensor([0, 2, 3])
    assert torch.equal(first[0], whole[0][0][rest])
    assert torch.equal(first[1], whole[0][1][rest])
    assert torch.equal(second[0], whole[1][0])
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{broken}: cannot be read as an image: ")


def test_without_a_broken_image_skipping_changes_nothing(folder_data: Data) -> None:
    plain, skips = (
        list(train_batches(open_splits(data, seed=0).train, data, seed=0, epoch=0))
        for data in (folder_data, skipping(folder_data))
    )
    assert all(torch.equal(one[0], two[0]) for one, two in zip(plain, skips, strict=True))


def test_a_training_batch_that_shrank_to_one_image_is_dropped_as_a_last_one_is(folder_data: Data) -> None:
    data = skipping(folder_data, batch_size=3)
    train = open_splits(data, seed=0).train
    assert lengths(train_batches(train, data, seed=0, epoch=0)) == [3, 3, 3]
    for path in train.paths[:2]:  # type: ignore[attr-defined]
        cut_off(path)
    found = {tuple(lengths(train_batches(train, data, seed=0, epoch=epoch))) for epoch in range(20)}
    assert {tuple(sorted(each)) for each in found} == {(2, 2, 3), (3, 3)}


def test_too_many_broken_images_stop_the_run(make_folder: Callable[..., Path]) -> None:
    root = make_folder(val=8)
    data = skipping(Data(dataset="image_folder", root=root, image_size=16))
    test = open_splits(data, seed=0).test
    for path in test.paths[:10]:  # type: ignore[attr-defined]
        cut_off(path)
    assert lengths(eval_batches(test, data)) == [14]
    cut_off(test.paths[10])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"11 of 24 images cannot be read, and at most 10 or 1%"):
        list(eval_batches(test, data))


def test_a_whole_broken_batch_stops_the_run_however_large_the_data_set(folder_data: Data) -> None:
    images = open_splits(skipping(folder_data), seed=0).test
    broken, good = cut_off(images.paths[0]), images.paths[1]  # type: ignore[attr-defined]
    many = FileImages(torch.zeros(2000, dtype=torch.int64), 3, skip_broken=True, paths=(broken,) * 11 + (good,) * 1989)
    _, labels = next(iter(eval_batches(many, skipping(folder_data, eval_batch_size=12))))
    assert len(labels) == 1
    with pytest.raises(DataError, match=r"11 of 2000 images cannot be read"):
        next(iter(eval_batches(many, skipping(folder_data, eval_batch_size=11))))


def test_a_data_set_without_readable_images_stops_the_run(folder_data: Data) -> None:
    test = open_splits(skipping(folder_data), seed=0).test
    for path in test.paths:  # type: ignore[attr-defined]
        cut_off(path)
    with pytest.raises(DataError, match=r"of 6 images, too few can be read for one batch"):
        list(eval_batches(test, skipping(folder_data)))


def test_a_run_counts_what_it_read_and_names_a_broken_image_once(folder_data: Data) -> None:
    listener = Listener()
    recipe = Recipe(model=Model(arch="resnet8", num_classes=3), data=skipping(folder_data, workers=2))
    context = open_context(recipe, RunOptions("cpu", monitor=listener))
    broken = cut_off(context.splits.test.paths[0])  # type: ignore[attr-defined]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    assert [context.accuracy(network).top1.total for _ in range(2)] == [5, 5]
    assert len(context.parity_pixels) == 5
    assert len(listener.warnings) == 1
    assert listener.warnings[0].startswith(f"left out: {broken}: cannot be read")


def test_without_a_monitor_warnings_go_to_pythons_log(folder_data: Data, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe(model=Model(arch="resnet8", num_classes=3), data=skipping(folder_data))
    context = open_context(recipe)
    broken = cut_off(context.splits.test.paths[0])  # type: ignore[attr-defined]
    assert sum(len(labels) for _, labels in context.test_batches("test images")) == 5
    assert [text for _, _, text in caplog.record_tuples if text.startswith(f"left out: {broken}")] == caplog.messages
    assert len(caplog.messages) == 1


def test_evaluate_and_train_name_what_they_leave_out(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], dense: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(TEN, train=2, val=1, mode="L")
    more = ("data.dataset=image_folder", f"data.root={folder}", "data.channels=1", "data.skip_broken=true")
    options, broken = quick(*more, "data.batch_size=4"), cut_off(folder / "val" / "elk" / "0.png")
    for command in (("evaluate", dense), ("train", "-o", folder / "dense.safetensors", "--quiet")):
        ended = cli(*command, *options)
        assert (ended.code, ended.err.count(f"warning: left out: {broken}: cannot be read")) == (0, 1), ended.err


@pytest.mark.integration
def test_doctor_names_what_it_leaves_out(cli: Callable[..., Any], make_folder: Callable[..., Path]) -> None:
    folder = make_folder(("cat", "dog"), train=8)
    broken = cut_off(folder / "train" / "cat" / "0.png")
    text = f"""model: {{arch: resnet8, num_classes: 2}}
data: {{dataset: image_folder, root: {folder}, image_size: 16, batch_size: 4, skip_broken: true, search_fraction: 0.13}}
target: {{macs: 0.5}}
"""
    (folder / "r.yaml").write_text(text)
    for search in (0, 1):  # whichever split has it
        cut_off(folder / "train" / "cat" / f"{search}.png")
    ended = cli("doctor", "--recipe", folder / "r.yaml")
    assert ended.err.count("warning: left out: ") in (1, 2), ended.err
    assert f"warning: left out: {broken.removesuffix('0.png')}" in ended.err


def test_a_run_continues_after_a_batch_that_was_left_out(
    dense: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, listener = make_folder(TEN, train=2, val=1, mode="L"), Listener()
    cut_off(folder / "train" / "dog" / "1.png")
    data = ("data.dataset=image_folder", f"data.root={folder}", "data.channels=1", "data.batch_size=2")
    recipe = digits(*ONE_EPOCH, *data, "data.skip_broken=true")
    pruned(dense, tmp_path / "whole", recipe, listener)
    last = listener.steps[-1]
    assert last == len(listener.steps) + 1  # one of two images is too few for batch norm
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "broken", recipe, Interrupter("finetune", 0, last))
    pruned(dense, tmp_path / "broken", recipe, resume=True)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_a_run_that_stopped_at_a_broken_image_resumes_without_it(
    cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], dense: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(TEN, train=2, val=1, mode="L")
    options = quick("data.dataset=image_folder", f"data.root={folder}", "data.channels=1", "data.batch_size=4")
    broken = cut_off(folder / "train" / "dog" / "1.png")  # which trains
    begin = ("prune", dense, *options, "-o", folder / "run", "--quiet")
    stopped = cli(*begin)
    assert (stopped.code, f"error: {broken}: cannot be read" in stopped.err) == (2, True)
    resumed = cli(*begin, "--resume", "--set", "data.skip_broken=true")
    assert resumed.code == 0, resumed.err
    assert resumed.err.count(f"warning: left out: {broken}: cannot be read as an image") == 1


@pytest.mark.parametrize(("kind", "mode"), [("uint16", "I;16"), ("float32", "F")])
def test_an_image_whose_pixels_are_not_bytes_is_not_clipped_to_white(tmp_path: Path, kind: str, mode: str) -> None:
    pixels = np.linspace(0, 60_000, 64).reshape(8, 8).astype(kind)
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    for channels in (1, 3):
        with pytest.raises(DataError, match=rf"deep\.tif: .* not bytes \(mode {mode}\); save it with 8 bits"):
            decode(tmp_path / "deep.tif", channels)
