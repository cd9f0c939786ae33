"""A gate over a run folder is one over its files: what is not of the report is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

import edcompress
from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.results.report import Report
from edcompress.runs.file_records import records
from edcompress.runs.folder import RunFolder

LIMITS = Gate(max_top1_drop=0.01)
TEXT = '{"groups": []}'
FILES = ("dense.onnx", "pruned.onnx", "pruned.safetensors", "plan.json")


@pytest.fixture
def run(content: dict[str, Any], tmp_path: Path) -> RunFolder:
    """Return a finished run whose report records its files and its recipe; the files have little content."""
    folder, recipe = RunFolder(tmp_path / "run"), read_recipe("digits")
    folder.path.mkdir()
    (folder / "recipe.yaml").write_text(dump(recipe))
    for name in FILES:
        (folder / name).write_text(TEXT)
    for name in ("dense", "pruned"):
        content[name]["size"]["onnx_bytes"] = len(TEXT)
    report = Report.model_validate(content).model_copy(
        update={"files": records(folder / name for name in FILES), "settings": recipe.pruning_settings}
    )
    (folder / "report.json").write_text(report.model_dump_json())
    return folder


def rewritten(run: RunFolder, **changes: Any) -> None:
    report = run / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | changes))


def test_a_verdict_says_whether_the_files_were_checked(run: RunFolder) -> None:
    assert edcompress.gate(run, LIMITS).files == "checked"
    assert edcompress.gate(run / "report.json", LIMITS).files.startswith("not checked: a report.json alone was given")
    assert "files: checked" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_replaces_a_measured_one_is_refused_by_name(run: RunFolder, name: str) -> None:
    fix = "run `edcompress export .*run --onnx` again" if name.endswith(".onnx") else "prune again with --force"
    (run / name).write_text('{"groups": [] }')
    with pytest.raises(RunFolderError, match=rf"{name} is not the file .* \(15 bytes, not 14\); .*{fix}"):
        edcompress.gate(run, LIMITS)
    (run / name).write_text('{"groups":[ ]}')
    with pytest.raises(RunFolderError, match=rf"{name} is not the file .* \(sha256 .*\); .*{fix}"):
        edcompress.gate(run, LIMITS)


def test_a_missing_file_is_refused_by_name(run: RunFolder) -> None:
    (run / "dense.onnx").unlink()
    with pytest.raises(RunFolderError, match=r"dense\.onnx is missing, but report\.json lists it; run `edcompress"):
        edcompress.gate(run, LIMITS)


def test_a_report_of_a_different_recipe_is_refused_with_the_keys(run: RunFolder) -> None:
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    for key, allowed in (("macs: 0.5", "macs: 0.25"), ("arch: resnet8", "arch: resnet20")):
        recipe.write_text(text.replace(key, allowed))
        name = key.partition(":")[0]
        with pytest.raises(RunFolderError, match=rf"of different recipes: .*\.{name} was .* and is .*; put back"):
            edcompress.gate(run, LIMITS)
    free = text.replace("min_speedup: 1.0", "min_speedup: 1.1").replace("root: null", "root: elsewhere")
    recipe.write_text(free.replace("batch_size: 8", "batch_size: 1").replace("name: digits", "name: other"))
    assert recipe.read_text() != text
    assert edcompress.gate(run, LIMITS).files == "checked"


def test_keys_that_only_one_version_knows_are_not_compared(run: RunFolder) -> None:
    settings = json.loads((run / "report.json").read_text())["settings"]
    del settings["search"]["epochs"]
    rewritten(run, settings=settings | {"of_a_version_before": 1})
    assert edcompress.gate(run, LIMITS).files == "checked"


def test_reports_of_earlier_versions_are_judged_and_called_unchecked(run: RunFolder) -> None:
    rewritten(run, settings=None)
    assert edcompress.gate(run, LIMITS).files.startswith("checked; the recipe is not")
    rewritten(run, settings=None, files={})
    (run / "pruned.onnx").write_text("garbage")
    assert "export" in edcompress.gate(run, LIMITS).files
    assert edcompress.gate(run, LIMITS).files.startswith("not checked: an earlier version")


def test_a_baselines_folder_is_compared_with_its_report_too(
    run: RunFolder, content: dict[str, Any], tmp_path: Path
) -> None:
    now = tmp_path / "now.json"
    now.write_text(json.dumps(content))
    assert edcompress.gate(now, LIMITS, baseline=run).passed
    (run / "pruned.onnx").unlink()
    with pytest.raises(RunFolderError, match=r"pruned\.onnx is missing"):
        edcompress.gate(now, LIMITS, baseline=run)


@pytest.mark.parametrize("name", ["../pruned.onnx", "/etc/hostname", "state/x"])
def test_names_that_lead_out_of_the_folder_are_refused(run: RunFolder, name: str) -> None:
    rewritten(run, files={name: {"sha256": "0", "bytes": 1}})
    with pytest.raises(RunFolderError, match="is not a report of edcompress: files"):
        edcompress.gate(run, LIMITS)


def test_weights_that_the_report_does_not_list_are_not_converted(run: RunFolder, tmp_path: Path) -> None:
    (run / "pruned.safetensors").write_text("another's")
    with pytest.raises(
        RunFolderError, match=r"pruned\.safetensors is not the file that this run wrote \(9 bytes, not 14\)"
    ):
        edcompress.convert(run, "pt2", tmp_path / "pruned.pt2")
