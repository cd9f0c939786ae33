from pathlib import Path

import pytest
from PIL import Image

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.data.survey import survey


def made(
    folder: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", classes: tuple[str, ...] = ("a", "b")
) -> Path:
    for part, number in (("train", 4), ("val", 3)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new(mode, size, 60 * i if mode == "L" else (50, 60 * i, 200)).save(
                    folder / part / name / f"{i}.png"
                )
    return folder


def test_classes_counts_sizes_and_colours_are_found(tmp_path: Path) -> None:
    found = survey(made(tmp_path / "photos"))
    assert found.keys == {"dataset": "image_folder", "folder": str(tmp_path / "photos")}
    assert (found.classes, len(found.train), found.test) == (("a", "b"), 8, 6)
    assert (found.sides, found.square, found.grey, found.in_wnids) == ((30, 30, 30), False, False, False)


def test_grey_squares_and_wnids_are_seen(tmp_path: Path) -> None:
    found = survey(made(tmp_path / "photos", (28, 28), "L", ("n01440764", "n02102040")))
    assert (found.square, found.grey, found.in_wnids) == (True, True, True)
    assert found.pixels(Data.model_validate({**found.keys, "image_size": 28, "channels": 1})).shape == (8, 1, 28, 28)
    assert found.pixels(Data.model_validate({**found.keys, "image_size": 20})).shape == (8, 3, 20, 20)


def test_a_file_that_is_no_image_is_passed_over(tmp_path: Path) -> None:
    folder = made(tmp_path / "photos")
    (folder / "train" / "a" / "0.png").write_text("nothing")
    assert survey(folder).sides == (30, 30, 30)
    for path in folder.rglob("*.png"):
        path.write_text("nothing")
    with pytest.raises(DataError, match="cannot be read as an image, nor can others"):
        survey(folder)


def test_a_folder_that_is_missing_a_file_or_of_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        survey(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        survey(tmp_path / "file")
    with pytest.raises(DataError, match=r"1 class \(a\)"):
        survey(made(tmp_path / "photos", classes=("a",)))


def test_a_folder_of_torchvision_is_its_data_set_and_not_a_folder_of_classes(tmp_path: Path) -> None:
    (tmp_path / "KMNIST" / "raw").mkdir(parents=True)
    for folder in ("KMNIST", "KMNIST/raw"):
        with pytest.raises(DataError, match="kmnist is incomplete or damaged"):
            survey(tmp_path / folder)
    made(tmp_path / "flowers-102")
    assert survey(tmp_path / "flowers-102").keys["dataset"] == "image_folder"
