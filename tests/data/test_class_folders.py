"""Class folders whose labels or accuracies are misleading."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from digits import digits

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.splits import check_fits, open_splits
from edcompress.workflows.stages.run_context import open_context

MakeFolder = Callable[..., Path]


def opened(root: Path, classes: int = 3, **more: object) -> tuple[str, ...]:
    """Open the images of a folder for a network with so many classes, and return the doubts about them."""
    data = Data(dataset="image_folder", root=root, image_size=16, search_fraction=0.25, **more)  # type: ignore[arg-type]
    splits = open_splits(data, seed=0)
    check_fits(splits, Model(arch="resnet8", num_classes=classes), data)
    return splits.doubts


def test_ordinary_folders_are_not_doubted(make_folder: MakeFolder) -> None:
    assert opened(make_folder()) == ()


def test_fewer_folders_than_classes_are_refused_with_their_names(make_folder: MakeFolder) -> None:
    root = make_folder()
    with pytest.raises(DataError, match=r"num_classes is 4, but .*train has 3 class folders, .*: cat, dog, elk; add"):
        opened(root, classes=4)
    for part in ("train", "val"):
        shutil.rmtree(root / part / "dog")
        (root / part / "dog").symlink_to(root / "gone")
    with pytest.raises(DataError, match=r"train/dog links to nothing"):
        opened(root)


def test_some_of_imagenets_folders_are_enough(make_folder: MakeFolder) -> None:
    root = make_folder(("n02102040", "n03888257"))
    assert opened(root, classes=1000, class_index="imagenet") == ()


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/dog", "train/cat"),
        ("val/dog", "val/cat"),
        ("val/dog", "train/dog"),
        ("val", "train"),
        ("train/dog", "train/cat/inner"),
    ],
)
def test_class_folders_that_are_one_directory_are_refused(make_folder: MakeFolder, link: str, target: str) -> None:
    root = make_folder()
    shutil.rmtree(root / link)
    if target.endswith("inner"):
        shutil.copytree(root / "train" / "elk", root / target)
    (root / link).symlink_to(root / target)
    with pytest.raises(DataError, match=r"are the same directory, or one lies in the other; give each class"):
        opened(root)


def test_numbers_that_are_sorted_as_text_are_doubted(make_folder: MakeFolder, tmp_path: Path) -> None:
    (doubt,) = opened(make_folder(("1", "2", "10")))
    assert "are sorted as text: 1, 10, 2; " in doubt
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "val")
    assert opened(make_folder(("01", "02", "10"))) == ()


def test_wrappers_around_classes_are_doubted(make_folder: MakeFolder) -> None:
    root = make_folder()
    for part in ("train", "val"):
        for wrapper, names in (("animals", ("cat", "dog")), ("others", ("elk",))):
            (root / part / wrapper).mkdir()
            for name in names:
                (root / part / name).rename(root / part / wrapper / name)
    found = opened(root, classes=2)
    assert ["wrappers around classes" in doubt for doubt in found] == [True, True]
    assert str(root / "train" / "animals" / "cat") in found[0]
    with pytest.raises(DataError, match=r"has 2 class folders, .*: animals, others; .*move the class folders up, into"):
        opened(root, classes=3)


def test_test_images_that_are_training_images_are_named(make_folder: MakeFolder) -> None:
    root = make_folder()
    shutil.copy(root / "train" / "dog" / "1.png", root / "val" / "dog" / "1.png")
    (doubt,) = opened(root)
    assert "1 of 6 test images that were compared are training images too" in doubt
    assert f"{root / 'val' / 'dog' / '1.png'} is {root / 'train' / 'dog' / '1.png'}" in doubt
    (root / "val" / "dog" / "1.png").unlink()
    (root / "val" / "dog" / "1.png").symlink_to(root / "gone.png")
    assert opened(root) == ()


def test_classes_without_test_images_are_named(make_folder: MakeFolder) -> None:
    root = make_folder()
    shutil.rmtree(root / "val" / "dog")
    assert opened(root) == ("the test images show 2 of 3 classes, and none of dog",)


def test_doubts_reach_the_monitor_as_alarms(make_folder: MakeFolder) -> None:
    class Listener(NullMonitor):
        alarms: Sequence[str] = ()

        def alarm(self, text: str) -> None:
            self.alarms = (*self.alarms, text)

    root, listener = make_folder(("1", "2", "10")), Listener()
    settings = ("data.dataset=image_folder", f"data.root={root}", "model.num_classes=3", "data.channels=1")
    open_context(digits(*settings, "data.search_fraction=0.25"), RunOptions("cpu", monitor=listener))
    assert ["sorted as text" in text for text in listener.alarms] == [True]
