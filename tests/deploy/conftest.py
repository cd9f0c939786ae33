"""Two real ONNX files, exported once for all tests of this folder (an export costs seconds)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edcompress.deploy.export.onnx_export import export_onnx


def tiny_network(width: int, seed: int) -> nn.Sequential:
    """[N, 3, 8, 8] -> [N, 4], with batch-norm statistics that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
        network(torch.randn(16, 3, 8, 8))
    return network


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def network() -> nn.Sequential:
    return tiny_network(8, seed=1)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory, network: nn.Sequential, images: torch.Tensor) -> Path:
    """`network` at opset 18, handed over in train mode."""
    path = tmp_path_factory.mktemp("onnx") / "net18.onnx"
    network.train()
    export_onnx(network, images, path, opset=18, metadata={"edcompress.plan": "abc", "who": "me"})
    return path


@pytest.fixture(scope="session")
def dead_onnx_file(tmp_path_factory: pytest.TempPathFactory, images: torch.Tensor) -> Path:
    """A network at opset 20 from one example image, with two weights and one folded product below 1e-30."""
    path = tmp_path_factory.mktemp("onnx") / "net20.onnx"
    dead = tiny_network(4, seed=2)
    with torch.no_grad():
        dead[0].weight[0, 0, 0, :2] = torch.tensor([1e-39, -1e-35])
        dead[0].weight[1] = 1e-20  # 27 weights that only the folded batch norm makes tiny
        dead[1].weight[1] = 1e-20
    export_onnx(dead, images[:1], path, opset=20, metadata={})
    return path
