"""What a recipe knows of a data set before any of its images is read.

A data set is one module of `edcompress.data.sets`, named as `data.dataset` names it. It has a docstring, `FACTS`, and
`open_images(request)`, which returns an `Opened`: training images, test images, the names of the classes. Importing it loads no torch.
"""

from __future__ import annotations

from typing import NamedTuple

from edcompress.core import registry

DATASETS = "data.sets"
"""The package whose modules are the data sets."""


class DatasetFacts(NamedTuple):
    """The properties of a data set that checks, run folders and messages depend on."""

    folder: str = ""
    """Where torchvision keeps it under data.root, and downloads it to; empty where it is not one of torchvision's."""

    in_files: bool = False
    """Each image is a file of its own, which may carry the EXIF orientation of a camera."""

    class_folders: bool = False
    """The user arranges the images in one folder per class."""

    numbered_classes: bool = False
    """Classes have numbers and no names of their own."""

    required_keys: tuple[str, ...] = ()
    """Keys of `data` without which it cannot be opened."""

    indexing: str = ""
    """The stage to announce where opening it reads it once as a whole, on one rank alone."""


def facts_of(dataset: str) -> DatasetFacts:
    """Return the facts of a data set that `data.dataset` can name."""
    facts: DatasetFacts = registry.load(DATASETS, dataset).FACTS
    return facts


def is_in_files(dataset: object) -> bool:
    """Return whether this is the name of a data set each of whose images is a file of its own."""
    return dataset in registry.names_in(DATASETS) and facts_of(str(dataset)).in_files
