import pytest
import torch
import torchvision
from states import random_state
from torch import nn
from zoo import images, randomised

from edcompress.core.recipe.model import Model
from edcompress.networks.attention import free_heads, with_free_heads
from edcompress.networks.load_pruned import SelfAttention
from edcompress.networks.registry import build
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space

FORBIDDEN = torch.ones(5, 5, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("mask", [None, FORBIDDEN, torch.randn(5, 5)], ids=["all", "causal", "biased"])
@pytest.mark.parametrize("asked", [{}, {"average_attn_weights": False}, {"need_weights": False}], ids=str)
def test_it_attends_as_torch_does(mask: torch.Tensor | None, asked: dict[str, bool]) -> None:
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    ours = SelfAttention(theirs).eval()
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(
        ours(tokens, tokens, tokens, attn_mask=mask, **asked), theirs(tokens, tokens, tokens, attn_mask=mask, **asked)
    )
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_anything_but_self_attention_is_refused() -> None:
    ours = SelfAttention(nn.MultiheadAttention(4, 2, batch_first=True))
    tokens, others = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    with pytest.raises(NotImplementedError, match="only self-attention"):
        ours(tokens, others, others)
    with pytest.raises(NotImplementedError, match="one mask"):
        ours(tokens, tokens, tokens, attn_mask=torch.zeros(4, 5, 5))


class Mine(nn.Module):
    """A user's network: an ordinary attention, torch's encoder, and one that cannot be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.across = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.encoder(tokens + self.attention(tokens, tokens, tokens)[0])
        logits: torch.Tensor = self.fc(self.across(tokens.mean(1, keepdim=True), tokens, tokens)[0][:, 0])
        return logits


def test_heads_of_a_network_of_the_user_s_own_are_free_where_they_attend_to_themselves() -> None:
    network, x = randomised(Mine()), images(2)
    logits = network(x)
    free_heads(network, x)
    torch.testing.assert_close(network(x), logits, rtol=1e-4, atol=1e-5)
    attentions = {name for name, layer in network.named_modules() if isinstance(layer, SelfAttention)}
    assert attentions == {"attention", "encoder.self_attn"}
    space = lock_inexact(network, trace_space(network, x), x)
    reasons = {group.name: group.locked for group in space.groups}
    assert (reasons["attention"], reasons["encoder.self_attn"]) == (None, None)
    state = random_state(space, 0)
    pruned = remove_channels(network, state, space)
    torch.testing.assert_close(pruned(x), masked_forward(network, space, state, x), rtol=1e-4, atol=1e-5)
    assert pruned.get_parameter("encoder.self_attn.out_proj.weight").shape == (8, 4)


def test_other_attentions_stay_unchanged() -> None:
    network = nn.ModuleDict({
        "plain": nn.MultiheadAttention(4, 2, batch_first=True), "sequence_first": nn.MultiheadAttention(4, 2),
        "biased": nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True),
        "separate": nn.MultiheadAttention(4, 2, batch_first=True, kdim=3),
    })  # fmt: skip
    with_free_heads(network)
    assert [name for name, layer in network.items() if isinstance(layer, SelfAttention)] == ["plain"]


def test_a_vision_transformer_loads_torchvision_s_weights_and_gives_equal_logits() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vit_b_32(num_classes=3).eval()
    ours = build(Model(arch="vit_b_32", num_classes=3)).eval()
    nn.init.normal_(theirs.get_parameter("heads.head.weight"))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
