import ast
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import edcompress
from edcompress.cli.interruption import interruptible_run
from edcompress.core.errors import DataError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.yaml_files import shipped
from edcompress.core.system.distributed import ALONE
from edcompress.core.system.signals import Interrupt
from edcompress.networks.load_pruned import CifarResNet
from edcompress.runs.folder import RunFolder

COMMANDS = (
    "prune",
    "export",
    "convert",
    "gate",
    "evaluate",
    "benchmark",
    "inspect",
    "train",
    "run",
    "recipes",
    "check",
    "init",
    "report",
    "sweep",
    "demo",
    "status",
    "runs",
    "doctor",
)
LIMITS = ("--max-top1-drop", "1", "--min-speedup", "0.001", "--max-parity", "0.0001")


class Trap:
    """Runs code when it is unpickled: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, dense: Path, finished_once: Path) -> dict[str, Path]:
    """Good and bad inputs by name."""
    shelf = tmp_path_factory.mktemp("files")
    names = (
        "cut.safetensors",
        "cut.pt",
        "text.pt",
        "trap.pt",
        "other.pt",
        "empty.pt",
        "none.pt",
        "unfinished",
        "sprung",
    )
    made = {name.replace(".", "_"): shelf / name for name in names}
    os.mkfifo(shelf / "pipe")
    made |= {"pipe": shelf / "pipe", "dense": dense, "run": finished_once, "shelf": shelf}
    made["cut_safetensors"].write_bytes(dense.read_bytes()[:-1000])
    torch.save({"weight": torch.zeros(10_000)}, made["cut_pt"])
    made["cut_pt"].write_bytes(made["cut_pt"].read_bytes()[:20_000])
    made["text_pt"].write_text("version https://git-lfs.github.com/spec/v1\n")
    made["trap_pt"].write_bytes(pickle.dumps({"state_dict": Trap(made["sprung"])}))
    torch.save(CifarResNet(20, 10, 1).state_dict(), made["other_pt"])
    made["empty_pt"].touch()
    made["unfinished"].mkdir()
    (made["unfinished"] / "recipe.yaml").write_text((finished_once / "recipe.yaml").read_text())
    return made


PRUNE = "prune {dense} --recipe digits -o out"
BAD = [
    (f"{PRUNE} --set serach.epochs=1", ["serach: unknown key; did you mean 'search'?"]),
    (f"{PRUNE} --set target.macs=1.5", ["target.macs", "above 0 and at most 1", "1.5"]),
    (f"{PRUNE} --set target.params=0.5", ["exactly one of macs, params, channels, latency, latency_ms"]),
    (f"{PRUNE} --set target.macs=0.01", ["target.macs = 0.01 is below 0.016", "constraints.min_ratio"]),
    ("run --recipe digits -o out --set target.macs=0.01", ["target.macs = 0.01 is below 0.016"]),
    ("prune {none_pt} --recipe digits -o out", ["none.pt: there is no such file"]),
    ("prune {shelf} --recipe digits -o out", ["is a folder; give the weights file"]),
    ("prune {empty_pt} --recipe digits -o out", ["empty.pt: is empty"]),
    ("prune {cut_safetensors} --recipe digits -o out", ["cut.safetensors: is a damaged or truncated"]),
    ("prune {cut_pt} --recipe digits -o out", ["cut.pt", "truncated"]),
    ("prune {text_pt} --recipe digits -o out", ["text.pt", "is a text file", "Git LFS"]),
    ("prune {trap_pt} --recipe digits -o out", ["trap.pt", "--trust-pickle"]),
    ("prune {other_pt} --recipe digits -o out", ["other.pt", "do not fit", "unexpected"]),
    (f"{PRUNE} --set model.num_classes=12", ["the weights have 10 classes, the recipe's model.num_classes is 12"]),
    (f"{PRUNE} --set model.arch=resnet21", ["no 'resnet21'", "did you mean", "resnet20"]),
    (f"{PRUNE} --set model.arch=alexnet --set data.image_size=32", ["alexnet cannot take images of 1x32x32", "data.image_size"]),
    (f"{PRUNE} --set constraints.ignore=[layer9*]", ["constraints.ignore", "'layer9*' matches no layer"]),
    (f"{PRUNE} --set data.dataset=cifar10 --set data.root=nowhere", ["cifar10 is not at nowhere/", "EDCOMPRESS_DATA"]),
    (f"{PRUNE} --set data.dataset=image_folder --set data.root=nowhere", ["data.folder: nowhere: there is no such folder"]),
    (f"{PRUNE} --set export.opset=99", ["export.opset", "99 is not supported; choose 18 to 23"]),
    (f"{PRUNE} --set search.epochs", ["--set search.epochs: write it as key=value"]),
    (f"{PRUNE} --device tpu", ["--device tpu: choose auto, cpu or cuda"]),
    (f"{PRUNE} --resume --force", ["choose one of them"]),
    (f"{PRUNE} --resume", ["there is no run in out; drop --resume to start one"]),
    ("prune {dense} --recipe digits -o {run}", ["exists; continue with --resume, start over with --force"]),
    ("prune {dense} --recipe digits -o {dense} --force", ["is a file"]),
    ("prune {dense} --recipe digits -o {dense}/run", ["cannot be used as run folder"]),
    ("prune {dense} --recipe digits -o {run} --resume --set seed=5", ["was started with a different", "seed"]),
    ("prune {dense} --recipe nowhere.yaml -o out", ["no recipe 'nowhere.yaml'"]),
    ("prune {dense} --recipe digits -o out --set model.arch=null --set model.factory=mine:net", ["mine:net", "--trust-code"]),
    ("prune {dense}", ["--recipe"]),
    ("prune {dense} --recipe digits --frob", ["--frob"]),
    ("frobnicate", ["frobnicate"]),
    ("export {unfinished} --onnx", ["has not finished pruning", "--resume"]),
    ("export {run} --opset 99", ["--opset 99 is not supported; choose 18 to 23"]),
    ("export {run} --batch 0", ["export.batch: give dynamic, or a number from 1 to 4096 (got '0')"]),
    ("export {run} --batch all", ["export.batch: give dynamic, or a number from 1 to 4096 (got 'all')"]),
    ("export {shelf}", ["is not a run folder"]),
    ("export", ["no run under runs/"]),
    ("export nowhere", ["no run folder nowhere"]),
    ("status nowhere", ["no run folder nowhere"]),
    ("status {shelf}/cut.pt", ["no run folder"]),
    ("status", ["no run under runs/"]),
    ("runs nowhere", ["there is no folder nowhere; name one that contains runs"]),
    ("report {unfinished}", ["has not finished pruning"]),
    ("gate {unfinished}", ["has not finished pruning"]),
    ("gate {text_pt}", ["text.pt is not a report of edcompress", "Invalid JSON"]),
    ("gate {run} --max-top1-drop 3", ["--max-top1-drop 3", "from 0 to 1"]),
    ("gate {run} --confidence perhaps", ["--confidence perhaps", "'estimate' or 'bound'"]),
    ("gate {run} --level 1", ["--level 1", "at least 0.5 and below 1"]),
    ("gate {run} --max-size-bytes 0", ["--max-size-bytes 0", "above 0"]),
    ("gate {run} --junit report.txt", ["--junit report.txt: the file is written as xml; name it report.xml"]),
    ("gate {run} --junit nowhere/gate.xml", ["there is no folder nowhere; create it first"]),
    ("gate {run} --baseline nowhere", ["no run folder nowhere"]),
    ("gate {run} --baseline {unfinished}", ["has not finished pruning"]),
    ("gate {run} --baseline {text_pt}", ["text.pt is not a report of edcompress"]),
    ("gate {run} --min-speedup nan", ["--min-speedup nan", "finite"]),
    ("evaluate {text_pt} --recipe digits", ["is a text file"]),
    ("evaluate {shelf} --recipe digits", ["is not a run folder"]),
    ("evaluate {run} --recipe digits --set model.arch=resnet20", ["a network other than", "model.arch"]),
    ("evaluate {run}/pruned.onnx --recipe digits --set data.image_size=20", ["image_size is 16 there, and 20 in the recipe"]),
    ("evaluate {run}/pruned.onnx --recipe digits --set data.image_size=20 --ignore-metadata", ["takes images", "20, 20"]),
    ("evaluate nowhere.onnx --recipe digits", ["nowhere.onnx: no such ONNX file"]),
    ("benchmark {text_pt}", ["cannot load it as an ONNX model"]),
    ("benchmark {unfinished}", ["dense.onnx: no such ONNX file"]),
    ("benchmark {run} --runs 3", ["--runs", "20"]),
    ("benchmark {run} --batch-size 1 --batch-size 0", ["--batch-size", "1"]),
    ("benchmark {run} --threads 1 --threads 9999", ["benchmark.threads is 9999", "lower it"]),
    ("train --recipe digits -o out.pt", ["written as safetensors", "out.safetensors"]),
    ("train --recipe digits -o {dense}", ["exists", "--force"]),
    ("train --recipe digits -o {dense}/x.safetensors", ["cannot be created as a folder"]),
    ("inspect {other_pt} --recipe digits", ["do not fit"]),
    ("check digits nowhere.yaml elsewhere.yaml", ["no recipe 'nowhere.yaml'", "no recipe 'elsewhere.yaml'"]),
    ("check digits --set preset=papr", ["did you mean 'paper'?"]),
    ("recipes nowhere", ["no recipe 'nowhere'"]),
    ("init {dense}", ["exists", "--force"]),
    ("init nowhere/mine.yaml", ["there is no folder nowhere; create it first"]),
    ("init . --force", [". is a folder"]),
    ("init {pipe} --force", ["is a device, pipe or socket; name a file"]),
    ("convert {run} -o {pipe} --force", ["is a device, pipe or socket; name a file"]),
    ("convert {run} --to torchscript -o {run}/recipe.yaml --force", ["the run itself needs this file; choose another name"]),
    ("convert {run} --to safetensors -o {run}/dense.safetensors --force", ["the run itself needs this file"]),
    ("prune {dense} --recipe digits -o out --set constraints.ignore=*.conv1", ["is not valid YAML (", "special characters, e.g. --set"]),
    ("sweep {dense} --recipe digits -o out --set constraints.ignore=*.conv1,x", ["is not valid YAML (", "special characters, e.g. --set"]),
    ("train --recipe digits -o .", [". is a folder", ".safetensors"]),
    ("run --recipe digits -o out --set benchmark.threads=9999", ["benchmark.threads is 9999", "lower it"]),
    ("run --recipe digits -o out --set benchmark.provider=CUDAExecutionProvider", ["is not available", "CPUExecutionProvider"]),
    ("sweep --recipe digits -o out --set target.macs=0.5,0.6 --set benchmark.threads=9999", ["benchmark.threads is 9999", "lower it"]),
    ("prune {dense} --recipe digits --resume", ["no run of digits under runs/"]),
]  # fmt: skip


def listing(*folders: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command.replace(PRUNE, "P") for command, _ in BAD])
def test_bad_input_names_the_thing_ends_with_2_and_writes_nothing(
    cli, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path, files["shelf"], files["run"], files["dense"].parent)
    ended = cli(*(word.format(**files) for word in command.split()))
    assert ended.code == 2, ended
    checked = command.startswith("check digits nowhere")
    assert ended.out.startswith("digits: fine (resnet8 on digits)\n") if checked else ended.out == ""
    assert all(word in ended.err for word in words), ended.err
    assert listing(tmp_path, files["shelf"], files["run"], files["dense"].parent) == before


def test_a_bug_does_not_count_as_a_failed_limit(cli, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("edcompress.workflows.gate.gate", broken)
    ended = cli("gate", finished)
    assert (ended.code, "Traceback" in ended.err, ended.err.endswith("RuntimeError: a bug\n")) == (3, True, True)


@pytest.mark.integration
def test_a_run_that_trains_first_takes_its_folder_before(
    cli, quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def failing(*_: object, **__: object) -> None:
        taken.append((tmp_path / "run").is_dir())
        raise DataError("the disk is gone")

    monkeypatch.setattr("edcompress.workflows.train.train_dense", failing)
    assert cli("run", *quick(), "-o", tmp_path / "run").code == 2
    assert (taken, (tmp_path / "run").exists()) == ([True], False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_bad_input(cli, dense: Path, tmp_path: Path) -> None:
    ended = cli("prune", dense, "--recipe", "digits", "-o", tmp_path / "out", "--device", "cuda")
    assert (ended.code, (tmp_path / "out").exists()) == (2, False)
    assert "torch sees no CUDA device; use --device cpu or auto" in ended.err


def test_a_trusted_pickle_runs_only_when_asked(cli, tmp_path: Path) -> None:
    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "sprung")}))
    ended = cli("evaluate", tmp_path / "trap.pt", "--recipe", "digits", "--trust-pickle")
    assert (ended.code, (tmp_path / "sprung").is_dir()) == (2, True)  # the code ran, and left nothing to evaluate


@pytest.mark.parametrize(
    "command", ["prune {text_pt} --recipe digits -o out", "prune {dense} --recipe digitz", "prune {dense}"]
)
def test_a_real_process_says_bad_input_without_a_traceback(
    process, files: dict[str, Path], tmp_path: Path, command: str
) -> None:
    ended = process(*(word.format(**files) for word in command.split()), cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "rror" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["prune", "--help"],
        ["recipes"],
        ["status", "{run}"],
        ["runs", "{run}/.."],
        ["gate", "{run}/report.json", *LIMITS],
        ["gate", "{run}", *LIMITS, "--baseline", "{run}", "--junit", "{run}/gate.xml"],
    ],
)
def test_light_commands_load_no_torch(finished: Path, arguments: list[str]) -> None:
    given = [word.format(run=finished) for word in arguments]
    program = f"""
