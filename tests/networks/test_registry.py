import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edcompress.core.errors import NetworkError
from edcompress.core.recipe.model import Model
from edcompress.core.user_code import Trust
from edcompress.networks.registry import architectures, build


def logits(model: Model, size: int) -> torch.Size:
    return build(model).eval()(torch.rand(1, model.in_channels, size, size)).shape


def test_lists_the_classification_networks_only() -> None:
    names = architectures()
    assert names == sorted(names)
    assert {"resnet8", "resnet20", "resnet110", "resnet18", "squeezenet1_1", "vit_b_16"} <= set(names)
    assert not {name for name in names if "rcnn" in name or "deeplab" in name or "raft" in name}


@pytest.mark.parametrize(
    ("arch", "in_channels", "stem", "size"),
    [
        ("resnet8", 3, "imagenet", 16),
        ("resnet8", 1, "cifar", 16),
        ("resnet18", 1, "cifar", 16),
        ("densenet121", 3, "cifar", 32),
        ("squeezenet1_1", 2, "imagenet", 64),
        ("mobilenet_v3_small", 1, "imagenet", 64),
        ("googlenet", 1, "imagenet", 64),
    ],
)
def test_builds_with_channels_stem_and_classes(arch: str, in_channels: int, stem: str, size: int) -> None:
    model = Model(arch=arch, stem=stem, num_classes=5, in_channels=in_channels)  # type: ignore[arg-type]
    assert logits(model, size) == (1, 5)


def test_cifar_stem_keeps_the_resolution() -> None:
    network = build(Model(arch="resnet18", stem="cifar", num_classes=10))
    assert isinstance(network.maxpool, nn.Identity)
    assert network.conv1.weight.shape == (64, 3, 3, 3)
    assert network.conv1.stride == (1, 1)


@pytest.mark.parametrize("given", [{"arch": "vgg11"}, {"arch": "timm:resnet18"}, {"factory": "a:b"}])
def test_cifar_stem_elsewhere_names_where_it_exists(given: dict[str, str]) -> None:
    with pytest.raises(NetworkError, match=r"model\.stem: cifar exists for .*densenet"):
        build(Model(**given, stem="cifar", num_classes=10))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "near"), [("resnet-20", "resnet20"), ("Resnet18", "resnet18"), ("mobilenetv2", "mobilenet_v2")]
)
def test_unknown_arch_suggests_near_names(arch: str, near: str) -> None:
    with pytest.raises(NetworkError, match=f"no '{arch}'; did you mean .*{near}"):
        build(Model(arch=arch, num_classes=10))


def test_timm_network() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    network = build(Model(arch="timm:resnet10t", num_classes=5, in_channels=1)).eval()
    assert network(torch.rand(1, 1, 64, 64)).shape == (1, 5)


def test_unknown_timm_network_suggests_near_names() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(NetworkError, match=r"did you mean .*timm:resnet18"):
        build(Model(arch="timm:resnet18x", num_classes=5))


def test_timm_missing_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r"pip install 'edcompress\[timm\]'"):
        build(Model(arch="timm:resnet18", num_classes=5))


FACTORIES = """
import sys
from torch import nn

def good(): return nn.Linear(4, 2)
def lazy():
    import factory_helper
    return factory_helper.network()
def raising(): raise RuntimeError("no weights today")
def exiting(): sys.exit("bye")
def needy(width, depth=3): return nn.Linear(width, 2)
def nothing(): pass
def string(): return "network"
def parallel(): return nn.DataParallel(good())
def compiled():
    import torch
    return torch.compile(good())
number = 3
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "factory_user.py").write_text(FACTORIES)
    (tmp_path / "factory_helper.py").write_text("from torch import nn\ndef network(): return nn.Linear(3, 2)\n")
    (tmp_path / "factory_broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "factory_syntax.py").write_text("def network(:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def from_factory(spec: str, *, trust_code: bool = True) -> nn.Module:
    return build(Model(factory=spec, num_classes=2), trust=Trust(code=trust_code))


@pytest.mark.usefixtures("user_folder")
def test_factory_from_the_working_directory() -> None:
    path = list(sys.path)
    assert isinstance(from_factory("factory_user:good"), nn.Linear)
    assert isinstance(from_factory("factory_user:lazy"), nn.Linear)
    assert sys.path == path


@pytest.mark.usefixtures("user_folder")
def test_factory_needs_trust_and_does_not_run_without() -> None:
    with pytest.raises(NetworkError, match="--trust-code"):
        from_factory("factory_never_imported:good", trust_code=False)
    assert "factory_never_imported" not in sys.modules


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize(
    ("spec", "says", "cause"),
    [
        ("factory_user:raising", "failed in your code: RuntimeError: no weights today", RuntimeError),
        ("factory_user:exiting", "failed in your code: SystemExit: bye", SystemExit),
        ("factory_user:needy", r"needs some \(missing a required argument: 'width'\)", TypeError),
        ("factory_user:nothing", "must return a torch.nn.Module, it returned None", None),
        ("factory_user:string", "must return a torch.nn.Module, it returned str 'network'", None),
        ("factory_user:parallel", "returned a DataParallel around the network; give the network itself", None),
        ("factory_user:compiled", "returned a OptimizedModule around the network", None),
        ("factory_user:number", "is int 3, not a function", None),
        ("factory_user:goood", "has no 'goood'; did you mean 'good'", None),
        ("factory_broken:good", "importing factory_broken failed in your code: .*no_such_package", ModuleNotFoundError),
        ("factory_syntax:network", "importing factory_syntax failed in your code: SyntaxError", SyntaxError),
        ("factory_absent:good", "no module 'factory_absent' in the working directory", ModuleNotFoundError),
        ("factory_user", "write package.module:callable", None),
        (":good", "write package.module:callable", None),
    ],
)
def test_factory_faults_are_reported_as_the_users(spec: str, says: str, cause: type | None) -> None:
    with pytest.raises(NetworkError, match=says) as caught:
        from_factory(spec)
    assert isinstance(caught.value.__cause__, cause or type(None))


@pytest.mark.usefixtures("user_folder")
def test_a_class_without_a_python_signature_can_be_a_factory() -> None:
    with pytest.raises(NetworkError, match="it returned dict"):
        from_factory("builtins:dict")


FORWARDS = """
import sys
from torch import nn

