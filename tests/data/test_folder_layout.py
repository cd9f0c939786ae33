"""Folders of images: which hold training, search and test images, and where a recipe looks for them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.yaml_files import dump
from edcompress.data.splits import Splits, open_splits

MakeFolder = Callable[..., Path]


def opened(root: Path, **more: object) -> Splits:
    about = {"dataset": "image_folder", "root": root, "image_size": 16, "search_fraction": 0.25, **more}
    return open_splits(Data(**about), seed=0)  # type: ignore[arg-type]


def sizes(splits: Splits) -> list[int]:
    return [len(part) for part in (splits.train, splits.search, splits.test)]


def flat(make_folder: MakeFolder, images: int = 10) -> Path:
    """One folder per class, without train/ and val/."""
    root = make_folder(train=images)
    shutil.rmtree(root / "val")
    for folder in (root / "train").iterdir():
        folder.rename(root / folder.name)
    (root / "train").rmdir()
    return root


def test_a_folder_without_splits_is_divided_class_by_class(make_folder: MakeFolder) -> None:
    root = flat(make_folder)
    splits = opened(root)
    assert (sizes(splits), splits.classes) == ([18, 6, 6], ("cat", "dog", "elk"))
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]
    paths = [set(part.paths) for part in (splits.train, splits.search, splits.test)]  # type: ignore[attr-defined]
    assert len(set.union(*paths)) == 30
    (note,) = splits.notes
    said = "has no test images of its own, 0.2 of each class tests: 18 images train, 6 are held out to judge states, 6 test"
    assert note == f"data.test_fraction: {root} {said}"
    assert splits.doubts == ()


def test_the_division_follows_its_fraction_and_seed_alone(make_folder: MakeFolder) -> None:
    root = flat(make_folder)
    assert sizes(opened(root, test_fraction=0.5))[2] == 15
    about = Data(dataset="image_folder", root=root, image_size=16)
    runs = [open_splits(about, seed=seed).test.paths for seed in (0, 1)]  # type: ignore[attr-defined]
    assert runs[0] == runs[1] != opened(root, split_seed=1).test.paths  # type: ignore[attr-defined]


def test_a_training_folder_alone_is_divided(make_folder: MakeFolder) -> None:
    root = make_folder(train=10)
    shutil.rmtree(root / "val")
    splits = opened(root)
    assert sizes(splits) == [18, 6, 6]
    assert splits.notes[0].startswith(f"data.test_fraction: {root / 'train'} has no test images of its own")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "test", "testing"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_folders_of_splits_have_several_names(make_folder: MakeFolder, train: str, val: str) -> None:
    root = make_folder()
    (root / "train").rename(root / train)
    (root / "val").rename(root / val)
    splits = opened(root)
    assert (sizes(splits), splits.notes, splits.doubts) == ([9, 3, 6], (), ())


def test_with_both_validation_judges_and_test_tests(make_folder: MakeFolder) -> None:
    root = make_folder(val=3)
    shutil.copytree(root / "val", root / "test")
    (root / "test" / "cat" / "0.png").unlink()
    splits = opened(root)
    assert sizes(splits) == [12, 9, 8]
    assert all("/val/" in path for path in splits.search.paths)  # type: ignore[attr-defined]
    said = "data.folder: val/ judges states, test/ tests: 12 images train, 9 are held out to judge states, 8 test"
    assert splits.notes == (said,)
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    (root / "test" / "unlabelled.png").write_bytes(b"")
    splits = opened(root)
    assert sizes(splits) == [9, 3, 9]
    assert "test holds no class folders, and is not read" in splits.notes[0]


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    root = flat(make_folder)
    (root / "elk").rename(root / "train")
    assert opened(root).classes == ("cat", "dog", "train")


def test_folders_that_cannot_be_meant_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "val").rename(root / "vali")
    with pytest.raises(
        DataError, match=r"holds train/ and vali; name the test images val, valid, validation, test, or move vali"
    ):
        opened(root)
    (root / "vali").rename(root / "valid")
    shutil.copytree(root / "valid", root / "val")
    with pytest.raises(DataError, match=r"val, .*valid are one split; join them, or rename one"):
        opened(root)
    shutil.rmtree(root / "valid")
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match=r"train is missing, beside val/; add the training images"):
        opened(root)
    with pytest.raises(
        DataError, match=rf"{root}/nowhere: there is no such folder; give one that holds one folder per class"
    ):
        opened(root, folder="nowhere")


def test_one_image_per_class_cannot_be_divided(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="no class has two images, so that none of 3 can test"):
        opened(flat(make_folder, images=1))


def recipe_in(folder: Path, data: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my.yaml"
    path.write_text(f"model: {{arch: resnet8, num_classes: 3}}\ndata: {{image_size: 16, {data}}}\n", encoding="utf-8")
    return path


def test_a_path_is_relative_to_the_recipe_first_and_to_the_data_root_then(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_folder()
    mine, root = tmp_path / "mine", tmp_path / "root"
    shutil.copytree(photos / "train", root / "photos" / "train")
    shutil.copytree(photos / "val", root / "photos" / "val")
    monkeypatch.setenv("EDCOMPRESS_DATA", str(root))
    monkeypatch.chdir("/")
    path = recipe_in(mine, "dataset: image_folder, folder: photos")
    assert read_recipe(path).data.folder == "photos"
    assert open_splits(read_recipe(path).data, seed=0).train.paths[0].startswith(f"{root}/photos/train")  # type: ignore[attr-defined]
    (root / "photos").rename(mine / "photos")
    recipe = read_recipe(path)
    assert recipe.data.folder == f"{mine}/photos"
    assert open_splits(recipe.data, seed=0).train.paths[0].startswith(f"{mine}/photos/train")  # type: ignore[attr-defined]
    saved = recipe_in(tmp_path / "run", "dataset: digits")
    saved.write_text(dump(recipe), encoding="utf-8")
    assert len(open_splits(read_recipe(saved).data, seed=0).train) > 0
    (mine / "photos").rename(tmp_path / "gone")
    with pytest.raises(DataError) as raised:
        open_splits(read_recipe(path).data, seed=0)
    assert str(raised.value).startswith(f"data.folder: {mine}/photos and {root}/photos: there is no such folder")


def test_absolute_paths_and_roots_beside_the_recipe(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    recipe = read_recipe(recipe_in(tmp_path / "a", f"dataset: image_folder, folder: '{root}'"))
    assert len(open_splits(recipe.data, seed=0).test) == 6
    shutil.copytree(root / "train", tmp_path / "b" / "data" / "photos" / "train")
    recipe = read_recipe(recipe_in(tmp_path / "b", "dataset: image_folder, root: data, folder: photos"))
    assert recipe.data.root == tmp_path / "b" / "data"
    assert len(open_splits(recipe.data, seed=0).test) == 3


def test_shards_beside_the_recipe_are_found_through_their_braces(tmp_path: Path) -> None:
    text = "dataset: webdataset, train_shards: 'tars/train-{000..003}.tar::tars/more.tar', test_shards: 'val.tar'"
    path = recipe_in(tmp_path / "mine", text)
    assert read_recipe(path).data.train_shards == "tars/train-{000..003}.tar::tars/more.tar"
    (tmp_path / "mine" / "tars").mkdir()
    for name in ("train-000.tar", "more.tar"):
        (tmp_path / "mine" / "tars" / name).write_bytes(b"")
    found = read_recipe(path).data
    at = tmp_path / "mine" / "tars"
    assert found.train_shards == f"{at}/train-{{000..003}}.tar::{at}/more.tar"
    assert found.test_shards == "val.tar"


def test_a_shipped_recipe_looks_in_the_working_directory(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder()
    monkeypatch.chdir(root.parent)
    recipe = read_recipe("digits", ["data.dataset=image_folder", f"data.folder={root.name}"])
    assert recipe.data.folder == str(root)
