"""Data sets of Hugging Face's library, in folders and by name."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.splits import Splits, open_splits

datasets = pytest.importorskip("datasets", reason="needs the package datasets: pip install 'edcompress[hf]'")

NAMES = ("dog", "cat", "elk")


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(count)
    return [Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


def rows(
    count: int, image: str = "image", label: str = "label", labels: list[Any] | None = None, kind: Any = None
) -> Any:
    features = datasets.Features({image: datasets.Image(), label: kind or datasets.ClassLabel(names=list(NAMES))})
    values = [number % 3 for number in range(count)] if labels is None else labels
    return datasets.Dataset.from_dict({image: pictures(count), label: values}, features=features)


def opened(root: Path, **more: Any) -> Splits:
    about = {"dataset": "huggingface", "source": "mine", "root": root, "image_size": 16, "batch_size": 4, **more}
    return open_splits(Data(**about), seed=0)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def test_a_folder_with_splits(tmp_path: Path) -> None:
    parts = {"train": rows(12), "validation": rows(6), "test": rows(9), "extra": rows(3)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "mine"))
    splits = opened(tmp_path, workers=1)
    assert ([len(part) for part in (splits.train, splits.search, splits.test)], splits.classes) == ([12, 6, 9], NAMES)
    assert splits.test.labels.tolist() == [0, 1, 2] * 3  # type: ignore[union-attr]
    assert "the split extra is not read" in splits.notes[0]
    assert "(images: image, classes: label): 12 images train, 6 are held out to judge states, 9 test" in splits.notes[1]
    data = Data(dataset="huggingface", source="mine", root=tmp_path, image_size=16, batch_size=4, workers=1)
    images, labels = next(iter(eval_batches(splits.test, data)))
    expected = torch.from_numpy(np.asarray(pictures(9)[4].resize((16, 16), Image.Resampling.BILINEAR)).copy())
    assert torch.allclose((images[4] * 0.5 + 0.5) * 255, expected.permute(2, 0, 1).float(), atol=1e-3)
    assert len(list(train_batches(splits.train, data, seed=0, epoch=0))) == 3
    assert labels.tolist() == [0, 1, 2] * 3


def test_one_table_is_divided(tmp_path: Path) -> None:
    rows(30).save_to_disk(str(tmp_path / "mine"))
    splits = opened(tmp_path)
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [22, 2, 6]
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]  # type: ignore[union-attr]


def test_columns_are_found_by_kind_and_can_be_named(tmp_path: Path) -> None:
    rows(12, "photo_of_it", "animal").save_to_disk(str(tmp_path / "mine"))
    assert "(images: photo_of_it, classes: animal)" in opened(tmp_path).notes[0]
    assert (
        "(images: photo_of_it, classes: animal)"
        in opened(tmp_path, image_column="photo_of_it", label_column="animal").notes[0]
    )
    with pytest.raises(DataError, match=r"data\.label_column: mine has no column 'animals'; did you mean 'animal'\?"):
        opened(tmp_path, label_column="animals")
    with pytest.raises(
        DataError, match=r"data\.image_column: animal of mine holds ClassLabel.*, not images; name one of photo_of_it"
    ):
        opened(tmp_path, image_column="animal")


def test_texts_are_classes_in_sorted_order(tmp_path: Path) -> None:
    labels = [NAMES[number % 3] for number in range(12)]
    rows(12, labels=labels, kind=datasets.Value("string")).save_to_disk(str(tmp_path / "mine"))
    splits = opened(tmp_path)
    assert splits.classes == ("cat", "dog", "elk")
    rows(12, labels=[3, 0] * 6, kind=datasets.Value("int64")).save_to_disk(str(tmp_path / "numbers"))
    assert opened(tmp_path, source="numbers").classes == ("0", "1", "2", "3")


def test_a_split_without_labels_is_not_read_and_a_row_without_one_is_named(tmp_path: Path) -> None:
    parts = {"train": rows(12), "validation": rows(6), "test": rows(9, labels=[-1] * 9)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "mine"))
    splits = opened(tmp_path)
    assert (len(splits.test), "the split test has no labels, and is not read" in splits.notes[0]) == (6, True)
    rows(12, labels=[0] * 11 + [None]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"other, train, row 11: the label is None; give each row a class"):
        opened(tmp_path, source="other")


def test_images_are_turned_and_broken_ones_are_named_by_row(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pictures(1)[0].save(tmp_path / "a.png", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"none")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    paths = [str(tmp_path / ("broken.png" if number == 7 else "a.png")) for number in range(12)]
    table = datasets.Dataset.from_dict({"image": paths, "label": [0] * 12}, features=features)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "mine"))
    data = Data(dataset="huggingface", source="mine", root=tmp_path, image_size=16, eval_batch_size=4)
    test = opened(tmp_path).test
    first = next(iter(eval_batches(test, data)))[0][0]
    upright = pictures(1)[0].transpose(Image.Transpose.ROTATE_270).resize((16, 16), Image.Resampling.BILINEAR)
    assert torch.allclose(
        (first * 0.5 + 0.5) * 255, torch.from_numpy(np.asarray(upright).copy()).permute(2, 0, 1).float(), atol=1e-3
    )
    with pytest.raises(DataError, match=r"data\.source: mine, test, row 7: cannot be read as an image"):
        list(eval_batches(test, data))


def test_a_name_that_is_not_in_the_cache_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        opened(tmp_path, source="nobody/nothing")
    for said in (
        f"data.source: {tmp_path}/nobody/nothing: there is no such folder",
        "is not in ",
        "data.download=true",
        "save_to_disk",
    ):
        assert said in str(raised.value)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"mine: cannot be read as a folder by save_to_disk"):
        opened(tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"huggingface needs the package datasets, .*pip install 'edcompress\[hf\]'"):
        opened(tmp_path)
