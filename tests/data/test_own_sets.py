"""Data sets of the user's own: objects, their items, and what they make impossible."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import v2

from edcompress.core.errors import DataError, RecipeError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.distributed import ProcessGroup
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.images import read_labels
from edcompress.data.own_sets import Given
from edcompress.data.splits import PREPARED, Splits, open_splits, splits_of_objects

OWN = Data(dataset="memory", image_size=16, batch_size=8)


class Pairs(Dataset[tuple[Any, Any]]):
    """Items made by a function of their number."""

    def __init__(self, make: Callable[[int], Any], count: int = 24) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.make(index)


def noise(number: int, *shape: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, shape or (20, 24, 3), dtype=np.uint8)


def pictures(count: int = 24) -> Pairs:
    return Pairs(lambda i: (Image.fromarray(noise(i)), i % 3), count)


def splits(train: object, val: object = None, test: object = None, data: Data = OWN, **more: Any) -> Splits:
    return splits_of_objects(Given(train, val, pictures(6) if test is None else test), data, 0, classes=3, **more)


def epoch(found: Splits, data: Data = OWN, number: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(train_batches(found.train, data, seed=0, epoch=number))


def equal(one: list[tuple[Tensor, Tensor]], two: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(one, two, strict=True))


def test_pictures_are_prepared_as_the_recipe_says() -> None:
    data = OWN.model_copy(update={"resize": 18, "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.1)})
    found = splits(pictures(), pictures(5), pictures(6), data)
    assert (found.classes, found.channels, found.prepared) == (("0", "1", "2"), 3, False)
    assert [len(part) for part in (found.train, found.search, found.test)] == [24, 5, 6]
    images, labels = next(iter(eval_batches(found.test, data)))
    chosen = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                         v2.Normalize(data.mean, data.std)])  # fmt: skip
    assert torch.allclose(images[4], chosen(Image.fromarray(noise(4))), atol=1e-6)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "stored",
    [
        lambda pixels: pixels,
        lambda pixels: pixels.transpose(2, 0, 1),
        lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy,
        lambda pixels: Image.fromarray(pixels).convert("RGBA"),
        lambda pixels: pixels[::1][:, ::-1][:, ::-1],
    ],
)
def test_pixels_are_the_same_however_they_are_stored(stored: Callable[[Any], Any]) -> None:
    found = [
        splits(pictures(), test=Pairs(lambda i, make=make: (make(noise(i)), i % 3), 6))
        for make in (stored, Image.fromarray)
    ]
    one, other = (next(iter(eval_batches(part.test, OWN)))[0] for part in found)
    assert torch.equal(one, other)


def test_grey_pictures_have_one_channel_unless_they_are_converted() -> None:
    grey = Pairs(lambda i: (Image.fromarray(noise(i, 20, 24)), i % 3))
    assert splits(grey, test=grey).channels == 1
    data = OWN.model_copy(update={"channels": 3})
    found = splits(grey, test=grey, data=data)
    images, _ = next(iter(eval_batches(found.test, data)))
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])


def test_floats_are_taken_as_they_are() -> None:
    prepared = Pairs(lambda i: (torch.full((3, 16, 16), i / 10), i % 3))
    data = OWN.model_copy(update={"augment": "crop_flip"})
    found = splits(prepared, test=prepared, data=data)
    assert found.prepared
    assert PREPARED in found.notes
    images, labels = epoch(found, data)[0]
    assert images.dtype == torch.float32
    assert all((image == image[0, 0, 0]).all() for image in images)  # neither padded nor normalised
    assert torch.equal((images[:, 0, 0, 0] * 10).round().long() % 3, labels)


def test_batches_do_not_depend_on_workers_and_resume_to_the_bit() -> None:
    augment = v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip()])

    def item(i: int) -> tuple[Any, int]:
        noisy = noise(i).astype(int) + np.random.randint(-9, 9) + random.randint(-9, 9)
        return augment(Image.fromarray(noisy.clip(0, 255).astype(np.uint8))), i % 3

    found = splits(Pairs(item), pictures(6))
    assert found.doubts == ()
    whole = epoch(found)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert equal(whole, epoch(found))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert torch.equal(torch.get_rng_state(), before[0])
    two = OWN.model_copy(update={"workers": 2})
    assert equal(whole, epoch(found, two))
    assert not equal(whole, epoch(found, OWN, 1))
    rest = [batch for _, batch in train_batches(found.train, OWN, seed=0, epoch=0).numbered(1)]
    assert equal(whole[1:], rest)


@pytest.mark.parametrize("size", [2, 3])
def test_the_ranks_parts_of_a_batch_are_the_batch(size: int) -> None:
    varied = Pairs(lambda i: (np.random.randint(0, 256, (20, 24, 3), dtype=np.uint8), i % 3))
    found = splits(varied, pictures(6))
    whole = train_batches(found.train, OWN, seed=3, epoch=1)
    parts = [train_batches(found.train, OWN, seed=3, epoch=1, ranks=ProcessGroup(rank, size)) for rank in range(size)]
    for batch, *divided in zip(whole, *parts, strict=True):
        for rank, (images, labels) in enumerate(divided):
            assert torch.equal(images, batch[0][rank::size])
            assert torch.equal(labels, batch[1][rank::size])


def test_what_a_data_set_makes_impossible_is_said() -> None:
    generator = np.random.default_rng(0)
    own = Pairs(lambda i: (generator.integers(0, 256, (20, 24, 3), dtype=np.uint8), i % 3))
    (doubt,) = splits(own, pictures(6)).doubts
    assert doubt.startswith("train: an item differs between two reads")
    assert "nor resumed to the bit" in doubt
    varied = Pairs(lambda i: (np.random.randint(0, 256, (20, 24, 3), dtype=np.uint8), i % 3))
    assert splits(varied, pictures(6)).doubts == ()
    (doubt,) = splits(pictures(), pictures(6), varied).doubts
    assert doubt.startswith("test: its items are changed at random, and accuracies are of changed images")
    (doubt,) = splits(varied).doubts
    assert "held-out images are taken from it" in doubt


def test_loaders_give_their_data_sets() -> None:
    loader = DataLoader(pictures(), batch_size=5, shuffle=True)
    found, direct = splits(loader), splits(pictures())
    assert equal(epoch(found), epoch(direct))
    assert "of each DataLoader the data set alone is used" in found.notes[0]


def test_classes_are_named_and_shown_by_the_data_set() -> None:
    class Named(Pairs):
        classes = ("cat", "dog", "elk")
        targets = tuple(i % 3 for i in range(24))

    found = splits(Subset(Named(pictures().make), range(12)))
    assert found.classes == ("cat", "dog", "elk")
    assert found.train.labels is not None
    assert sorted(found.train.labels.tolist() + found.search.labels.tolist()) == sorted([0, 1, 2] * 4)  # type: ignore[union-attr]
    Named.targets = tuple(0 for _ in range(24))  # which is not what its items say
    assert splits(Named(pictures().make)).train.labels is None


def test_without_test_images_validation_tests_or_a_share_does() -> None:
    found = splits_of_objects(Given(pictures(), pictures(6), None), OWN, 0, classes=3)
    assert [len(part) for part in (found.train, found.search, found.test)] == [22, 2, 6]
    found = splits_of_objects(Given(pictures(), None, None), OWN, 0, classes=3)
    assert [len(part) for part in (found.train, found.search, found.test)] == [17, 2, 5]
    assert "the data set has no test images of its own, 0.2 of the images tests: 17 images train" in found.notes[0]
    numbers = [set(part.numbers.tolist()) for part in (found.train, found.search, found.test)]  # type: ignore[attr-defined]
    assert len(set.union(*numbers)) == 24


def test_labels_keep_their_shape() -> None:
    several = Pairs(lambda i: (noise(i), torch.tensor([1.0, 0.0, float(i % 2)])))
    found = splits(several, test=several)
    _, labels = epoch(found)[0]
    assert (labels.dtype, tuple(labels.shape[1:])) == (torch.float32, (3,))
    assert found.train.labels is None
    maps = Pairs(lambda i: (noise(i), np.full((16, 16), 255, np.uint8)))
    assert epoch(splits(maps, test=maps))[0][1].dtype == torch.int64
    single = Pairs(lambda i: (noise(i), float(i)))
    assert epoch(splits(single, test=single, any_labels=True))[0][1].dtype == torch.float32


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return noise(index), 0


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(noise(0), 0)])


def always(item: Any) -> Pairs:
    return Pairs(lambda _: item)


def from_20(item: Any) -> Pairs:
    """Items that are pictures up to number 19, and then another thing."""
    return Pairs(lambda i: (noise(i), 0) if i < 20 else item)


FLOATS = torch.rand(3, 16, 16)

FAULTS = {
    "a stream": (Streamed(), r"train: it is of class Streamed, which has no items by number; give a data set with __len__"),
    "a loader of a stream": (DataLoader(Streamed()), r"train: it is a DataLoader of Streamed, which has no items by number"),
    "a number": (3, r"train: it is int 3, which has no items by number"),
    "no length": (NoLength(), r"train: NoLength has no length; define __len__"),
    "empty": (Pairs(noise, 0), r"train: it is empty; give at least one image"),
    "no pair": (Pairs(noise), r"train\[0\]: it is a ndarray .*, not a pair \(image, label\)"),
    "three": (always((1, 2, 3)), r"train\[0\]: it is a tuple of 3, not a pair"),
    "a mapping": (always({"x": 1, "mask": 2}), r"train\[0\]: it is a mapping with x, mask; name its parts image and label"),
    "a text": (always(("a.png", 0)), r"train\[0\]: its image is str 'a\.png'; return a Pillow image, an array or a tensor"),
    "int64 pixels": (always((noise(0).astype(int), 0)), r"its image has values of int64; return uint8 pixels, or floats"),
    "float pixels": (always((torch.rand(3, 20, 24), 0)), r"its image is float \[3, 20, 24\], and the network takes \[3, 16, 16\]"),
    "a batch": (always((noise(0, 2, 3, 16, 16), 0)), r"train\[0\]: its image has the shape \[2, 3, 16, 16\]; return one image"),
    "other channels": (from_20((noise(0, 20, 24, 4), 0)), r"train\[23\]: its image has 4 channels, and 3 are taken"),
    "mixed": (from_20((FLOATS, 0)), r"train\[23\]: its image has values of torch\.float32, unlike"),
    "a high label": (from_20((noise(0), 7)), r"train\[23\]: its label is 7, and classes are numbered from 0 to 2"),
    "a negative label": (always((noise(0), -1)), r"train\[0\]: its label is -1"),
    "a float label": (always((noise(0), 1.0)), r"train\[0\]: its label is the float 1, and a class is a whole number; return int"),
    "a name": (always((noise(0), "cat")), r"train\[0\]: its label is str 'cat'; return the number of its class"),
    "labels of two shapes": (from_20((noise(0), [0, 1])), r"train\[23\]: its label is torch\.int64 \[2\], and the first one torch\.int64"),
    "an error": (Pairs(lambda i: (noise(i), 0 // (i - 23))), r"train\[23\] failed in your code: ZeroDivisionError: .*\nTraceback"),
    "val of another kind": (always((FLOATS, 0)), r"val has uint8 pixels, and train float images; give both alike"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_used_is_named_before_any_compute(name: str) -> None:
    given, fault = FAULTS[name]
    with pytest.raises(DataError, match=fault):
        splits(given, pictures(6))


def test_a_fault_that_was_not_looked_at_is_named_when_it_is_used() -> None:
    rare = Pairs(lambda i: (noise(i), 5 if i == 11 else 0))
    found = splits(rare, pictures(6))
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"train\[11\]: its label is 5"):
            epoch(found, OWN.model_copy(update={"workers": workers}))
    data = OWN.model_copy(update={"skip_broken": True})
    said: list[str] = []
    left = list(
        train_batches(splits(rare, pictures(6), data=data).with_warnings_to(said.append).train, data, seed=0, epoch=0)
    )
    assert sum(len(labels) for _, labels in left) == 23
    assert said == [
        "train[11]: its label is 5, and classes are numbered from 0 to 2 (model.num_classes is 3); renumber the labels"
    ]


def test_tensors_in_memory_are_a_data_set() -> None:
    pixels, labels = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8), torch.arange(24) % 3
    found = splits(TensorDataset(pixels, labels), test=TensorDataset(pixels, labels))
    assert found.channels == 1
    assert found.test.labels is not None
    assert torch.equal(found.test.labels, labels)


FACTORY = """
import numpy as np
from torch.utils.data import Dataset

