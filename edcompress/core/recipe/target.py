"""Recipe sections: target and constraints."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Fraction, Section, Unit

TargetKind = Literal["macs", "params", "channels", "latency"]


class Target(Section):
    """The size to prune to: a fraction of the dense network, of one kind, or the accuracy that the network may lose."""

    macs: Fraction | None = Field(None, description="largest share of the multiply-accumulates to keep")
    params: Fraction | None = Field(None, description="largest share of the parameters to keep")
    channels: Fraction | None = Field(None, description="largest share of the prunable channels to keep")
    latency: Fraction | None = Field(
        None, description="largest share of the median time in onnxruntime, measured as `benchmark` says"
    )
    latency_ms: float | None = Field(None, gt=0.0, description="longest median time in onnxruntime, in milliseconds")
    max_top1_drop: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="largest drop of top-1 (absolute) on the held-out images; the smallest network within it is found by trials",
    )
    max_drop: float | None = Field(
        None,
        ge=0.0,
        description="the same of the recipe's metric (0.01 is one point of a share)",
    )
    trials: int = Field(
        5, ge=1, le=12, description="max_top1_drop and max_drop only: how many networks are pruned and fine-tuned"
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = {name: value for name, value in self if value is not None and name != "trials"}
        if len(given) != 1:
            what = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            names = ", ".join(name for name in Target.model_fields if name != "trials")
            raise ValueError(f"give exactly one of {names}, not {what}; drop one with --set target.NAME=null")
        return self

    @property
    def drop(self) -> float | None:
        """The drop of the metric that is allowed; None for a target in cost or time."""
        return self.max_drop if self.max_top1_drop is None else self.max_top1_drop

    @property
    def drop_key(self) -> Literal["max_top1_drop", "max_drop"]:
        """The key that sets the drop."""
        return "max_drop" if self.max_top1_drop is None else "max_top1_drop"

    @property
    def kind(self) -> TargetKind:
        """The kind of cost that the target limits; ValueError for a drop of accuracy, which has none."""
        if self.drop is not None:
            raise ValueError("a drop of accuracy is not a share of one kind")
        kinds: tuple[TargetKind, ...] = ("macs", "params", "channels")
        return next((kind for kind in kinds if getattr(self, kind) is not None), "latency")

    @property
    def fraction(self) -> float:
        """The share of the dense network to keep, in (0, 1]; a target in milliseconds has one after `of_dense`."""
        value = getattr(self, self.kind)
        assert isinstance(value, float)
        return value

    def of_dense(self, milliseconds: float) -> Target:
        """Return the target as a share, for a dense network that takes so many milliseconds."""
        return self if self.latency_ms is None else Target(latency=min(1.0, self.latency_ms / milliseconds))


class Constraints(Section):
    """Requirements of every state in addition to the target."""

    round_to: int | None = Field(
        None,
        ge=1,
        le=256,
        description="kept channels per group are a multiple of this, or all (grouped convolutions, group norms: as many whole groups as "
        "hold it); null: 32, halved until the target is easy to reach and some widths come near to it",
    )
    min_channels: int = Field(1, ge=1, description="fewest channels a group keeps")
    min_ratio: Unit = Field(0.1, description="smallest share of its channels a group keeps")
    ignore: tuple[str, ...] = Field((), description="globs of layer names that stay as they are, e.g. 'layer4.*'")
    only: tuple[str, ...] = Field(
        (), description="globs of layer names; if given, only groups that touch one of these layers are pruned"
    )

    def with_round_to(self, step: int) -> Self:
        """Return the constraints with another round_to."""
        return self.model_copy(update={"round_to": step})
