import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from edcompress.core import registry
from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.dataset_facts import DATASETS
from edcompress.data.batches import eval_batches
from edcompress.data.datasets import data_root, open_dataset
from edcompress.data.decoding import DECODED, TarMember, decode
from edcompress.data.image_folder import imagenet_wnids
from edcompress.data.opening import OpenRequest
from edcompress.data.sets import digits
from edcompress.data.torchvision_sets import open_part
from edcompress.data.transforms import eval_geometry

IMAGENETTE = {
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip


def folder(root: Path, **more: object) -> Data:
    return Data(dataset="image_folder", root=root, image_size=16, **more)  # type: ignore[arg-type]


def test_wnids_are_in_the_order_of_imagenet() -> None:
    wnids = imagenet_wnids()
    assert (len(wnids), len(set(wnids)), wnids[-1]) == (1000, 1000, "n15075141")
    assert {name: wnids.index(name) for name in IMAGENETTE} == IMAGENETTE


def test_root_is_the_recipes_then_the_environments_then_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDCOMPRESS_DATA", "somewhere")
    assert data_root(folder(Path("~/mine"))) == Path.home() / "mine"
    assert data_root(Data(dataset="digits", image_size=8)) == Path("somewhere")
    monkeypatch.setenv("EDCOMPRESS_DATA", "")
    assert data_root(Data(dataset="digits", image_size=8)) == Path.home() / ".cache" / "edcompress"


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "cifar10", "cifar100", "flowers102"])
def test_missing_data_names_the_folder_and_the_fixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(Data(dataset=name, root=tmp_path, image_size=32))
    for part in (f"{name} is not at {tmp_path}", "data.root", "EDCOMPRESS_DATA", "data.download=true"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("name", "below"), [("cifar10", "cifar-10-batches-py"), ("fashion_mnist", "FashionMNIST/raw")])
def test_incomplete_data_is_distinguished_from_missing_data(tmp_path: Path, name: str, below: str) -> None:
    (tmp_path / below).mkdir(parents=True)
    with pytest.raises(DataError, match=r"incomplete or damaged in .*fetch it again"):
        open_dataset(Data(dataset=name, root=tmp_path, image_size=32))


def test_classes_have_the_same_index_in_train_and_val(make_folder) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder()
    for image in (root / "val" / "cat").iterdir():
        image.unlink()
    (root / "val" / "cat").rmdir()
    (root / "train" / ".thumbnails").mkdir()
    train, test, classes = open_dataset(folder(root))[:3]
    assert classes == ("cat", "dog", "elk")
    assert sorted(train.labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert test.labels.tolist() == [1, 1, 2, 2]


def test_imagenet_labels(make_folder) -> None:  # type: ignore[no-untyped-def]
    _, test, classes = open_dataset(folder(make_folder(("n02102040", "n03888257")), class_index="imagenet"))[:3]
    assert (len(classes), test.labels.tolist()) == (1000, [217, 217, 701, 701])


def test_folders_that_are_not_wnids(make_folder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=r"has cat, n00000000; rename them or use class_index: position"):
        open_dataset(folder(make_folder(("cat", "n00000000", "n02102040")), class_index="imagenet"))


def test_classes_that_train_lacks(make_folder) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder()
    (root / "val" / "fox").mkdir()
    with pytest.raises(DataError, match=r"val has classes that .*train lacks: fox"):
        open_dataset(folder(root))


@pytest.mark.parametrize("part", ["train", "val"])
def test_missing_part(make_folder, part: str) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder()
    (root / part).rename(root / "elsewhere")
    fault = (
        "name the test images val, valid, validation, test, or move elsewhere"
        if part == "val"
        else f"{root / part} is missing"
    )
    with pytest.raises(DataError, match=fault):
        open_dataset(folder(root))


@pytest.mark.parametrize("part", ["train", "val"])
def test_empty_class_is_named(make_folder, part: str) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder()
    for image in (root / part / "dog").iterdir():
        image.rename(image.with_suffix(".txt"))
    with pytest.raises(DataError, match=rf"no images \(.*\.png.*\) in {root / part / 'dog'}; fill or remove"):
        open_dataset(folder(root))


def test_no_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"train holds no class folders"):
        open_dataset(folder(tmp_path))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_every_mode_become_grey_or_rgb(tmp_path: Path, mode: str, channels: int) -> None:
    transparent = {"transparency": b"\0\1"} if mode == "P" else {}
    Image.new(mode, (5, 4)).save(tmp_path / "a.png", **transparent)
    assert decode(tmp_path / "a.png", channels).mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize(("kind", "suffix"), [("EPS", ".jpg"), ("GIF", ".png"), ("PCX", ".bmp")])
