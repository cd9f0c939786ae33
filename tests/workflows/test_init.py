"""`edcompress init`: a short recipe from weights and images."""

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from edcompress.core.errors import InputError
from edcompress.core.recipe.loading import read_recipe
from edcompress.networks.build import new_network
from edcompress.networks.load_pruned import CifarResNet
from edcompress.networks.load_weights import load_into
from edcompress.networks.weight_files import read_state_dict
from edcompress.workflows.init import suggest_recipe

pytestmark = pytest.mark.usefixtures("networks_are_outlined_once")

CLASSES = ("ant", "bee", "cat")


def photos(
    folder: Path, classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (300, 200), mode: str = "RGB"
) -> Path:
    noise = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(4):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                pixels = torch.randint(256, shape, dtype=torch.uint8, generator=noise)
                Image.fromarray(pixels.numpy()).save(folder / part / name / f"{i}.png", compress_level=0)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of ResNet-18 for three classes, and photos of three classes."""
    folder = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), folder / "model.pt")
    photos(folder / "photos")
    return folder


def test_a_short_recipe_is_written_and_fits_weights_and_images(cli, place: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    ended = cli("init", path, "--weights", place / "model.pt", "--images", place / "photos", "--target", "params=0.6")
    assert ended.code == 0, ended.err
    assert f"wrote {path}; next: edcompress check {path} --weights {place / 'model.pt'}" in ended.out
    recipe, text = read_recipe(path), path.read_text()
    assert (recipe.name, recipe.model.arch, recipe.model.num_classes) == ("mine", "resnet18", 3)
    assert (recipe.data.folder, recipe.data.image_size, recipe.data.resize) == (str(place / "photos"), 160, 200)
    assert (recipe.data.mean, recipe.data.augment) == ((0.485, 0.456, 0.406), None)
    assert recipe.target is not None
    assert recipe.target.params == 0.6
    assert len(text.splitlines()) < 20
    for word in ("search", "finetune", "batch_size", "reset_head"):
        assert word not in text
    for comment in (
        "# recognised in model.pt",
        "# 12 training and 12 test images of ant, bee, cat",
        "images: 200 pixels",
    ):
        assert comment in text
    load_into(new_network(recipe.network_spec), read_state_dict(place / "model.pt"), source="model.pt")
    assert cli("inspect", "--recipe", path, place / "model.pt").code == 0


def test_an_existing_recipe_stays_unless_forced(cli, place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    both = ("--weights", place / "model.pt", "--images", place / "photos")
    assert cli("init", tmp_path / "mine.yaml", *both).code == 2
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert cli("init", tmp_path / "mine.yaml", *both, "--force").code == 0
    assert read_recipe(tmp_path / "mine.yaml").model.arch == "resnet18"


def test_other_classes_than_those_of_the_weights_are_said_and_get_a_new_classifier(
    cli, place: Path, tmp_path: Path
) -> None:
    photos(tmp_path / "two", ("ant", "bee"))
    ended = cli("init", tmp_path / "my.yaml", "--weights", place / "model.pt", "--images", tmp_path / "two")
    assert "note: the weights have 3 classes and the images 2: model.reset_head trains a new classifier" in ended.out
    recipe = read_recipe(tmp_path / "my.yaml")
    assert (recipe.model.num_classes, recipe.model.reset_head) == (2, True)


def test_small_images_keep_their_size_and_have_statistics_of_their_own(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in CifarResNet(20, 3, 1).state_dict().items()}}, tmp_path / "a.th"
    )
    made = suggest_recipe(tmp_path / "r.yaml", tmp_path / "a.th", photos(tmp_path / "grey", size=(28, 28), mode="L"))
    (tmp_path / "r.yaml").write_text(made.text)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert (recipe.model.arch, recipe.model.in_channels, recipe.data.channels) == ("resnet20", 1, 1)
    assert (recipe.data.image_size, recipe.data.resize) == (28, None)
    assert made.notes == ()


def test_a_part_of_imagenet_is_numbered_as_imagenet(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "s.pt")
    made = suggest_recipe(tmp_path / "r.yaml", tmp_path / "s.pt", photos(tmp_path / "p", ("n01440764", "n02102040")))
    (tmp_path / "r.yaml").write_text(made.text)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert (recipe.model.num_classes, recipe.data.class_index, recipe.model.reset_head) == (1000, "imagenet", False)


def test_statistics_that_fit_the_first_batch_norm_replace_the_usual_ones(tmp_path: Path) -> None:
    """Weights trained on pixels of -1 to 1, as many scripts make them, although ResNet-18 usually gets ImageNet's statistics."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    network.bn1.momentum = None
    photos(tmp_path / "p", size=(224, 224))
    images = [pil_to_tensor(Image.open(path)) for path in sorted((tmp_path / "p" / "train").rglob("*.png"))]
    network.train()(torch.stack(images).float() / 127.5 - 1)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    text = suggest_recipe(tmp_path / "r.yaml", tmp_path / "m.pt", tmp_path / "p").text
    assert "mean: [0.5, 0.5, 0.5]  # they fit the statistics in the first batch norm best" in text


