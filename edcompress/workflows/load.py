"""Verb: the pruned network of a run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edcompress.core.system.devices import pick_device
from edcompress.core.system.files import require_utf8
from edcompress.core.user_code import NO_TRUST, Trust
from edcompress.networks.build import plain_network
from edcompress.networks.load_weights import load_into
from edcompress.networks.user_factory import OBJECT
from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.workflows.stages.kept_objects import kept_network, needs_archive
from edcompress.workflows.stages.start_files import read_plan, read_space


def load(
    folder: RunOrPath, device: str = "cpu", *, trust_code: bool = False, network: nn.Module | None = None
) -> nn.Module:
    """Load the pruned network of a finished run: build the dense network, replay the plan, load the tensors.

    Args:
        folder: The run folder, or its path.
        device: auto, cpu or cuda.
        trust_code: Run the user's own code where the recipe names a model.factory.
        network: The network before pruning, with any weights, for a run that got it as an object; it stays as it is.

    Returns:
        The pruned network, in eval mode on the device.

    Raises:
        InputError: The run is not finished, a file of it is missing or damaged, or there is no such device.
    """
    run, where = RunFolder.of(folder), pick_device(device)
    require_utf8(run.path)
    objects = {} if network is None else {OBJECT: network}
    return _load(run.path, Trust(trust_code, objects)).to(where)


def load_run(folder: Path, trust: Trust = NO_TRUST) -> nn.Module:
    """Return `load` by a run's path, or the network in its archive where an object is not given; InputError if there is none."""
    run = RunFolder(folder)
    run.require_finished("load")
    name = run.read_recipe().model.object
    if name is not None and needs_archive(name, trust):
        return kept_network(run / "pruned.pt2", name, trust)
    return _load(folder, trust)


def _load(folder: Path, trust: Trust) -> nn.Module:
    run = RunFolder(folder)
    run.require_finished("load")
    return load_pruned(plain_network(run.read_recipe().network_spec, trust=trust), run.path)


def load_pruned(dense: nn.Module, run: Path) -> nn.Module:
    """Return the pruned network of the finished run in a folder, in eval mode: its plan is replayed on `dense`, its tensors loaded."""
    network = apply_plan(dense, read_plan(run / "plan.json"), read_space(run / "space.json"))
    weights = run / "pruned.safetensors"
    load_into(network, read_state_dict(weights), source=str(weights))
    return network.eval()
