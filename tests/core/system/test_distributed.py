"""Runs on several processes: the images of each rank, the same result as on one, and ending together."""

import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from digits import digits, outcome
from launcher import EDCOMPRESS, TORCHRUN
from safetensors.torch import load_file, save_file
from torch import nn

from edcompress.core.errors import InputError
from edcompress.core.recipe.data import Data
from edcompress.core.system.distributed import ALONE, ProcessGroup, from_environment, require_alone
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.splits import Splits, check_divides, open_splits
from edcompress.runs.folder import RunFolder
from edcompress.training.batchnorm import running_statistics

CROPPED = digits("data.augment=crop_flip", "data.limit=600").data
NETWORKS = """
import os, signal
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))

class Faulty(nn.Module):
    calls = 0

    def forward(self, x):
        if self.training and os.environ["RANK"] == "1":
            Faulty.calls += 1
            if Faulty.calls == 12:
                self.fail()
        return x

    def fail(self):
        if os.environ["FAULT"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("a fault of one rank")

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.seen += x.mean()
        return x

def faulty():
    return plain().append(Faulty())

def counting():
    return plain().append(Counting())
"""


class Ended(NamedTuple):
    """The exit code of torchrun, and the output of all ranks."""

    code: int
    out: str
    err: str


SHORT = ("search.epochs=2", "finetune.epochs=1", "search.evolve_every=2", "data.limit=603", "constraints.round_to=1")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return open_splits(CROPPED, seed=0)


@pytest.mark.parametrize("size", [2, 3])
def test_the_ranks_parts_of_a_batch_are_the_batch(splits: Splits, size: int) -> None:
    whole = train_batches(splits.train, CROPPED, seed=3, epoch=1)
    parts = [
        train_batches(splits.train, CROPPED, seed=3, epoch=1, ranks=ProcessGroup(rank, size)) for rank in range(size)
    ]
    for batch, *divided in zip(whole, *parts, strict=True):
        for rank, (images, labels) in enumerate(divided):
            assert torch.equal(images, batch[0][rank::size])
            assert torch.equal(labels, batch[1][rank::size])


@pytest.mark.parametrize(("size", "batches"), [(1, 3), (2, 3), (3, 2)])
def test_a_last_batch_with_less_than_two_images_per_rank_is_left_out(splits: Splits, size: int, batches: int) -> None:
    images, data = splits.train.subset(torch.arange(20)), CROPPED.model_copy(update={"batch_size": 8})  # 8, 8, 4
    made = [train_batches(images, data, seed=0, epoch=0, ranks=ProcessGroup(rank, size)) for rank in range(size)]
    assert [len(one) for one in made] == [batches] * size
    assert min(len(labels) for one in made for _, labels in one) >= 2


def test_a_batch_that_cannot_be_divided_is_refused(splits: Splits) -> None:
    few = CROPPED.model_copy(update={"batch_size": 5})
    check_divides(splits, few, ProcessGroup(0, 2))
    with pytest.raises(InputError, match=r"data\.batch_size: 3 ranks share a batch of 5 images.* 6 or more"):
        check_divides(splits, few, ProcessGroup(0, 3))
    with pytest.raises(InputError, match=r"data\.skip_broken: ranks that leave out different images would wait"):
        check_divides(splits, CROPPED.model_copy(update={"skip_broken": True}), ProcessGroup(0, 2))


def test_every_test_image_belongs_to_one_rank(splits: Splits) -> None:
    batches = eval_batches(splits.test, Data(dataset="digits", image_size=16, eval_batch_size=150))
    parts = [[len(labels) for _, labels in batches.for_rank(ProcessGroup(rank, 2))] for rank in range(2)]
    assert parts == [[150, 59], [150]]


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() == ALONE
    require_alone("gate")
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert from_environment() == ProcessGroup(5, 8, 1)
    with pytest.raises(InputError, match="edcompress gate runs in one process, not in 8"):
        require_alone("gate")


def test_running_statistics_are_those_of_batch_norm_that_keeps_them() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3))
    kept = network[0]
    assert [id(tensor) for tensor in running_statistics(network)] == [id(kept.running_mean), id(kept.running_var)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with network factories and weights for each."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), *(nn.ReLU() for _ in range(3)), nn.Linear(24, 10)
    )
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    save_file({**plain.state_dict(), "7.seen": torch.zeros(())}, tmp_path / "counting.safetensors")
    return tmp_path


def options(folder: str, *more: str, factory: str = "plain") -> tuple[str, ...]:
    network = ("model.arch=null", f"model.factory=nets:{factory}") if factory else ()
    pairs = (*SHORT, *network, *more)
    sets = (word for pair in pairs for word in ("--set", pair))
    return ("--recipe", "digits", *sets, "--trust-code", "--device", "cpu", "-o", folder)


def torchrun(place: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*TORCHRUN, *map(str, arguments)], cwd=place, env={**os.environ, **environment},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def ended(started: subprocess.Popen[str]) -> Ended:
    with started:
        out, err = started.communicate(timeout=300)
    return Ended(started.returncode, out, err)


