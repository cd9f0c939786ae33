"""What a run of objects in memory keeps of them in its folder, so that its files can be exported without the program.

Networks are archives of torch.export, images are tensors. torch can run code that is in an archive: it is loaded only with trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edcompress.core.errors import EdcompressError, InputError, NetworkError
from edcompress.core.recipe.data import Data
from edcompress.core.system.monitor import Monitor
from edcompress.core.system.tensor_files import save_tensors
from edcompress.core.user_code import IN_MEMORY, OF_A_PROGRAM, Trust
from edcompress.data.images import ImageSet, spread
from edcompress.data.splits import Splits
from edcompress.data.transforms import eval_geometry
from edcompress.deploy.export.torch_archives import load_archive, save_archive
from edcompress.networks.user_factory import OBJECT
from edcompress.networks.weight_files import read_state_dict

MOST_BYTES = 2**30
"""Of kept test images; of more none are kept."""

HELD_OUT = 256
"""Held-out images that are kept: they set the scale of int8 activations."""


class KeptImages(TensorDataset):
    """Images and labels that a run has kept, with the names of their classes."""

    def __init__(self, images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
        """Take images [N, C, H, W] and labels [N, ...]."""
        super().__init__(images, labels)
        self.classes = classes


def keep_networks(folder: Path, networks: Mapping[str, nn.Module], example: Tensor, monitor: Monitor) -> None:
    """Write NAME.pt2 of each network, proved equal on an example [N, C, H, W]; warn of one that torch cannot write."""
    for name, network in networks.items():
        try:
            save_archive(network, example, folder / f"{name}.pt2", "pt2")
        except EdcompressError as error:
            monitor.warning(f"{error}; to export this run, give the objects again (resume=True)")


def keep_images(path: Path, splits: Splits, data: Data, monitor: Monitor) -> None:
    """Write the test images, and some held-out ones, as the network's input or pixels of its size."""
    if data.resize is not None:  # pixels of the network's size would be resized and cropped again
        return
    size = 4 if splits.prepared else 1
    for side in (splits.channels, *data.height_width):
        size *= side
    if len(splits.test) * size > MOST_BYTES:
        monitor.warning(
            f"the {len(splits.test)} test images take more than {MOST_BYTES >> 30} GiB and are not kept in the run folder; to export this "
            "run, give the objects again (resume=True)"
        )
        return
    images, labels = _read(splits.test, data)
    held_out, their_labels = _read(splits.search.subset(spread(len(splits.search), HELD_OUT)), data)
    save_tensors(path, {"test": images, "test_labels": labels, "held_out": held_out, "held_out_labels": their_labels})


def _read(images: ImageSet, data: Data) -> tuple[Tensor, Tensor]:
    read = images.read(list(range(len(images))), eval_geometry(data))
    return read.pixels, read.labels


def kept_sets(path: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the data sets that a run has kept in a file, by their names in recipes; those that train are held-out images."""
    if not path.is_file():
        return {}
    kept = read_state_dict(path)
    held_out = KeptImages(kept["held_out"], kept["held_out_labels"], classes)
    test = KeptImages(kept["test"], kept["test_labels"], classes)
    return {"data.train": held_out, "data.val": held_out, "data.test": test}


def absent_loss(name: str) -> Callable[..., Any]:
    """Return what stands for a loss in memory where nothing is trained."""

    def absent(*_: Any) -> Any:
        raise InputError(f"loss: {name.removeprefix(IN_MEMORY)} {OF_A_PROGRAM}")

    return absent


def kept_network(path: Path, name: str, trust: Trust) -> nn.Module:
    """Return the network in an archive that a run has kept; NetworkError where there is none, or the user does not trust it.

    Args:
        path: The archive.
        name: The class of the network, for messages.
        trust: What of the user's code may be used.
    """
    if not path.is_file():
        raise NetworkError(f"{OBJECT}: {name} {OF_A_PROGRAM}")
    if not trust.code:
        raise NetworkError(
            f"{OBJECT}: {name} {OF_A_PROGRAM}; or add --trust-code: {path} holds it as an archive of torch.export, and code in it would run"
        )
    return load_archive(path)


def needs_archive(object_name: str | None, trust: Trust) -> bool:
    """Return whether a network was an object in memory that is not given now."""
    return object_name is not None and OBJECT not in trust.objects
