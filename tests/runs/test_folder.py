import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

import edcompress
from edcompress.core.errors import InputError, RecipeError, RunFolderError, StorageError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.system import files
from edcompress.core.system.files import append
from edcompress.core.system.tensor_files import save_tensors
from edcompress.runs import finding
from edcompress.runs.folder import FILES, RunFolder
from edcompress.workflows import gate, reporting

NONSENSE = (b"", b"null\n", b"[]\n", b'"text"\n', b"{}\n", b'{"groups": 3}\n', b'{"groups": [null]}\n', b"[1, 2]\n",
            b"\xff\xfe\x00", b"[" * 100_000)  # fmt: skip


def started(path: Path, age_s: float = 0.0) -> RunFolder:
    """Return a run folder with a recipe that was written `age_s` seconds ago."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(dump(read_recipe("digits")))
    stamp = os.stat(path / "recipe.yaml").st_mtime - age_s
    os.utime(path / "recipe.yaml", (stamp, stamp))
    return RunFolder(path)


def test_force_clears_the_files_of_a_run_and_no_others(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(force=False)
    for name in (*FILES, "notes.txt"):
        (folder.path / name).write_text("x")
    for file in (folder.next_checkpoint(), folder.tensorboard / "events.out.tfevents.1"):
        file.parent.mkdir()
        file.write_text("x")
    with pytest.raises(RunFolderError, match=r"exists; continue with --resume, start over with --force"):
        folder.create(force=False)
    assert len(list(folder.path.iterdir())) == len(FILES) + 3
    folder.create(force=True)
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == ["notes.txt", "state"]
    assert list(folder.state.iterdir()) == []


def test_force_clears_only_folders_of_runs(tmp_path: Path) -> None:
    """For example with `-o . --force`."""
    for name, listed in (
        ("trials/protocol.txt", "trials/"),
        ("recipe.yaml", "recipe.yaml"),
        ("report.html", "report.html"),
        ("pruned.onnx", "pruned.onnx"),
        ("report.json", "report.json"),
    ):
        folder = tmp_path / name.replace("/", "-")
        kept = folder / name
        kept.parent.mkdir(parents=True)
        kept.write_text("mine")
        with pytest.raises(
            RunFolderError, match=rf"contains {listed} but no run, and --force would remove it; choose another"
        ):
            RunFolder(folder).create(force=True)
        assert kept.read_text() == "mine"


def test_another_programs_unfinished_files_are_left_alone(tmp_path: Path) -> None:
    for name in (".movie.part", ".report.json.12.345.part"):
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path).locked():
        assert [path.name for path in tmp_path.glob("*.part")] == [".movie.part"]


def test_tensor_files_have_the_permissions_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_is_refused_as_run_folder_and_as_its_parent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file").create(force=True)
    with pytest.raises(RunFolderError, match="cannot be used as run folder: Not a directory"):
        RunFolder(tmp_path / "file" / "run").create(force=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a.json", "new \ud800")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder cannot be written: Is a directory; a folder is in its place"):
        files.write_text(tmp_path / "folder", "text")
    assert (tmp_path / "a.json").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "folder"}


def test_only_the_files_of_the_design_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"model\.pkl is not a file of a run folder"):
        RunFolder(tmp_path) / "model.pkl"


def test_newest_is_the_run_started_last(tmp_path: Path) -> None:
    started(tmp_path / "old", age_s=100)
    started(tmp_path / "young", age_s=10)
    started(tmp_path / "older", age_s=1000)
    (tmp_path / "no_run").mkdir()
    assert finding.newest(tmp_path).path == tmp_path / "young"
    for name, of, age in (
        ("old", "old", 100),
        ("old-2", "old", 50),
        ("old-3", "old-3", 10),
        ("old-fashioned", "old", 1),
    ):
        (started(tmp_path / "named" / name, age) / "recipe.yaml").write_text(
            dump(read_recipe("digits", [f"name={of}"]))
        )
        os.utime(tmp_path / "named" / name / "recipe.yaml", (time.time() - age,) * 2)
    assert finding.newest(tmp_path / "named", "old").path == tmp_path / "named" / "old-2"
    assert finding.newest(tmp_path / "named", "old-3").path == tmp_path / "named" / "old-3"
    with pytest.raises(RunFolderError, match=r"no run of r\[20\] under .*; name one"):
        finding.newest(tmp_path, "r[20]")
    with pytest.raises(RunFolderError, match="start one with: edcompress prune"):
        finding.newest(tmp_path / "young")


def test_fresh_takes_the_first_free_name(tmp_path: Path) -> None:
    assert finding.fresh("r20", tmp_path).path == tmp_path / "r20"
    started(tmp_path / "r20")
    (tmp_path / "r20-2").write_text("a file is in the way as well")
    assert finding.fresh("r20", tmp_path).path == tmp_path / "r20-3"


def test_a_run_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    with pytest.raises(
        RunFolderError, match=r"has not finished pruning, which export needs; .*--recipe .*recipe.yaml -o .*--resume"
    ):
        folder.require_finished("export")
    with pytest.raises(RunFolderError, match=r"no run folder .*nothing; .* contains run"):
        RunFolder(tmp_path / "nothing").require_finished("export")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder(tmp_path).require_finished("export")
    assert (folder.exists, folder.finished) == (True, False)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "Invalid JSON"), (b"{}", "recipe: Field required"), (b"\xff\xfe", "not UTF-8")],
)  # fmt: skip
def test_a_broken_report_names_the_file_and_the_fault(finished: Path, content: bytes, word: str) -> None:
    (finished / "report.json").write_bytes(content)
    with pytest.raises(RunFolderError, match="is not a report of edcompress") as caught:
        edcompress.gate(RunFolder(finished))
    assert str(finished / "report.json") in str(caught.value)
    assert word in str(caught.value)


def test_a_report_of_a_different_version_is_not_called_broken(finished: Path) -> None:
    (finished / "report.json").write_text('{"schema_version": 2}')
    with pytest.raises(
        RunFolderError,
        match=r"report\.json has schema_version 2, which this version cannot read; use",
    ):
        edcompress.gate(RunFolder(finished))


def test_a_broken_recipe_in_a_run_is_a_recipe_error(finished: Path) -> None:
    (finished / "recipe.yaml").write_text("model: {arch: [")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: not valid YAML"):
        RunFolder(finished).read_recipe()


def test_the_gates_verdict_is_saved_in_report_and_page(finished: Path) -> None:
    folder = RunFolder(finished)
    verdict = edcompress.gate(folder, gate.limits_of(folder, {"min_speedup": 1000.0, "max_top1_drop": 1.0}))
    assert not verdict.passed
    assert folder.read_report().verdict == verdict
    assert edcompress.gate(
        finished / "report.json", gate.limits_of(folder, {"min_speedup": 1e-3, "max_top1_drop": 1.0})
    ).passed
    assert folder.read_report().verdict == verdict  # a report.json alone is only read


@pytest.mark.parametrize("name", ["plan.json", "search.jsonl"])
def test_a_damaged_file_of_a_run_is_named(finished: Path, name: str) -> None:
    (finished / name).write_text('{"x":')
    with pytest.raises(RunFolderError, match=f"{name} is missing or damaged"):
        reporting.render(RunFolder(finished))


def test_a_damaged_plan_is_reported_in_one_line(finished: Path) -> None:
    (finished / "plan.json").write_text('{"groups": [{"name": 1}]}')
    with pytest.raises(RunFolderError) as caught:
        edcompress.load(finished)
    assert str(caught.value) == (
        f"{finished / 'plan.json'} is missing or damaged (groups.0.name: Input should be a valid string); prune again with --force"
    )


@pytest.mark.parametrize("name", ["space.json", "plan.json", "search.jsonl", "report.json", "pruned.safetensors"])
def test_a_file_of_a_run_that_is_cut_or_nonsense_is_named(cli, finished: Path, name: str) -> None:
    whole = (finished / name).read_bytes()
    for content in (whole[: len(whole) // 3], whole[: len(whole) * 9 // 10], *NONSENSE):
        (finished / name).write_bytes(content)
        if name in ("space.json", "pruned.safetensors"):
            with pytest.raises(InputError, match=name):
                edcompress.load(finished)
        else:
            ended = cli("report", finished)
            assert ended.code == (0 if (name, content) == ("search.jsonl", b"") else 2), (content[:40], ended)
            assert ended.code == 0 or str(finished / name) in ended.err


@pytest.mark.parametrize("name", ["recipe.yaml", "plan.json", "search.jsonl", "report.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(cli, finished: Path, name: str) -> None:
    (finished / name).unlink()
    os.mkfifo(finished / name)
    ended = cli("report", finished)
    assert ended.code == 2
    assert name in ended.err or "has not finished pruning" in ended.err


def test_a_finished_run_without_its_network_gets_the_right_advice(cli, dense: Path, finished: Path) -> None:
    (finished / "pruned.safetensors").unlink()
    resumed = ("prune", dense, "--recipe", finished / "recipe.yaml", "-o", finished, "--resume")
    for command in (("gate", finished), ("report", finished), ("export", finished), resumed):
        ended = cli(*command)
        fix = f"{finished / 'pruned.safetensors'} is missing; prune again with --force"
        assert (ended.code, fix in ended.err) == (2, True), ended.err


@pytest.mark.parametrize(
    "name",
    ["log.jsonl", "recipe.yaml", "dense.onnx", ".lock", "state", "trials", "tensorboard", ".export-x", "state/snapshot-1.safetensors",
     "trials/1-macs=0.5", "trials/1-macs=0.5/log.jsonl"],
)  # fmt: skip
def test_a_link_among_a_runs_files_is_refused_by_name(tmp_path: Path, name: str) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    (victim / "bashrc").write_text("mine")
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(victim if "." not in name or name.endswith(("-x", "0.5")) else victim / "bashrc")
    with (
        pytest.raises(RunFolderError, match=re.escape(f"{run / name} is a symbolic link, but a run writes only to")),
        RunFolder(run).locked(),
    ):
        pytest.fail("the run was opened for writing")
    assert [path.name for path in victim.iterdir()] == ["bashrc"]
    assert (victim / "bashrc").read_text() == "mine"


def test_a_pipe_among_a_runs_files_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(RunFolderError, match=r"log\.jsonl is a device, pipe or socket"), RunFolder(tmp_path).locked():
        pytest.fail("the run was opened for writing")


def test_the_folder_of_a_run_may_be_a_link_but_a_dangling_link_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "run").symlink_to("there")
    with RunFolder(tmp_path / "run").locked():
        assert (tmp_path / "there" / ".lock").exists()
    (tmp_path / "there" / "log.jsonl").symlink_to(tmp_path / "new")
    with pytest.raises(RunFolderError, match="symbolic link"), RunFolder(tmp_path / "run").locked():
        pytest.fail("the run was opened for writing")


def test_a_line_is_appended_through_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    append(tmp_path / "log", "one")
    append(tmp_path / "log", "two")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "dangling").symlink_to("new")
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("link", "symbolic link"), ("dangling", "symbolic link"), ("pipe", "pipe or socket")):
        with pytest.raises(StorageError, match=f"{name} cannot be written: .*a {says} is in its place; delete"):
            append(tmp_path / name, "three")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(StorageError, match="a pipe or socket is in its place"):
        append(tmp_path / "pipe", "three")
    os.close(reader)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert not (tmp_path / "new").exists()


def test_an_export_into_a_received_folder_writes_nothing_where_its_links_lead(cli, finished: Path) -> None:
    victim = finished.with_name("bashrc")
    victim.write_text("mine")
    (finished / "log.jsonl").unlink()
    (finished / "log.jsonl").symlink_to(victim)
    for command in (("export", finished), ("gate", finished), ("report", finished)):
        ended = cli(*command)
        assert (ended.code, f"{finished / 'log.jsonl'} is a symbolic link" in ended.err) == (2, True), ended
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(("dataset", "orientation"), [("image_folder", "ignore"), ("digits", "apply")])
def test_a_run_of_a_version_that_read_image_files_as_stored_still_does(
    tmp_path: Path, dataset: str, orientation: str
) -> None:
    recipe = read_recipe("digits", [f"data.dataset={dataset}"])
    lines = dump(recipe).splitlines()
    assert sum("exif_orientation: apply" in line for line in lines) == 1
    (tmp_path / "recipe.yaml").write_text("\n".join(line for line in lines if "exif_orientation" not in line))
    assert RunFolder(tmp_path).read_recipe().data.exif_orientation == orientation
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert RunFolder(tmp_path).read_recipe() == recipe


def test_a_report_of_30_gigabytes_is_named_and_hides_no_other_run(cli, tmp_path: Path) -> None:
    for name in ("good", "vast"):
        started(tmp_path / name)
    with (tmp_path / "vast" / "report.json").open("wb") as file:
        file.truncate(30 * 2**30)  # a hole: it takes no disk space
    with pytest.raises(
        RunFolderError, match=r"report\.json: it has 32212254720 bytes, and a run's files have at most 100000000"
    ):
        RunFolder(tmp_path / "vast").read_report()
    listed = cli("runs", tmp_path, "--json")
    assert listed.code == 0
    assert {Path(run["run"]).name: run["state"] for run in json.loads(listed.out)} == {
        "good": "unknown",
        "vast": "damaged",
    }


def test_a_limit_on_open_files_is_reported(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        with pytest.raises(
            StorageError, match=r"log cannot be written: Too many open files; raise the limit .*ulimit -n"
        ):
            append(tmp_path / "log", "line")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
