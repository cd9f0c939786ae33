"""What is refused of a network before anything is read or trained."""

from pathlib import Path

import pytest
from digits import digits

from edcompress.errors import NetworkError
from edcompress.job import new_network
from edcompress.session import Session

VAST = """
import torch
from torch import nn

class Vast(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1).expand(600_000_000))

net = Vast
"""


def test_a_network_that_no_onnx_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vast.py").write_text(VAST)
    monkeypatch.chdir(tmp_path)
    recipe = digits("model.arch=null", "model.factory=vast:net")
    with pytest.raises(NetworkError, match=r"vast:net has 2\.24 GiB of weights in fp32, .* less than 2 GiB"):
        new_network(recipe, Session(trust_code=True))
