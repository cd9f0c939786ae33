"""The stages of `prune`: measure the dense network, search, surgery, fine-tuning, verification.

Each stage ends with a snapshot, and so does each epoch; a run goes on from the last one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from edcompress.data.splits import eval_batches, train_batches
from edcompress.errors import BudgetError, EdcompressError
from edcompress.job import Job
from edcompress.loggers import Logger
from edcompress.networks.modes import on_cpu
from edcompress.origin import Origin
from edcompress.recipe import Recipe
from edcompress.results import ModelResult, Proof, SearchSummary, Value
from edcompress.runs import RunFolder, parsed, write_text
from edcompress.search import edropout
from edcompress.search.alternation import Alternation, Figures
from edcompress.search.budget import Budget
from edcompress.search.controls import global_state, lamp, normalised, per_cost, uniform_state
from edcompress.search.gradual import Gradual
from edcompress.search.importance import magnitude, taylor, uniform_noise
from edcompress.search.regime import SearchRegime
from edcompress.snapshot import load_snapshot, save_snapshot
from edcompress.surgery.costs import measure_size
from edcompress.surgery.masks import masked_call, masked_weights
from edcompress.surgery.plan import Plan, composed, plan_of, state_of
from edcompress.surgery.remove import compare_logits, remove, require_equal
from edcompress.surgery.space import Space
from edcompress.training.batchnorm import reestimate
from edcompress.training.loop import Objective, Plain, Regime, Span, Trainer, train_epoch
from edcompress.training.schedule import make_optimizer

TAYLOR_BATCHES = 16
REESTIMATE_BATCHES = 50


class Measured(Value):
    """What the stages have found so far; it travels in the snapshots."""

    seconds: float = 0.0
    search_began: float = 0.0
    dense: ModelResult | None = None
    masked: ModelResult | None = None
    after_surgery: ModelResult | None = None
    masked_vs_pruned: Proof | None = None
    search: SearchSummary | None = None
    latency_share: float | None = None


@dataclass(frozen=True)
class Run:
    """A job with its run folder, and where it starts from."""

    job: Job
    folder: RunFolder
    origin: Origin
    started: float
    loggers: Sequence[Logger] = ()

    def clock(self, measured: Measured) -> Measured:
        """`measured` with the seconds up to now."""
        return measured.model_copy(update={"seconds": measured.seconds + time.monotonic() - self.started})

    def save(self, measured: Measured, tree: dict[str, Any]) -> None:
        """Write the snapshot from which the run can go on."""
        save_snapshot(self.folder.snapshot, {"measured": self.clock(measured).model_dump(mode="json"), **tree})


def last_snapshot(folder: RunFolder) -> tuple[Measured, dict[str, Any]] | None:
    """What the run in `folder` goes on from, or None when nothing has been saved yet."""
    if not folder.snapshot.is_file():
        return None
    tree = load_snapshot(folder.snapshot)
    return Measured.model_validate(tree.pop("measured")), tree


def measure_dense(run: Run) -> Measured:
    """Accuracy and size of the network as it came."""
    run.job.monitor.stage("dense network: accuracy on the test images")
    network = run.job.precision.place(on_cpu(run.origin.dense))
    dense = ModelResult(accuracy=run.job.accuracy(network), size=measure_size(run.origin.dense, run.job.example))
    return Measured(dense=dense, search_began=run.clock(Measured()).seconds)


def search(run: Run, measured: Measured, saved: dict[str, Any]) -> tuple[nn.Module, Tensor, Measured]:
    """The network as the search leaves it (on the CPU), the state bool[D] it found, and what was measured of it."""
    if not run.job.recipe.search.trains:
        state = chosen_once(run)
        return run.origin.network, state, _summarised(run, measured, epochs=0, generations=0, states=state.unsqueeze(0))
    network = run.job.precision.place(on_cpu(run.origin.network))
    with _generation_log(run.folder, saved.get("regime", {}).get("generation", 0)) as log:
        regime = _searching(run, network, log)
        epochs = _train(run, measured, regime, network, "search", saved)
        images, labels = next(iter(eval_batches(run.job.splits.search, run.job.recipe.data)))
        precision = run.job.precision
        state = regime.finish(precision.images(images), labels.to(precision.device))
    states = regime.snapshot()["states"]
    return (
        on_cpu(network),
        state,
        _summarised(run, measured, epochs=epochs, generations=regime.generation, states=states),
    )


def chosen_once(run: Run) -> Tensor:
    """The state bool[D] of a method that looks at the network once: a ranking under the budget, or a plan that was given."""
    recipe, network = run.job.recipe, run.origin.network
    space, budget = run.origin.space, run.origin.budget
    method = recipe.search.method
    if method == "plan":
        return given_state(recipe, space, budget)
    if method == "random":
        importance = uniform_noise(space, Generator().manual_seed(recipe.seed))
    elif method in ("taylor", "global_taylor"):
        batches = train_batches(run.job.splits.train, recipe.data, seed=recipe.seed, epoch=0)
        importance = taylor(space, on_cpu(network).to(run.job.precision.device), islice(batches, TAYLOR_BATCHES))
    else:
        importance = magnitude(space, network)
    share, limit = recipe.search.keep_probability, budget.target.fraction if budget.target else None
    if method in ("magnitude", "taylor", "random"):
        return uniform_state(space, budget, importance, share, limit)
    if method == "lamp":
        scores = lamp(space, importance)
    else:
        scores = per_cost(space, budget, importance) if method == "global_taylor" else normalised(space, importance)
    return global_state(space, budget, scores, share, limit)


def given_state(recipe: Recipe, space: Space, budget: Budget) -> Tensor:
    """The state bool[D] of the plan that the recipe names; an InputError where it is missing, damaged, of another network or dear."""
    assert recipe.search.plan is not None
    plan = parsed(recipe.search.plan, Plan.model_validate_json, "set search.plan to the plan.json of a finished run")
    state = state_of(plan, space)
    target = budget.target
    if target and (share := budget.share(budget.widths(state)).item()) > target.fraction:
        raise BudgetError(
            f"search.plan {recipe.search.plan} keeps {share:.4f} of the {target.kind}, more than "
            f"target.{target.kind} = {target.fraction:g}; raise the target, or set target to null"
        )
    return state


def operate(run: Run, network: nn.Module, state: Tensor, measured: Measured) -> tuple[nn.Module, Measured]:
    """The smaller network (CPU), proved equal to the masked one, with its batch-norm statistics estimated anew."""
    job = run.job
    job.monitor.stage("surgery: remove the channels, prove masked == pruned")
    plan = composed(run.origin.first, plan_of(state, run.origin.space))
    smaller, proof = _prove_masked(run, network, state)
    masked = ModelResult(accuracy=_masked_accuracy(run, network, state), size=measure_size(network, job.example))
    placed = job.precision.place(on_cpu(smaller))
    batches = train_batches(job.splits.train, job.recipe.data, seed=job.recipe.seed, epoch=0)
    reestimate(placed, islice(batches, REESTIMATE_BATCHES), job.precision)
    after = ModelResult(accuracy=job.accuracy(placed), size=measure_size(smaller, job.example))
    write_text(run.folder / "plan.json", plan.model_dump_json(indent=1) + "\n")
    update = {"masked": masked, "after_surgery": after, "masked_vs_pruned": proof}
    return on_cpu(placed), measured.model_copy(update=update)


def finetune(run: Run, network: nn.Module, measured: Measured, saved: dict[str, Any]) -> nn.Module:
    """The pruned network after fine-tuning, on the CPU in eval mode."""
    placed = run.job.precision.place(on_cpu(network))
    _train(run, measured, Plain(placed), placed, "finetune", saved)
    return on_cpu(placed)


def clear_state(folder: RunFolder) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(folder.snapshot.parent, ignore_errors=True)


def train_dense(job: Job, network: nn.Module) -> nn.Module:
    """The network trained from where it stands by the recipe's `train` section, on the CPU in eval mode."""
    fit = job.recipe.train
    placed = job.precision.place(network)
    trainer = Trainer(
        placed, make_optimizer(fit, placed.parameters()), Objective(fit), job.precision, Plain(placed), job.monitor.step
    )
    for epoch in range(fit.epochs):
        _epoch(job, trainer, "train", Span(epoch, fit.epochs, 0, fit.epochs))
    return on_cpu(placed)


