"""The whole recipe: a frozen tree of sections, its cross-checks and its digests.

Each field's description is its help text, its comment in the starter file (`edcompress init`) and its line in docs/recipes.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Section
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.deployment import SPEEDUP_LEVEL, Benchmark, Export
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.recipe.training import Checkpoints, Finetune, TrainingConfig
from edcompress.core.registry import is_path, one_of_or_path

METRICS = "training.metrics"
"""The package of shipped metrics, one module each."""


class RecipeLabel(NamedTuple):
    """What logs and progress say of a recipe: its name and digest, the images of a step, and the epochs of search and fine-tuning."""

    name: str
    digest: str
    step_images: int
    total_epochs: int


class Recipe(Section):
    """One run, from weights to a gated ONNX file."""

    name: str = Field(
        "recipe",
        max_length=100,
        pattern=r"^[^./\\[:cntrl:]][^/\\[:cntrl:]]*$",
        description="name of the run folder, runs/NAME; default: the name of the recipe file",
    )
    preset: str | None = Field(None, description="values to start from, e.g. paper; keys in the file override them")
    model: Model
    data: Data
    metric: Annotated[str, one_of_or_path(METRICS)] = Field(
        "top1",
        description="what networks are compared by, higher is better; or your own, package.module:callable of (outputs, labels) of all"
        " test images (needs --trust-code)",
    )
    target: Target | None = Field(None, description="null: prune to whatever the search converges to")
    constraints: Constraints = Constraints()
    search: Search = Search()
    train: TrainingConfig = TrainingConfig(epochs=20)
    finetune: Finetune = Finetune()
    export: Export = Export()
    benchmark: Benchmark = Benchmark()
    gate: Gate = Gate()
    run: Checkpoints = Checkpoints()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="precision of training; auto: bf16 autocast where the hardware multiplies bf16 natively, else fp32; fp16: autocast with"
        " a loss scale, for GPUs without bf16",
    )
    compile: bool = Field(
        False,
        description="train the dense and the pruned network through torch.compile; not the search, whose shapes change with every"
        " generation",
    )
    chosen: Mapping[str, str] = Field(
        {},
        description="written by the run: the keys that it chose, with the reasons; what is written here has no effect",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="fixes the split, the order of images, the augmentation and the search"
    )

    @model_validator(mode="before")
    @classmethod
    def _gate_by_the_metric(cls, tree: Any) -> Any:
        """Let the gate limit the drop of another metric where it would limit that of top-1 by default."""
        if not isinstance(tree, Mapping) or tree.get("metric", "top1") == "top1":
            return tree
        gate = tree.get("gate", {})
        if not isinstance(gate, Mapping) or "max_top1_drop" in gate:
            return tree
        return {**tree, "gate": {"max_drop": 0.01, **gate, "max_top1_drop": None}}

    @model_validator(mode="after")
    def _drop_of_the_metric(self) -> Self:
        if self.target and self.target.max_top1_drop is not None and self.metric != "top1":
            raise ValueError(f"target.max_top1_drop limits top-1, and the metric is {self.metric}; set target.max_drop")
        return self

    @model_validator(mode="after")
    def _trials_search(self) -> Self:
        if self.target and self.target.drop is not None and self.search.takes_plan:
            raise ValueError(
                f"target.{self.target.drop_key} searches for channels, and search.plan gives them; choose one of the two"
            )
        return self

    @model_validator(mode="after")
    def _speedup_has_the_level(self) -> Self:
        gate = self.gate
        if gate.confidence == "bound" and "min_speedup" in gate.limits and gate.level != SPEEDUP_LEVEL:
            raise ValueError(
                f"gate.min_speedup has a bound only at level {SPEEDUP_LEVEL:g}, and gate.level is {gate.level:g}; set the level to "
                f"{SPEEDUP_LEVEL:g}, or gate.min_speedup to null"
            )
        return self

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the recipe as canonical JSON, with its preset resolved and without `run`."""
        return _digest_of(self.model_dump(mode="json", exclude={"preset", "run", "chosen"}))

    @property
    def training_digest(self) -> str:
        """The same of `training_settings`: equal for recipes by which `train` makes equal networks."""
        return _digest_of(self.training_settings)

    @property
    def training_settings(self) -> dict[str, Any]:
        """The settings on which a network trained from random weights depends, as plain values, without where the data lies."""
        free = {"root", "download", "workers", "skip_broken"}
        keys = {"model", "data", "train", "precision", "seed"}
        return self.model_dump(mode="json", include=keys, exclude={"data": free})

    @property
    def pruning_settings(self) -> dict[str, Any]:
        """The settings on which a pruned network depends, as plain values: without export, benchmark and gate, and where the data lies."""
        free = {"root", "download", "workers", "skip_broken", "eval_batch_size"}
        return self.model_dump(mode="json", exclude={"name": True, "preset": True, "run": True, "chosen": True, "export": True,
                                                     "benchmark": True,
                                                     "gate": True, "data": free})  # fmt: skip

    @property
    def targets_latency(self) -> bool:
        """Whether the target is a latency, so that the result of `prune` depends on how times are measured."""
        target = self.target
        return target is not None and (target.latency is not None or target.latency_ms is not None)

    @property
    def timing(self) -> Benchmark:
        """The benchmark section, with the batch size that `export.batch` fixes, if it does."""
        size = self.export.batch
        return self.benchmark if size == "dynamic" else self.benchmark.model_copy(update={"batch_size": (size,)})

    @property
    def search_target(self) -> Target | None:
        """The target of a single search, a share or a time; None for a drop in accuracy, whose trials set their own."""
        return None if self.target is None or self.target.drop is not None else self.target

    @property
    def trust_flags(self) -> list[str]:
        """The options that a command line needs for the user's own code in this recipe to run."""
        own = self.own_code or self.model.factory or self.finetune.teacher_is_own
        return ["--trust-code"] if own else []

    @property
    def own_code(self) -> dict[str, str]:
        """The user's own callables of data, losses and metric by key."""
        named = {"finetune.loss": self.finetune.loss, "train.loss": self.train.loss, "metric": self.metric}
        return {**self.data.own_code, **{key: spec for key, spec in named.items() if is_path(spec)}}

    @property
    def label(self) -> RecipeLabel:
        """What logs and progress say of the recipe."""
        return RecipeLabel(self.name, self.digest, self.data.step_images, self.total_epochs)

    @property
    def network_spec(self) -> NetworkSpec:
        """What the network of the recipe is built from."""
        return NetworkSpec(self.model, self.data.image_size, self.seed, self.search.trains)

    def located(self, base: Path) -> Self:
        """Return the recipe with absolute paths for data and a plan that lie in `base`, the folder of the recipe."""
        plan = self.search.plan
        moved = {"plan": base / plan} if plan and not plan.is_absolute() and (base / plan).is_file() else {}
        return self.model_copy(update={"data": self.data.located(base), "search": self.search.model_copy(update=moved)})

    def with_batch_size(self, size: int | str) -> Self:
        """Return the recipe with another data.batch_size."""
        return self.model_copy(update={"data": self.data.model_copy(update={"batch_size": size})})

    def with_values(self, values: Mapping[str, Any], reasons: Mapping[str, str]) -> Self:
        """Return the recipe with values for dotted keys of two parts, and the reasons for them."""
        changed: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.partition(".")
            changed.setdefault(section, {})[name] = value
        parts = {section: getattr(self, section).model_copy(update=update) for section, update in changed.items()}
        return self.model_copy(update={**parts, "chosen": {**self.chosen, **reasons}})

    @property
    def open_keys(self) -> list[str]:
        """The dotted keys whose values a run chooses."""
        undecided = (
            ("data", ("batch_size", *(("augment", "flip") if self.data.augment is None else ()))),
            ("search", ("epochs", "evolve_every", "anneal")),
            ("finetune", ("epochs", "optimizer", "lr", "weight_decay", "warmup", "distill")),
        )
        keys = [f"{section}.{name}" for section, names in undecided for name in names]
        return [key for key in keys if self.value_of(key) in (None, "auto")]

    def value_of(self, key: str) -> Any:
        """Return the value of a dotted key of two parts."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def sets(self, key: str) -> bool:
        """Whether a dotted key of two parts was set, in place of its default."""
        section, _, name = key.partition(".")
        return name in getattr(self, section).model_fields_set

    def with_data(self, data: Data) -> Self:
        """Return the recipe with another data section."""
        return self.model_copy(update={"data": data})

    def with_target(self, target: Target) -> Self:
        """Return the recipe with another target."""
        return self.model_copy(update={"target": target})

    def with_round_to(self, step: int) -> Self:
        """Return the recipe with another constraints.round_to."""
        return self.model_copy(update={"constraints": self.constraints.with_round_to(step)})

    @property
    def explicit(self) -> dict[str, Any]:
        """The keys that were set, by section, without defaults."""
        return self.model_dump(exclude_unset=True)

    @property
    def search_epochs(self) -> int:
        """The most epochs that train under the search; 0 for methods that rank once."""
        return self.search.length if self.search.trains else 0

    @property
    def total_epochs(self) -> int:
        """Epochs of search and fine-tuning together, the same for every method; the learning-rate schedule covers them."""
        return self.search.length + self.finetune.config.epochs


def _digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