def test_only_the_named_decoders_ever_get_a_file(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (5, 4)).save(path, kind)
    with pytest.raises(DataError, match=r"cannot be read as an image: it is none of JPEG, PNG, PPM, BMP, TIFF, WEBP"):
        decode(path, 3)
    member = TarMember(path, "a.jpg", 0, path.stat().st_size)
    with pytest.raises(DataError, match="it is none of JPEG"):
        decode(member, 3)


@pytest.mark.parametrize("kind", sorted(DECODED))
def test_an_image_is_read_by_its_content_not_by_its_name(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "a.png", kind)
    assert decode(tmp_path / "a.png", 3).size == (5, 4)


def test_both_pictures_of_a_camera_in_one_jpeg_are_read_as_the_first(tmp_path: Path) -> None:
    one, two = (Image.new("RGB", (8, 8), (red, 0, 0)) for red in (200, 0))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[two])
    assert decode(tmp_path / "a.jpg", 3).getpixel((0, 0)) == (200, 0, 0)


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "a maker of cameras"
    exif[ExifTags.Base.XResolution] = 72.0
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_phones_picture_is_turned_upright_unless_exif_is_ignored(tmp_path: Path, kind: str) -> None:
    upright = Image.new("L", (6, 4))
    upright.putdata(range(0, 240, 10))
    stored, lossless = upright.transpose(Image.Transpose.ROTATE_90), {"quality": 100, "lossless": True}
    for name, exif in (("a", exif_of(6)), ("plain", b"")):
        stored.convert("RGB").save(tmp_path / name, kind, exif=exif, **lossless)
    for channels in (1, 3):
        plain = decode(tmp_path / "plain", channels)
        turned = decode(tmp_path / "a", channels)
        assert (turned.size, plain.size) == ((6, 4), (4, 6))
        assert turned.tobytes() == plain.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert plain.tobytes() == decode(tmp_path / "plain", channels, "ignore").tobytes()
        if kind != "TIFF":  # which Pillow turns by itself
            assert decode(tmp_path / "a", channels, "ignore").tobytes() == plain.tobytes()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, at some
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_with_a_damaged_exif_is_read(tmp_path: Path, kind: str) -> None:
    generator, whole = random.Random(0), exif_of(6)
    for number in range(60):
        exif = bytearray(whole[: generator.choice((len(whole), generator.randrange(7, len(whole))))])
        for _ in range(generator.choice((0, 1, 20))):
            exif[generator.randrange(6, len(exif))] = generator.randrange(256)
        Image.new("RGB", (6, 4)).save(tmp_path / f"{number}", kind, exif=bytes(exif))
        assert sorted(decode(tmp_path / f"{number}", 3).size) == [4, 6]


def test_the_recipe_says_whether_images_are_turned(make_folder) -> None:  # type: ignore[no-untyped-def]
    root: Path = make_folder()
    for path in root.glob("val/*/*.png"):
        Image.open(path).save(path, exif=exif_of(8))
    found = {}
    for how in ("apply", "ignore"):
        data = folder(root, exif_orientation=how, resize=18)
        found[how] = next(iter(eval_batches(open_dataset(data)[1], data)))[0]
    assert not torch.equal(found["apply"], found["ignore"])
    assert found["apply"].shape == found["ignore"].shape


