"""The verbs of edcompress as functions: each reads a run folder or a checkpoint, does one thing, and returns what it measured."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edcompress import stages
from edcompress.bindings import OF_PRUNING, records, require_as_written
from edcompress.claims import TRAINING, require_alike, unlike_images
from edcompress.data.transforms import as_told
from edcompress.delivery import Benchmark
from edcompress.deploy.archives import SUFFIXES, Form, save_archive
from edcompress.deploy.latency import measure_all, require_measurable
from edcompress.deploy.predictions import Predictions, predict, told_by
from edcompress.digests import Running
from edcompress.errors import InputError, NetworkError, RunFolderError
from edcompress.files import require_file_place, require_utf8
from edcompress.inspection import inspect_network
from edcompress.job import (
    Job,
    example_images,
    find_space,
    latency_table,
    memory_told,
    new_network,
    open_budget,
    open_job,
    open_provable_job,
    pick_device,
    plain_network,
    read_network,
    require_exportable,
)
from edcompress.measures import Accuracy, Latency, ModelResult, Proof
from edcompress.networks.checkpoints import save_tensors
from edcompress.onnx_files import CARD, VARIANTS, card, publish, without_onnx, write_onnx
from edcompress.origin import Origin, open_origin, read_saved, require_same_model, require_same_weights
from edcompress.progress import begun_with, recording
from edcompress.pruning import as_begun, begun, prune_once, reloaded, reserved, restate
from edcompress.recipe import Recipe
from edcompress.recipebook import changed_keys, check
from edcompress.report.sanity import alarms, at_chance
from edcompress.report.shipping import recommend
from edcompress.report.wording import disturbed
from edcompress.results import Images, Inspection, Report, Variant, readable
from edcompress.runs import FILES, UNFINISHED_EXPORTS, RunFolder, sole_writer, write_text
from edcompress.session import DEFAULT, Session
from edcompress.sizing import sized_for_training, with_batch_size
from edcompress.snapshot import load_snapshot, save_snapshot
from edcompress.team import ALONE
from edcompress.trials import smallest_within

_OF_ANOTHER_FORM = {".onnx", *SUFFIXES.values()}
"""How names of files end that `convert` gives to one form alone."""

_OF_THE_RUN = {name for name in FILES if not name.endswith((SUFFIXES["pt2"], SUFFIXES["torchscript"]))}
"""Files of a run that `convert` does not make."""


def prune(
    checkpoint: Path,
    recipe: Recipe,
    folder: RunFolder,
    *,
    resume: bool = False,
    force: bool = False,
    session: Session = DEFAULT,
) -> Report:
    """Compress the checkpoint's network as the recipe says into `folder`, and return the report.

    The checkpoint may be a finished run, which is then pruned further; ratios and figures stay those of the network it began with.
    Every input is checked before the folder is touched. With `resume` a run goes on from its last snapshot; one that is
    finished is only read. Raises InputError (and its kinds) for what the user gave, ProofError where an equality fails.
    """
    if not (resume and folder.exists) and folder.path.resolve() == checkpoint.resolve():
        raise RunFolderError(f"{folder.path} is the run to be pruned again; choose another run folder with -o")
    require_utf8(checkpoint)
    name = checkpoint.name
    if resume:
        recipe = session.team.from_first(partial(as_begun, recipe, folder))
        name = session.team.from_first(partial(_resumed, checkpoint, recipe, folder, session))
    begin = partial(_opened, checkpoint=checkpoint, session=session)
    if recipe.target and recipe.target.max_top1_drop is not None:
        if session.team.size > 1:
            raise InputError(
                "target.max_top1_drop runs in one process; start it without torchrun, or set another target"
            )
        return smallest_within(recipe, folder, begin, name, resume=resume, force=force, session=session)
    return prune_once(recipe, folder, begin, name, resume=resume, force=force, session=session)


def export(
    folder: RunFolder,
    *,
    opset: int | None = None,
    batch: int | str | None = None,
    fp16: bool | None = None,
    int8: bool | None = None,
    with_preprocessing: bool | None = None,
    session: Session = DEFAULT,
) -> Report:
    """Write dense.onnx and pruned.onnx of a finished run, prove pruned == ONNX, measure the files; the completed report.

    What is None is as the recipe's `export` says; fp16, int8 and with_preprocessing make further files of pruned.onnx. Raises
    InputError for values that cannot be, EdcompressError where a file cannot be made, ProofError where one is not equal; the run
    is then as it was, but for its log.
    """
    folder.require_finished("export")
    require_utf8(folder.path)
    asked = {"opset": opset, "batch": batch, "fp16": fp16, "int8": int8, "with_preprocessing": with_preprocessing}
    recipe = _exporting(folder.read_recipe(), asked)
    with folder.locked(), recording(folder, session.monitor, recipe, "export") as monitor:
        return _exported(folder, recipe, replace(session, device="cpu", monitor=monitor))


def _exported(folder: RunFolder, recipe: Recipe, session: Session) -> Report:
    report, job = folder.read_report(), open_provable_job(recipe, session)
    dense = read_saved(recipe, folder / "dense.safetensors", session)
    pruned = load(folder.path, trust_code=session.trust_code)
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=UNFINISHED_EXPORTS, ignore_cleanup_errors=True) as made:
        files, proofs = write_onnx(job, Path(made), report, {"dense": dense, "pruned": pruned})
        job.monitor.stage(f"latency in onnxruntime, {', '.join(files)} interleaved")
        latency = measure_all(files, recipe.timing)
        if warning := disturbed(chain.from_iterable(latency.values())):
            job.monitor.warning(warning)
        names = ", ".join(path.name for path in files.values())
        job.monitor.stage(f"accuracy of {names} on the test images, in onnxruntime")
        pixels = Running()
        found = predict(files, job.test_batches("test images", pixels), recipe.model.num_classes)
        about = {"tested_on": _tested_on(job, found["dense"], pixels), "untrained_head": recipe.model.reset_head}
        report = report.model_copy(update={**about, "classes": readable(job.splits.classes)})
        completed = _with_onnx(files, report, proofs, latency, found)
        for text in alarms(completed):
            job.monitor.alarm(text)
        bare = without_onnx(report)
        kept = {**bare.files, **records(sorted(Path(made).glob("*.onnx")))}
        completed = completed.model_copy(
            update={"ship": recommend(completed, recipe.gate), "files": kept, "limits": recipe.gate}
        )
        write_text(Path(made) / CARD, card(job, completed))
        publish(Path(made), folder, completed, bare)
    return completed


def run(
    recipe: Recipe,
    folder: RunFolder,
    checkpoint: Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    session: Session = DEFAULT,
) -> Report:
    """`prune`, then `export`, which the first rank alone does; without a checkpoint a dense network is trained first, by the recipe's
    `train` section."""
    begins = not (resume and folder.exists)
    require_measurable(recipe.timing)
    if begins:
        network = plain_network(recipe, session)
        require_exportable(recipe, network)
    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint is None:
            checkpoint = Path(scratch) / "dense.safetensors"  # as the run folder calls it
            if begins:
                open_provable_job(recipe, session)
                table = latency_table(recipe, network, session.team)
                open_budget(recipe, network, find_space(recipe, network), table)  # else a bad budget costs a training
                with reserved(folder, force=force, team=session.team):
                    train(recipe, checkpoint, session=session)
                force = True
        report = prune(checkpoint, recipe, folder, resume=resume, force=force, session=session)
    if not session.team.first:
        return report
    restate(folder, recipe)  # a run that was finished before is exported and gated as is said now
    return export(folder, session=replace(session, team=ALONE))


def evaluate(model: Path, recipe: Recipe, session: Session = DEFAULT, *, ignore_metadata: bool = False) -> Accuracy:
    """Top-1 and top-5 on the recipe's test images of a checkpoint, a run folder, or an .onnx file, in fp32, and float16 in float16.

    Raises InputError where the model says that it is for other classes or other preprocessing, unless `ignore_metadata`, and where it
    gives another number of logits than the recipe has classes.
    """
    job = open_job(recipe, session)
    require_alike(model, recipe, job.splits.classes, session.monitor, ignored=ignore_metadata)
    if model.suffix.lower() == ".onnx":
        batches = job.test_batches(model.name, as_pixels=told_by(model).takes_pixels)
        accuracy = predict({"": model}, batches, recipe.model.num_classes)[""].accuracy
    else:
        network = _network_of(model, recipe, session)
        with memory_told(recipe, "lower data.eval_batch_size, or take --device cpu"):
            accuracy = job.accuracy(network.to(job.precision.device))
    if text := at_chance(accuracy, str(model)):
        session.monitor.alarm(text)
    return accuracy


def train(
    recipe: Recipe, output: Path, *, resume: bool = False, force: bool = False, session: Session = DEFAULT
) -> Accuracy:
    """Train the recipe's network from random weights, save it to `output` (.safetensors), and return its test accuracy.

    Until it ends, `unfinished(output)` holds what it has trained, from which it goes on with `resume`, to the same network bit for bit.
    Raises InputError (and its kinds) for what the user gave.
    """
    require_file_place(output, "-o", ".safetensors")
    if output.suffix != ".safetensors":
        raise InputError(
            f"-o {output}: the checkpoint is written as safetensors; name it {output.with_suffix('.safetensors')}"
        )
    with sole_writer(output, unfinished(output)):
        if not (resume or force):
            _require_untrained(output)
        return _trained(recipe, output, resume=resume, session=session)


def _trained(recipe: Recipe, output: Path, *, resume: bool, session: Session) -> Accuracy:
    kept = unfinished(output)
    about = {"edcompress.recipe": recipe.digest, TRAINING: json.dumps(recipe.of_training)}
    asked = {**recipe.of_training, "compile": recipe.compile}
    saved: dict[str, Any] = {}
    if resume:
        saved = _saved_training(kept, asked)
        recipe = with_batch_size(recipe, saved["batch_size"])
    job, network = open_job(recipe, session), new_network(recipe, session)
    with memory_told(recipe, "lower data.batch_size and data.eval_batch_size, or end other processes on it"):
        job = sized_for_training(job, network)
        of = {"recipe": asked, "batch_size": job.recipe.data.batch_size}
        network = stages.train_dense(job, network, saved=saved, save=lambda tree: save_snapshot(kept, {**of, **tree}),
                                     interrupt=session.interrupt)  # fmt: skip
        save_tensors(output, network.state_dict(), about)
        accuracy = job.accuracy(network.to(job.precision.device))
    if text := at_chance(accuracy, str(output)):
        session.monitor.alarm(text)
    kept.unlink(missing_ok=True)
    return accuracy


def _require_untrained(output: Path) -> None:
    """Raise InputError where a training would replace the file of another, or what it has trained so far."""
    kept = unfinished(output)
    if kept.exists():
        raise InputError(
            f"{kept} is of a training that was interrupted; go on with --resume, or start over with --force"
        )
    if output.exists():
        raise InputError(f"{output} exists; choose another with -o, or overwrite it with --force")


def unfinished(output: Path) -> Path:
    """The file beside `output` that holds what `train` has trained so far."""
    return output.parent / f"{output.name}.unfinished"


def _saved_training(kept: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted training goes on from; an InputError where there is nothing, or something of another training."""
    if not kept.exists():
        raise InputError(f"--resume: there is no {kept}; leave --resume away to begin a training")
    saved = load_snapshot(kept)
    if changed := changed_keys(saved["recipe"], asked):
        raise InputError(
            f"--resume: {kept} was begun with another {', '.join(changed)}; go on with what it was begun with, or delete it to start over"
        )
    return saved