BAD = [
    ("--weights nowhere.pt --images {photos}", "nowhere.pt: there is no such file"),
    ("--weights {text} --images {photos}", "is a text file"),
    ("--weights {list} --images {photos}", "holds a list, not a state_dict"),
    (
        "--weights {strange} --images {photos}",
        "no network of torchvision or timm and no CIFAR ResNet has these tensors (1 tensors",
    ),
    ("--weights {model} --images nowhere", "--images nowhere does not exist"),
    ("--weights {model} --images {text}", "is a file; name the folder"),
    ("--weights {model} --images {photos} --target flops=0.5", "target.flops: unknown key"),
    ("--weights {model} --images {photos} --target macs=2", "target.macs"),
    ("--weights {model} --images {photos} --target macs", "--target macs: write it as key=value"),
    ("--weights {model}", "--images missing; give both"),
    ("--images {photos}", "--weights missing; give both"),
    ("--target macs=0.5", "--weights and --images missing"),
    ("--all --weights {model}", "takes no --weights"),
    ("--weights {depth} --images {photos}", "take images of 4 channels"),
]


@pytest.fixture(scope="module")
def inputs(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.pt").write_text("nothing")
    torch.save([torch.zeros(2)], folder / "list.pt")
    torch.save({"a.weight": torch.zeros(2, 2)}, folder / "strange.pt")
    torch.save(CifarResNet(20, 3, 4).state_dict(), folder / "depth.pt")
    made = {name: folder / f"{name}.pt" for name in ("text", "list", "strange", "depth")}
    return made | {"model": place / "model.pt", "photos": place / "photos"}


@pytest.mark.parametrize(("options", "words"), BAD, ids=[options for options, _ in BAD])
def test_bad_input_gets_one_error_and_writes_nothing(
    cli, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("init", "my.yaml", *options.format(**inputs).split())
    assert ended.code == 2
    assert words in ended.err
    assert not Path("my.yaml").exists()


def test_without_a_terminal_a_template_is_written_and_with_all_everywhere(cli, tmp_path: Path) -> None:
    assert cli("init", tmp_path / "a.yaml").code == 0
    assert cli("init", tmp_path / "b.yaml", "--all").code == 0
    one, other = ((tmp_path / name).read_text() for name in ("a.yaml", "b.yaml"))
    assert one.replace("name: a\n", "name: b\n").replace("name: a ", "name: b ") == other
    assert "crossover_rate" in one


def in_a_terminal(answers: str, *arguments: object) -> tuple[int, str]:
    """Return exit code and output of a command that runs in a terminal, where somebody types these answers."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edcompress", *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answers.encode())
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError as error:  # the other end is closed
            if error.errno != errno.EIO:
                raise
        code = process.wait(120)
    os.close(ours)
    return code, said.decode()


@pytest.mark.integration
def test_in_a_terminal_it_asks(place: Path, tmp_path: Path) -> None:
    answers = f"{place / 'model.pt'}\n{place / 'photos'}\n\n"
    code, said = in_a_terminal(answers, "init", tmp_path / "my.yaml")
    assert code == 0, said
    assert "Weights of your network" in said
    assert "macs=0.5" in said
    assert read_recipe(tmp_path / "my.yaml").model.num_classes == 3


@pytest.mark.integration
def test_in_a_terminal_an_empty_answer_gives_a_template(tmp_path: Path) -> None:
    code, said = in_a_terminal("\n", "init", tmp_path / "template.yaml")
    assert (code, "crossover_rate" in (tmp_path / "template.yaml").read_text()) == (0, True), said


def test_python_raises_the_same_errors(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        suggest_recipe(tmp_path / "r.yaml", place / "model.pt", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("side", "size", "resize"), [(400, 224, 256), (224, 224, 256), (146, 128, 146), (120, 96, 120)]
)
def test_photos_are_not_enlarged(side: int, size: int, resize: int, place: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "photos", size=(side + 30, side))
    path = tmp_path / "mine.yaml"
    path.write_text(suggest_recipe(path, place / "model.pt", images).text)
    data = read_recipe(path).data
    assert (data.image_size, data.resize) == (size, resize)


def test_empty_weights_are_refused(cli, place: Path, tmp_path: Path) -> None:
    ended = cli("init", tmp_path / "my.yaml", "--weights", "", "--images", place / "photos")
    assert (ended.code, (tmp_path / "my.yaml").exists()) == (2, False), ended.out
    assert cli("check", "digits", "--weights", "", "--no-timing").code == 2
