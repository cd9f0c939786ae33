"""What is refused of a network before anything is read or trained, and which images a run draws."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import digits
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import edcompress
from edcompress.core.errors import DataError, InputError, NetworkError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.monitor import NullMonitor
from edcompress.core.user_code import Trust
from edcompress.networks.build import new_network
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.run_context import RunContext, open_context, open_provable_context
from edcompress.workflows.stages.starting_point import read_weights, space_of

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
        new_network(recipe.network_spec, trust=Trust(code=True))


ODD = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.LazyLinear(10)
        self.kept = {}
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Stochastic(Plain):
    def forward(self, x):
        return super().forward(F.dropout(x))

class InPlace(Plain):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))

class Hooked(Plain):
    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(lambda layer, args, output: self.kept.update(seen=output))
    def forward(self, x):
        self.conv(x)
        return self.fc(self.kept["seen"].mean((2, 3)))

class Auxiliary(Plain):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits

class Checkpointed(Plain):
    def forward(self, x):
        x = checkpoint(self.conv, x, use_reentrant=False) if self.training else self.conv(x)
        return self.fc(x.mean((2, 3)))

class Needing(Plain):
    def forward(self, x, labels=None):
        assert labels is not None or not self.training, "no labels"
        return super().forward(x)

class Silent(Plain):
    def forward(self, x):
        if self.training:
            raise NotImplementedError
        return super().forward(x)

class Halved(Plain):
    def __init__(self):
        super().__init__()
        self.to(torch.bfloat16)
    def forward(self, x):
        return super().forward(x.to(torch.bfloat16))

class Remembering(Plain):
    def get_extra_state(self):
        return {"seen": 0}
    def set_extra_state(self, state):
        pass

class Synchronised(Plain):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.SyncBatchNorm(8)
    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))

class Wide(Plain):
    def __init__(self):
        super().__init__()
        self.first, self.aux = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)
        self.conv, self.alpha = nn.Conv2d(8, 8, 3), nn.Parameter(torch.zeros(()))
    def between(self, x):
        return x
    def forward(self, x):
        return super().forward(self.between(torch.relu(self.first(x))))

class Helped(Wide):  # by a second classifier, in train mode alone
    def forward(self, x):
        logits = super().forward(x)
        return logits + self.aux(self.first(x).mean((2, 3))) if self.training else logits

class Skipped(Wide):
    def between(self, x):
        return x + self.alpha * x.flip(1)

class Ghost(Wide):
    def between(self, x):
        return x + torch.ones(1, 8, 1, 1).to(x) if len(x) >= 100 else x

class Bright(Wide):  # which noise around zero is not
    def forward(self, x):
        y = torch.relu(self.first(x))
        return Plain.forward(self, torch.where(x.amax((1, 2, 3), keepdim=True) > 50, y.flip(1), y))

class Smooth(Wide):  # as no noise is
    def forward(self, x):
        y = torch.relu(self.first(x))
        return Plain.forward(self, torch.where((x == x.amin((2, 3), keepdim=True)).float().mean() > 0.1, y.flip(1), y))

class Batched(Wide):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)
    def between(self, x):
        return x + self.alpha * self.norm(x)

class Centred(Wide):
    def between(self, x):
        return x - x.mean(0, keepdim=True)

class StillTraining(Batched):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

class Attending(Wide):
    def __init__(self):
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)  # takes the first dimension for the sequence
    def between(self, x):
        return x + self.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)

def prepared():
    network = Plain()
    network.qconfig = torch.ao.quantization.get_default_qat_qconfig()
    return torch.ao.quantization.prepare_qat(network.train())

class Deciding(Plain):
    def forward(self, x):
        return super().forward(x if x.sum() > -1e9 else -x)
"""


def built(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> nn.Module:
    (folder / "odd.py").write_text(ODD)
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    monkeypatch.chdir(folder)
    recipe = digits("model.arch=null", f"model.factory=odd:{name}", *overrides)
    return new_network(recipe.network_spec, trust=Trust(code=True))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Stochastic", r"different logits for the same images.*F\.dropout"),
        ("InPlace", r"different logits for the same images.*in place"),
        ("Hooked", r"different logits for the same images.*hook"),
        ("Checkpointed", r"runs layers again \(torch\.utils\.checkpoint\)"),
        ("Needing", r"fails in train mode: AssertionError: no labels"),
        ("Silent", r"fails in train mode: NotImplementedError"),
        ("Remembering", r"its state holds more than tensors: _extra_state \(get_extra_state\)"),
    ],
)
def test_networks_that_fail_later_are_refused(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NetworkError, match=rf"odd:{name}: .*{says}"):
        built(name, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("Batched", " through norm, a BatchNorm2d,"),
        ("StillTraining", " through norm, a BatchNorm2d,"),
        ("Attending", " through mix, a TransformerEncoderLayer,"),
        ("Centred", " on the other"),
    ],
)
def test_a_network_whose_logits_depend_on_the_rest_of_the_batch_is_refused(
    name: str, through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        NetworkError, match=rf"odd:{name}: in eval mode the logits of an image depend({through}).*eval_batch_size"
    ):
        built(name, tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_network_that_is_prepared_for_quantisation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch.ao.quantization")
    with pytest.raises(NetworkError, match=r"odd:prepared\(\) returned .* \(conv is a Conv2d\); prune before that"):
        built("prepared", tmp_path, monkeypatch)


def test_a_network_that_computes_in_another_precision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NetworkError, match=r"odd:Halved cannot take images of 1x16x16; .*BFloat16"):
        built("Halved", tmp_path, monkeypatch)