def inspect(
    model: Path | None, recipe: Recipe, session: Session = DEFAULT, *, onnx_latency: bool = False
) -> Inspection:
    """What of the network of a checkpoint, a run folder or the recipe alone can be pruned, and what is locked and why.

    Nothing is trained and no data is read.
    With `onnx_latency` the network is exported, and each layer's share of the time in onnxruntime measured.
    """
    network = plain_network(recipe, session) if model is None else _network_of(model, recipe, session)
    return inspect_network(network, recipe, onnx_latency=onnx_latency)


def benchmark(models: Sequence[Path], options: Benchmark) -> dict[str, tuple[Latency, ...]]:
    """Latency of .onnx files, or of a run's pair, from interleaved calls: by path, at every setting; speed-ups are over the first file.

    A file that is given twice is measured twice, as "FILE" and "FILE (2)". Raises InputError for a file that cannot be opened, and for
    inputs that cannot be made up.
    """
    pairs = ([model / "dense.onnx", model / "pruned.onnx"] if model.is_dir() else [model] for model in models)
    files: dict[str, Path] = {}
    for path in chain.from_iterable(pairs):
        times = 1 + list(files.values()).count(path)
        files[str(path) if times == 1 else f"{path} ({times})"] = path
    return measure_all(files, options)


def load(folder: Path | str, device: str = "cpu", *, trust_code: bool = False) -> nn.Module:
    """The pruned network of a run, in eval mode: the dense network is built, the plan replayed, the tensors loaded."""
    run, where = RunFolder(Path(folder)), pick_device(device)
    require_utf8(run.path)
    run.require_finished("load")
    recipe = run.read_recipe()
    dense = plain_network(recipe, Session(trust_code=trust_code))
    return reloaded(run, dense).to(where)


