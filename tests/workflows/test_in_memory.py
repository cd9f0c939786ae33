"""`edcompress.prune` and `edcompress.inspect` of networks, data sets, losses and metrics that a program has in memory."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import Interrupter
from in_memory import QUICK, Net, Sequenced, digit_sets, my_loss, my_metric, trained_net
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import edcompress
from edcompress.core.errors import EdcompressError, InputError, RunFolderError
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs.folder import RunFolder

Sets = tuple[TensorDataset, TensorDataset, TensorDataset]


class Warnings(NullMonitor):
    """Keeps what a run warns of, and ends it before the search if so asked."""

    def __init__(self, *, to_the_end: bool = True) -> None:
        self.texts: list[str] = []
        self._to_the_end = to_the_end

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        if not self._to_the_end:
            raise KeyboardInterrupt

    def warning(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def sets() -> Sets:
    return digit_sets()


@pytest.fixture(scope="module")
def net(sets: Sets) -> Net:
    return trained_net(sets[0])


@pytest.fixture(scope="module")
def result(net: Net, sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> edcompress.PruneResult:
    """The call of the documentation, as it stands there."""
    train_set, val_set, test_set = sets
    out = tmp_path_factory.mktemp("runs") / "first"
    return edcompress.prune(net, train=train_set, val=val_set, test=test_set, target={"macs": 0.5},
                            loss=my_loss, metric=my_metric, finetune={"epochs": 2, "lr": 1e-3}, out=out, **QUICK)  # fmt: skip


@pytest.fixture(scope="module")
def exported(result: edcompress.PruneResult) -> edcompress.PruneResult:
    return result.export(int8=True)


def quick(net: nn.Module, train: Any, out: Path, **more: Any) -> edcompress.PruneResult:
    """A run of an epoch of each kind."""
    sections = {**QUICK, "target": {"macs": 0.6}, "finetune": {"epochs": 1, "lr": 1e-3}, **more}
    return edcompress.prune(net, train=train, out=out, **sections)


def test_the_result_has_an_ordinary_network_and_its_figures(result: edcompress.PruneResult, sets: Sets) -> None:
    small, (images, labels) = result.model, sets[2].tensors
    assert type(small) is Net
    assert small.features[0].out_channels < 16 or small.features[3].out_channels < 32
    with torch.no_grad():
        right = (small(images).argmax(1) == labels).double().mean().item()
    assert result.accuracy == pytest.approx(right)
    assert result.accuracy > 0.7
    assert result.drop == pytest.approx(result.dense_accuracy - result.accuracy)
    assert 0.2 < result.macs <= 0.5
    assert 0.1 < result.params < 1.0
    assert result.metric == "my metric"
    assert "of the MACs, my metric 0." in repr(result)


def test_the_result_can_be_trained_further(result: edcompress.PruneResult, sets: Sets) -> None:
    small = copy.deepcopy(result.model).train()
    F.cross_entropy(small(sets[0].tensors[0][:8]), sets[0].tensors[1][:8]).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_export_and_gate_give_values_and_raise_nothing(
    result: edcompress.PruneResult, exported: edcompress.PruneResult
) -> None:
    assert result.speedup is None
    assert exported.speedup
    assert (exported.folder.path / "pruned.int8.onnx").exists()
    assert not exported.gate(max_drop=0.0, min_speedup=1000).passed
    assert exported.gate(max_drop=1.0, min_speedup=0.001).passed
    assert "x as fast" in repr(exported)


def test_the_command_line_reads_the_run(exported: edcompress.PruneResult, cli: Any) -> None:
    folder = exported.folder.path
    assert cli("gate", folder, "--max-drop", 1, "--min-speedup", 0.001).code == 0
    assert cli("gate", folder, "--max-drop", 0, "--min-speedup", 1000).code == 1
    assert cli("report", folder).code == 0
    assert cli("status", folder).code == 0
    assert json.loads((folder / "report.json").read_text())["network"] == "Net"
    assert "edcompress.prune(" in (folder / "report.html").read_text()
    recipe = (folder / "recipe.yaml").read_text()
    assert "object: Net" in recipe
    assert "dataset: memory" in recipe


def test_what_needs_the_objects_says_how_to_give_them(result: edcompress.PruneResult, cli: Any) -> None:
    folder = result.folder.path
    for command in (("export", folder, "--onnx"), ("convert", folder, "--to", "torchscript")):
        ended = cli(*command)
        assert ended.code == 2
        assert "add --trust-code" in ended.err
        assert "resume=True" in ended.err
    with pytest.raises(InputError, match=r"model.object: Net was an object in memory of a Python program"):
        edcompress.load(folder)


def test_the_command_line_exports_what_the_folder_keeps(
    exported: edcompress.PruneResult, cli: Any, tmp_path: Path
) -> None:
    """The loss and the metric can be imported; network and images are in the folder."""
    here, folder = exported.report, tmp_path / "copy"
    shutil.copytree(exported.folder.path, folder)
    for name in folder.glob("*.onnx"):
        name.unlink()
    ended = cli("export", folder, "--onnx", "--int8", "--trust-code")
    assert ended.code == 0, ended.err
    there = RunFolder(folder).read_report()
    assert there.pruned.onnx_score == here.pruned.onnx_score
    assert there.tested_on == here.tested_on
    assert there.variants["int8"].measured.onnx_score == here.variants["int8"].measured.onnx_score
    assert cli("gate", folder, "--max-drop", 1, "--min-speedup", 0.001).code == 0
    assert cli("convert", folder, "--to", "torchscript", "--trust-code").code == 0
    assert (folder / "pruned.torchscript.pt").exists()


@pytest.mark.integration
def test_pixels_of_a_program_that_is_gone_are_exported(net: Net, sets: Sets, tmp_path: Path) -> None:
    """In a process of its own: an own loss is not needed to export, and pixels are normalised as in the run."""
    pixels = [TensorDataset((part.tensors[0] * 255).to(torch.uint8), part.tensors[1]) for part in sets]
    found = quick(
        net,
        pixels[0],
        tmp_path / "run",
        test=pixels[2],
        data={"mean": (0.0,), "std": (1.0,)},
        loss=nn.CrossEntropyLoss(),
    )
    command = [sys.executable, "-m", "edcompress", "export", tmp_path / "run", "--onnx", "--trust-code"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    report = found.refreshed().report
    assert report.pruned.onnx_accuracy == report.pruned.accuracy
    assert report.tested_on
    assert report.tested_on.count == 150


def test_images_are_kept_only_if_allowed(net: Net, sets: Sets, tmp_path: Path, cli: Any) -> None:
    quick(net, sets[0], tmp_path / "run", test=sets[2], run={"keep_images": False})
    assert not (tmp_path / "run" / "images.safetensors").exists()
    ended = cli("export", tmp_path / "run", "--onnx", "--trust-code")
    assert ended.code == 2
    assert "data.dataset: memory: what held these images was an object in memory" in ended.err


def test_a_damaged_archive_is_bad_input(result: edcompress.PruneResult, cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(result.folder.path, folder)
    (folder / "dense.pt2").write_bytes(b"no archive")
    ended = cli("export", folder, "--onnx", "--trust-code")
    assert ended.code == 2
    assert "dense.pt2: torch cannot read this archive" in ended.err


def test_a_network_of_the_class_loads_the_run(result: edcompress.PruneResult, sets: Sets) -> None:
    fresh, images = Net(), sets[2].tensors[0][:8]
    before = copy.deepcopy(fresh.state_dict())
    loaded = edcompress.load(result.folder, network=fresh)
    assert torch.equal(loaded(images), result.model(images))
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


@pytest.mark.integration
def test_the_standalone_loader_takes_a_network_of_the_class(result: edcompress.PruneResult, sets: Sets) -> None:
    program = (
        "import sys, torch; sys.path[:0] = sys.argv[1:]\n"
        "from in_memory import Net\nfrom load_pruned import load_pruned\n"
        "torch.save(load_pruned(network=Net())(torch.load('images.pt')), 'logits.pt')"
    )
    folder, images = result.folder.path, sets[2].tensors[0][:8]
    torch.save(images, folder / "images.pt")
    tests = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, str(folder), str(tests)], cwd=folder, check=True)
    assert torch.equal(torch.load(folder / "logits.pt"), result.model(images))
    failed = subprocess.run([sys.executable, folder / "load_pruned.py"], capture_output=True, text=True, check=False)
    assert "call load_pruned(network=Net(...))" in failed.stderr


def test_the_given_network_and_its_optimizer_stay_as_they_are(sets: Sets, tmp_path: Path) -> None:
    net = trained_net(sets[0], epochs=1)
    net.classifier.eval()  # a mode of its own
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    F.cross_entropy(net(sets[0].tensors[0][:8]), sets[0].tensors[1][:8]).backward()
    optimizer.step()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    grads = [parameter.grad.clone() for parameter in net.parameters()]
    momentum = copy.deepcopy(optimizer.state_dict()["state"])
    quick(net, sets[0], tmp_path / "run", test=sets[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(one, parameter.grad) for one, parameter in zip(grads, net.parameters(), strict=True))
    for one, other in zip(momentum.values(), optimizer.state_dict()["state"].values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


@pytest.mark.integration
def test_loaders_and_other_data_sets_give_the_same_network(net: Net, sets: Sets, tmp_path: Path) -> None:
    train, _, test = sets
    first = quick(net, train, tmp_path / "sets", test=test)
    loaders = [DataLoader(Sequenced(part), batch_size=7, shuffle=True) for part in (train, test)]
    second = quick(net, loaders[0], tmp_path / "loaders", test=loaders[1])
    files = [(one.folder.path / "pruned.safetensors").read_bytes()[-4000:] for one in (first, second)]
    assert files[0] == files[1]


def test_missing_parts_are_taken_from_others_and_said(net: Net, sets: Sets, tmp_path: Path) -> None:
    train, val, test = sets

    def warned(name: str, **more: Any) -> list[str]:
        monitor = Warnings(to_the_end=False)
        with pytest.raises(KeyboardInterrupt):
            quick(net, train, tmp_path / name, options=RunOptions("cpu", monitor=monitor), **more)
        return monitor.texts

    assert "val is None: 40 of the images of train are held out to judge states" in warned("no-val", test=test)
    assert any("its validation images test" in text and "100 test" in text for text in warned("no-test", val=val))
    assert any("0.2 of each class tests" in text for text in warned("neither"))


@pytest.mark.integration
def test_an_interrupted_run_resumes_to_the_bit_with_the_same_objects(net: Net, sets: Sets, tmp_path: Path) -> None:
    train, _, test = sets
    whole = quick(net, train, tmp_path / "whole", test=test)
    stopped = RunOptions("cpu", monitor=Interrupter("finetune", 0, 3))
    with pytest.raises(KeyboardInterrupt):
        quick(net, train, tmp_path / "run", test=test, options=stopped)
    with pytest.raises(RunFolderError, match="was started with weights other than those of the network"):
        quick(trained_net(train, epochs=1), train, tmp_path / "run", test=test, resume=True)
    with pytest.raises(RunFolderError, match=r"was started with a different data\.fingerprint"):
        quick(net, sets[1], tmp_path / "run", test=test, resume=True)
    resumed = quick(net, train, tmp_path / "run", test=test, resume=True)
    files = [(one.folder.path / "pruned.safetensors").read_bytes() for one in (whole, resumed)]
    assert files[0][-4000:] == files[1][-4000:]
    again = quick(net, train, tmp_path / "run", test=test, resume=True)  # which only reads it
    assert again.report == resumed.report


@pytest.mark.integration
@pytest.mark.slow
def test_trials_within_a_drop_work_in_memory(net: Net, sets: Sets, tmp_path: Path) -> None:
    train, val, test = sets
    found = quick(net, train, tmp_path / "run", val=val, test=test, target={"max_top1_drop": 0.2, "trials": 2})
    assert found.report.points
    assert found.model(test.tensors[0][:2]).shape == (2, 10)


@pytest.mark.integration
def test_several_outputs_count_by_name(sets: Sets, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained_net(sets[0], epochs=6)

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(images)
            return {"mean": logits.mean(1, keepdim=True), "logits": logits}

    found = quick(Two(), sets[0], tmp_path / "run", test=sets[2], output="logits")
    assert found.accuracy > 0.5
    assert found.model(sets[2].tensors[0][:2])["logits"].shape == (2, 10)
    assert found.export().speedup


def test_pixels_are_normalised_as_asked(result: edcompress.PruneResult, net: Net, sets: Sets, tmp_path: Path) -> None:
    """The network was trained on floats in [0, 1]: mean 0 and std 1 of pixels."""
    pixels = [TensorDataset((part.tensors[0] * 255).to(torch.uint8), part.tensors[1]) for part in sets]
    data, monitor = {"mean": (0.0,), "std": (1.0,)}, Warnings()
    found = quick(net, pixels[0], tmp_path / "a", test=pixels[2], data=data, options=RunOptions("cpu", monitor=monitor))
    assert found.dense_accuracy == result.dense_accuracy
    assert not any("normalised" in text for text in monitor.texts)
    monitor = Warnings(to_the_end=False)
    with pytest.raises(KeyboardInterrupt):
        quick(net, pixels[0], tmp_path / "c", test=pixels[2], options=RunOptions("cpu", monitor=monitor))
    assert any("pass data={'mean'" in text for text in monitor.texts)


def test_frozen_parameters_train_in_the_copy_unless_all_are(net: Net, sets: Sets, tmp_path: Path) -> None:
    frozen, monitor = copy.deepcopy(net), Warnings()
    frozen.features.requires_grad_(False)
    found = quick(frozen, sets[0], tmp_path / "a", test=sets[2], options=RunOptions("cpu", monitor=monitor))
    assert "8 of 10 parameters of the given network are frozen" in " ".join(monitor.texts)
    assert not frozen.features[0].weight.requires_grad
    assert found.model.features[0].weight.requires_grad
    with pytest.raises(InputError, match="no parameter of the network asks for a gradient"):
        quick(frozen.requires_grad_(False), sets[0], tmp_path / "b", test=sets[2])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": TensorDataset(torch.empty(0, 1, 8, 8), torch.empty(0))}, "train: it is empty"),
        ({"train": [(torch.rand(3, 8, 8), 0)] * 20}, "model.object: Net cannot take images of 3x8x8"),
        ({"train": [(torch.rand(1, 8, 8), 0.5)] * 20}, "float"),
        ({"train": [(torch.rand(1, 8, 8), 11)] * 20}, r"its label is 11, and classes are numbered from 0 to 9"),
        ({"train": iter([])}, "has no items by number"),
        ({"loss": lambda outputs, labels: outputs}, "must return a scalar tensor"),  # noqa: ARG005
        ({"loss": lambda outputs, labels: outputs.sum() * torch.nan}, "is nan on the first images"),  # noqa: ARG005
        ({"loss": 3}, "loss: it is a int; give a function"),
        ({"metric": lambda outputs, labels: 1 / 0}, "failed in your code: ZeroDivisionError"),  # noqa: ARG005
        ({"target": {"mac": 0.5}}, r"edcompress.prune: target.mac: unknown key; did you mean 'macs'"),
        ({"finetune": {"learning_rate": 0.1}}, r"finetune.learning_rate: unknown key.*'lr'"),
        ({"finetune": 3}, "finetune: give a dict of keys and values"),
    ],
)
def test_bad_objects_are_refused_before_the_folder_is_touched(
    net: Net, sets: Sets, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"train": sets[0], "test": sets[2], **change}
    with pytest.raises(EdcompressError, match=message) as raised:
        quick(net, out=tmp_path / "run", **given)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_unknown_and_missing_arguments_are_type_errors(net: Net, sets: Sets, tmp_path: Path) -> None:
    call: Any = edcompress.prune
    with pytest.raises(TypeError, match="there is no argument 'finetuning'; did you mean 'finetune'"):
        call(net, train=sets[0], out=tmp_path / "run", finetuning={})
    with pytest.raises(TypeError, match="give the run folder to write as out="):
        call(net, train=sets[0])
    with pytest.raises(TypeError, match="give the training images as train="):
        call(net, out=tmp_path / "run")
    with pytest.raises(TypeError, match="takes no recipe and folder"):
        call(net, edcompress.read_recipe("digits"), tmp_path / "run")
    with pytest.raises(TypeError, match="takes a file"):
        call("weights.pt", train=sets[0], out=tmp_path / "run")


def test_wrapped_and_uncopyable_networks_are_refused(net: Net, sets: Sets, tmp_path: Path) -> None:
    class Locked(Net):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("cannot pickle a lock")

    with pytest.raises(InputError, match="a DataParallel around the network; give the network itself"):
        quick(nn.DataParallel(net), sets[0], tmp_path / "run")
    with pytest.raises(InputError, match=r"a copy of Locked \(copy.deepcopy\) fails: TypeError: cannot pickle a lock"):
        quick(Locked(), sets[0], tmp_path / "run")


def test_an_existing_run_is_not_overwritten(result: edcompress.PruneResult, net: Net, sets: Sets) -> None:
    before = (result.folder.path / "report.json").read_bytes()
    with pytest.raises(RunFolderError):
        quick(net, sets[0], result.folder.path, test=sets[2])
    assert (result.folder.path / "report.json").read_bytes() == before


@pytest.mark.parametrize("size", [(1, 8, 8), [1, 8, 8]])
def test_inspect_takes_a_network(net: Net, size: Any) -> None:
    before = copy.deepcopy(net.state_dict())
    found = edcompress.inspect(net, input_size=size)
    assert found.network == "Net"
    assert {group.channels for group in found.groups if not group.locked} == {16, 32}
    assert found.size.params == sum(parameter.numel() for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_inspect_refuses_sizes_that_do_not_fit(net: Net) -> None:
    with pytest.raises(InputError, match=r"model\.object: Net cannot take images of 3x8x8"):
        edcompress.inspect(net, input_size=8)
    with pytest.raises(InputError, match=r"input_size is \(channels, height, width\)"):
        edcompress.inspect(net, input_size=(1, 8, 8, 8))
    call: Any = edcompress.inspect
    with pytest.raises(TypeError, match="input_size="):
        call(net)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_is_copied(net: Net, sets: Sets, tmp_path: Path) -> None:
    there = copy.deepcopy(net).cuda()
    quick(there, sets[0], tmp_path / "run", test=sets[2])
    assert next(there.parameters()).is_cuda


def test_a_network_without_values_is_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"a copy of Net .* fails: NotImplementedError: Cannot copy out of meta tensor"
    ):
        quick(Net().to("meta"), sets[0], tmp_path / "run", test=sets[2])


def test_the_result_shows_itself_in_a_notebook(result: edcompress.PruneResult, net: Net) -> None:
    page = result._repr_html_()
    small = result.model
    assert [tuple(layer) for layer in result.layers] == [
        ("features.0", small.features[0].out_channels, 16),
        ("features.3", small.features[3].out_channels, 32),
        ("classifier", 10, 10),
    ]
    assert f"32 → {small.features[3].out_channels}" in page
    assert f"{100 * small.features[3].out_channels / 32:.2f}%" in page
    assert "my metric" in page
    assert "MACs" in page
    assert str(result.folder.path) in page
    assert page.startswith('<div class="edcompress">')
    assert page.count("<div") == page.count("</div>")
    assert net.features[0].out_channels == 16


def test_a_failed_gate_is_in_the_face_of_the_result(exported: edcompress.PruneResult) -> None:
    assert "gate" not in exported._repr_html_().partition("tiles")[0].partition("<p>")[2]
    exported.gate(max_drop=0.0, min_speedup=1000)
    assert exported.refreshed().passed is False
    assert "gate FAILED" in exported.refreshed()._repr_html_()


def test_types_name_every_section_of_a_recipe_that_may_be_given() -> None:
    from edcompress.core.recipe.recipe import Recipe
    from edcompress.workflows.in_memory import NOT_GIVEN, OWN_NAMES
    from edcompress.workflows.prune import Objects

    assert set(Objects.__annotations__) == {*OWN_NAMES, *Recipe.model_fields} - {*NOT_GIVEN} | {"train", "metric"}