class Net(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.fc = what, nn.Linear(256, 10)
    def forward(self, images):
        print("in forward")
        return self.what(self.fc(images.flatten(1)))

class Odd(BaseException): pass
def strange(text): raise Odd(text)
def odd(): strange("odd")
def key(): return Net(lambda logits: {}["a"])
def kind(): return Net(lambda logits: 1 + None)
def zero(): return Net(lambda logits: 1 / 0)
def leaving(): return Net(lambda logits: sys.exit(3))
def wordless(): return Net(lambda logits: strange(""))
def endless():
    network = Net(None)
    network.what = lambda logits: network.what(logits)
    return network
def nested(): return Net(lambda logits: {"heads": {"a": logits, "b": logits.repeat(2, 2)[:1]}})
def textual(): return Net(lambda logits: {"out": "logits"})
def wide(): return Net(lambda logits: logits.repeat(1, 2))
def printing():
    print("in the factory")
    return Net(lambda logits: logits)
class NoImages(nn.Module):
    def forward(self): return 1
class Two(Net):
    def __init__(self): super().__init__(None)
    def forward(self, images, mask, *, scale=1.0): return self.fc(images.flatten(1)) * mask
"""


@pytest.mark.parametrize(
    ("factory", "says", "frame"),
    [
        ("raising", "failed in your code: RuntimeError: no weights today", "in raising"),
        ("odd", "failed in your code: forwards.Odd: odd", "in strange"),
        ("key", "cannot take images of 1x16x16; see data.image_size and model.stem: KeyError: 'a'", 'return Net(lambda logits: {}["a"])'),
        ("kind", "TypeError: unsupported operand", "in forward"),
        ("zero", "ZeroDivisionError: division by zero", "in forward"),
        ("leaving", "SystemExit: 3", "sys.exit(3)"),
        ("wordless", "forwards.Odd", "in strange"),
        ("endless", "RecursionError: maximum recursion depth", "in <lambda>"),
        ("NoImages", "forward() takes 1 positional argument but 2 were given", None),
        ("Two", "forwards:Two takes 2 inputs (images, mask), but it gets one, a batch of images; take a module", None),
        ("nested", "the network gives (1, 20) as 'heads.b' for two images, not (2, 10)", None),
        ("textual", "the network gives a dict without a tensor of logits", None),
        ("wide", "the network gives (2, 20) for two images, not (2, 10)", None),
        ("syntax", "importing syntax failed in your code: SyntaxError", "def network(:"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("user_folder")
def test_faults_of_a_users_network_are_shown_with_the_users_frames(
    cli, user_folder: Path, monkeypatch: pytest.MonkeyPatch, factory: str, says: str, frame: str | None
) -> None:
    ended = inspected(cli, user_folder, monkeypatch, factory)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ("  File " in ended.err) == (frame is not None), ended.err
    assert (frame or says) in ended.err
    assert "edcompress/" not in ended.err
    assert "torch/nn" not in ended.err
    assert ended.err.count("\n") < 80


@pytest.mark.usefixtures("user_folder")
def test_what_a_users_network_prints_does_not_spoil_json(
    cli, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = inspected(cli, user_folder, monkeypatch, "printing")
    assert ended.code == 0
    assert json.loads(ended.out)["network"] == "forwards:printing"
    assert "in the factory\nin forward\n" in ended.err


def inspected(cli, folder: Path, monkeypatch: pytest.MonkeyPatch, factory: str):
    """Run `inspect --json` with a factory of FORWARDS, or of the module `syntax`."""
    (folder / "forwards.py").write_text(FORWARDS + 'def raising(): raise RuntimeError("no weights today")\n')
    (folder / "syntax.py").write_text("def network(:\n")
    for module in ("forwards", "syntax"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    spec = "syntax:network" if factory == "syntax" else f"forwards:{factory}"
    given = ("--set", "model.arch=null", "--set", f"model.factory={spec}")
    return cli("inspect", "--recipe", "digits", *given, "--trust-code", "--json")
