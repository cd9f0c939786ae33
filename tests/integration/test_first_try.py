"""A new user: a network fine-tuned on 300 images of three classes, its state dict, and four commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from edcompress.core.recipe.loading import read_recipe
from edcompress.networks.load_pruned import CifarResNet
from edcompress.runs.folder import RunFolder

pytestmark = pytest.mark.integration
CLASSES = 3


def command(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    text = [sys.executable, "-m", "edcompress", *map(str, words)]
    return subprocess.run(text, cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, one folder per class and no split, and model.pt, trained on them in plain PyTorch."""
    if "EDCOMPRESS_DATA" not in os.environ:
        pytest.skip("EDCOMPRESS_DATA is not set")
    place = tmp_path_factory.mktemp("user")
    source = Path(os.environ["EDCOMPRESS_DATA"]) / "cifar100-25k" / "train"
    for folder in sorted(source.iterdir())[:CLASSES]:
        target = place / "photos" / folder.name
        target.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:100]:
            (target / path.name).write_bytes(path.read_bytes())
    prepare = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)])
    pairs = [*ImageFolder(place / "photos", prepare)]
    images, labels = torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
    torch.manual_seed(0)
    network = CifarResNet(20, CLASSES).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(12):
        for part in torch.split(torch.randperm(len(labels)), 32):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    torch.save(network.state_dict(), place / "model.pt")
    return place


def test_four_commands_lead_from_a_state_dict_to_a_gated_file(user: Path) -> None:
    began = command(user, "init", "my.yaml", "--weights", "model.pt", "--images", "photos", "--target", "macs=0.6")
    assert began.returncode == 0, began.stderr
    lines = [line for line in (user / "my.yaml").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 16
    assert read_recipe(user / "my.yaml").model.arch == "resnet20"
    pruned = command(user, "prune", "model.pt", "--recipe", "my.yaml", "-o", "run")
    assert pruned.returncode == 0, pruned.stderr
    report = RunFolder(user / "run").read_report()
    assert report.target.achieved <= 0.6
    assert report.pruned.accuracy.top1.fraction >= report.dense.accuracy.top1.fraction - 0.15
    assert report.search.tightening is not None
    assert report.search.tightening >= 20
    assert any("test images are too few" in text for text in report.remarks)
    assert "test images are too few" in pruned.stdout
    exported = command(user, "export", "run", "--onnx")
    assert exported.returncode == 0, exported.stderr
    gated = command(user, "gate", "run", "--max-top1-drop", "0.15", "--min-speedup", "0.5", "--disturbed", "allow")
    assert gated.returncode == 0, gated.stdout + gated.stderr