def _train(run: Run, measured: Measured, regime: Regime, network: nn.Module, stage: str, saved: dict[str, Any]) -> int:
    """The epochs of a stage from where `saved` stands, with a snapshot after each; how many the stage took.

    A search that has settled ends early, and leaves its epochs to fine-tuning.
    """
    job, fit = run.job, run.job.recipe.finetune
    offset = measured.search.epochs if measured.search else 0
    epochs = job.recipe.total_epochs - offset if stage == "finetune" else job.recipe.search_epochs
    trainer = Trainer(
        network, make_optimizer(fit, network.parameters()), _objective(run), job.precision, regime, job.monitor.step
    )
    first = _restore(trainer, saved) if "optimizer" in saved else 0
    _shorten(run.folder / "epochs.jsonl", offset + first)
    for epoch in range(first, epochs):
        if regime.settled:
            job.monitor.stage(
                f"the search has converged after {epoch} of {epochs} epochs; the others go to fine-tuning"
            )
            return epoch
        figures = _epoch(job, trainer, stage, Span(epoch, epochs, offset, job.recipe.total_epochs))
        _log(run, stage, epoch, offset, figures)
        _require_finite(network)
        run.save(measured, {"stage": stage, "epoch": epoch + 1, **_capture(trainer)})
    return epochs


