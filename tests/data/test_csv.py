"""Images that a CSV file names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.model import Model
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.splits import Splits, check_fits, open_splits

Cli = Callable[..., object]


def table(folder: Path, rows: int = 24, *, head: str = "path,label", more: str = "", suffix: str = ".png") -> Path:
    """A table of images of cats, dogs and elks in turn, in a folder beside it."""
    (folder / "photos").mkdir(parents=True)
    generator, lines = np.random.default_rng(0), [head]
    for number in range(rows):
        name = f"photos/{number}{suffix}"
        if suffix == ".npy":
            np.save(folder / name, generator.integers(0, 256, (20, 24, 5), dtype=np.uint8))
        else:
            Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / name)
        lines.append(
            f"{name},{('dog', 'cat', 'elk')[number % 3]}"
            + more.format(split=("train", "train", "valid", "test")[number % 4])
        )
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def opened(root: Path, **more: object) -> Splits:
    about = {"dataset": "csv", "source": "table.csv", "root": root, "image_size": 16, "search_fraction": 0.25, **more}
    return open_splits(Data(**about), seed=0)  # type: ignore[arg-type]


def test_names_are_classes_in_sorted_order_and_a_share_of_each_tests(tmp_path: Path) -> None:
    splits = opened(table(tmp_path), test_fraction=0.25)
    assert splits.classes == ("cat", "dog", "elk")
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [14, 4, 6]
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]  # type: ignore[union-attr]
    (note,) = splits.notes
    assert (
        "(images: path, classes: label) has no test images of its own, 0.25 of each class tests: 14 images train"
        in note
    )
    first = Path(splits.test.paths[0])  # type: ignore[attr-defined]
    label = {"cat": 0, "dog": 1, "elk": 2}[("dog", "cat", "elk")[int(first.stem) % 3]]
    assert splits.test.labels[0] == label  # type: ignore[index]


def test_a_split_column_divides_and_validation_images_judge(tmp_path: Path) -> None:
    splits = opened(table(tmp_path, head="path,label,split", more=",{split}"))
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [12, 6, 6]
    assert {int(Path(path).stem) % 4 for path in splits.search.paths} == {2}  # type: ignore[attr-defined]
    assert {int(Path(path).stem) % 4 for path in splits.test.paths} == {3}  # type: ignore[attr-defined]
    assert "splits: split): 12 images train, 6 are held out to judge states, 6 test" in splits.notes[0]


def test_columns_can_be_named(tmp_path: Path) -> None:
    root = table(tmp_path, head="where;kind;part".replace(";", ","), more=",{split}")
    named = {"image_column": "where", "label_column": "kind", "split_column": "part"}
    assert len(opened(root, **named).test) == 6
    with pytest.raises(DataError, match=r"data\.image_column: .*table\.csv has none of the columns path, file"):
        opened(root)
    with pytest.raises(
        DataError, match=r"data\.label_column: .* has no column 'kinds'; did you mean 'kind'\?; it has where, kind"
    ):
        opened(root, **{**named, "label_column": "kinds"})


def test_the_split_does_not_depend_on_the_seed_of_the_run(tmp_path: Path) -> None:
    data = Data(dataset="csv", source="table.csv", root=table(tmp_path), image_size=16)
    one, other = (open_splits(data, seed=seed).test.paths for seed in (0, 7))  # type: ignore[attr-defined]
    assert one == other
    assert one != open_splits(data.model_copy(update={"split_seed": 1}), seed=0).test.paths  # type: ignore[attr-defined]


def test_numbers_are_class_numbers(tmp_path: Path) -> None:
    root = table(tmp_path)
    text = (root / "table.csv").read_text(encoding="utf-8")
    for name, number in (("dog", "10"), ("cat", "2"), ("elk", "0")):
        text = text.replace(f",{name}", f",{number}")
    (root / "table.csv").write_text(text.replace(",", ";"), encoding="utf-8-sig")
    splits = opened(root)
    assert splits.classes == tuple(map(str, range(11)))
    with pytest.raises(DataError, match="num_classes is 3, but the data has labels up to 10"):
        check_fits(splits, Model(arch="resnet8", num_classes=3), Data(dataset="csv", source="t", image_size=16))


def test_arrays_of_five_channels_are_resized_like_pictures(tmp_path: Path) -> None:
    root = table(tmp_path, suffix=".npy")
    data = Data(
        dataset="csv", source="table.csv", root=root, image_size=[16, 12], resize=18, augment="crop_flip", batch_size=4
    )  # type: ignore[arg-type]
    splits = open_splits(data, seed=0, classes=3)
    assert (splits.channels, splits.classes) == (5, ("cat", "dog", "elk"))
    images, labels = next(iter(eval_batches(splits.test, data)))
    assert (tuple(images.shape[1:]), images.dtype, labels.dtype) == ((5, 16, 12), torch.float32, torch.int64)
    number = int(Path(splits.test.items.where(int(splits.test.numbers[0]))).stem)  # type: ignore[attr-defined]
    stored = np.load(root / f"photos/{number}.npy")
    plane = Image.fromarray(stored[:, :, 3]).resize((int(18 * 24 / 20), 18), Image.Resampling.BILINEAR)
    left = round((plane.width - 12) / 2)
    expected = np.asarray(plane.crop((left, 1, left + 12, 17)), np.float32) / 255
    assert torch.allclose(images[0, 3], (torch.from_numpy(expected) - 0.5) / 0.5, atol=1e-6)
    assert tuple(next(iter(train_batches(splits.train, data, seed=0, epoch=0)))[0].shape) == (4, 5, 16, 12)
    with pytest.raises(
        DataError, match=r"in_channels is 3, but the images are arrays of 5 channels; set model\.in_channels=5$"
    ):
        check_fits(splits, Model(arch="resnet8", num_classes=3), data)


def test_all_channels_are_cropped_at_one_place(tmp_path: Path) -> None:
    root = table(tmp_path, rows=8, suffix=".npy")
    for path in (root / "photos").iterdir():
        plane = np.load(path)[:, :, :1]
        np.save(path, np.repeat(plane, 5, axis=2))
    data = Data(dataset="csv", source="table.csv", root=root, image_size=16, augment="resized_crop", batch_size=4)
    images, _ = next(iter(train_batches(open_splits(data, seed=0).train, data, seed=0, epoch=0)))
    assert all(torch.equal(images[:, 0], images[:, channel]) for channel in range(5))
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (
            ("photos/3.png", "photos/none.png"),
            r"1 of 24 images are missing: .*none\.png; paths are relative to the folder of the file",
        ),
        (("photos/3.png", "table.csv"), r"it names files with \.csv, \.png; give images"),
        (("photos/3.png", "photos/4.png"), r"4\.png named in several rows; name each image once"),
        (("photos/3.png,dog", "photos/3.png,"), r"row 5: label is empty; fill it, or remove the row"),
        (("photos/3.png,dog", "photos/3.png"), r"row 5: label is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, edit: tuple[str, str], fault: str) -> None:
    root = table(tmp_path)
    text = (root / "table.csv").read_text(encoding="utf-8")
    (root / "table.csv").write_text(text.replace(*edit, 1), encoding="utf-8")
    with pytest.raises(DataError, match=fault):
        opened(root)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the split 'holdout'; splits are train, val and test"):
        opened(table(tmp_path, head="path,label,split", more=",holdout"))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(DataError, match="it has no rows below its head"):
        opened(tmp_path)
    (tmp_path / "table.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        opened(tmp_path)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    root = table(tmp_path, suffix=".npy")
    for path in (root / "photos").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DataError, match=r"photos/\d+\.npy: cannot be read as an array: .*; replace it, or remove its row"
    ):
        opened(root)


def test_the_recipe_lies_beside_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "mine")
    recipe = tmp_path / "mine" / "my.yaml"
    recipe.write_text(
        "model: {arch: resnet8, num_classes: 3}\ndata: {dataset: csv, source: table.csv, image_size: 16}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    data = read_recipe("mine/my.yaml").data
    assert data.source == str(tmp_path / "mine" / "table.csv")
    assert len(open_splits(data, seed=0).train) > 0
    missing = read_recipe("mine/my.yaml", [f"data.root={tmp_path}", "data.source=other.csv"]).data
    with pytest.raises(DataError) as raised:
        open_splits(missing, seed=0)
    assert f"{tmp_path}/mine/other.csv and {tmp_path}/other.csv: there is no such file" in str(raised.value)
