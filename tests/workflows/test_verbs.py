import json
import pickletools
import re
import signal
import time
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from digits import ONE_EPOCH, TWO_EPOCHS, Interrupter, digits, outcome, pruned
from PIL import Image

import edcompress
from edcompress.core.errors import BudgetError, EdcompressError, NetworkError, RunFolderError
from edcompress.core.recipe.target import Target
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Preprocessing
from edcompress.core.system.context import RunOptions
from edcompress.core.system.hashing import TensorDigest
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.batches import eval_batches
from edcompress.data.transforms import Geometry
from edcompress.deploy.runtime.parity import run_onnx
from edcompress.pruning.cost.network_size import measure_size
from edcompress.runs.folder import FILES, RunFolder
from edcompress.runs.progress import read_progress
from edcompress.workflows.evaluate import evaluate
from edcompress.workflows.load import load
from edcompress.workflows.prune import prune
from edcompress.workflows.stages.run_context import open_context
from edcompress.workflows.stages.run_state import last_checkpoint
from edcompress.workflows.stages.start_files import read_plan

PUBLIC = ["prune", "export", "convert", "run", "sweep", "evaluate", "benchmark", "inspect", "train", "load", "gate", "read_recipe",
          "PruneResult", "RunFolder", "EdcompressError"]  # fmt: skip


OPTIONAL = {
    "dense.pt2",
    "images.safetensors",
    "latency.json",
    "pruned.fp16.onnx",
    "pruned.pt2",
    "pruned.torchscript.pt",
}
"""Of a target in time, of objects in memory, and not asked for in the fixture."""