def convert(
    folder: RunFolder, form: Form, output: Path | None = None, *, force: bool = False, session: Session = DEFAULT
) -> tuple[Path, Proof]:
    """Write the pruned network of a finished run as pt2, torchscript or safetensors; the file, and the proof that it is equal.

    The default file is pruned.pt2, pruned.torchscript.pt or, outside the run that has one already, NAME.safetensors.
    """
    folder.require_finished("convert")
    if form not in SUFFIXES:
        raise InputError(f"--to {form}: choose {', '.join(SUFFIXES)}")
    if output is None:
        output = (
            Path(f"{folder.path.resolve().name}.safetensors")
            if form == "safetensors"
            else folder / f"pruned{SUFFIXES[form]}"
        )
    if output.suffix.lower() in _OF_ANOTHER_FORM - {SUFFIXES[form]}:
        raise InputError(
            f"-o {output}: it would hold {form}; name it {output.with_suffix(SUFFIXES[form])}, or choose another --to "
            "(for ONNX: edcompress export --onnx)"
        )
    require_file_place(output, "-o")
    if output.exists() and not force:
        raise InputError(f"{output} exists; choose another with -o, or overwrite it with --force")
    if output.name in _OF_THE_RUN and output.parent.resolve() == folder.path.resolve():
        raise InputError(f"-o {output}: the run needs this file of its own; choose another name")
    if not output.parent.is_dir():
        raise InputError(f"-o {output}: there is no folder {output.parent}")
    told = folder.read_report().files
    require_as_written(folder, {name: told[name] for name in OF_PRUNING if name in told})
    elsewhere = not output.resolve().is_relative_to(folder.path.resolve())
    # Who locks a run next takes an unfinished file in it for that of a process that was killed.
    with nullcontext() if elsewhere and not folder.writable else folder.locked():
        network = load(folder.path, trust_code=session.trust_code)
        return output, save_archive(network, example_images(folder.read_recipe()), output, form)


