"""Recipes: what a run shall do, as one frozen tree. `edcompress.recipes` finds, merges and checks the files.

Each field's description is its help text and its comment in the starter file (`edcompress init`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Section
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.deployment import SPEEDUP_LEVEL, Benchmark, Export, Gate
from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.recipe.training import Running, TrainingConfig


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
    train: TrainingConfig = TrainingConfig(epochs=20)
    finetune: TrainingConfig = TrainingConfig()
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
    def network_spec(self) -> NetworkSpec:
        """What the network of the recipe is built from."""
        return NetworkSpec(self.model, self.data.image_size, self.seed, self.search.trains)

    def with_batch_size(self, size: int | str) -> Self:
        """Return the recipe with another data.batch_size."""
        return self.model_copy(update={"data": self.data.model_copy(update={"batch_size": size})})

    def with_target(self, target: Target) -> Self:
        """Return the recipe with another target."""
        return self.model_copy(update={"target": target})

    def with_round_to(self, step: int) -> Self:
        """Return the recipe with another constraints.round_to."""
        return self.model_copy(update={"constraints": self.constraints.with_round_to(step)})

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