@pytest.fixture(scope="module")
def unbroken(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    pruned(dense, folder, digits(*TWO_EPOCHS))
    return folder


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_does_not(
    unbroken: Path, dense: Path, tmp_path: Path
) -> None:
    torch.rand(3)  # nothing outside the recipe has a say
    pruned(dense, tmp_path / "again", digits(*TWO_EPOCHS))
    pruned(dense, tmp_path / "other", digits(*TWO_EPOCHS, "seed=1"))
    assert outcome(tmp_path / "again") == outcome(unbroken)
    assert outcome(tmp_path / "other")[1] != outcome(unbroken)[1]


@pytest.mark.parametrize(
    "place",
    [
        ("search", 1, 1),
        pytest.param(("surgery",), marks=pytest.mark.integration),
        pytest.param(("finetune", 0, 3), marks=pytest.mark.integration),
        pytest.param(("finetune", 1, 8), marks=pytest.mark.integration),
        ("verification",),
    ],
    ids=lambda place: "-".join(map(str, place)),
)  # fmt: skip
def test_an_interrupted_run_goes_on_to_the_same_result(
    unbroken: Path, dense: Path, tmp_path: Path, place: tuple[Any, ...]
) -> None:
    folder, recipe = RunFolder(tmp_path / "run"), digits(*TWO_EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder.path, recipe, Interrupter(*place))
    assert (folder.exists, folder.finished) == (True, False)
    report = pruned(tmp_path / "the checkpoint may be gone.pt", folder.path, recipe, resume=True)
    assert report.checkpoint == dense.name
    assert outcome(folder.path) == outcome(unbroken)
    whole = RunFolder(unbroken).read_report()
    assert (report.pruned, report.masked, report.after_surgery, report.dense) == (
        whole.pruned, whole.masked, whole.after_surgery, whole.dense)  # fmt: skip
    assert not folder.state.exists()


def test_the_scale_of_fp16_goes_on_too(dense: Path, tmp_path: Path) -> None:
    quick = ("precision=fp16", "search.method=magnitude", "search.epochs=0", "finetune.epochs=1", "data.limit=250")
    recipe, good_steps = digits(*quick, "data.batch_size=32"), []
    for step in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            pruned(dense, tmp_path / "run", recipe, Interrupter("finetune", 0, step), resume=True)
        saved = last_checkpoint(RunFolder(tmp_path / "run").checkpoints, NullMonitor())
        assert saved
        assert saved.training
        good_steps.append(saved.training.scaler["_growth_tracker"])  # since the scale has changed
    assert good_steps == [2, 5]


def test_a_run_that_cannot_be_compiled_says_so_and_trains(dense: Path, tmp_path: Path) -> None:
    recipe = digits("compile=true", "search.method=magnitude", "search.epochs=0", "finetune.epochs=1", "data.limit=200")
    with torch.compiler.set_stance("fail_on_recompile"):  # torch's own way to compile nothing
        pruned(dense, tmp_path / "run", recipe)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    warnings = [line["warning"] for line in log if line["event"] == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("compile: torch.compile fails here, training goes on without (RuntimeError: ")


def test_averaged_weights_are_taken_from_the_checkpoint_alone(dense: Path, tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(dense)
    torch.save({"model": {key: 0 * tensor for key, tensor in weights.items()}, "ema": weights}, tmp_path / "both.pt")
    folder, recipe = RunFolder(tmp_path / "run"), digits(*ONE_EPOCH, "model.ema=true")
    with pytest.raises(KeyboardInterrupt):
        pruned(tmp_path / "both.pt", folder.path, recipe, Interrupter("surgery"))
    report = pruned(tmp_path / "both.pt", folder.path, recipe, resume=True)
    assert report.dense.accuracy == evaluate(dense, digits())


def test_a_resumed_run_may_change_its_gate_but_not_its_target(dense: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder.path, digits(*ONE_EPOCH), Interrupter("surgery"))
    with pytest.raises(RunFolderError, match=r"a different target\.macs"):
        pruned(dense, folder.path, digits(*ONE_EPOCH, "target.macs=0.6"), resume=True)
    kept = folder.path / "recipe.yaml"
    kept.write_text(
        "".join(line for line in kept.read_text().splitlines(True) if "crop_scale" not in line)
    )  # as before that key
    with pytest.raises(RunFolderError, match=r"a different data\.crop_scale"):
        pruned(dense, folder.path, digits(*ONE_EPOCH, "data.crop_scale=0.35"), resume=True)
    pruned(dense, folder.path, digits(*ONE_EPOCH, "gate.max_top1_drop=0.5"), resume=True)
    assert folder.read_recipe().gate.max_top1_drop == 0.5
    assert folder.read_recipe().data.crop_scale == 0.08


def test_a_run_goes_on_with_the_weights_it_was_begun_with_or_not_at_all(dense: Path, tmp_path: Path) -> None:
    folder, copied, retrained = RunFolder(tmp_path / "run"), tmp_path / "copied.pt", tmp_path / dense.name
    weights = safetensors.torch.load_file(dense)
    torch.save(weights, copied)
    safetensors.torch.save_file({name: tensor * 1.01 for name, tensor in weights.items()}, retrained)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder.path, digits(*ONE_EPOCH), Interrupter("surgery"))

    def refused() -> None:
        with pytest.raises(RunFolderError, match=f"was started with weights other than those in {retrained}; choose"):
            pruned(retrained, folder.path, digits(*ONE_EPOCH), resume=True)

    refused()
    assert pruned(copied, folder.path, digits(*ONE_EPOCH), resume=True).checkpoint == dense.name
    assert (progress := read_progress(folder))
    assert progress.checkpoint == dense.name
    refused()
    assert pruned(folder.path, folder.path, digits(*ONE_EPOCH), resume=True) == folder.read_report()


def test_training_that_diverges_ends_the_run_and_saves_nothing_broken(dense: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(EdcompressError, match=r"lower finetune\.lr") as caught:
        pruned(dense, folder.path, digits(*ONE_EPOCH, "finetune.lr=1e12"))
    assert caught.value.exit_code == 3
    saved = last_checkpoint(folder.checkpoints, NullMonitor())
    assert saved is not None
    assert all(torch.isfinite(tensor).all() for tensor in (saved.network or {}).values())


@pytest.mark.integration
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_killed_process_can_be_resumed(
    start, cli, unbroken: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    options = (
        "--recipe",
        "digits",
        *(word for pair in TWO_EPOCHS for word in ("--set", pair)),
        "-o",
        "run",
        "--device",
        "cpu",
    )
    process = start("prune", dense, *options, cwd=tmp_path)
    log, deadline = tmp_path / "run" / "search.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sign)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-sign if sign == signal.SIGKILL else 130)
    assert "Traceback" not in said
    assert ("--resume -o run" in said) == (sign != signal.SIGKILL)
    refused = cli("export", tmp_path / "run")
    assert (refused.code, "has not finished pruning" in refused.err) == (2, True)
    monkeypatch.chdir(tmp_path)
    resumed = cli("prune", dense, *options, "--resume")
    assert resumed.code == 0, resumed.err
    assert outcome(tmp_path / "run") == outcome(unbroken)


def test_a_finished_run_is_resumed_by_reading_it(unbroken: Path) -> None:
    before = (unbroken / "report.json").read_bytes()
    report = pruned(Path("none.pt"), unbroken, digits(*TWO_EPOCHS), resume=True)
    assert report == RunFolder(unbroken).read_report()
    assert (unbroken / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    "overrides",
    [
        ("search.method=magnitude",),
        ("search.method=taylor", "target.macs=null", "target.params=0.5"),
        ("search.method=random", "target.macs=null", "target.channels=0.6"),
        ("search.method=global_magnitude",),
        ("search.method=global_taylor", "target.macs=null", "target.params=0.5"),
        ("search.method=lamp", "target=null"),
        ("search.method=gradual_magnitude",),
        ("preset=paper", "finetune.lr=0.1"),
        ("preset=paper", "finetune.lr=0.1", "target=null"),
        (
            "precision=bf16",
            "data.limit=200",
            "finetune.distill=0.5",
            "finetune.optimizer=adamw",
            "finetune.lr=0.001",
            "target.macs=0.6",
        ),
        ("constraints.ignore=[layer1*]", "constraints.round_to=1", "finetune.schedule=onecycle"),
    ],
    ids=" ".join,
)
def test_every_method_and_target_runs_and_keeps_what_it_promised(
    dense: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    recipe = digits(*ONE_EPOCH, *(f"{o}" for o in overrides), *(ONE_EPOCH if "preset=paper" in overrides else ()))
    report = pruned(dense, tmp_path / "run", recipe)
    network, image = load(tmp_path / "run"), torch.zeros(2, 1, 16, 16)
    size = measure_size(network, image)
    assert size == report.pruned.size
    assert size.params < report.dense.size.params
    left = {"macs": size.macs / report.dense.size.macs, "params": size.params / report.dense.size.params}
    assert report.target.achieved == pytest.approx(left.get(report.target.kind, report.target.achieved), abs=1e-6)
    assert report.target.kind == (recipe.target.kind if recipe.target else "none")
    assert report.target.achieved <= (recipe.target.fraction if recipe.target else 1.0)
    plan, step = read_plan(tmp_path / "run" / "plan.json"), report.target.round_to
    assert all(len(g.kept) % step == 0 or len(g.kept) == g.channels for g in plan.groups)
    assert step == (recipe.constraints.round_to or step)
    if report.target.kind == "channels":
        kept = sum(len(g.kept) for g in plan.groups) / sum(g.channels for g in plan.groups)
        assert kept == pytest.approx(report.target.achieved)
    assert report.search.generations == (0 if recipe.search_epochs == 0 else report.search.generations)
    assert max(report.proof.masked_vs_pruned.relative, report.proof.pruned_vs_reloaded.relative) < 1e-4


def test_a_given_plan_is_replayed_and_a_wrong_one_refused_before_any_compute(
    unbroken: Path, dense: Path, tmp_path: Path
) -> None:
    plan = unbroken / "plan.json"
    recipe = digits(
        "search.method=plan", f"search.plan={plan}", "search.epochs=0", "finetune.epochs=1", "data.limit=200"
    )
    report = pruned(dense, tmp_path / "run", recipe)
    assert read_plan(tmp_path / "run" / "plan.json") == read_plan(unbroken / "plan.json")
    assert (report.search.method, report.search.epochs) == ("plan", 0)
    dear = recipe.model_copy(update={"target": Target(macs=0.35)})
    with pytest.raises(BudgetError, match=r"plan\.json keeps 0\.\d+ of the macs, more than target\.macs = 0\.35"):
        pruned(dense, tmp_path / "dear", dear)
    other = tmp_path / "other.json"
    other.write_text(plan.read_text().replace("layer1.0.conv1", "layer9.0.conv1"))
    with pytest.raises(
        NetworkError, match=r"the plan and the network differ in the channels of layer1\.0\.conv1, layer9"
    ):
        pruned(dense, tmp_path / "other", digits("search.method=plan", f"search.plan={other}"))
    with pytest.raises(RunFolderError, match=r"nothing\.json is missing .*; set search\.plan to"):
        pruned(dense, tmp_path / "none", digits("search.method=plan", f"search.plan={tmp_path}/nothing.json"))
    assert not any((tmp_path / name).exists() for name in ("dear", "other", "none"))
    before = (tmp_path / "run" / "pruned.safetensors").read_bytes()
    own = digits("search.method=plan", f"search.plan={tmp_path}/run/plan.json")
    with pytest.raises(RunFolderError, match=r"plan\.json lies in .*run, which is emptied when the run begins; choose"):
        prune(dense, own, RunFolder(tmp_path / "run"), force=True, options=RunOptions("cpu"))
    assert (tmp_path / "run" / "pruned.safetensors").read_bytes() == before


def test_a_search_that_has_converged_ends_early_and_leaves_its_epochs_to_fine_tuning(
    dense: Path, tmp_path: Path
) -> None:
    # a start of all ones under no budget: every member is the same state, and breeds only itself
    quick = ("preset=paper", "finetune.lr=0.1", "target=null", "search.keep_probability=1", "data.limit=200")
    recipe = digits(*quick, "search.epochs=3", "finetune.epochs=1")
    epochs: list[tuple[str, int, int]] = []

    class Listener(NullMonitor):
        def epoch(self, phase: str, epoch: int, epochs_in_all: int) -> None:
            epochs.append((phase, epoch, epochs_in_all))

    report = pruned(dense, tmp_path / "run", recipe, Listener())
    assert (report.search.converged, report.search.diversity) == (True, 0.0)
    assert report.search.epochs == 1
    assert len(epochs) == recipe.total_epochs
    assert epochs[report.search.epochs] == ("finetune", 0, recipe.total_epochs - report.search.epochs)
    log = [json.loads(line) for line in (tmp_path / "run" / "search.jsonl").read_text().splitlines()]
    assert log[-1]["converged"]
    assert log[-1]["generation"] == report.search.generations


def test_an_ignored_layer_keeps_its_channels(dense: Path, tmp_path: Path) -> None:
    recipe = digits(
        "search.method=random",
        "search.epochs=0",
        "finetune.epochs=0",
        "constraints.ignore=[layer3*]",
        "target.macs=0.8",
    )
    pruned(dense, tmp_path / "run", recipe)
    weights = load(tmp_path / "run").state_dict()
    assert [tuple(weights[f"layer3.0.{name}.weight"].shape) for name in ("conv1", "conv2")] == [
        (64, 32, 3, 3),
        (64, 64, 3, 3),
    ]
    assert weights["layer2.0.conv1.weight"].shape[0] < 32


def test_load_gives_the_module_that_was_measured(finished: Path) -> None:
    folder = RunFolder(finished)
    network, report = load(finished), folder.read_report()
    assert not network.training
    context = open_context(folder.read_recipe(), RunOptions("cpu"))
    assert (
        context.accuracy(network) == report.pruned.accuracy == evaluate(finished / "pruned.onnx", folder.read_recipe())
    )
    with torch.no_grad():
        assert torch.equal(network(context.proof_images), load(str(finished))(context.proof_images))
    assert edcompress.load(finished).state_dict().keys() == network.state_dict().keys()


def test_the_files_own_accuracy_is_measured_and_paired(finished: Path) -> None:
    folder = RunFolder(finished)
    report, recipe = folder.read_report(), folder.read_recipe()
    assert report.dense.onnx_accuracy == evaluate(finished / "dense.onnx", recipe)
    assert report.pruned.onnx_accuracy == evaluate(finished / "pruned.onnx", recipe)
    assert report.dense.paired is None
    paired = report.pruned.paired
    assert paired
    for kind in ("top1", "top5"):
        pairs = getattr(paired, kind)
        dense, pruned = (getattr(model.onnx_accuracy, kind) for model in (report.dense, report.pruned))
        assert (pairs.both + pairs.dense_only, pairs.both + pairs.other_only) == (dense.correct, pruned.correct)
        assert pairs.total == dense.total == pruned.total
    assert paired.top1.both <= paired.same_class <= paired.top1.both + paired.top1.neither


def test_two_folders_of_the_same_shape_are_other_test_images(tmp_path: Path) -> None:
    def seen(root: Path, **more: int) -> str:
        data = {"dataset": "image_folder", "root": root, "eval_batch_size": 5, "search_fraction": 0.25, **more}
        overrides = [f"data.{key}={value}" for key, value in data.items()]
        context, pixels = (
            open_context(digits("model.num_classes=2", *overrides, "data.channels=1"), RunOptions("cpu")),
            TensorDigest(),
        )
        assert sum(len(labels) for _, labels in context.test_batches("test images", pixels)) == 6
        return pixels.hex

    for number, name in enumerate(("one", "other")):
        for part, label, image in product(("train", "val"), "ab", range(3)):
            path = tmp_path / name / part / label / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = 10 * image + 60 * "ab".index(label) + (part == "train")
            Image.new("L", (20, 20), grey + (number if image == 2 else 0)).save(path)
    one = seen(tmp_path / "one")
    assert seen(tmp_path / "other") != one
    assert seen(tmp_path / "one", eval_batch_size=2, workers=2) == one


def test_a_run_and_its_files_are_not_measured_on_images_for_others(cli: Callable[..., Any], finished: Path) -> None:
    own, other = finished / "recipe.yaml", ("--set", "data.mean=[0.5]")
    right = RunFolder(finished).read_report().pruned.onnx_accuracy
    assert evaluate(finished / "pruned.pixels.onnx", RunFolder(finished).read_recipe()) == right
    for model in (finished, finished / "pruned.onnx"):
        ended = cli("evaluate", model, "--recipe", own, *other)
        fault = (
            f"{model} is for images or classes other than the recipe's: mean is [0.305] there, and [0.5] in the recipe"
        )
        assert (ended.code, fault in ended.err) == (2, True), ended.err
        ended = cli("evaluate", model, "--recipe", own, *other, "--ignore-metadata", "--json")
        assert (ended.code, f"WARNING: {fault}" in ended.err) == (0, True)
        assert json.loads(ended.out)["top1"]["total"] == 359


def test_whoever_watches_is_told_of_every_batch_of_test_images() -> None:
    steps_seen: list[tuple[int, int]] = []

    class Listener(NullMonitor):
        def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
            steps_seen.append((step, steps))

    context = open_context(digits("data.eval_batch_size=100"), RunOptions("cpu", monitor=Listener()))
    assert sum(len(labels) for _, labels in context.test_batches("test images")) == len(context.splits.test)
    assert steps_seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_loaded_can_be_trained_on(finished: Path) -> None:
    network = load(finished).train()
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.0)
    network(torch.randn(8, 1, 16, 16)).logsumexp(1).sum().backward()
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_a_run_holds_the_files_of_the_design_and_no_pickle(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == set(FILES) - OPTIONAL | {".lock"}
    for path in finished.iterdir():
        assert not zipfile.is_zipfile(path)
        assert not is_pickle(path.read_bytes()), path
    proofs = RunFolder(finished).read_report().proof
    for proof in (proofs.dense_vs_onnx, proofs.pruned_vs_onnx):
        assert proof is not None
        assert proof.agreeing == Count(correct=256, total=256)
    lines = (finished / "search.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == list(range(1, len(lines) + 1))


def test_the_files_and_the_card_say_how_to_feed_them(finished: Path) -> None:
    recipe = RunFolder(finished).read_recipe()
    for name in ("dense.onnx", "pruned.onnx"):
        metadata = {entry.key: entry.value for entry in onnx.load(finished / name).metadata_props}
        assert json.loads(metadata["edcompress.classes"]) == list("0123456789")
        preprocessing = Preprocessing.model_validate_json(metadata["edcompress.preprocessing"])
        assert (preprocessing.channels, preprocessing.image_size) == ("L", recipe.data.image_size)
        assert (preprocessing.mean, preprocessing.std) == (recipe.data.mean, recipe.data.std)


def test_the_cards_program_gives_pytorchs_logits_of_a_real_image(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = open_context(RunFolder(finished).read_recipe(), RunOptions("cpu")).splits.test
    Image.fromarray(test.read([7], Geometry(None)).pixels[0, 0].numpy()).save(finished / "image.png")
    program = (finished / "model_card.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(finished)
    exec(program, {})
    logits = json.loads(capsys.readouterr().out.rpartition(" ")[0])
    images, _ = next(iter(eval_batches(test.subset(torch.tensor([7])), RunFolder(finished).read_recipe().data)))
    with torch.no_grad():
        expected = load(finished)(images)
    assert (torch.tensor(logits) - expected).abs().max() <= 1e-4 * expected.abs().max()


def is_pickle(content: bytes) -> bool:
    try:
        return sum(1 for _ in pickletools.genops(content)) > 0
    except Exception:  # whatever the disassembler stumbles over, it is no pickle
        return False


def test_an_eight_bit_file_is_measured_beside_the_plain_one(finished: Path) -> None:
    report = RunFolder(finished).read_report()
    (variant,) = report.variants.values()
    assert variant.file == "pruned.int8.onnx"
    assert variant.measured.size.onnx_bytes == (finished / variant.file).stat().st_size
    assert variant.measured.latency_ms is not None
    assert variant.measured.onnx_accuracy == evaluate(finished / variant.file, RunFolder(finished).read_recipe())
    assert variant.measured.paired is not None
    assert variant.measured.paired.top1.total == 359
    assert 1e-4 < variant.parity.relative < 0.2
    assert report.ship is not None
    assert "pruned.int8.onnx" in (finished / "report.html").read_text()


def test_pixels_may_be_given_to_the_file_as_they_are(finished: Path) -> None:
    proof = RunFolder(finished).read_report().proof.onnx_vs_pixels
    assert proof is not None
    assert proof.relative < 1e-6
    context = open_context(RunFolder(finished).read_recipe(), RunOptions("cpu"))
    pixels = context.parity_pixels[:3].permute(0, 2, 3, 1)  # [3, H, W, 1]
    with torch.no_grad():
        expected = load(finished)(context.parity_images[:3])
    assert torch.allclose(run_onnx(finished / "pruned.pixels.onnx", pixels), expected, atol=1e-4)


def test_export_again_with_other_settings_replaces_the_files(
    finished: Path, cli: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Opset 18, four images per call, fp16; what was exported before and is not asked for now goes."""
    ended = cli("export", finished, "--opset", 18, "--batch", 4, "--fp16", "--quiet")
    said = [line for line in ended.err.splitlines() if "other processes had the cores" not in line]
    assert (ended.code, said, capfd.readouterr()) == (0, [], ("", ""))
    names = ["dense", "pruned", "pruned.fp16"]
    assert {path.stem for path in finished.glob("*.onnx")} == set(names)
    for model in (onnx.load(finished / f"{name}.onnx") for name in names):
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
        assert {entry.key for entry in model.metadata_props} >= {"edcompress.recipe_hash", "edcompress.preprocessing"}
    report = RunFolder(finished).read_report()
    assert set(report.variants) == {"fp16"}
    assert report.variants["fp16"].measured.latency_ms is not None
    assert report.variants["fp16"].measured.latency_ms.batch_size == 4
    assert report.proof.onnx_vs_pixels is None
    assert "Files to ship" in ended.out


def all_but_its_log(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("progress.json", "log.jsonl")
    }


def test_an_export_that_fails_leaves_the_run_as_it_was(cli: Callable[..., Any], finished: Path) -> None:
    """Logits of a million are beyond float16."""
    weights = finished / "pruned.safetensors"
    tensors = safetensors.torch.load_file(weights)
    *_, last = (name for name, tensor in tensors.items() if tensor.ndim == 2)
    safetensors.torch.save_file(tensors | {last: 1e6 * tensors[last]}, weights)
    before = all_but_its_log(finished)
    ended = cli("export", finished, "--fp16", "--opset", 18)
    assert ended.code == 3
    assert "pruned.fp16.onnx: logits of 256 images" in ended.err
    assert re.search(
        r"\(behind layer linear\) reaches \S+, and float16 ends at 65504; export without --fp16", ended.err
    )
    assert all_but_its_log(finished) == before


def test_the_public_names_are_ten_or_so_and_all_there() -> None:
    assert edcompress.__all__ == PUBLIC
    assert dir(edcompress) == sorted([*PUBLIC, "__version__"])
    assert all(callable(getattr(edcompress, name)) for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = edcompress.prun