@pytest.mark.integration
def test_ranks_exchange_values(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        import torch
        from edcompress.core.errors import EdcompressError
        from edcompress.core.system.distributed import destroy, init_process_group
        ranks = init_process_group("cpu")
        one, two = torch.full((2, 3), float(ranks.rank)), torch.tensor(float("inf") if ranks.rank else 1.0)
        ranks.average_([one, two], 1 + 2 * ranks.rank)
        assert torch.equal(one, torch.full((2, 3), 0.75)) and two.isinf()
        assert ranks.sum(ranks.rank, 5) == (1, 10)
        assert ranks.any_rank(ranks.rank == 1) and not ranks.any_rank(False)
        assert ranks.run_on_rank0(lambda: {"rank": ranks.rank}) == {"rank": 0}
        images = torch.full((2, 3, 4, 4), ranks.rank).contiguous(memory_format=torch.channels_last)
        point, flag = torch.full((5, 1, 1, 1), ranks.rank).to(memory_format=torch.channels_last), torch.tensor(ranks.rank > 0)
        ranks.broadcast_([images, point, flag])
        assert not any(tensor.any() for tensor in (images, point, flag))
        ranks.require_same("it", "text", images)
        try:
            ranks.require_same("it", "text", one + ranks.rank)
        except EdcompressError as error:
            Path(f"error of {ranks.rank}").write_text(str(error))
        destroy()
    """)
    )
    found = ended(torchrun(tmp_path, "script.py"))
    assert found.code == 0, found.err
    for rank in (0, 1):
        assert (tmp_path / f"error of {rank}").read_text() == "it differs between rank 0 and rank 1"


@pytest.mark.integration
def test_two_processes_find_the_plan_of_one(place: Path, process: Callable[..., Any]) -> None:
    exact = "precision=fp32"  # in bf16 the rounding is as large as the differences
    alone = process("prune", "plain.safetensors", *options("one", exact), cwd=place)
    both = ended(torchrun(place, *EDCOMPRESS, "prune", "plain.safetensors", *options("two", exact)))
    assert (alone.code, both.code) == (0, 0), both.err
    assert both.err.count("verification") == 1  # only rank 0 prints
    assert (place / "one" / "plan.json").read_bytes() == (place / "two" / "plan.json").read_bytes()
    one, two = (load_file(place / name / "pruned.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    reports = [RunFolder(place / name).read_report() for name in ("one", "two")]
    assert reports[0].dense == reports[1].dense


@pytest.mark.slow
def test_batch_norm_ends_the_same_on_all_ranks(dense: Path, place: Path) -> None:
    """The run itself compares the ranks' networks after each epoch, as the next test shows."""
    both = ended(torchrun(place, *EDCOMPRESS, "prune", dense, *options("run", factory="")))
    assert both.code == 0, both.err
    assert RunFolder(place / "run").finished


@pytest.mark.slow
def test_statistics_that_differ_between_ranks_are_found(place: Path) -> None:
    both = ended(torchrun(place, *EDCOMPRESS, "prune", "counting.safetensors", *options("run", factory="counting")))
    assert both.err.count("error: the network after epoch 1 differs between rank 0 and rank 1") == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(
            "bug", "error: rank 1 of 2: RuntimeError: a fault of one rank", marks=pytest.mark.integration, id="bug"
        ),
        pytest.param("kill", "Signal 9 (SIGKILL)", marks=pytest.mark.slow, id="kill"),
    ],
)
def test_a_fault_of_one_rank_ends_both_with_its_message(place: Path, fault: str, message: str) -> None:
    arguments = ("prune", "plain.safetensors", *options("run", factory="faulty"))
    both = ended(torchrun(place, *EDCOMPRESS, *arguments, FAULT=fault))
    assert both.code == 1  # torchrun's own
    assert both.err.count(message) == 1
    assert both.err.count("Traceback") == 1 + (fault == "bug")  # torchrun's, and the bug's
    assert RunFolder(place / "run").resumable


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gate", "run"), "edcompress gate runs in one process, not in 2"),
        (("prune", "plain.safetensors", *options("run", "target.macs=null", "target.max_top1_drop=0.1")), "max_top1_drop runs in one"),
        (("prune", "plain.safetensors", *options("run", "data.batch_size=3")), "2 ranks share a batch of 3 images"),
        (("prune", "gone.safetensors", *options("run")), "gone.safetensors"),
    ],
    ids=["verb", "accuracy", "batch", "checkpoint"],
)  # fmt: skip
def test_bad_input_is_reported_once_before_any_compute(place: Path, arguments: tuple[str, ...], message: str) -> None:
    both = ended(torchrun(place, *EDCOMPRESS, *arguments))
    assert both.code == 1
    assert both.err.count("error: ") == both.err.count(message) == 1
    assert "exitcode  : 2" in both.err
    assert not (place / "run").exists()


@pytest.mark.integration
def test_an_interrupted_run_resumes_to_the_same_result(place: Path) -> None:
    arguments = ("prune", "plain.safetensors", *options("whole", "search.epochs=12"))
    assert ended(torchrun(place, *EDCOMPRESS, *arguments)).code == 0
    arguments = (*arguments[:-1], "broken")
    started, log = torchrun(place, *EDCOMPRESS, *arguments), place / "broken" / "search.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    broken = ended(started)
    assert broken.err.count("interrupted: what was computed is saved") == 1
    assert not RunFolder(place / "broken").finished
    resumed = ended(torchrun(place, *EDCOMPRESS, *arguments, "--resume"))
    assert resumed.code == 0, resumed.err
    assert outcome(place / "broken") == outcome(place / "whole")
