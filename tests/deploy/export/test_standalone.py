"""load_pruned.py, run where edcompress cannot be imported, compared with what edcompress itself makes of the same files."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from states import random_state
from torch import Generator, Tensor, nn
from zoo import ZOO, images, randomised

import edcompress
from edcompress.core.recipe.model import Model
from edcompress.core.system.tensor_files import save_tensors
from edcompress.deploy.export.standalone import standalone_files
from edcompress.networks import load_pruned
from edcompress.networks.attention import free_heads
from edcompress.networks.load_pruned import positions_kept
from edcompress.networks.materialize_weights import with_plain_weights
from edcompress.networks.registry import build
from edcompress.pruning.space.gene_index import index_sides, pad_state
from edcompress.pruning.space.plan import plan_of
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.pruning.tracing.tracing import trace_space

ALONE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Absent())
"""
LOAD = """
import torch

torch.set_num_threads(1)
for folder in sys.argv[1:]:
    network = runpy.run_path(f"{folder}/load_pruned.py")["load_pruned"]()
    images, logits = torch.load(f"{folder}/expected.pt")
    with torch.no_grad():
        assert not network.training
        assert torch.equal(network(images), logits), folder
    print(sum(parameter.numel() for parameter in network.parameters()))
"""

FACTORY = """
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

class Attended(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].mean(1)

def net():
    first = (nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU())
    convs = (*first, nn.Conv2d(8, 8, 3, groups=4), nn.InstanceNorm2d(8), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    return nn.Sequential(*convs, Attended(), nn.Linear(8, 3))
"""


def alone(program: str, *arguments: object, cwd: Path, absent: tuple[str, ...] = ()) -> str:
    """What a program prints that runs in a process of its own without edcompress and some other packages."""
    named = f"ABSENT = {('edcompress', 'torch_pruning', 'pydantic', *absent)!r}\n"
    command = [sys.executable, "-W", "error", "-c", named + ALONE + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path, model: Model, network: nn.Module, x: Tensor) -> nn.Module:
    """What is left of the network in a random state; its files, and its logits of x, are in the folder."""
    space = trace_space(network.eval(), x)
    plan = plan_of(random_state(space, 3), space)
    pruned = apply_plan(network, plan, space)
    folder.mkdir()
    (folder / "space.json").write_text(space.model_dump_json())
    (folder / "plan.json").write_text(plan.model_dump_json())
    for name, text in standalone_files(model, network, x.shape[1:]).items():
        (folder / name).write_text(text)
    save_tensors(folder / "pruned.safetensors", pruned.state_dict())
    with torch.no_grad():
        torch.save((x, pruned(x)), folder / "expected.pt")
    return pruned


def of_folder(folder: Path) -> nn.Module:
    spec = importlib.util.spec_from_file_location("load_pruned", folder / "load_pruned.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load_pruned()
    return network


@pytest.mark.parametrize("name", ZOO)
def test_every_wiring_is_rebuilt_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"mine_{name}.py").write_text(f"from zoo import ZOO\nnet = ZOO[{name!r}].network\n")
    model = Model(factory=f"mine_{name}:net", num_classes=3)
    pruned = written(tmp_path / "run", model, randomised(ZOO[name].network()), images())
    again = of_folder(tmp_path / "run")
    assert repr(again) == repr(pruned)
    assert again.state_dict().keys() == pruned.state_dict().keys()
    buffers = dict(pruned.named_buffers())  # those that are not in the state_dict too
    assert all(torch.equal(tensor, pruned.get_parameter(key)) for key, tensor in again.named_parameters())
    assert all(torch.equal(tensor, buffers.pop(key)) for key, tensor in again.named_buffers())
    assert not buffers
    assert torch.equal(again(images()), pruned(images()))


@pytest.mark.parametrize("name", ZOO)
def test_what_stays_is_read_from_the_files_as_from_the_space(name: str) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    state = random_state(space, 4)
    sides = {side: pad_state(state)[genes].tolist() for side, genes in index_sides(space, network).items()}
    read = positions_kept(space.model_dump(), plan_of(state, space).model_dump())
    assert read == {side: keep for side, keep in sides.items() if not all(keep)}


def test_a_network_with_lazy_layers_and_computed_weights_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, self.stride, self.padding, self.dilation, self.groups)

