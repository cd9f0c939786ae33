"""Recipes: what a run shall do, as one frozen tree. `edcompress.recipes` finds, merges and checks the files.

Each field's description is its help text and its comment in the starter file (`edcompress init`).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edcompress.delivery import SPEEDUP_LEVEL, Benchmark, Export, Gate
from edcompress.section import Fraction, Section, Unit
from edcompress.sources import Data, Model

TRAINED_PER_SCORED = 16
"""Images that train for each that scores states, where a recipe does not say how often: a step costs about a third more."""

Energy = Literal["margin", "normalised", "cross_entropy"]
TargetKind = Literal["macs", "params", "channels", "latency"]


class Target(Section):
    """How small the network shall become: one fraction of the dense network, of one kind, or how much accuracy it may lose."""

    macs: Fraction | None = Field(None, description="share of the multiply-accumulates to keep at most")
    params: Fraction | None = Field(None, description="share of the parameters to keep at most")
    channels: Fraction | None = Field(None, description="share of the prunable channels to keep at most")
    latency: Fraction | None = Field(
        None, description="share of the median time in onnxruntime, measured as `benchmark` says"
    )
    latency_ms: float | None = Field(None, gt=0.0, description="the median time in onnxruntime, in milliseconds")
    max_top1_drop: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="the smallest network within this drop of top-1 (absolute) on the held-out images, found by trials",
    )
    trials: int = Field(5, ge=1, le=12, description="max_top1_drop only: networks that are pruned and fine-tuned")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = {name: value for name, value in self if value is not None and name != "trials"}
        if len(given) != 1:
            what = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            names = ", ".join(name for name in Target.model_fields if name != "trials")
            raise ValueError(f"give exactly one of {names}, not {what}; drop one with --set target.NAME=null")
        return self

    @property
    def kind(self) -> TargetKind:
        """Of what a share was asked for; a drop of accuracy has none."""
        assert self.max_top1_drop is None
        kinds: tuple[TargetKind, ...] = ("macs", "params", "channels")
        return next((kind for kind in kinds if getattr(self, kind) is not None), "latency")

    @property
    def fraction(self) -> float:
        """The share of the dense network to keep, in (0, 1]; a target in milliseconds has one once the network was measured."""
        value = getattr(self, self.kind)
        assert isinstance(value, float), "Target.of_dense gives milliseconds their share"
        return value

    def of_dense(self, milliseconds: float) -> Target:
        """The target as a share, for a dense network that takes so long."""
        return self if self.latency_ms is None else Target(latency=min(1.0, self.latency_ms / milliseconds))


class Constraints(Section):
    """What every state must satisfy besides the target."""

    round_to: int | None = Field(
        None,
        ge=1,
        le=256,
        description="kept channels per group are a multiple of this, or all (grouped convolutions, group norms: as many whole groups as "
        "hold it); null: 32, halved until the target is in easy reach and some widths come near to it",
    )
    min_channels: int = Field(1, ge=1, description="fewest channels a group keeps")
    min_ratio: Unit = Field(0.1, description="smallest share of its channels a group keeps")
    ignore: tuple[str, ...] = Field((), description="globs of layer names that stay as they are, e.g. 'layer4.*'")
    only: tuple[str, ...] = Field(
        (), description="globs of layer names; if given, all that touches none of these stays as it is"
    )


class Search(Section):
    """How the channels to remove are found."""

    method: Literal[
        "edropout",
        "gradual_magnitude",
        "magnitude",
        "taylor",
        "random",
        "global_magnitude",
        "global_taylor",
        "lamp",
        "plan",
    ] = Field(
        "edropout",
        description="edropout; or a control: gradual_magnitude tightens the budget over the search epochs too, the others choose once"
        " and spend the search epochs on fine-tuning (global ones choose widths too; plan: the channels of search.plan)",
    )
    plan: Path | None = Field(None, description="plan only: a plan.json made for this network")
    epochs: int = Field(4, ge=0, description="training epochs under the search")
    population: int = Field(8, ge=4, le=256, description="S, states that compete")
    genes: Literal["widths", "channels"] = Field(
        "widths",
        description="what evolves: the widths of groups, whose channels importance chooses, or channel bits (the paper)",
    )
    init: Literal["importance", "bernoulli"] = Field(
        "importance",
        description="the first channel bits; where they evolve, also which channels the repair drops or takes back: those of least or"
        " most importance, or any",
    )
    keep_probability: Fraction = Field(
        0.5, description="p of the Bernoulli start; the share kept where there is no target"
    )
    mutation_factor: Unit = Field(0.9, description="F of the evolution of channel bits")
    crossover_rate: Unit = Field(0.9, description="CR of either evolution")
    width_factor: float = Field(0.3, ge=0.0, le=2.0, description="F of the evolution of widths, on their logarithms")
    width_prior: Unit = Field(
        0.0,
        description="the first widths vary as (parameters / cost of the group) to this power: where channels are cheap more are kept;"
        " 0: the same share of every group",
    )
    width_spread: float = Field(
        0.4, ge=0.0, le=2.0, description="standard deviation of the logarithm of the first widths"
    )
    width_noise: float = Field(
        0.1,
        ge=0.0,
        le=2.0,
        description="standard deviation of the noise on the logarithm of a child's widths; it falls to 0 by when the target is reached",
    )
    energy: Energy = Field(
        "margin",
        description="what states compete by: best wrong logit minus right one, the same over the logits' spread, or the loss",
    )
    evolve_every: int | None = Field(
        None,
        ge=1,
        description="training steps per generation; null: as many as train 16 images for each that scores"
        " (with `score_batch` 32, 4 steps of 128 images or 16 of 32)",
    )
    score_batch: int | None = Field(
        32, ge=2, description="images of a step's batch that score states, at most all of them; null: all, as published"
    )
    parent_energies: Literal["rescored", "stored"] = Field(
        "rescored",
        description="a child competes with its parent's energy on the same batch, or with the one stored when the parent was"
        " born (as published: half the scoring, but of older weights)",
    )
    anneal: Unit = Field(
        0.45,
        description="share of the search that each halving of the budget takes, at most 0.85 in all; 0: at once",
    )

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if self.trains and self.epochs == 0:
            raise ValueError(
                f"method {self.method} needs epochs of at least 1; for a one-shot ranking take method magnitude"
            )
        if (self.method == "plan") != (self.plan is not None):
            raise ValueError("method plan and a file in plan go together; give both or neither")
        return self

    @property
    def trains(self) -> bool:
        """Whether the method trains the network while it searches; the others choose once."""
        return self.method in ("edropout", "gradual_magnitude")

    def scored(self, batch: int) -> int:
        """How many of the `batch` images of a step score states."""
        return min(self.score_batch or batch, batch)

    @property
    def period(self) -> int:
        """`evolve_every` as a number."""
        assert self.evolve_every is not None, "for_batches_of finds a number"
        return self.evolve_every

    def for_batches_of(self, batch: int) -> Self:
        """The same with a number for `evolve_every`: its own, or the one that suits steps of `batch` images."""
        steps = self.evolve_every or max(1, round(TRAINED_PER_SCORED * self.scored(batch) / batch))
        return self.model_copy(update={"evolve_every": steps})


class Fit(Section):
    """How weights are trained; in `finetune` the schedule spans the search epochs too."""

    epochs: int = Field(8, ge=0, description="epochs after surgery (finetune) or in all (train)")
    optimizer: Literal["sgd", "adamw", "adadelta"] = Field("sgd", description="")
    lr: float = Field(0.05, gt=0.0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="sgd only; Nesterov where above 0")
    weight_decay: float = Field(5e-4, ge=0.0, description="")
    schedule: Literal["cosine", "onecycle", "step", "constant"] = Field("cosine", description="")
    warmup: Unit = Field(
        0.05, description="share of the steps in which the rate rises (cosine; onecycle: this, but at least 0.3)"
    )
    step_epochs: int = Field(50, ge=1, description="step only: epochs between drops")
    step_gamma: Fraction = Field(0.1, description="step only: factor of each drop")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="")
    distill: Unit = Field(0.0, description="weight of the dense network's soft labels in the loss (finetune only)")
    distill_temperature: float = Field(4.0, gt=0.0, description="softmax temperature of the soft labels")


def _as_interval(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,8} (steps|min)", text):
        raise ValueError("give a number of steps or minutes, such as '500 steps' or '10 min'")
    return text


class Running(Section):
    """How a run goes its way; nothing here changes its result."""

    checkpoint_every: Annotated[str, AfterValidator(_as_interval)] = Field(
        "10 min",
        description="how often training is saved within an epoch, '500 steps' or '10 min'; it is after every epoch",
    )

    def due(self, steps: int, seconds: float) -> bool:
        """Whether so many steps and seconds after the last time it is time to save again."""
        number, unit = self.checkpoint_every.split()
        return steps >= int(number) if unit == "steps" else seconds >= 60 * int(number)


class Recipe(Section):
    """One run, from a checkpoint to a gated ONNX file."""

    name: str = Field(
        "recipe",
        max_length=100,
        pattern=r"^[^./\\[:cntrl:]][^/\\[:cntrl:]]*$",
        description="of the run folder, runs/NAME; where it is not given, the recipe file's",
    )
    preset: str | None = Field(
        None, description="values to start from, e.g. paper; keys that the file writes itself come before them"
    )
    model: Model
    data: Data
    target: Target | None = Field(None, description="null: prune to whatever the search converges to")
    constraints: Constraints = Constraints()
    search: Search = Search()
    train: Fit = Fit(epochs=20)
    finetune: Fit = Fit()
    export: Export = Export()
    benchmark: Benchmark = Benchmark()
    gate: Gate = Gate()
    run: Running = Running()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of training; auto: bf16 autocast where the hardware multiplies bf16 natively, else fp32; fp16: autocast with a loss"
        " scale, for GPUs without bf16",
    )
    compile: bool = Field(
        False,
        description="train the dense and the pruned network through torch.compile; not the search, in which every generation has other"
        " shapes",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="fixes the split, the order of images, augmentation and the search"
    )

    @model_validator(mode="after")
    def _trials_search(self) -> Self:
        if self.target and self.target.max_top1_drop is not None and self.search.method == "plan":
            raise ValueError("target.max_top1_drop looks for channels, and search.plan gives them; choose one of them")
        return self

    @model_validator(mode="after")
    def _speedup_has_the_level(self) -> Self:
        gate = self.gate
        if gate.confidence == "bound" and gate.min_speedup is not None and gate.level != SPEEDUP_LEVEL:
            raise ValueError(
                f"gate.min_speedup is held by its bound at {SPEEDUP_LEVEL:g} alone, and gate.level is {gate.level:g}; set the level to "
                f"{SPEEDUP_LEVEL:g}, or gate.min_speedup to null"
            )
        return self

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the recipe's canonical JSON, in which a preset is resolved, without `run`."""
        return _digest_of(self.model_dump(mode="json", exclude={"preset", "run"}))

    @property
    def training_digest(self) -> str:
        """Likewise of `of_training`: equal where the networks that `train` makes are."""
        return _digest_of(self.of_training)

    @property
    def of_training(self) -> dict[str, Any]:
        """What a network that is trained from random weights depends on, as plain values, without where this machine has its data."""
        free = {"root", "download", "workers", "skip_broken"}
        keys = {"model", "data", "train", "precision", "seed"}
        return self.model_dump(mode="json", include=keys, exclude={"data": free})

    @property
    def of_pruning(self) -> dict[str, Any]:
        """What a pruned network depends on, as plain values: not how it is then exported, measured and gated, nor where the data are."""
        free = {"root", "download", "workers", "skip_broken", "eval_batch_size"}
        return self.model_dump(mode="json", exclude={"name": True, "preset": True, "run": True, "export": True, "benchmark": True,
                                                     "gate": True, "data": free})  # fmt: skip

    @property
    def in_time(self) -> bool:
        """Whether the target is a latency, so that what `prune` finds depends on how times are measured."""
        target = self.target
        return target is not None and (target.latency is not None or target.latency_ms is not None)

    @property
    def timing(self) -> Benchmark:
        """How times are measured: as `benchmark` says, and at the batch size that the files insist on, if they do."""
        size = self.export.batch
        return self.benchmark if size == "dynamic" else self.benchmark.model_copy(update={"batch_size": (size,)})

    @property
    def share_target(self) -> Target | None:
        """The target that a single search can go for: a share or a time; the trials for a drop of accuracy set their own."""
        return None if self.target is None or self.target.max_top1_drop is not None else self.target

    @property
    def search_epochs(self) -> int:
        """Most epochs trained under the search; methods that choose once have none."""
        return self.search.epochs if self.search.trains else 0

    @property
    def total_epochs(self) -> int:
        """Epochs of search and fine-tuning together, the same for every method; the learning-rate schedule spans them."""
        return self.search.epochs + self.finetune.epochs


def _digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
