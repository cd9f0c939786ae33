"""The files in which run folders keep a space, a plan, and the network that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.plan import Plan
from edcompress.pruning.space.space import PruningSpace
from edcompress.runs.reading import parse_file


@dataclass(frozen=True, eq=False)
class EarlierNetwork:
    """The result of an earlier run: the plan, and the weights of its pruned network."""

    plan: Plan
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class KeptStart:
    """The starting point of a run as its `folder` keeps it, with the `dense` weights in a file.

    `table` is None for a target that is not a latency, `earlier` for a run from weights, `step`, the step of widths, in folders of
    earlier versions.
    """

    folder: Path
    dense: Path
    space: PruningSpace
    table: LatencyTable | None
    earlier: EarlierNetwork | None
    step: int | None


def read_plan(path: Path) -> Plan:
    """Return the plan in a plan.json; raise RunFolderError if it is missing or damaged."""
    return parse_file(path, Plan.model_validate_json)


def read_space(path: Path) -> PruningSpace:
    """Return the pruning space in a space.json; raise RunFolderError if it is missing or damaged."""
    return parse_file(path, PruningSpace.model_validate_json)


def read_earlier(run: Path) -> EarlierNetwork:
    """Return what a finished run left of its dense network."""
    return EarlierNetwork(read_plan(run / "plan.json"), read_state_dict(run / "pruned.safetensors"))