import sys
from edcompress.__main__ import main
sys.argv = ["edcompress", *{given!r}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {{"torch", "torchvision", "onnx", "onnxruntime", "numpy", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_benchmark_loads_no_torch(cli, finished: Path) -> None:
    assert cli("export", finished).code == 0
    program = f"""
import sys
from pathlib import Path
import edcompress
from edcompress.core.recipe.deployment import Benchmark
edcompress.benchmark([Path({str(finished)!r})], Benchmark(runs=20))
assert not {{"torch", "torchvision"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_of_the_contract(cli) -> None:
    text = cli("--help").out
    for name in COMMANDS:
        assert f" {name} " in text
        assert cli(name, "--help").code == 0


def test_the_version_is_that_of_the_package(cli) -> None:
    shown = cli("--version")
    assert (shown.code, shown.out) == (0, f"{edcompress.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", edcompress.__version__)


def test_gate_answers_with_its_exit_code(cli, finished: Path) -> None:
    passed = cli("gate", finished, *LIMITS)
    assert (passed.code, "Gate: pass" in passed.out) == (0, True)
    failed = cli("gate", finished, *LIMITS, "--max-size-ratio", "0.01", "--json")
    verdict = json.loads(failed.out)
    assert (failed.code, verdict["passed"]) == (1, False)
    assert [check["name"] for check in verdict["checks"] if not check["passed"]] == ["size_ratio"]
    assert cli("gate", finished / "report.json", "--min-speedup", "1000").code == 1


def test_gate_before_export_says_what_is_missing(cli, finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    report["variants"] = {}  # else they stand beside nothing
    report["proof"]["pruned_vs_onnx"] = report["dense"]["latency_ms"] = report["pruned"]["latency_ms"] = None
    (finished / "report.json").write_text(json.dumps(report))
    ended = cli("gate", finished, "--max-top1-drop", "1")
    assert ended.code == 2
    assert "run `edcompress export --onnx` first" in ended.err


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0"}
"""A locale in which Python writes ASCII, to files with names in ASCII."""


def test_a_message_is_written_in_any_locale() -> None:
    command = [sys.executable, "-m", "edcompress", "report", "rün-→".encode()]
    ended = subprocess.run(command, capture_output=True, env=os.environ | C_LOCALE, check=False)
    assert (ended.returncode, ended.stderr[:22]) == (2, b"error: no run folder r")


@pytest.mark.integration
def test_a_folder_that_the_locale_cannot_name_is_reported(tmp_path: Path) -> None:
    data = f"{{dataset: image_folder, root: '{tmp_path}/ä', image_size: 8}}"
    text = f"model: {{arch: resnet8, num_classes: 2}}\ndata: {data}\ntarget: {{macs: 0.5}}\n"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "edcompress", "evaluate", "x.pt", "--recipe", str(tmp_path / "r.yaml")]
    ended = subprocess.run(command, capture_output=True, env=os.environ | C_LOCALE, check=False)
    assert ended.returncode == 2, ended.stderr
    assert b"file names are ascii in this locale; set PYTHONUTF8=1" in ended.stderr


def test_a_run_that_reports_could_not_name_is_refused(cli, quick) -> None:
    folder = os.fsdecode(b"r\xfcn")
    for arguments in ((folder, *quick(), "-o", "run"), ("x.pt", *quick(), "-o", folder)):
        ended = cli("prune", *arguments)
        assert ended.code == 2
        assert r"error: r\udcfcn is not a name in UTF-8; rename it" in ended.err
    assert not os.path.exists(folder)


def test_an_onnx_file_that_onnxruntime_cannot_open_is_refused(cli, finished: Path) -> None:
    path = shutil.copy(finished / "pruned.onnx", os.fsdecode(bytes(finished) + b"/p\xfc.onnx"))
    ended = cli("benchmark", path)
    assert (ended.code, r"p\udcfc.onnx is not a name in UTF-8; rename it" in ended.err) == (2, True)


def test_an_output_that_cannot_be_written_does_not_change_the_gates_answer(finished: Path) -> None:
    gate = [sys.executable, "-m", "edcompress", "gate", str(finished), *LIMITS]
    for environment in ({"PYTHONIOENCODING": "ascii"}, C_LOCALE):
        ascii_only = subprocess.run(gate, capture_output=True, env=os.environ | environment, check=False)
        assert (ascii_only.returncode, ascii_only.stderr) == (0, b"")
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -1` does
    unread = subprocess.run(gate, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (unread.returncode, unread.stderr) == (0, b"")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(gate, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert "the output cannot be written: No space left on device" in ended.stderr


@pytest.mark.integration
def test_json_is_alone_on_stdout_and_progress_on_stderr(process, cli, quick, dense: Path, tmp_path: Path) -> None:
    more = quick("search.method=magnitude", "search.epochs=0")
    ended = process("prune", dense, *more, "-o", "run[1]", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report == json.loads((tmp_path / "run[1]" / "report.json").read_text())
    assert "finetune 1/1: loss" in ended.err
    assert "Warning" not in ended.err
    shown = process("report", "run[1]", cwd=tmp_path)
    assert "  run[1]/plan.json" in shown.out.splitlines()
    silent = cli("prune", dense, *more, "-o", tmp_path / "run[1]", "--quiet", "--force")
    assert (silent.code, silent.err) == (0, "")


def test_results_as_json(cli, dense: Path, finished: Path) -> None:
    report = json.loads(cli("report", finished, "--json").out)
    of_run = json.loads(cli("evaluate", finished, "--recipe", "digits", "--json").out)
    of_onnx = json.loads(cli("evaluate", finished / "pruned.onnx", "--recipe", "digits", "--json").out)
    of_dense = json.loads(cli("evaluate", dense, "--recipe", "digits", "--json").out)
    assert of_run == of_onnx == report["pruned"]["accuracy"]
    assert of_dense == report["dense"]["accuracy"]
    latency = json.loads(cli("benchmark", finished, "--runs", "20", "--batch-size", 1, "--batch-size", 3, "--json").out)
    settings = [(1, 1, 20), (3, 1, 20)]
    assert {Path(name).name: [(at["batch_size"], at["threads"], at["n"]) for at in found] for name, found in latency.items()} == {
        "dense.onnx": settings, "pruned.onnx": settings}  # fmt: skip
    found = json.loads(cli("inspect", dense, "--recipe", "digits", "--json").out)
    space = json.loads((finished / "space.json").read_text())
    keys = ("name", "channels", "locked")
    assert [[g[key] for key in keys] for g in found["groups"]] == [[g[key] for key in keys] for g in space["groups"]]
    assert found["size"]["macs"] == report["dense"]["size"]["macs"]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("form", ["pt2", "torchscript", "safetensors"])
def test_convert_writes_what_pytorch_reads(cli, finished: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out" / "net"
    path.parent.mkdir()
    ended = cli("convert", finished, "--to", form, "-o", path)
    assert ended.code == 0, ended.err
    assert "largest difference 0.0e+00" in ended.out
    images = torch.randn(5, 1, 16, 16)
    network = edcompress.load(finished)
    if form == "safetensors":
        tensors = safetensors.torch.load_file(path)
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in network.state_dict().items())
    else:
        again = torch.export.load(path).module() if form == "pt2" else torch.jit.load(path)
        torch.testing.assert_close(again(images), network(images))
    again = cli("convert", finished, "--to", form, "-o", path)
    assert again.code == 2
    assert "--force" in again.err
    assert [p.name for p in path.parent.iterdir()] == ["net"]


def test_convert_writes_into_the_run_by_default(cli, finished: Path) -> None:
    ended = cli("convert", finished)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{finished / 'pruned.pt2'}: largest difference")
    assert (finished / "pruned.pt2").is_file()


@pytest.mark.parametrize("names", [("report.json", "pruned.safetensors"), ()])
def test_an_interrupted_run_says_whether_anything_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    for name in names:  # pruning is finished, and the export is interrupted
        (tmp_path / name).touch()
    with pytest.raises(KeyboardInterrupt), interruptible_run(RunFolder(tmp_path), ALONE, resume=False, force=False):
        raise KeyboardInterrupt
    said = capsys.readouterr().err
    assert ("what was computed is saved; continue" in said, "nothing was saved yet" in said) == (bool(names), not names)


def test_an_interrupted_run_does_not_take_an_earlier_one_for_its_own(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For example --force that is interrupted while the weights are checked, before the earlier run is removed."""
    recipe = finished / "recipe.yaml"

    def interrupted(later: int) -> None:
        os.utime(recipe, ns=(0, recipe.stat().st_mtime_ns + later))
        raise KeyboardInterrupt

    for resume, later in ((False, 0), (False, 1), (True, 0)):
        with (
            pytest.raises(KeyboardInterrupt),
            interruptible_run(RunFolder(finished), ALONE, resume=resume, force=not resume),
        ):
            interrupted(later)
    earlier, started, resumed = capsys.readouterr().err.strip().split("\n\n")
    assert earlier == f"interrupted: nothing was saved yet; the earlier run in {finished} is as it was"
    assert f"continue with the same command and --resume instead of --force -o {finished}" in started
    assert f"continue with the same command and --resume -o {finished}" in resumed


def test_an_interrupt_that_compiled_code_swallows_is_restored() -> None:
    def reading(number: int) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of object") from None

    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt), Interrupt().listening():
            reading(number)
    with pytest.raises(ValueError, match="of its own"), Interrupt().listening():
        raise ValueError("of its own")


@pytest.mark.parametrize("command", ["gate", "status", "runs", "export", "report"])
def test_a_path_that_cannot_be_looked_at_is_named(cli, tmp_path: Path, command: str) -> None:
    path = tmp_path / ("a" * 300)  # as one without the permission
    ended = cli(command, path)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {path}")
    assert ended.err.endswith(": File name too long; give another path, or the permission to read it\n")


@pytest.mark.parametrize("command", ["convert", "report"])
def test_what_writes_into_a_run_has_it_alone(
    cli, finished: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Who locks a run takes its unfinished files for those of a process that was killed."""
    monkeypatch.setattr("edcompress.runs.locks.LOCK_SECONDS", 0.0)
    with RunFolder(finished).locked():
        ended = cli(command, finished)
    assert (ended.code, "is in use by another process" in ended.err) == (2, True), ended.err


def test_convert_refuses_what_it_cannot_write(cli, finished: Path, tmp_path: Path) -> None:
    assert "choose pt2, torchscript, safetensors" in cli("convert", finished, "--to", "tflite").err
    assert "there is no folder" in cli("convert", finished, "-o", tmp_path / "nowhere" / "net.pt2").err
    for form, name, better in (("pt2", "net.onnx", "net.pt2"), ("torchscript", "net.pt2", "net.torchscript.pt")):
        ended = cli("convert", finished, "--to", form, "-o", tmp_path / name)
        assert (ended.code, f"it would hold {form}; name it {tmp_path / better}, or choose" in ended.err) == (2, True)
    assert not list(tmp_path.glob("net.*"))


def test_a_run_that_cannot_be_written_is_shown_and_converted_elsewhere(
    cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(folder: RunFolder) -> None:
        raise AssertionError(folder)

    monkeypatch.setattr(RunFolder, "writable", property(lambda _: False))
    monkeypatch.setattr(RunFolder, "locked", locked)
    (finished / "report.html").write_text("as it was")
    shown = cli("report", finished)
    assert (shown.code, "cannot be written; its report.html stays as it is" in shown.err) == (0, True), shown.err
    assert (finished / "report.html").read_text() == "as it was"
    assert cli("convert", finished, "--to", "safetensors", "-o", tmp_path / "net.safetensors").code == 0


def test_benchmark_shows_any_files_with_the_speed_up_and_what_measured_it(cli, finished: Path) -> None:
    ended = cli("benchmark", *(finished / f"{name}.onnx" for name in ("pruned", "dense", "pruned")), "--runs", "20")
    assert ended.code == 0, ended.err
    assert "batch 1, 1 thread: 20 interleaved calls per model" in ended.out
    assert len(re.findall(r"\d\.\d\dx \(\d\.\d\d to \d\.\d\d\)", ended.out)) == 2
    assert "(2)" in ended.out
    assert re.search(r"CPUExecutionProvider of onnxruntime [\d.]+, Python [\d.]+, .*, governor \w+, ", ended.out)


def test_inspect_says_what_can_go_what_it_costs_and_why_not(cli) -> None:
    ended = cli("inspect", "--recipe", "digits", "--set", "constraints.ignore=[layer2*]")
    assert ended.code == 0
    assert "locked: constraints.ignore has 'layer2*', which matches layer2.0" in " ".join(ended.out.split())
    bracketed = cli("inspect", "--recipe", "digits", "--set", "constraints.ignore=['laye[r]2*']").out
    assert "constraints.ignore has 'laye[r]2*', which" in " ".join(bracketed.split())
    assert "groups can be pruned" in ended.out
    assert "the constraints leave at least" in ended.out
    found = json.loads(cli("inspect", "--recipe", "digits", "--json").out)
    assert 0 < found["smallest"]["macs"] < 0.1
    stem = found["groups"][0]
    assert (stem["name"], stem["channels"], stem["layers"]) == (
        "conv1",
        16,
        7,
    )  # conv1, bn1, layer1.0's three, layer2.0's two
    assert found["warnings"] == []


def test_inspect_takes_a_run_for_what_is_left_of_its_network(cli, finished: Path) -> None:
    found = json.loads(cli("inspect", finished, "--recipe", "digits", "--json").out)
    size = json.loads((finished / "report.json").read_text())["pruned"]["size"]
    assert (found["size"]["params"], found["size"]["macs"]) == (size["params"], size["macs"])
    assert "is not a run folder" in cli("inspect", finished.parent, "--recipe", "digits").err


def test_inspect_measures_which_layer_takes_which_share_of_the_time(cli) -> None:
    found = json.loads(cli("inspect", "--recipe", "digits", "--onnx-latency", "--json").out)
    layers = {layer["name"]: layer for layer in found["layers"]}
    convs = {name for name in layers if "conv" in name}
    assert sum(layer["time"] for layer in layers.values()) == pytest.approx(1)
    assert sum(layers[name]["time"] for name in convs) > 0.5  # the network is hardly anything else
    assert sum(layer["macs"] for layer in layers.values()) == pytest.approx(1)
    table = cli("inspect", "--recipe", "digits", "--onnx-latency").out.partition("Time in onnxruntime")[2]
    assert all(name in table for name in convs)


def test_inspect_warns_of_a_target_out_of_reach_and_of_memory(cli) -> None:
    found = json.loads(cli("inspect", "--recipe", "digits", "--set", "target.macs=0.001", "--json").out)
    assert "target.macs = 0.001 is below" in found["warnings"][0]
    ended = cli("inspect", "--recipe", "digits", "--set", "model.arch=mobilenet_v2", "--set", "data.image_size=32")
    assert "warning: " in ended.out
    assert "this network is memory-bound" in ended.out


def test_recipes_lists_all_and_prints_one(cli) -> None:
    listed = cli("recipes").out
    assert all(name in listed for name in (*shipped(), "paper (preset)"))
    assert cli("recipes", "digits").out == shipped()["digits"].read_text()
    assert "genes: channels" in cli("recipes", "paper").out


def test_init_writes_a_recipe_that_checks_and_does_not_overwrite(cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert cli("init", path).code == 0
    missing = cli("check", path, "--no-timing")
    assert (missing.code, missing.out) == (2, "")
    assert f"{path}: data.folder: " in missing.err
    assert "my_images" in missing.err
    assert read_recipe(str(path)).name == "mine"
    assert cli("init", tmp_path / ".mine.yaml").code == 0
    path.write_text("mine")
    assert (cli("init", path).code, path.read_text()) == (2, "mine")
    assert cli("init", path, "--force").code == 0
    unknown = cli("check", path, "digits", "--no-timing", "--set", "model.arch=resnet-20")
    assert unknown.code == 2
    assert f"{path}: model.arch: there is no 'resnet-20'; did you mean 'resnet20'" in unknown.err
    assert "digits: model.arch: there is no 'resnet-20'" in unknown.err


def test_force_replaces_a_run_and_keeps_other_files_in_its_folder(cli, quick, dense: Path, finished: Path) -> None:
    (finished / "notes.txt").write_text("mine")
    assert cli("prune", dense, *quick("search.method=random", "search.epochs=0"), "-o", finished, "--force").code == 0
    assert (finished / "notes.txt").read_text() == "mine"
    assert not (finished / "pruned.onnx").exists()
    assert json.loads((finished / "report.json").read_text())["search"]["method"] == "random"


@pytest.mark.integration
def test_without_a_name_runs_are_under_runs_and_the_newest_is_used(
    cli, quick, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = quick("search.method=random", "search.epochs=0", "finetune.epochs=0")
    assert cli("prune", dense, *short).code == 0
    assert cli("prune", dense, *short, "--set", "seed=1").code == 0
    assert {path.name for path in Path("runs").iterdir()} == {"digits", "digits-2"}
    assert json.loads(cli("report", "--json").out)["seed"] == 1
    assert cli("export", "--onnx").code == 0
    assert Path("runs/digits-2/pruned.onnx").is_file()
    assert cli("gate", *LIMITS).code == 0


@pytest.mark.integration
def test_run_trains_prunes_exports_and_gates(cli, quick, tmp_path: Path) -> None:
    more = quick("search.method=magnitude", "search.epochs=0", "gate.min_speedup=1000", "gate.max_top1_drop=1.0")
    ended = cli("run", *more, "-o", tmp_path / "run")
    assert ended.code == 1, ended.err  # the gate's answer is the command's
    assert "Gate: FAIL" in ended.out
    assert json.loads((tmp_path / "run" / "report.json").read_text())["verdict"]["passed"] is False
    again = cli("run", *more, "--set", "gate.min_speedup=0.001", "-o", tmp_path / "run", "--resume")
    assert again.code == 0, again.err  # it is held to the limits that are given now


@pytest.mark.parametrize("module", ["cli/compress", "cli/deploy", "cli/observe", "cli/recipes", "workflows/doctor"])
def test_every_command_shows_warnings(module: str) -> None:
    """Each passes a monitor to RunOptions, as fourth argument or by name."""
    tree = ast.parse((Path(edcompress.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RunOptions"
    ]
    silent = [ast.unparse(c) for c in calls if len(c.args) < 4 and "monitor" not in {word.arg for word in c.keywords}]
    assert silent == []


def test_inspect_warns_of_a_head_that_begins_untrained(cli, dense: Path) -> None:
    more = ("--set", "model.num_classes=12", "--set", "model.reset_head=true")
    ended = cli("inspect", dense, "--recipe", "digits", *more)
    assert (ended.code, "warning: model.reset_head: " in ended.err) == (0, True), ended.err
