"""Any order of commands on one run folder, with Ctrl-C or a power cut at any of its files, ends where an unbroken run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torchvision.transforms.v2.functional import to_pil_image
from zoo import Chain, randomised

from edcompress.core.results.report import Report
from edcompress.runs.folder import RunFolder
from edcompress.workflows.load import load

SMALL = ("model.arch=null", "model.factory=zoo:Chain", "model.num_classes=3", "model.in_channels=3", "data.dataset=image_folder",
         "data.channels=3", "data.mean=[0.5]", "data.std=[0.5]", "data.image_size=8", "data.batch_size=4",
         "constraints.round_to=1", "search.evolve_every=2", "run.checkpoint_every=2 steps")  # fmt: skip
Kind = Literal["once", "twice", "power"]
SEEDS = st.sampled_from([0, 1])
FREE = st.sampled_from(["gate.max_top1_drop=0.5", "run.checkpoint_every=1 steps", "data.workers=0"])
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree")
FILES = {"recipe.yaml", "space.json", "search.jsonl", "epochs.jsonl", "plan.json", "dense.safetensors", "pruned.safetensors",
         "load_pruned.py", "load_pruned.json", "report.json", "report.html", "progress.json", "log.jsonl"}  # fmt: skip
EXPORTED = ("model_card.md", "onnx")


@dataclass(frozen=True)
class Blow:
    """What befalls a command at the n-th touch of a file of its run whose event and path have `word`: Ctrl-C, a second one, a power cut."""

    word: str
    touch: int
    kind: Kind


WORDS = ("", "/state/", "/report.", "/.report.", "/plan.", "/.plan.", "epochs.", "/log.", "/.progress.", "os.rename", "os.remove",
         "shutil.rmtree", ".onnx", "/.lock")  # fmt: skip
BLOWS = st.none() | st.builds(
    Blow, st.sampled_from(WORDS), st.integers(1, 30), st.sampled_from(["once", "twice", "power"])
)


class Weather:
    """Python tells it of every file that is opened, renamed or removed; it strikes when a command's time has come."""

    def __init__(self) -> None:
        self._folder, self._word, self._kind, self._left, self.struck = "", "", "once", 0, False
        sys.addaudithook(self._heard)

    @contextmanager
    def over(self, folder: Path, blow: Blow | None) -> Iterator[None]:
        """A block in which the blow falls on what touches the folder; what a power cut leaves is what is there then."""
        kept = folder.with_name("as the power went")
        blow = blow or Blow("", 0, "once")
        self._folder, self._word, self._kind, self._left, self.struck = (
            str(folder),
            blow.word,
            blow.kind,
            blow.touch,
            False,
        )
        try:
            yield
        finally:
            self._left = 0
        if self.struck and blow.kind == "power":
            shutil.rmtree(folder, ignore_errors=True)
            if kept.exists():
                kept.rename(folder)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._left or event not in TOUCHES or threading.current_thread() is not threading.main_thread():
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else ""
        if isinstance(path, str) and path.startswith(self._folder) and self._word in f"{event} {path}":
            self._left -= 1
            if not self._left:
                self._strike()

    def _strike(self) -> None:
        self.struck = True
        if self._kind == "power" and Path(self._folder).exists():
            shutil.copytree(self._folder, Path(self._folder).with_name("as the power went"))
        for _ in range(1 if self._kind == "once" else 2):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="session")
def weather() -> Weather:
    """Once per process: Python forgets no audit hook."""
    return Weather()


@dataclass(frozen=True)
class World:
    """What the commands need: a command line, the weights and the data, and how unbroken runs end."""

    cli: Callable[..., Any]
    weather: Weather
    dense: Path
    options: tuple[str, ...]
    whole: dict[int, Path]