def net():
    masked = prune.l1_unstructured(nn.Conv2d(6, 6, 1), "weight", amount=0.5)
    convs = (weight_norm(nn.Conv2d(3, 8, 3)), Standardised(8, 8, 3), nn.LazyConv2d(6, 3), masked)
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
"""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazily.py").write_text(text)
    namespace: dict[str, Callable[[], nn.Module]] = {}
    exec(text, namespace)
    network = namespace["net"]().eval()
    network(images())
    pruned = written(
        tmp_path / "run", Model(factory="lazily:net", num_classes=3), with_plain_weights(network), images()
    )
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    assert torch.equal(of_folder(tmp_path / "run")(images()), pruned(images()))
    assert torch.equal(load_pruned.load_pruned(tmp_path / "run")(images()), pruned(images()))


@pytest.mark.integration
def test_networks_of_every_origin_are_rebuilt_without_edcompress(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    models = {
        "cifar": (Model(arch="resnet20", num_classes=10), 32),
        "stem": (Model(arch="resnet18", stem="cifar", num_classes=4, in_channels=1), 32),
        "layout": (Model(arch="mnasnet0_5", num_classes=5), 32),  # its loading asks for the version of its layout
        "heads": (Model(arch="vit_b_32", num_classes=3), 224),
        "auxiliary": (Model(arch="googlenet", num_classes=3), 64),
        "timm": (Model(arch="timm:test_vit", num_classes=3, in_channels=2), 160),
        "standardised": (Model(arch="timm:test_nfnet", num_classes=3), 96),
    }
    for name, (model, size) in models.items():
        x = torch.randn(2, model.in_channels, size, size, generator=Generator().manual_seed(0))
        written(tmp_path / name, model, with_plain_weights(build(model)), x)
    (tmp_path / "mine.py").write_text(FACTORY)
    model = Model(factory="mine:net", num_classes=3)
    namespace: dict[str, type[nn.Module]] = {}
    exec(FACTORY, namespace)
    pruned = written(tmp_path / "factory", model, free_heads(namespace["net"](), images()), images())
    lines = alone(LOAD, *models, "factory", cwd=tmp_path).splitlines()
    assert int(lines[-1]) == sum(parameter.numel() for parameter in pruned.parameters())
    assert len(lines) == len(models) + 1


@pytest.mark.parametrize(
    ("arch", "absent"),
    [
        pytest.param("resnet8", ("torchvision", "timm"), id="cifar"),
        pytest.param("squeezenet1_1", ("timm",), marks=pytest.mark.integration, id="torchvision"),
    ],
)
def test_a_network_needs_no_package_but_its_own(arch: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    model = Model(arch=arch, num_classes=3)
    x = torch.randn(2, 3, 64, 64, generator=Generator().manual_seed(0))
    pruned = written(tmp_path / "run", model, build(model), x)
    parameters = sum(parameter.numel() for parameter in pruned.parameters())
    assert alone(LOAD, "run", cwd=tmp_path, absent=absent) == f"{parameters}\n"


def test_the_file_beside_it_says_how_the_network_is_built() -> None:
    grey = Model(arch="resnet18", stem="cifar", num_classes=3, in_channels=1)
    files = standalone_files(grey, build(grey), (1, 32, 32))
    description = json.loads(files["load_pruned.json"])
    assert description["network"] == {"origin": "torchvision", "name": "resnet18", "arguments": {"num_classes": 3}}
    stem = {"kind": "Conv2d", "in_channels": 1, "out_channels": 64, "kernel_size": [3, 3], "stride": [1, 1]}
    stem |= {"padding": [1, 1], "dilation": [1, 1], "groups": 1, "bias": False}
    assert description["layers"] == {"conv1": stem, "maxpool": {"kind": "Identity"}}
    assert description["image"] == [1, 32, 32]
    assert list(description["needs"]) == ["torch", "safetensors", "torchvision"]


def test_the_module_is_copied_as_it_is() -> None:
    model = Model(arch="resnet8", num_classes=3)
    assert (
        standalone_files(model, build(model), (3, 32, 32))["load_pruned.py"] == Path(load_pruned.__file__).read_text()
    )


def test_a_description_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"load_pruned\.json has version 2, this file reads 1; take both from one"):
        load_pruned.build({"version": 2})


def test_a_replacement_that_does_not_fit_is_named() -> None:
    network = {"origin": "edcompress", "name": "CifarResNet", "arguments": {"depth": 8}}
    layers = {"conv1": {"kind": "SelfAttention"}}
    with pytest.raises(TypeError, match=r"replaces an nn\.MultiheadAttention, and the network has a Conv2d"):
        load_pruned.build({"version": 1, "network": network, "image": [3, 32, 32], "layers": layers})


@pytest.mark.integration
def test_a_finished_run_is_loaded_without_edcompress(finished: Path, tmp_path: Path) -> None:
    x = torch.randn(3, 1, 16, 16)
    network = edcompress.load(finished)
    with torch.no_grad():
        torch.save((x, network(x)), finished / "expected.pt")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert alone(LOAD, finished, cwd=tmp_path) == f"{parameters}\n"
    said = alone("runpy.run_path(sys.argv[1], run_name='__main__')", finished / "load_pruned.py", cwd=tmp_path)
    assert said == f"{parameters} parameters; logits [1, 10] of a random image [1, 1, 16, 16]\n"


def test_it_prints_the_size_of_a_network_from_code_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_too.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine_too", raising=False)
    namespace: dict[str, type[nn.Module]] = {}
    exec(FACTORY, namespace)
    network = free_heads(namespace["net"](), images())
    pruned = written(tmp_path / "run", Model(factory="mine_too:net", num_classes=3), network, images())
    load_pruned.main(tmp_path / "run")
    parameters = sum(parameter.numel() for parameter in pruned.parameters())
    image = [1, *images().shape[1:]]
    assert capsys.readouterr().out == f"{parameters} parameters; logits [1, 3] of a random image {image}\n"


@pytest.mark.parametrize("arch", ["resnet18", "timm:resnet10t"])
def test_a_named_network_is_built_from_its_package(arch: str) -> None:
    if arch.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    model = Model(arch=arch, num_classes=3, in_channels=1)
    network = build(model)
    description = json.loads(standalone_files(model, network, (1, 32, 32))["load_pruned.json"])
    assert repr(load_pruned.build(description)) == repr(network)
