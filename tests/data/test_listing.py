"""The images in a class folder, and the warnings about everything else there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.recipe import Recipe
from edcompress.data.image_folder import open_image_folder
from edcompress.data.images import FileImages
from edcompress.data.listing import class_files
from edcompress.data.opening import OpenRequest
from edcompress.data.splits import check_fits, open_splits

MakeFolder = Callable[..., Path]


def opened(root: Path) -> tuple[FileImages, FileImages, list[str]]:
    """Training and test images, and the warnings about the folders."""
    notes: list[str] = []
    data = Data(dataset="image_folder", root=root, image_size=16)
    train, test = open_image_folder(OpenRequest(data, root, notes.append))[:2]
    return train, test, notes


def copied(image: Path, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)


def test_an_ordinary_folder_is_read_in_torchvisions_order(make_folder: MakeFolder) -> None:
    root = make_folder()
    cat, image = root / "train" / "cat", root / "train" / "cat" / "0.png"
    copied(image, *(cat / name for name in ("B.PNG", "b/2.jpg", "b/1.jpeg", "b-c/3.tif", "b/c/4.webp", "a.x.bmp")))
    os.symlink(root / "val" / "dog", cat / "linked")
    train, _, notes = opened(root)
    names = {"cat": 0, "dog": 1, "elk": 2}
    expected = make_dataset(root / "train", names, IMG_EXTENSIONS)
    assert list(zip(train.paths, train.labels.tolist(), strict=True)) == expected
    assert len(notes) == 1  # of the link


def test_hidden_entries_are_skipped_at_every_level(make_folder: MakeFolder) -> None:
    root = make_folder()
    before = opened(root)[0].paths
    image, train = root / "train" / "cat" / "0.png", root / "train"
    copied(image, train / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", train / "cat" / "sub" / ".trash" / "1.png")
    copied(image, train / "__MACOSX" / "cat" / "0.png", train / "dog" / "__MACOSX" / "0.png", train / "dog" / "._0.png")
    train_images, _, notes = opened(root)
    assert (train_images.paths, notes) == (before, [])


def test_links_that_loop_are_followed_once(make_folder: MakeFolder) -> None:
    root = make_folder()
    before = opened(root)[0].paths
    cat = root / "train" / "cat"
    (cat / "sub").mkdir()
    for name, target in {"to_class": cat, "to_train": cat.parent, "sub/up": "..", "z": "sub", "self": "self"}.items():
        os.symlink(target, cat / name)
    train, _, notes = opened(root)
    assert train.paths == before
    assert "1 without a suffix (first: cat/self)" in notes[0]


def test_a_folder_with_two_names_in_a_class_is_read_by_its_own(make_folder: MakeFolder) -> None:
    root = make_folder()
    cat = root / "train" / "cat"
    copied(cat / "0.png", cat / "real" / "0.png")
    os.symlink("real", cat / "alias")
    paths = class_files(str(cat)).images
    assert [os.path.relpath(path, cat) for path in paths] == ["0.png", "1.png", "2.png", "3.png", "real/0.png"]


def test_what_is_not_read_is_counted_by_kind(make_folder: MakeFolder) -> None:
    root = make_folder()
    cat = root / "train" / "cat"
    for name in ("a.GIF", "b.gif", "notes", "sub/c.heic"):
        copied(cat / "0.png", cat / name)
    copied(cat / "0.png", root / "train" / "labels.csv")
    Image.open(cat / "0.png").convert("RGB").save(cat / "d.jfif", "JPEG")
    os.mkfifo(cat / "pipe.png")
    train, _, notes = opened(root)
    assert sum(path.endswith(".jfif") for path in train.paths) == 1
    assert len(train) == 4 * 3 + 1
    assert len(notes) == 1
    for part in ("train: 6 files are not read", "2 .gif (first: cat/a.GIF)", "1 .heic (first: cat/sub/c.heic)",
                 "1 without a suffix (first: cat/notes)", "1 pipe, socket or device (first: cat/pipe.png)",
                 "1 beside the class folders (first: labels.csv)", "images are .jpg"):  # fmt: skip
        assert part in notes[0]


def test_a_class_without_images_is_refused_with_what_it_holds(make_folder: MakeFolder) -> None:
    root = make_folder()
    for image in (root / "val" / "dog").iterdir():
        image.rename(image.with_suffix(".gif"))
    with pytest.raises(DataError, match=r"no images .* in .*val/dog; .*2 \.gif \(first: dog/0\.gif\)"):
        opened(root)


def test_links_out_of_a_class_folder_are_read_and_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    pool, cat = tmp_path / "pool", root / "val" / "cat"
    copied(cat / "0.png", pool / "far.png", pool / "more" / "1.png", pool / "more" / "2.png")
    os.symlink(cat / "0.png", cat / "near.png")
    os.symlink(pool / "far.png", cat / "far.png")
    os.symlink(pool / "more", cat / "more")
    _, test, notes = opened(root)
    assert len(test) == 3 * 2 + 4
    assert len(notes) == 1
    assert f"3 images of {root / 'val'} lie behind links" in notes[0]
    assert f"cat/far.png, really {os.path.realpath(pool / 'far.png')}" in notes[0]


def test_a_dangling_link_does_not_remove_a_class(make_folder: MakeFolder) -> None:
    root = make_folder()
    os.symlink(root / "nowhere", root / "train" / "fox")
    with pytest.raises(DataError, match=r"train/fox links to nothing; repair or remove"):
        opened(root)


def test_a_dangling_link_to_an_image_is_a_broken_image(make_folder: MakeFolder) -> None:
    root = make_folder()
    os.symlink(root / "nowhere.png", root / "train" / "cat" / "9.png")
    assert sum(path.endswith("9.png") for path in opened(root)[0].paths) == 1


def test_a_folder_that_cannot_be_listed_is_named(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder()
    closed = str(root / "train" / "cat" / "closed")
    os.mkdir(closed)
    scandir = os.scandir

    def refuses(path: str) -> object:  # of who is root, no permission is asked
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(DataError, match=rf"{closed} cannot be listed: Permission denied; grant read permission"):
        opened(root)


def test_a_folder_that_is_not_a_class_is_named(make_folder: MakeFolder) -> None:
    root = make_folder(("cat", "dog", "elk", "rest"))
    for number in (1, 2, 3):
        (root / "train" / "rest" / f"{number}.png").unlink()
    data = Data(dataset="image_folder", root=root, image_size=16)
    splits = open_splits(data, seed=0)
    with pytest.raises(DataError, match=r"fewest training images: rest: 1, cat: 4, dog: 4, elk: 4\), or set"):
        check_fits(splits, Model(arch="resnet8", num_classes=3), data)
    assert torch.equal(splits.test.labels, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))


def test_a_run_warns_of_unread_files(make_folder: MakeFolder) -> None:
    from edcompress.core.system.context import RunOptions
    from edcompress.core.system.monitor import NullMonitor
    from edcompress.workflows.stages.run_context import open_context

    class Listener(NullMonitor):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warning(self, text: str) -> None:
            self.warnings.append(text)

    root, listener = make_folder(), Listener()
    copied(root / "val" / "cat" / "0.png", root / "val" / "cat" / "0.avif")
    data = Data(dataset="image_folder", root=root, image_size=16)
    open_context(Recipe(model=Model(arch="resnet8", num_classes=3), data=data), RunOptions("cpu", monitor=listener))
    assert [("1 .avif (first: cat/0.avif)" in text) for text in listener.warnings] == [True]