class Commands(RuleBasedStateMachine):
    """`done` is the seed of what was finished here and not started over; `begun` that of what a resumed run goes on with."""

    def __init__(self, world: World, *, exports: bool) -> None:
        super().__init__()
        self._world, self._exports = world, exports
        self._root = Path(tempfile.mkdtemp(dir=world.dense.parent))
        self._run = RunFolder(self._root / "run")
        self._done: int | None = None
        self._noted = False

    @rule(seed=SEEDS, blow=BLOWS)
    def prune(self, seed: int, blow: Blow | None) -> None:
        if self._run.path.exists():
            self._refused("exists; continue with --resume", "prune", self._world.dense, *self._options(seed))
        else:
            self.befall(seed, blow)

    @rule(seed=SEEDS, blow=BLOWS)
    def start_over(self, seed: int, blow: Blow | None) -> None:
        self.befall(seed, blow, "--force")

    @rule(seed=SEEDS)
    def start_over_from_what_is_not_there(self, seed: int) -> None:
        self._refused("nothing.safetensors", "prune", "nothing.safetensors", *self._options(seed), "--force")

    @precondition(lambda self: self._run.finished)
    @rule(seed=SEEDS)
    def prune_the_run_into_itself(self, seed: int) -> None:
        self._refused("choose another run folder", "prune", self._run.path, *self._options(seed), "--force")

    @rule(free=FREE, blow=BLOWS)
    def resume(self, free: str, blow: Blow | None) -> None:
        if not self._run.exists:
            self._refused("there is no run in", "prune", self._world.dense, *self._options(0), "--resume")
        elif self._done is not None:
            self._changes_nothing(0, "prune", "gone.pt", *self._options(self._done), "--set", free, "--resume")
        else:
            self.befall(self._begun, blow, "--resume", "--set", free)

    @precondition(lambda self: self._run.exists)
    @rule()
    def resume_another(self) -> None:
        options = self._options(1 - self._begun)
        self._refused("started with a different seed", "prune", self._world.dense, *options, "--resume")

    @rule(blow=BLOWS, opset=st.sampled_from([18, 20]), fp16=st.booleans())
    def export(self, blow: Blow | None, opset: int, fp16: bool) -> None:
        arguments = (
            "export",
            self._run.path,
            "--opset",
            opset,
            "--fp16" if fp16 else "--no-fp16",
            "--trust-code",
            "--quiet",
        )
        if self._done is None:
            self._refused("has not finished pruning|is not a run folder|no run folder", *arguments)
        elif self._exports:
            self._struck(blow, 0, *arguments)

    @rule(blow=BLOWS)
    def gate(self, blow: Blow | None) -> None:
        arguments = (
            "gate",
            self._run.path,
            "--max-top1-drop",
            1,
            "--min-speedup",
            0.01,
            "--disturbed",
            "allow",
            "--allow-weak-dense",
        )
        if self._done is None:
            self._refused("has not finished pruning|is not a run folder|no run folder", *arguments)
        elif self._run.read_report().pruned.onnx_accuracy is None:
            self._refused("run `edcompress export --onnx` first", *arguments)
        else:
            self._struck(blow, 0, *arguments)

    @rule(blow=BLOWS)
    def report(self, blow: Blow | None) -> None:
        if self._done is None:
            self._refused("has not finished pruning|is not a run folder|no run folder", "report", self._run.path)
        else:
            self._struck(blow, 0, "report", self._run.path)

    @rule()
    def status(self) -> None:
        self._changes_nothing(0 if self._run.exists else 2, "status", self._run.path)
        self._changes_nothing(0, "runs", self._root)

    @precondition(lambda self: self._run.path.exists())
    @rule()
    def note(self) -> None:
        (self._run.path / "notes.txt").write_text("mine")
        self._noted = True

    @invariant()
    def what_was_finished_stays(self) -> None:
        assert self._run.finished or self._done is None
        if self._done is not None:
            assert found(self._run) == found(RunFolder(self._world.whole[self._done]))
            require_files_of(self._run, self._run.read_report())

    @invariant()
    def the_users_file_stays(self) -> None:
        assert not self._noted or (self._run.path / "notes.txt").read_text() == "mine"

    def teardown(self) -> None:
        """Whatever has happened, the run can be brought to the end that it would have come to."""
        if self._done is None:
            how = "--resume" if self._run.exists else "--force"
            self.befall(self._begun, None, how)
        assert self._done is not None
        whole, report = RunFolder(self._world.whole[self._done]), self._run.read_report()
        with self._run.locked():  # as whoever writes here next
            pass
        names = {path.name for path in self._run.path.iterdir() if not path.name.endswith(EXPORTED)}
        assert names - {"notes.txt", ".lock"} == FILES
        assert figures(report) == figures(whole.read_report())
        assert load(self._run.path, trust_code=True).training is False

    @property
    def finished(self) -> bool:
        """Whether the run has been brought to its end."""
        return self._run.finished

    @property
    def _begun(self) -> int:
        return self._run.read_recipe().seed if self._run.exists else 0

    def _options(self, seed: int) -> tuple[str, ...]:
        return (*self._world.options, "--set", f"seed={seed}", "-o", str(self._run.path))

    def befall(self, seed: int, blow: Blow | None, *more: str) -> None:
        """A run of `prune` that may, but for the blow, not fail."""
        ended = self._struck(blow, 0, "prune", self._world.dense, *self._options(seed), *more)
        if ended == 0:
            self._done = seed
        elif (
            self._run.exists and self._run.finished
        ):  # it was struck before --force took these files away, or at the very end
            self._done = self._begun
        else:
            assert self._done is None or "--force" in more
            self._done = None

    def _struck(self, blow: Blow | None, code: int, *arguments: object) -> int:
        """The exit code, 130 where the blow fell early enough."""
        with self._world.weather.over(self._run.path, blow):
            ended = self._world.cli(*arguments)
        assert ended.code == code or (ended.code == 130 and self._world.weather.struck), ended.err
        return int(ended.code)

    def _refused(self, words: str, *arguments: object) -> None:
        assert any(word in self._changes_nothing(2, *arguments) for word in words.split("|"))

    def _changes_nothing(self, code: int, *arguments: object) -> str:
        before = contents(self._run)
        ended = self._world.cli(*arguments)
        assert (ended.code, contents(self._run) == before) == (code, True), ended.err
        return str(ended.err)


