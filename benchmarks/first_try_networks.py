"""The networks of first_try.py, trained in plain PyTorch as a user does: nothing here is of edcompress."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torchvision
from first_try_data import data_folder
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from edcompress.networks.load_pruned import CifarResNet

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR: Normalisation = ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
BATCH, PHOTO = 32, 128


def lite0(classes: int) -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet's weights and a new classifier."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    return with_weights(network, "efficientnet_lite0-timm.pth", "classifier.")


def squeezenet(classes: int) -> nn.Module:
    """Return SqueezeNet 1.1 with ImageNet's weights and a new classifier."""
    network: nn.Module = torchvision.models.squeezenet1_1(num_classes=classes)
    return with_weights(network, "squeezenet1_1-deepscale-fp16.pth", "classifier.")


def with_weights(network: nn.Module, name: str, left_out: str) -> nn.Module:
    """Return the network with the tensors of a file, in fp32, without those whose names begin with `left_out`."""
    saved = torch.load(folder() / name, weights_only=True, map_location="cpu")
    network.load_state_dict({key: value for key, value in saved.items() if not key.startswith(left_out)}, strict=False)
    return network


def resnet18(classes: int) -> nn.Module:
    """Return ResNet-18 with random weights."""
    network: nn.Module = torchvision.models.resnet18(num_classes=classes)
    return network


def resnet20_new(classes: int) -> nn.Module:
    """Return a CIFAR ResNet-20 with random weights."""
    network: nn.Module = CifarResNet(20, classes)
    return network


def resnet20_from_file(classes: int) -> nn.Module:
    """Return the CIFAR-10 ResNet-20 of akamaster/pytorch_resnet_cifar10."""
    network = CifarResNet(20, classes)
    saved = torch.load(folder() / "resnet20-12fca82f.th", weights_only=True, map_location="cpu")["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in saved.items()})
    return network


def folder() -> Path:
    """Return the folder of the pretrained weights."""
    return data_folder() / "checkpoints"


def save_network(
    network: nn.Module, images: Path, weights: Path, normalisation: Normalisation, *, epochs: int, rate: float
) -> None:
    """Train the network on the images of train/ by AdamW with a cosine, and save its state dict."""
    size = ImageFolder(images / "train")[0][0].size
    small = max(size) < PHOTO
    photo_views = [v2.RandomResizedCrop(PHOTO, scale=(0.35, 1.0)), v2.RandomHorizontalFlip()]
    views = [v2.RandomCrop(size[::-1], padding=3)] if small else photo_views
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*map(list, normalisation))]
    batch = 4 * BATCH if small else BATCH
    loader = DataLoader(
        ImageFolder(images / "train", v2.Compose([*views, *tensor])), batch, shuffle=True, drop_last=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), rate or 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate or 1e-3, total_steps=max(1, epochs * len(loader)))
    network.train()
    for _ in range(epochs):
        for pixels, labels in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(pixels).float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    torch.save(network.state_dict(), weights)