def test_flowers_train_on_train_and_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        Image.new("RGB", (20, 30), (number, 0, 0)).save(base / "jpg" / f"image_{number:05d}.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 1, 2, 2, 102, 102])})
    savemat(base / "setid.mat", {"trnid": np.array([1, 3]), "valid": np.array([2, 4]), "tstid": np.array([5, 6])})
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        digest = hashlib.md5((base / name).read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(Flowers102._file_dict, key, (name, digest))
    data = Data(dataset="flowers102", root=tmp_path, image_size=16)
    train, test, classes = open_dataset(data)[:3]
    assert sorted(train.labels.tolist()) == [0, 0, 1, 1]
    assert (test.labels.tolist(), len(classes), test.channels) == ([101, 101], 102, 3)
    assert next(iter(eval_batches(test, data)))[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "sizes", "channels", "size"),
    [("fashion_mnist", (60000, 10000), 1, 28), ("cifar10", (50000, 10000), 3, 32)],
)
def test_real_data_in_memory(real_root: Path, name: str, sizes: tuple[int, int], channels: int, size: int) -> None:
    data = Data(dataset=name, root=real_root, image_size=size)
    train, test, classes = open_dataset(data)[:3]
    assert ((len(train), len(test)), train.channels, len(classes)) == (sizes, channels, 10)
    assert torch.equal(test.labels.bincount(), torch.full((10,), 1000))
    assert next(iter(eval_batches(test, data)))[0].shape == (250, channels, size, size)


def test_real_imagenette(real_root: Path) -> None:
    train, test, classes = open_dataset(folder(real_root, folder="imagenette", class_index="imagenet"))[:3]
    assert (len(train), len(test), len(classes)) == (1000, 500, 1000)
    assert sorted(set(train.labels.tolist())) == sorted(IMAGENETTE.values())


def test_a_download_is_announced_before_it_starts_and_only_where_it_is_needed(tmp_path: Path) -> None:
    def opener(root: Path, *, download: bool, train: bool) -> str:
        calls.append(f"opened with {download}")
        if not (download or whole):
            raise RuntimeError("Dataset not found")
        return f"{root.name} {train}"

    calls: list[str] = []
    data = Data(dataset="kmnist", image_size=28, download=True, root=tmp_path)
    request = OpenRequest(data, tmp_path, announce=calls.append)
    whole = False
    assert open_part(opener, request, train=True) == f"{tmp_path.name} True"
    announced = f"data.download: kmnist is not whole in {tmp_path / 'KMNIST/raw'}; torchvision downloads it to there"
    assert calls == ["opened with False", announced, "opened with True"]
    whole = True
    open_part(opener, request, train=True)
    assert calls[3:] == ["opened with False"]
    whole = False
    (tmp_path / "KMNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match=r"kmnist is incomplete or damaged in .*Dataset not found"):
        open_part(opener, request._replace(data=data.model_copy(update={"download": False})), train=True)
    assert calls[4:] == ["opened with False"]


@pytest.mark.parametrize("part", ["images", "labels"])
def test_the_digits_are_those_of_the_uci_test_set(part: str) -> None:
    """The digests are of what scikit-learn 1.9 loads, as bytes: 1797 images of 8x8 values from 0 to 16, and their labels."""
    sha256 = {
        "images": "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
        "labels": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
    }
    file = Path(digits.__file__).with_name("digits.npz")
    with np.load(file) as arrays:
        assert hashlib.sha256(arrays[part].astype(np.uint8).tobytes()).hexdigest() == sha256[part]
    assert "scikit-learn developers" in file.with_name("digits.LICENSE.txt").read_text()


def test_every_fifth_digit_is_a_test_image_and_grey_values_fill_a_byte() -> None:
    train, test, classes = open_dataset(Data(dataset="digits", image_size=8))[:3]
    assert (len(train), len(test), classes) == (1438, 359, tuple("0123456789"))
    assert train.labels[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert test.labels[:4].tolist() == [4, 9, 4, 9]
    pixels = train.read(range(8), eval_geometry(Data(dataset="digits", image_size=8))).pixels
    assert (pixels.dtype, pixels.shape, int(pixels.min()), int(pixels.max())) == (torch.uint8, (8, 1, 8, 8), 0, 255)


@pytest.mark.parametrize("name", registry.names_in(DATASETS))
def test_a_data_set_says_what_it_is_without_torch(name: str) -> None:
    program = f"""
import sys
from edcompress.core import registry
from edcompress.core.recipe.dataset_facts import DATASETS, facts_of
module = registry.load(DATASETS, {name!r})
assert module.__doc__ and callable(module.open_images)
from edcompress.core.recipe.data import Data
assert set(facts_of({name!r}).required_keys) <= set(Data.model_fields)
print("torch" in sys.modules, "numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_flowers_without_scipy_name_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"flowers102 needs SciPy, .*pip install 'edcompress\[flowers102\]'"):
        open_dataset(Data(dataset="flowers102", root=tmp_path, image_size=32))
