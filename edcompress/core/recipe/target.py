"""Recipe sections: target and constraints."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Fraction, Section, Unit

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

    def with_round_to(self, step: int) -> Self:
        """Return the constraints with another round_to."""
        return self.model_copy(update={"round_to": step})