class Digits(Dataset):
    def __init__(self, first, last):
        self.numbers = range(first, last)
    def __len__(self):
        return len(self.numbers)
    def __getitem__(self, index):
        generator = np.random.default_rng(self.numbers[index])
        return generator.integers(0, 256, (20, 24, 3), dtype=np.uint8), self.numbers[index] % 3

def sets():
    return Digits(0, 30), None, Digits(30, 40)

def named():
    return {"train": Digits(0, 30), "val": Digits(30, 35), "test": Digits(35, 40)}

def wrong():
    return Digits(0, 30)

def failing():
    raise KeyError("nothing here")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of data sets in the working directory."""
    name = f"sets_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def from_factory(spec: str, **more: Any) -> Splits:
    return open_splits(Data(factory=spec, image_size=16), seed=0, classes=3, trust_code=True, **more)  # type: ignore[call-arg]


def test_a_factory_returns_train_val_and_test(mine: str) -> None:
    found = from_factory(f"{mine}:sets")
    assert [len(part) for part in (found.train, found.search, found.test)] == [27, 3, 10]
    found = from_factory(f"{mine}:named")
    assert [len(part) for part in (found.train, found.search, found.test)] == [30, 5, 5]
    with pytest.raises(DataError, match=rf"data\.factory: {mine}:sets runs your own code; add --trust-code"):
        open_splits(Data(factory=f"{mine}:sets", image_size=16), seed=0)  # type: ignore[call-arg]
    with pytest.raises(DataError, match=r"must return train, val \(or None\) and test; it returned a Digits"):
        from_factory(f"{mine}:wrong")
    with pytest.raises(DataError, match=r"failing\(\) failed in your code: KeyError: 'nothing here'\nTraceback"):
        from_factory(f"{mine}:failing")
    with pytest.raises(DataError, match=rf"{mine} has no 'set'; did you mean 'sets'"):
        from_factory(f"{mine}:set")


def test_a_factory_and_a_data_set_exclude_each_other(tmp_path: Path) -> None:
    recipe = tmp_path / "my.yaml"
    text = "model: {arch: resnet8, num_classes: 3}\ndata: {dataset: digits, image_size: 16, factory: 'a:b'}\n"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(
        RecipeError, match="data: factory gives the images, so that dataset cannot be digits; remove one"
    ):
        read_recipe(recipe)
    recipe.write_text(text.replace("dataset: digits, ", ""), encoding="utf-8")
    assert read_recipe(recipe).data.dataset == "factory"
    recipe.write_text(text.replace("digits", "factory").replace(", factory: 'a:b'", ""), encoding="utf-8")
    with pytest.raises(RecipeError, match="data: dataset factory needs factory; give it"):
        read_recipe(recipe)


def test_objects_of_a_program_cannot_be_opened_by_a_recipe() -> None:
    with pytest.raises(
        DataError, match=r"data\.dataset: memory: what held these images was an object in memory of a Python program"
    ):
        open_splits(OWN, seed=0)


def test_labels_are_read_where_they_are_not_shown() -> None:
    found = splits(pictures(), pictures(6))
    assert found.train.labels is None
    assert torch.equal(read_labels(found.search), torch.arange(6) % 3)
    shown = TensorDataset(torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.arange(6) % 3)
    assert torch.equal(read_labels(splits(shown, test=shown).test), torch.arange(6) % 3)


def test_channels_that_pictures_cannot_have_are_refused(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"data\.channels is 5, but image_folder has pictures, which are grey \(1\) or RGB \(3\)"
    ):
        open_splits(Data(dataset="image_folder", root=make_folder(), image_size=16, channels=5), seed=0)
    with pytest.raises(DataError, match=r"data\.channels is 4, but digits has pictures"):
        open_splits(Data(dataset="digits", image_size=8, channels=4), seed=0)
    with pytest.raises(
        DataError, match=r"train\[0\]: its image is a Pillow image, which cannot have 5 channels; return an array"
    ):
        splits(pictures(), data=OWN.model_copy(update={"channels": 5}))


def test_own_images_that_judge_replace_those_of_search_from() -> None:
    data = OWN.model_copy(update={"search_from": "test"})
    found = splits(pictures(), pictures(5), pictures(6), data)
    assert [len(part) for part in (found.train, found.search, found.test)] == [24, 5, 6]
    assert any("data.search_from is not used" in note for note in found.notes)
