"""Tars in the layout of webdataset give the same images as a folder, with the same guarantees."""

import gzip
import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edcompress.core.errors import DataError, RecipeError, StorageError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.machine import cache_home
from edcompress.data.batches import Batch, eval_batches, train_batches
from edcompress.data.datasets import open_dataset
from edcompress.data.splits import open_splits

wds = pytest.importorskip("webdataset", reason="webdataset is optional")


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pack(folder: Path) -> None:
    """Write tars with the library's own writer beside a folder's train/ and val/, two of train, in the order of the folder."""
    for part, (*rest, last) in {"train": ("train-0.tar", "train-1.tar"), "val": ("val.tar",)}.items():
        images = sorted((folder / part).glob("*/*"))
        half = len(images) // 2 if rest else len(images)
        for name, some in zip((*rest, last), (images[:half], images[half:]), strict=False):
            with wds.TarWriter(str(folder / name)) as tar:
                for path in some:
                    label = sorted(p.name for p in (folder / "train").iterdir()).index(path.parent.name)
                    tar.write({"__key__": f"{path.parent.name}/{path.stem}", "png": path.read_bytes(), "cls": label})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def packed(folder_data: Data) -> Data:
    """The tars of an image folder's images."""
    assert folder_data.root
    pack(folder_data.root)
    return shards(folder_data)


def shards(data: Data, **changes: object) -> Data:
    about = {"dataset": "webdataset", "train_shards": "train-{0..1}.tar", "test_shards": "val.tar", **changes}
    return Data(**{**data.model_dump(), **about})


def first(tmp_path: Path, members: Mapping[str, bytes]) -> Data:
    """A data set whose one training shard holds these members."""
    write_tar(tmp_path / "one.tar", members)
    write_tar(tmp_path / "two.tar", {"a.png": b"", "a.cls": b"1"})
    return Data(dataset="webdataset", root=tmp_path, image_size=8, train_shards="one.tar", test_shards="two.tar")


