import io

import pytest
import torch

from edcompress.networks.load_pruned import CifarResNet, PaddedShortcut
from edcompress.networks.registry import CIFAR_RESNETS


@pytest.mark.parametrize(("depth", "params"), [(8, 75_290), (20, 269_722), (56, 853_018)])
def test_has_the_number_of_parameters_of_the_paper(depth: int, params: int) -> None:
    assert sum(p.numel() for p in CifarResNet(depth).parameters()) == params  # 0.27 M and 0.85 M in table 6


def test_counts_its_layers() -> None:
    for name, depth in CIFAR_RESNETS.items():
        weighted = [p for p in CifarResNet(depth).parameters() if p.ndim > 1]
        assert len(weighted) == depth, name


def test_refuses_a_depth_that_is_not_6n_plus_2() -> None:
    with pytest.raises(ValueError, match="not 18"):
        CifarResNet(18)


def test_takes_other_channels_classes_and_odd_sizes() -> None:
    logits = CifarResNet(8, num_classes=7, in_channels=1)(torch.rand(2, 1, 9, 9))
    assert logits.shape == (2, 7)


def test_shortcut_subsamples_and_pads_with_zeros() -> None:
    x = torch.arange(2 * 5 * 5, dtype=torch.float32).view(1, 2, 5, 5)
    y = PaddedShortcut(2, 5, stride=2)(x)
    assert y.shape == (1, 5, 3, 3)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()


def test_is_exported_by_the_dynamo_exporter() -> None:
    network = CifarResNet(8).eval()
    program = torch.export.export(
        network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    x = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(x), network(x))
    torch.export.save(program, io.BytesIO())
