import pytest
import torch
import torchvision
from torch import nn

from edcompress.networks.attention import SelfAttention, with_free_heads
from edcompress.networks.registry import build
from edcompress.sources import Model


def test_it_attends_as_torch_does() -> None:
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    ours = SelfAttention(theirs).eval()
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(tokens, tokens, tokens)[0], theirs(tokens, tokens, tokens, need_weights=False)[0])
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_what_is_no_self_attention_is_refused() -> None:
    ours = SelfAttention(nn.MultiheadAttention(4, 2, batch_first=True))
    tokens, others = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    with pytest.raises(NotImplementedError, match="only self-attention"):
        ours(tokens, others, others)
    with pytest.raises(NotImplementedError, match="without its weights"):
        ours(tokens, tokens, tokens, need_weights=True)


def test_attentions_of_another_make_stay_as_they_are() -> None:
    network = nn.ModuleDict({
        "plain": nn.MultiheadAttention(4, 2, batch_first=True), "sequence_first": nn.MultiheadAttention(4, 2),
        "biased": nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True),
        "separate": nn.MultiheadAttention(4, 2, batch_first=True, kdim=3),
    })  # fmt: skip
    with_free_heads(network)
    assert [name for name, layer in network.items() if isinstance(layer, SelfAttention)] == ["plain"]


def test_a_vision_transformer_takes_torchvision_s_weights_and_answers_alike() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vit_b_32(num_classes=3).eval()
    ours = build(Model(arch="vit_b_32", num_classes=3)).eval()
    nn.init.normal_(theirs.get_parameter("heads.head.weight"))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
