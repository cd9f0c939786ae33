from pathlib import Path

import pytest
import torch
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.splits import check_fits, open_splits
from edcompress.data.transforms import normalise

DIGITS = Data(dataset="digits", image_size=8, batch_size=64, augment="crop_flip", crop_padding=1)


def epoch_of(data: Data, *, epoch: int = 0, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(train_batches(open_splits(data, seed=0).train, data, seed=seed, epoch=epoch))


def equal(one: list[tuple[Tensor, Tensor]], two: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def with_(data: Data, **changes: object) -> Data:
    return Data(**{**data.model_dump(), **changes})


def test_sizes_of_the_digits_splits() -> None:
    splits = open_splits(DIGITS, seed=0)
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [1294, 144, 359]
    assert splits.classes == tuple("0123456789")
    images, labels = next(iter(eval_batches(splits.test, DIGITS)))
    assert (images.shape, images.dtype, labels.dtype) == ((250, 1, 8, 8), torch.float32, torch.int64)
    assert (images.min(), images.max()) == (-1.0, 1.0)


def test_splits_are_disjoint_complete_and_fixed_by_the_seed(folder_data: Data) -> None:
    one, again, other = (open_splits(folder_data, seed=seed) for seed in (0, 0, 1))
    parts = [set(part.paths) for part in (one.train, one.search, one.test)]  # type: ignore[attr-defined]
    assert [len(part) for part in parts] == [9, 3, 6]
    assert len(set.union(*parts)) == 18
    assert one.train.paths == again.train.paths  # type: ignore[attr-defined]
    assert one.train.paths != other.train.paths  # type: ignore[attr-defined]
    assert one.test.paths == other.test.paths  # type: ignore[attr-defined]


def test_limit_applies_before_the_split_and_keeps_every_class(folder_data: Data) -> None:
    data = with_(folder_data, limit=9)
    splits = open_splits(data, seed=3)
    assert (len(splits.train), len(splits.search), len(splits.test)) == (7, 2, 6)
    used = splits.train.labels.tolist() + splits.search.labels.tolist()
    assert sorted(used) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_test_images_can_judge_and_then_do_not_report(folder_data: Data) -> None:
    from_train, from_test = (open_splits(with_(folder_data, search_from=where), seed=0) for where in ("train", "test"))
    train, search, test = (set(part.paths) for part in (from_test.train, from_test.search, from_test.test))  # type: ignore[attr-defined]
    assert train == {*from_train.train.paths, *from_train.search.paths}  # type: ignore[attr-defined]
    assert search | test == set(from_train.test.paths)  # type: ignore[attr-defined]
    assert (len(train), len(search), len(test)) == (12, 2, 4)
    with pytest.raises(DataError, match=r"0\.8 of 6 test images leaves 1 to report on"):
        open_splits(with_(folder_data, search_from="test", search_fraction=0.8), seed=0)


def test_epochs_differ_and_repeat() -> None:
    assert equal(epoch_of(DIGITS), epoch_of(DIGITS))
    assert not torch.equal(epoch_of(DIGITS)[0][0], epoch_of(DIGITS, epoch=1)[0][0])
    assert not torch.equal(epoch_of(DIGITS)[0][0], epoch_of(DIGITS, seed=1)[0][0])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop"])
def test_batches_do_not_depend_on_workers(folder_data: Data, augment: str) -> None:
    data = with_(folder_data, augment=augment)
    assert equal(epoch_of(data), epoch_of(with_(data, workers=2)))
    test = open_splits(data, seed=0).test
    assert equal(list(eval_batches(test, data)), list(eval_batches(test, with_(data, workers=2))))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_equals_that_of_the_whole_epoch(folder_data: Data, workers: int) -> None:
    data = with_(folder_data, batch_size=2, augment="resized_crop", workers=workers)
    batches = train_batches(open_splits(data, seed=0).train, data, seed=0, epoch=1)
    whole = list(batches)
    for done in range(6):
        rest = list(batches.numbered(done))
        assert equal([batch for _, batch in rest], whole[done:])
        assert [number for number, _ in rest] == [1, 2, 3, 4][done:]


@pytest.mark.parametrize("augment", ["crop_flip", "resized_crop"])
def test_the_global_generator_is_neither_used_nor_moved(augment: str) -> None:
    data = with_(DIGITS, augment=augment)
    torch.manual_seed(1)
    one = epoch_of(data)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert equal(one, epoch_of(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_has_every_image_once() -> None:
    data = with_(DIGITS, augment="none")
    splits = open_splits(data, seed=0)
    labels = torch.cat([labels for _, labels in train_batches(splits.train, data, seed=0, epoch=0)])
    assert torch.equal(labels.bincount(), splits.train.labels.bincount())


@pytest.mark.parametrize(("images", "lengths"), [(9, [4, 4]), (10, [4, 4, 2]), (8, [4, 4]), (5, [4]), (3, [3])])
def test_only_a_last_batch_of_one_is_dropped_in_training(images: int, lengths: list[int]) -> None:
    train = open_splits(DIGITS, seed=0).train.subset(torch.arange(images))
    batches = train_batches(train, with_(DIGITS, batch_size=4), seed=0, epoch=0)
    assert [len(labels) for _, labels in batches] == lengths
    assert len(batches) == len(lengths)


def test_evaluation_drops_nothing_and_keeps_the_order() -> None:
    test, data = open_splits(DIGITS, seed=0).test, with_(DIGITS, eval_batch_size=179)
    batches = eval_batches(test, data)
    assert len(batches) == 3
    assert torch.equal(torch.cat([labels for _, labels in batches]), test.labels)
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.cat([x for x, _ in eval_batches(test, DIGITS)]))


def test_pixels_of_an_evaluation_are_those_that_are_normalised() -> None:
    test = open_splits(DIGITS, seed=0).test
    pixels = torch.cat([x for x, _ in eval_batches(test, with_(DIGITS, eval_batch_size=100), as_pixels=True)])
    assert pixels.dtype == torch.uint8
    images = torch.cat([x for x, _ in eval_batches(test, DIGITS)])
    assert torch.equal(normalise(pixels, DIGITS), images)


def test_search_images_are_not_augmented() -> None:
    search = open_splits(DIGITS, seed=0).search
    plain = with_(DIGITS, augment="none")
    assert equal(list(eval_batches(search, DIGITS)), list(eval_batches(search, plain)))


def test_data_that_does_not_fit_the_model_is_refused() -> None:
    splits = open_splits(DIGITS, seed=0)
    check_fits(splits, Model(arch="resnet8", num_classes=10, in_channels=1), DIGITS)
    check_fits(splits, Model(arch="resnet8", num_classes=20, in_channels=1), DIGITS)
    with pytest.raises(DataError, match=r"images are grey; set model\.in_channels=1 or data\.channels=3"):
        check_fits(splits, Model(arch="resnet8", num_classes=10), DIGITS)
    with pytest.raises(
        DataError, match=r"labels up to 9 \(10 classes\); remove .*images: 8: 127, .*model\.num_classes=10"
    ):
        check_fits(splits, Model(arch="resnet8", num_classes=9, in_channels=1), DIGITS)


def test_mean_and_std_have_one_value_per_channel() -> None:
    with pytest.raises(DataError, match=r"have 3 values, the images are grey; give one value"):
        open_splits(with_(DIGITS, mean=(0.1,) * 3, std=(1.0,) * 3), seed=0)


def test_too_few_training_images(make_folder) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder(("cat", "dog"), train=1, val=1)
    with pytest.raises(DataError, match=r"data\.search_fraction: 0\.1 of 2 training images leaves 1"):
        open_splits(Data(dataset="image_folder", root=root, image_size=16), seed=0)