def contents(run: RunFolder) -> dict[str, bytes]:
    """The files of a run but for those that a power cut left and the next process removes."""
    files = {path.relative_to(run.path).as_posix(): path for path in run.path.rglob("*") if path.is_file()}
    left = re.compile(r"(.*/)?\.(?!lock)" + ("|state/" if run.finished else ""))
    return {name: path.read_bytes() for name, path in files.items() if not left.match(name)}


def found(run: RunFolder) -> list[Any]:
    """What two equal runs have in common, bit for bit; the header of the weights, which has the digest of all of the recipe, is not."""
    weights = safetensors.torch.load_file(run / "pruned.safetensors")
    texts = [(run / name).read_bytes() for name in ("plan.json", "search.jsonl", "epochs.jsonl")]
    return [*texts, {name: (tensor.shape, tensor.numpy().tobytes()) for name, tensor in weights.items()}]


def figures(report: Report) -> list[Any]:
    """What two equal runs have found alike; sizes of files and times are left out."""
    models = (report.dense, report.masked, report.after_surgery, report.pruned)
    return [
        *((model.accuracy, model.size.params, model.size.macs) for model in models),
        report.target,
        report.search.generations,
    ]


def require_files_of(run: RunFolder, report: Report) -> None:
    """The files that the report tells of are those that are there."""
    told = {"dense.onnx": report.dense, "pruned.onnx": report.pruned} if report.dense.size.onnx_bytes else {}
    told |= {variant.file: variant.measured for variant in report.variants.values()}
    for name, model in told.items():
        assert (run / name).stat().st_size == model.size.onnx_bytes, name


@pytest.fixture(scope="module")
def world(cli: Callable[..., Any], quick: Callable[..., tuple[str, ...]], weather: Weather,
          tmp_path_factory: pytest.TempPathFactory) -> World:  # fmt: skip
    """A tiny network, a dozen images, and a run of each seed that nothing befell."""
    root = tmp_path_factory.mktemp("world")
    safetensors.torch.save_file(randomised(Chain()).state_dict(), root / "dense.safetensors")
    write_images(root / "images")
    options = (*quick(*SMALL, f"data.root={root / 'images'}"), "--trust-code", "--device", "cpu", "--quiet")
    whole = {seed: root / f"whole-{seed}" for seed in (0, 1)}
    for seed, folder in whole.items():
        ended = cli("prune", root / "dense.safetensors", *options, "--set", f"seed={seed}", "-o", folder)
        assert ended.code == 0, ended.err
    return World(cli, weather, root / "dense.safetensors", options, whole)


def write_images(folder: Path) -> None:
    """Four images of noise per class to train on, and three to test."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 4), ("val", 3)):
        for name in ("cat", "dog", "elk"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)
                to_pil_image(pixels).save(folder / part / name / f"{i}.png")


@pytest.mark.parametrize(
    ("examples", "steps", "exports"), [(3, 6, False), pytest.param(30, 15, True, marks=pytest.mark.slow)]
)
def test_any_order_of_commands_ends_where_an_unbroken_run_does(
    world: World, examples: int, steps: int, exports: bool
) -> None:
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=health,
                      derandomize=not exports, phases=[Phase.generate])  # fmt: skip
    begun: list[Commands] = []

    def commands() -> Commands:
        begun.append(Commands(world, exports=exports))
        return begun[-1]

    run_state_machine_as_test(commands, settings=chosen)
    assert len(begun) >= examples  # each has been held to its invariants, and in its teardown to the unbroken run
    assert all(machine.finished for machine in begun)


@pytest.mark.parametrize("word", ["/.report.html", "shutil.rmtree"])
def test_a_run_whose_power_went_at_its_very_end_lacks_nothing(world: World, word: str) -> None:
    commands = Commands(world, exports=False)
    commands.befall(0, Blow(word, 1, "power"))
    assert world.weather.struck
    commands.teardown()


def test_a_run_that_is_interrupted_where_it_begins_is_told_so(world: World, tmp_path: Path) -> None:
    with world.weather.over(tmp_path / "run", Blow("/.progress.", 1, "once")):
        assert world.cli("prune", world.dense, *world.options, "-o", tmp_path / "run").code == 130
    assert json.loads(world.cli("status", tmp_path / "run", "--json").out)["state"] == "interrupted"


@pytest.mark.slow
def test_a_power_cut_in_a_second_export_leaves_no_figures_of_files_that_are_gone(world: World, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(world.whole[0], tmp_path / "run")))
    assert world.cli("export", run.path, "--fp16", "--trust-code").code == 0
    before = run.read_report()
    assert before.variants
    with world.weather.over(run.path, Blow("/run/pruned.int8.onnx", 1, "power")):
        assert world.cli("export", run.path, "--opset", 18, "--trust-code").code == 130
    assert not (run / "pruned.fp16.onnx").exists()
    assert run.read_report() == RunFolder(world.whole[0]).read_report()
