"""A network whose convolutions compute their weight, from the checkpoint to the loaded run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from digits import digits
from torch import nn
from torch.nn.utils import parametrize

from edcompress.core.system.context import RunOptions
from edcompress.core.user_code import Trust
from edcompress.networks.build import read_network
from edcompress.runs.folder import RunFolder
from edcompress.workflows.evaluate import evaluate
from edcompress.workflows.inspect import inspect
from edcompress.workflows.load import load
from edcompress.workflows.prune import prune

FACTORY = """
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

def net():
    convs = (weight_norm(nn.Conv2d(1, 8, 3)), nn.ReLU(), weight_norm(nn.Conv2d(8, 16, 3)), nn.ReLU())
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""
QUICK = ("search.method=magnitude", "search.epochs=0", "finetune.epochs=1", "data.limit=200", "constraints.round_to=1")


def test_it_is_pruned_with_plain_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "normed", raising=False)
    Path("normed.py").write_text(FACTORY)
    namespace: dict[str, type[nn.Module]] = {}
    exec(FACTORY, namespace)
    network, options = namespace["net"]().eval(), RunOptions("cpu", trust_code=True)
    assert any(map(parametrize.is_parametrized, network.modules()))
    torch.save(network.state_dict(), "normed.pt")
    recipe = digits(*QUICK, "model.arch=null", "model.factory=normed:net", "target.macs=0.4")
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(
        read_network(recipe.network_spec, Path("normed.pt"), trust=Trust(code=True))(images), network(images)
    )
    assert [group.name for group in inspect(None, recipe, options).groups if not group.locked] == ["0", "2"]
    report = prune(Path("normed.pt"), recipe, RunFolder(Path("run")), options=options)
    pruned = load("run", trust_code=True)
    assert not any(map(parametrize.is_parametrized, pruned.modules()))
    assert 0.2 < report.target.achieved <= 0.4
    assert evaluate(Path("run"), recipe, options) == report.pruned.accuracy
    said = subprocess.run([sys.executable, "run/load_pruned.py"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{report.pruned.size.params} parameters; logits [1, 10]")
    again = digits(*QUICK, "model.arch=null", "model.factory=normed:net", "target.macs=0.2")
    assert prune(Path("run"), again, RunFolder(Path("again")), options=options).target.achieved <= 0.2