def equal(one: Iterable[Batch], two: Iterable[Batch]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@pytest.mark.parametrize("changes", [{}, {"limit": 9}, {"search_from": "test"}], ids=str)
def test_the_splits_are_those_of_the_folder(folder_data: Data, packed: Data, changes: dict[str, Any]) -> None:
    folder, tars = (open_splits(Data(**{**data.model_dump(), **changes}), seed=3) for data in (folder_data, packed))
    for part in ("train", "search", "test"):
        assert equal(eval_batches(getattr(folder, part), folder_data), eval_batches(getattr(tars, part), packed))
    assert (folder.classes, tars.classes) == (("cat", "dog", "elk"), ("0", "1", "2"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_that_of_the_folder_from_any_batch_on_and_for_any_rank(
    folder_data: Data, packed: Data, workers: int
) -> None:
    varied = {"augment": "resized_crop", "batch_size": 4}
    one, two = (Data(**{**data.model_dump(), **varied}) for data in (folder_data, packed))
    two = two.model_copy(update={"workers": workers})
    folder, tars = (open_splits(data, seed=0).train for data in (one, two))
    for ranks in (ProcessGroup(), ProcessGroup(1, 2)):
        whole, again = (train_batches(i, d, seed=0, epoch=2, ranks=ranks) for i, d in ((folder, one), (tars, two)))
        assert equal(whole, again)
        assert equal(*([batch for _, batch in batches.numbered(1)] for batches in (whole, again)))


def labels_of(data: Data) -> list[int]:
    labels: Tensor = open_dataset(data)[0].labels
    return labels.tolist()


def test_labels_are_numbers_in_cls_or_json(tmp_path: Path) -> None:
    data = first(tmp_path, {
        "x/a.jpg": b"", "x/a.cls": b"007\n", "x/b.JPEG": b"", "x/b.json": b'{"label": 2, "width": 9}',
        "x/c.png": b"", "x/c.json": b"0", "__meta__/shard.txt": b"", "README": b"",
    })  # fmt: skip
    assert sorted(labels_of(data)) == [0, 2, 7]
    assert open_dataset(data)[2] == tuple("01234567")


def test_imagenet_names_the_classes(tmp_path: Path) -> None:
    data = first(tmp_path, {"a.jpg": b"", "a.cls": b"999"}).model_copy(update={"class_index": "imagenet"})
    assert open_dataset(data)[2][999] == "n15075141"
    write_tar(tmp_path / "one.tar", {"a.jpg": b"", "a.cls": b"1000"})
    with pytest.raises(DataError, match="imagenet has 1000 classes, but the shards have labels up to 1000"):
        open_dataset(data)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b""}, r"one\.tar: sample a has png; a sample is one image \(jpg, .*\) and its class"),
        ({"a.cls": b"1"}, r"one\.tar: sample a has cls; a sample is one image"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"1"}, r"sample a has png, jpg, cls"),
        ({"a.png": b"", "a.cls": b"cat"}, r"one\.tar: a\.cls: is not a class: .* \(got b'cat'\)"),
        ({"a.png": b"", "a.cls": b"-1"}, r"a\.cls: is not a class"),
        ({"a.png": b"", "a.cls": b"1000000"}, r"a\.cls: is not a class: write a number from 0 to 999999"),
        ({"a.png": b"", "a.json": b'{"label": true}'}, r"a\.json: is not a class"),
        ({"a.png": b"", "a.json": b"[" * 100_000}, r"a\.json: is not a class"),
        ({"a.png": b"", "a.PNG": b"", "a.cls": b"1"}, r"one\.tar: .*\(a\.PNG: duplicate file name in tar file"),
        ({"README": b""}, r"one\.tar: no images in these shards"),
    ],
)  # fmt: skip
def test_malformed_samples_are_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(first(tmp_path, members))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_shards": "gone-{00..11}.tar"},
         r"data\.train_shards: 12 of 12 shards are missing: .*gone-00\.tar, .* and 4 more; set data\.root or EDCOMPRESS_DATA"),
        ({"test_shards": "pipe:touch ran"}, r"data\.test_shards: pipe:touch ran is not a local file; fetch the shards"),
        ({"test_shards": "https://host/a.tar"}, r"https://host/a\.tar is not a local file"),
        ({"test_shards": "val-{0..1.tar"}, r"data\.test_shards: val-\{0\.\.1\.tar: Unbalanced braces"),
        ({"test_shards": "${nowhere}/val.tar"}, r"data\.test_shards: .*missing environment variable"),
        ({"test_shards": "train-1.tar"}, r"train-1\.tar named twice; name each shard in one of them"),
    ],
)  # fmt: skip
def test_wrong_specifications_are_refused(packed: Data, changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(shards(packed, **changes))
    assert not Path("ran").exists()


def test_several_specifications_are_joined(packed: Data) -> None:
    assert len(open_dataset(shards(packed, train_shards="train-0.tar::train-1.tar"))[0]) == 12


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


TWO_SAMPLES = {"a.cls": b"1", "a.png": b"x" * 700, "b.cls": b"1", "b.png": b"x" * 700}
"""The tar has the header of a.cls at byte 0 and its content at 512, those of a.png at 1024 and 1536, and the header of b.cls at 2560."""


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:2000],
        lambda whole: whole[:2560],
        lambda whole: whole[:2700],
        lambda whole: whole[:2560] + b"x" * 512 + whole[3072:],
        gzip.compress,
        lambda whole: b"",  # noqa: ARG005
        lambda whole: b"<html>not found</html>",  # noqa: ARG005
    ],
    ids=["cut in an image", "cut behind one", "cut in a header", "damaged header", "gzip", "empty", "html"],
)
def test_damaged_shards_never_lose_images_silently(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    data = first(tmp_path, TWO_SAMPLES)
    assert len(open_dataset(data)[0]) == 2
    damage(tmp_path / "one.tar", change)
    with pytest.raises(DataError, match=r"one\.tar: is cut off or damaged, or not an uncompressed tar"):
        open_dataset(data)


def test_a_broken_image_is_named_with_its_shard_the_same_each_time(packed: Data) -> None:
    assert packed.root
    test = open_splits(packed, seed=0).test
    begin = test.source(0).offset  # type: ignore[attr-defined]
    damage(packed.root / "val.tar", lambda whole: whole[:begin] + b"x" * 16 + whole[begin + 16 :])
    where = rf"^{packed.root}/val\.tar: cat/0\.png: cannot be read as an image"
    with pytest.raises(DataError, match=rf"{where}.*data\.skip_broken=true"):
        list(eval_batches(test, packed))
    skipping, warnings = shards(packed, skip_broken=True), list[str]()
    test = open_splits(skipping, seed=0).with_warnings_to(warnings.append).test
    assert [sum(len(labels) for _, labels in eval_batches(test, skipping)) for _ in range(2)] == [5, 5]
    assert len(warnings) == 2
    assert len(set(warnings)) == 1


def test_a_changed_shard_is_indexed_again(packed: Data) -> None:
    assert packed.root
    shard = packed.root / "val.tar"
    assert len(open_dataset(packed)[1]) == 6
    status = shard.stat()
    shard.write_bytes(bytes(status.st_size))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(open_dataset(packed)[1]) == 6  # as it was listed
    for listing in (cache_home() / "shards").iterdir():
        listing.write_text("damaged")
    write_tar(shard, {"a.png": b"", "a.cls": b"1"})
    assert len(open_dataset(packed)[1]) == 1
    write_tar(shard, {"a.png": b"", "a.cls": b"1", "b.png": b"", "b.cls": b"1"})
    os.utime(shard, ns=(0, 0))
    assert len(open_dataset(packed)[1]) == 2


def test_a_cache_that_cannot_be_written_is_reported(packed: Data) -> None:
    cache_home().mkdir(parents=True)
    (cache_home() / "shards").write_text("a file in the way")
    with pytest.raises(StorageError, match=r"shards/.*\.json cannot be written"):
        open_dataset(packed)


def test_the_missing_package_is_named_with_the_pip_command(packed: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("webdataset", "webdataset.shardlists"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"pip install 'edcompress\[webdataset\]'"):
        open_dataset(packed)


def test_a_recipe_needs_training_and_test_shards() -> None:
    with pytest.raises(RecipeError, match=r"data: dataset webdataset needs train_shards and test_shards; give both"):
        read_recipe("digits", ["data.dataset=webdataset", "data.train_shards=a.tar"])


def test_a_network_is_evaluated_on_shards(
    cli: Callable[..., Any], dense: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(mode="L")
    pack(folder)
    sets = ("data.dataset=webdataset", f"data.root={folder}", "data.train_shards=train-{0..1}.tar",
            "data.test_shards=val.tar", "data.channels=1")  # fmt: skip
    shown = cli("evaluate", dense, "--recipe", "digits", *(word for one in sets for word in ("--set", one)), "--json")
    assert shown.code == 0, shown.err
    assert '"total": 6' in shown.out


def test_other_members_of_a_shard_are_skipped_or_counted(tmp_path: Path) -> None:
    members = {
        "a.png": b"", "._a.png": b"", "./._a.cls": b"", "a.cls": b"1", "__MACOSX/._a.png": b"", "x/.DS_Store": b"",
        "a.txt": b"", "b.jfif": b"", "b.cls": b"0", "b.json": b"{}", "b.seg.gif": b"", "b.TXT": b"", "README": b"",
        "./c.png": b"", "./c.cls": b"1", "../d.png": b"", "../d.cls": b"1",
    }  # fmt: skip
    data = first(tmp_path, members)
    with tarfile.open(tmp_path / "one.tar", "a") as tar:
        link = tarfile.TarInfo("e.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    for _ in range(2):  # the second time from the cache
        notes: list[str] = []
        train = open_dataset(data, notes.append).train
        assert sorted(train.labels.tolist()) == [0, 1, 1, 1]
        assert len(notes) == 1
        for part in ("data.train_shards: 5 files are not read", f"2 .txt (first: {tmp_path}/one.tar: a.txt)", "1 .seg.gif",
                     "1 without a suffix", "1 link, pipe or device"):  # fmt: skip
            assert part in notes[0]


def test_a_pattern_of_a_thousand_million_shards_is_refused_before_it_is_expanded(packed: Data) -> None:
    data = packed.model_copy(update={"train_shards": "train-{0..999999999}.tar"})
    with pytest.raises(DataError, match=r"data\.train_shards: .* may stand for 1000000000 names, .* at most 100000"):
        open_dataset(data)
