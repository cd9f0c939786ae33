"""A pruned network is an ordinary nn.Module, which works in a training script that does not know edcompress."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW
from wirings import chosen
from zoo import ZOO, images

from edcompress.pruning.surgery.remove import remove_channels

LABELS = torch.tensor([0, 1, 2, 0])
WIRINGS = ("residual", "option_a", "concat", "depthwise", "grouped", "flatten", "multihead", "fused_attention", "prelu")
wirings = pytest.mark.parametrize("name", WIRINGS)


def pruned(name: str) -> nn.Module:
    """Return a network of the zoo without the channels that its chosen state drops, in eval mode."""
    network, space, state = chosen(name)
    return remove_channels(network, state, space)


def loss(network: nn.Module) -> torch.Tensor:
    return F.cross_entropy(network(images()), LABELS)


@wirings
def test_every_parameter_is_seen_by_the_optimizer_and_moves(name: str) -> None:
    network = pruned(name).train()
    before = copy.deepcopy(dict(network.named_parameters()))
    optimizer = AdamW(network.parameters(), lr=0.01, weight_decay=0.0)
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    loss(network).backward()
    optimizer.step()
    for key, parameter in network.named_parameters():
        assert id(parameter) in seen
        assert parameter.is_leaf
        assert not torch.equal(parameter, before[key]), key


@wirings
def test_training_lowers_the_loss(name: str) -> None:
    network = pruned(name).train()
    optimizer, first = SGD(network.parameters(), lr=0.01, momentum=0.9), loss(network).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(network).backward()
        optimizer.step()
    assert loss(network).item() < 0.9 * first


@wirings
def test_its_tensors_are_saved_and_loaded_into_a_network_of_its_shape(name: str) -> None:
    network, other = pruned(name), pruned(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(images()), network(images()))
    assert str(other.load_state_dict(network.state_dict(), strict=True)) == "<All keys matched successfully>"
    assert torch.equal(other(images()), network(images()))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(ZOO[name].network().state_dict())


@wirings
def test_a_deep_copy_gives_the_same_and_shares_nothing(name: str) -> None:
    network = pruned(name)
    twin = copy.deepcopy(network)
    logits = network(images())
    assert torch.equal(twin(images()), logits)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(images()), logits)


@wirings
def test_torch_compiles_it_whole(name: str) -> None:
    network = pruned(name)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), network(images()))
    loss(compiled).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@wirings
def test_torch_exports_it_for_any_batch_size(name: str) -> None:
    network = pruned(name)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (images(2),), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(images(5)), network(images(5)))


@pytest.fixture(scope="module")
def one_process_group() -> Iterator[None]:
    """Open a process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@wirings
@pytest.mark.usefixtures("one_process_group")
def test_it_trains_under_distributed_data_parallel(name: str) -> None:
    alone, network = pruned(name).train(), pruned(name).train()
    wrapped = DistributedDataParallel(network)
    loss(alone).backward()
    loss(wrapped).backward()
    for parameter, other in zip(network.parameters(), alone.parameters(), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(parameter.grad, other.grad)