def test_a_network_that_trains_on_gpus_alone_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built("Synchronised", tmp_path, monkeypatch)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_what_runs_again_does_not_matter_where_the_search_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = built("Checkpointed", tmp_path, monkeypatch, "search.method=magnitude")
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_network_of_which_no_file_can_be_made_is_refused_by_run_and_pruned_with_a_warning(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = built("Deciding", tmp_path, monkeypatch)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    short = ["data.limit=100", "search.epochs=1", "finetune.epochs=1", "constraints.round_to=1", "target.macs=0.9"]
    sets = [word for pair in ("model.arch=null", "model.factory=odd:Deciding", *short) for word in ("--set", pair)]
    fault = "model.factory: odd:Deciding: Deciding cannot be exported to ONNX: "
    command = ("net.safetensors", "--recipe", "digits", *sets, "--trust-code", "-o")
    for verb in (("run",), ("sweep", "--set", "seed=0,1")):
        refused = cli(*verb, *command, "one")
        assert (refused.code, f"error: {fault}" in refused.err, Path("one").exists()) == (2, True, False)
    pruned = cli("prune", *command, "two")
    assert (pruned.code, f"warning: {fault}" in pruned.err) == (0, True), pruned.err
    page = Path("two/report.html").read_text(encoding="utf-8")
    assert "<pre>edcompress prune net.safetensors --recipe recipe.yaml --trust-code</pre>" in page


def test_lazy_layers_are_made_by_the_recipes_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (built("Plain", tmp_path, monkeypatch).state_dict() for _ in range(2))
    assert one["fc.weight"].shape == (10, 8)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("Wide", (), None),
        ("Helped", (), "cannot be removed in train mode (RuntimeError: mat1 and mat2"),
        ("Skipped", (), "changes the result with random weights"),
        ("Ghost", ("data.batch_size=99", "data.eval_batch_size=99"), None),
        ("Ghost", ("data.batch_size=100", "data.eval_batch_size=99"), "in train mode at batches of 100"),
        ("Ghost", ("data.batch_size=99", "data.eval_batch_size=100"), "in eval mode at batches of 100"),
        ("Ghost", ("data.batch_size=auto",), "in train mode at batches of 128"),
        ("Bright", (), None),
        ("Bright", ("data.std=[0.004]",), "changes the result"),
        ("Smooth", (), None),
    ],
)
def test_removals_are_tried_as_the_recipe_trains_and_on_what_it_shows(
    name: str, overrides: tuple[str, ...], says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = built(name, tmp_path, monkeypatch, *overrides).eval()
    locked = {group.name: group.locked for group in space_of(digits(*overrides), network).groups}
    assert locked["conv"] is None
    assert (locked["first"] is None) if says is None else says in (locked["first"] or "")


def test_removals_are_tried_on_real_images_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, network = open_context(digits(), RunOptions("cpu")), built("Smooth", tmp_path, monkeypatch).eval()
    assert context.probe_images.shape == (2, 1, 16, 16)
    space = space_of(digits(), network, context.probe_images)
    assert "changes the result" in next(group.locked or "" for group in space.groups if group.name == "first")


@pytest.mark.integration
@pytest.mark.parametrize("name", ["Helped", "Skipped", "Smooth"])
def test_a_run_of_a_network_that_hides_something_ends(
    name: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(built(name, tmp_path, monkeypatch).state_dict(), tmp_path / "net.safetensors")
    short = ["data.limit=100", "search.epochs=1", "finetune.epochs=1", "constraints.round_to=1", "target.macs=0.8"]
    sets = [word for pair in ("model.arch=null", f"model.factory=odd:{name}", *short) for word in ("--set", pair)]
    pruned = cli("prune", "net.safetensors", "--recipe", "digits", *sets, "--trust-code", "-o", "run")
    assert pruned.code == 0, pruned.err
    groups = {group["name"]: group["locked"] for group in json.loads(Path("run/space.json").read_text())["groups"]}
    assert groups["conv"] is None
    assert groups["first"]


def holding(count: int, *overrides: str) -> RunContext:
    """A context with so many held-out images, class by class as test images lie in folders."""
    context = open_context(digits("data.search_from=test", "data.search_fraction=0.8", *overrides), RunOptions("cpu"))
    held = context.splits.search
    chosen = held.labels.argsort(stable=True).repeat(10)[:count] if count > len(held) else torch.arange(count)
    by_class = held.subset(chosen[held.labels[chosen].argsort(stable=True)])
    return replace(context, splits=replace(context.splits, search=by_class))


def test_states_are_judged_on_images_of_all_classes() -> None:
    images, labels = holding(287, "data.eval_batch_size=64").scoring_batch
    assert len(images) == len(labels) == 64
    assert labels.bincount(minlength=10).min() >= 3


@pytest.mark.parametrize(
    ("held", "at_once", "ranks", "judging"), [(200, 1, 1, 64), (200, 1, 4, 16), (40, 250, 1, 40), (1, 250, 1, 2)]
)
def test_enough_images_judge_for_batch_norm_and_no_more_than_fit(
    held: int, at_once: int, ranks: int, judging: int
) -> None:
    context = replace(holding(held, f"data.eval_batch_size={at_once}"), ranks=ProcessGroup(0, ranks))
    assert len(context.scoring_batch[1]) == judging


def test_networks_are_proved_equal_on_eight_images_whatever_an_evaluation_takes_at_once() -> None:
    images = holding(40, "data.eval_batch_size=1").proof_images
    assert len(images.flatten(1).unique(dim=0)) == 8


def test_what_is_shown_while_training_is_of_all_classes() -> None:
    def always_zero(images: Tensor) -> Tensor:
        return F.one_hot(torch.zeros(len(images), dtype=torch.int64), 10).float()

    context = holding(2600)
    scores = context.watched_scores(nn.Identity(), always_zero)
    assert scores.accuracy
    shown = scores.accuracy.top1
    assert shown.total == 2000
    assert shown.fraction == pytest.approx((context.splits.search.labels == 0).double().mean().item(), abs=0.001)


class Listener(NullMonitor):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_a_classifier_that_begins_untrained_is_warned_of_and_teaches_nothing(tmp_path: Path) -> None:
    source, listener = tmp_path / "w.safetensors", Listener()
    save_file(new_network(digits("model.num_classes=12").network_spec).state_dict(), source)
    reset, options = "model.reset_head=true", RunOptions("cpu", monitor=listener)
    read_weights(digits(reset), source, options)
    assert len(listener.warnings) == 1
    assert "linear.bias and linear.weight begin untrained" in listener.warnings[0]
    with pytest.raises(InputError, match=r"begin untrained .* nothing to teach; set finetune\.distill to 0"):
        read_weights(digits(reset, "finetune.distill=0.5"), source, options)
    with pytest.raises(InputError, match=r"no accuracy from which to drop; use a target other than"):
        read_weights(digits(reset, "target.macs=null", "target.max_top1_drop=0.01"), source, options)
    save_file(new_network(digits().network_spec).state_dict(), source)
    read_weights(digits(reset, "finetune.distill=0.5"), source, options)
    assert len(listener.warnings) == 1


def few(tmp_path: Path, broken: int = 0, **data: object) -> Recipe:
    """A recipe whose test split has eight images, the first of them `broken`."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    for number in range(broken):
        (tmp_path / "val" / "cat" / f"{number}.png").write_bytes(b"nothing")
    about = {"dataset": "image_folder", "root": tmp_path, "image_size": 8, **data}
    return Recipe.model_validate({"model": {"arch": "resnet8", "num_classes": 2}, "data": about})


def test_too_few_images_to_prove_a_file_on_are_refused_before_anything_is_pruned(tmp_path: Path) -> None:
    recipe = few(tmp_path)
    assert len(open_provable_context(recipe).splits.test) == 8
    (tmp_path / "val" / "cat" / "0.png").unlink()
    assert len(open_context(recipe).splits.test) == 7  # as `evaluate` does
    network = tmp_path / "dense.safetensors"
    save_file(new_network(recipe.network_spec).state_dict(), network)
    for begin in (
        lambda: edcompress.prune(network, recipe, RunFolder(tmp_path / "run")),
        lambda: edcompress.run(recipe, RunFolder(tmp_path / "run")),
        lambda: edcompress.sweep({"a": recipe}, tmp_path / "run", network),
    ):
        with pytest.raises(DataError, match=r"the test split \(val/, test_shards\) has 7 images, .* takes at least 8"):
            begin()
    assert not (tmp_path / "run").exists()


def test_images_that_are_left_out_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test split .* has 7 images"):
        open_provable_context(few(tmp_path, broken=1, skip_broken=True))


def test_images_that_judge_are_not_there_to_prove(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 7 images, .*; data\.search_from=test takes its images from there"):
        open_provable_context(few(tmp_path, search_from="test", search_fraction=0.13))
