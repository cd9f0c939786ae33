"""Verb: the pruned network of a run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edcompress.core.system.context import RunOptions
from edcompress.core.system.devices import pick_device
from edcompress.core.system.files import require_utf8
from edcompress.networks.build import plain_network
from edcompress.networks.load_weights import load_into
from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.starting_point import read_plan, read_space


def load(folder: Path | str, device: str = "cpu", *, trust_code: bool = False) -> nn.Module:
    """The pruned network of a run, in eval mode: the dense network is built, the plan replayed, the tensors loaded."""
    run, where = RunFolder(Path(folder)), pick_device(device)
    require_utf8(run.path)
    run.require_finished("load")
    recipe = run.read_recipe()
    dense = plain_network(recipe, RunOptions(trust_code=trust_code))
    return load_pruned(run, dense).to(where)


def load_pruned(run: RunFolder, dense: nn.Module) -> nn.Module:
    """The pruned network of a finished run, in eval mode: its plan is replayed on `dense`, its tensors loaded."""
    network = apply_plan(dense, read_plan(run), read_space(run))
    load_into(network, read_state_dict(run / "pruned.safetensors"), source=str(run / "pruned.safetensors"))
    return network.eval()