def _require_finite(network: nn.Module) -> None:
    """Raise EdcompressError when a weight is NaN or infinite, so that a snapshot is always one to go on from."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise EdcompressError(
                f"training diverged: {name} holds NaN or infinity; start over with --force and a lower finetune.lr"
            )


def _shorten(path: Path, count: int) -> None:
    """Leave the first `count` lines of a log, or make it: what an interrupted run wrote later is done again."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count] if count else []
    write_text(path, "".join(line + "\n" for line in lines))


def _log(run: Run, stage: str, epoch: int, offset: int, figures: dict[str, Any]) -> None:
    with (run.folder / "epochs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"phase": stage, "epoch": epoch, **figures}) + "\n")
    numbers = {f"{stage}/{name}": float(value) for name, value in figures.items() if value is not None}
    for logger in run.loggers:
        logger.log(numbers, offset + epoch)


def _epoch(job: Job, trainer: Trainer, phase: str, span: Span) -> dict[str, Any]:
    job.monitor.epoch(phase, span.epoch, span.epochs)
    number = span.offset + span.epoch
    batches = train_batches(job.splits.train, job.recipe.data, seed=job.recipe.seed, epoch=number)
    loss = train_epoch(trainer, batches, span, job.recipe.seed)
    accuracy = job.watched_accuracy(trainer.network, trainer.regime.forward).top1.fraction
    figures = {"loss": loss, "accuracy": accuracy, **trainer.regime.figures}
    job.monitor.epoch_done(figures)
    return figures


def _capture(trainer: Trainer) -> dict[str, Any]:
    tree = {"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    if isinstance(trainer.regime, SearchRegime):
        tree["regime"] = trainer.regime.snapshot()
    return tree


def _restore(trainer: Trainer, saved: dict[str, Any]) -> int:
    """Put network, optimizer and search back; the epoch to go on with."""
    trainer.network.load_state_dict(saved["network"])
    trainer.optimizer.load_state_dict(saved["optimizer"])
    if isinstance(trainer.regime, SearchRegime):
        trainer.regime.restore(saved["regime"])
    return int(saved["epoch"])


def _objective(run: Run) -> Objective:
    fit, precision = run.job.recipe.finetune, run.job.precision
    if fit.distill == 0:
        return Objective(fit)
    return Objective(fit, precision.place(on_cpu(run.origin.dense)))


def _searching(run: Run, network: nn.Module, log: Any) -> SearchRegime:
    recipe, origin = run.job.recipe, run.origin
    if recipe.search.method == "gradual_magnitude":
        return Gradual(network, origin.space, origin.budget, recipe.search)
    return Alternation(network, origin.space, origin.budget, recipe.search, precision=run.job.precision,
                       seed=recipe.seed, log=log)  # fmt: skip


@contextmanager
def _generation_log(folder: RunFolder, generation: int) -> Iterator[Any]:
    """Appends figures to search.jsonl, which first loses the lines after `generation` (of epochs that are trained again)."""
    path = folder / "search.jsonl"
    _shorten(path, generation)
    with path.open("a", encoding="utf-8") as file:

        def log(figures: Figures) -> None:
            file.write(json.dumps(figures) + "\n")
            file.flush()

        yield log


def _summarised(run: Run, measured: Measured, *, epochs: int, generations: int, states: Tensor) -> Measured:
    summary = SearchSummary(
        method=run.job.recipe.search.method,
        epochs=epochs,
        generations=generations,
        converged=edropout.converged(states),
        diversity=edropout.diversity(states),
        seconds=run.clock(measured).seconds - measured.search_began,
    )
    return measured.model_copy(update={"search": summary})


@torch.no_grad()
def _prove_masked(run: Run, network: nn.Module, state: Tensor) -> tuple[nn.Module, Proof]:
    space = run.origin.space
    smaller = remove(network, plan_of(state, space), space)
    images = run.job.proof_images
    masked = masked_call(network.eval(), space, state, images)
    of = f"masked and pruned network on {len(images)} images"
    return smaller, require_equal(compare_logits(masked, smaller.eval()(images), of))


def _masked_accuracy(run: Run, network: nn.Module, state: Tensor) -> Any:
    placed = run.job.precision.place(on_cpu(network))
    weights = masked_weights(placed, run.origin.space, state)
    return run.job.accuracy(placed, lambda images: torch.func.functional_call(placed, weights, (images,)))