def _opened(recipe: Recipe, checkpoint: Path, session: Session, images: Tensor) -> Origin:
    """The run's origin; who wants a file for onnxruntime should not learn after the search that there will be none."""
    origin = open_origin(recipe, checkpoint, session, images)
    if session.team.first:
        if found := list(unlike_images(checkpoint, recipe)):
            session.monitor.alarm(
                f"{checkpoint} was made with other preprocessing than the recipe's: {'; '.join(found)}"
            )
        try:
            require_exportable(recipe, origin.dense)
        except NetworkError as error:
            session.monitor.warning(f"{error}; it is pruned, and `edcompress export` will refuse it")
    return origin


def _resumed(checkpoint: Path, recipe: Recipe, folder: RunFolder, session: Session) -> str:
    """The name of the checkpoint that the run was begun with; the one that is given, where it is there, has to hold the same weights."""
    itself = checkpoint.resolve() == folder.path.resolve()
    if begun(folder, recipe) and checkpoint.exists() and not itself:
        require_same_weights(folder, checkpoint, session)
    return begun_with(folder) or checkpoint.name


def _network_of(model: Path, recipe: Recipe, session: Session) -> nn.Module:
    """The network of a checkpoint, or what a run has left of one."""
    if not model.is_dir():
        return read_network(recipe, model, session)
    network = load(model, trust_code=session.trust_code)
    require_same_model(RunFolder(model), recipe)
    return network


def _exporting(recipe: Recipe, asked: dict[str, Any]) -> Recipe:
    """The recipe with what is asked of the export."""
    tree = recipe.model_dump(mode="json")
    tree["export"] |= {key: value for key, value in asked.items() if value is not None}
    return check(tree, "export")


def _with_onnx(
    files: dict[str, Path],
    report: Report,
    proofs: dict[str, Proof],
    latency: dict[str, tuple[Latency, ...]],
    found: dict[str, Predictions],
) -> Report:
    def completed(result: ModelResult, name: str) -> ModelResult:
        first, *more = latency[name]
        update = {
            "size": result.size.model_copy(update={"onnx_bytes": files[name].stat().st_size}),
            "latency_ms": first,
            "more_latency_ms": tuple(more),
            "onnx_accuracy": found[name].accuracy,
            "recalls": found[name].recalls(len(report.classes)),
            "paired": None if name == "dense" else found[name].beside(found["dense"]),
        }
        return result.model_copy(update=update)

    return report.model_copy(
        update={
            "dense": completed(report.dense, "dense"),
            "pruned": completed(report.pruned, "pruned"),
            "proof": report.proof.model_copy(
                update={
                    "dense_vs_onnx": proofs["dense"],
                    "pruned_vs_onnx": proofs["pruned"],
                    "onnx_vs_pixels": proofs.get("pixels"),
                }
            ),
            "variants": {
                name: Variant(file=files[name].name, measured=completed(report.pruned, name), parity=proofs[name])
                for name in files
                if name in VARIANTS
            },
            "verdict": None,
        }
    )


def _tested_on(job: Job, found: Predictions, pixels: Running) -> Images:
    data = job.recipe.data
    return Images(
        dataset=data.dataset,
        count=len(found.labels),
        labels_sha256=hashlib.sha256(found.labels.numpy().tobytes()).hexdigest()[:16],
        pixels_sha256=pixels.words,
        preprocessing=as_told(data, job.splits.channels),
    )
