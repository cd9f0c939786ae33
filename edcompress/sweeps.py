"""Several runs of one checkpoint, one per combination of settings, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edcompress.errors import InputError, RunFolderError
from edcompress.job import find_space, open_budget, plain_network
from edcompress.pipeline import export, prune, train
from edcompress.points import point_of, with_front
from edcompress.recipe import Recipe
from edcompress.recipebook import differences
from edcompress.report.page import render_sweep
from edcompress.reports import gate
from edcompress.results import Report, Sweep
from edcompress.runs import RunFolder, parsed, write_text
from edcompress.session import DEFAULT, Session

_OF_TRAINING = ("model.", "data.", "train.", "precision", "seed")
"""Keys, or the beginnings of keys, on which a dense network that is trained first depends."""


def sweep(
    recipes: Mapping[str, Recipe], folder: Path, checkpoint: Path | None = None, session: Session = DEFAULT
) -> Sweep:
    """Prune, export and gate the checkpoint's network (or one that is trained first) by each recipe; what came of them, side by side.

    Each is a run in `folder`, called as in `recipes`; one that is finished is only read, one that was begun goes on, so the same sweep
    can be called again. sweep.json and sweep.html are written after each. Every recipe is checked before the first run.
    """
    _require_same_sweep(folder, checkpoint)
    _check(recipes, session, trains=checkpoint is None)
    source = checkpoint or _trained(next(iter(recipes.values())), folder, session)
    reports: dict[str, Report] = {}
    for name, recipe in recipes.items():
        session.monitor.stage(f"point {len(reports) + 1} of {len(recipes)}: {name}")
        reports[name] = _finished(recipe, RunFolder(folder / name.replace("/", "_")), source, session)
        found = _side_by_side(reports)
        write_text(folder / "sweep.json", found.model_dump_json(indent=1) + "\n")
        write_text(folder / "sweep.html", render_sweep(found))
    return found


def _require_same_sweep(folder: Path, checkpoint: Path | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another folder with -o")
    if not (folder / "sweep.json").exists():
        return
    before = parsed(folder / "sweep.json", Sweep.model_validate_json, "choose another folder with -o")
    if checkpoint and checkpoint.name != before.checkpoint:
        raise RunFolderError(f"{folder} holds a sweep of {before.checkpoint}; choose another folder with -o")


def _check(recipes: Mapping[str, Recipe], session: Session, *, trains: bool) -> None:
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        other = [key for key in differences(first, recipe) if key.startswith(_OF_TRAINING)]
        if trains and other:
            raise InputError(
                f"{name}: without a checkpoint one network is trained for all points, but {', '.join(other)} differ"
            )
        network = plain_network(recipe, session)
        open_budget(recipe, network, find_space(recipe, network))


def _trained(recipe: Recipe, folder: Path, session: Session) -> Path:
    path = folder / "dense.safetensors"
    if not path.is_file():
        train(recipe, path, session=session)
    return path


def _finished(recipe: Recipe, folder: RunFolder, source: Path, session: Session) -> Report:
    report = prune(source, recipe, folder, resume=True, force=True, session=session)
    if report.pruned.latency_ms is None:
        export(folder, session=session)
    gate(folder, recipe.gate)
    return folder.read_report()


def _side_by_side(reports: Mapping[str, Report]) -> Sweep:
    points, first = [], next(iter(reports.values()))
    for name, report in reports.items():
        assert report.dense.latency_ms
        assert report.pruned.latency_ms
        assert report.verdict
        point = point_of(report, name, report.dense.latency_ms.p50, report.pruned.latency_ms.p50)
        points.append(point.model_copy(update={"passed": report.verdict.passed}))
    return Sweep(network=first.network, checkpoint=first.checkpoint, dense=first.dense, points=with_front(points))
