"""Text from files and other programs, made safe and short enough for a terminal and for the log of a CI server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

SHOWN = 8
"""Names that a message lists; the others are counted."""

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tabs and line ends, characters that change the direction of text, and lone surrogates."""

_COMMANDS = re.compile(r"^([^\S\n]*:)(?=:)|(#)(?=#(?:\[|vso\[|teamcity\[))", re.MULTILINE)
"""The start of a line that a CI server obeys: `::error::`, `##[group]`, `##vso[...]`, `##teamcity[...]`."""


def harmless(text: str) -> str:
    """Return the text with control characters escaped (`\\x1b`) and commands to CI servers broken by a space; line ends stay."""
    return _COMMANDS.sub(r"\1\2 ", _UNSEEN.sub(_escaped, text))


def one_line(text: str) -> str:
    """Return `harmless` text whose line ends are escaped too."""
    return harmless(text.replace("\n", "\\n").replace("\t", " "))


def few(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names in a row, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


SYNONYMS = {
    "lr": ("learning_rate", "base_lr", "max_lr"),
    "macs": ("flops", "gflops", "mflops", "mult_adds", "madds", "gmacs", "mac"),
    "params": ("parameters", "nparams"),
    "latency_ms": ("milliseconds", "ms"),
    "max_top1_drop": ("drop", "max_drop", "accuracy_drop", "acc_drop", "top1_drop"),
    "min_speedup": ("speedup", "speed_up"),
    "min_top1": ("accuracy", "top1", "min_accuracy"),
    "batch_size": ("batch", "bs", "batchsize"),
    "weight_decay": ("wd", "decay", "l2"),
    "optimizer": ("opt", "optim", "optimiser"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "step_gamma": ("gamma", "lr_decay"),
    "step_epochs": ("step_size", "milestones"),
    "warmup": ("warmup_epochs", "warmup_steps"),
    "distill": ("distillation", "kd", "soft_labels", "distill_weight"),
    "distill_temperature": ("temperature", "tau"),
    "label_smoothing": ("smoothing",),
    "epochs": ("num_epochs", "n_epochs", "max_epochs"),
    "arch": ("architecture", "backbone", "model_name", "network"),
    "num_classes": ("classes", "n_classes", "nclasses"),
    "in_channels": ("in_chans", "input_channels", "num_channels"),
    "image_size": ("img_size", "input_size", "size", "crop", "crop_size", "resolution"),
    "resize": ("resize_size", "scale"),
    "folder": ("path", "dir", "directory", "images"),
    "root": ("data_dir", "data_root", "data_path"),
    "workers": ("num_workers", "n_workers"),
    "augment": ("augmentation", "augmentations", "transforms", "transform"),
    "dataset": ("data_set", "name_of_dataset"),
    "seed": ("random_seed", "manual_seed"),
    "precision": ("dtype", "amp", "mixed_precision"),
    "limit": ("max_images", "max_samples", "subset"),
    "search_fraction": ("val_split", "validation_split", "holdout"),
    "ignore": ("exclude", "ignored_layers", "skip"),
    "only": ("include", "layers"),
    "round_to": ("multiple_of", "divisor", "round"),
    "population": ("population_size", "pop_size"),
    "int8": ("quantize", "quantise", "quantization"),
    "fp16": ("half",),
    "opset": ("opset_version",),
    "image_folder": ("folder", "images", "imagenet", "custom", "own"),
    "kmnist": ("kuzushiji",),
    "magnitude": ("l1", "l1_norm", "l2", "l2_norm"),
    "edropout": ("default",),
    "finetune": ("fine_tuning", "finetuning", "recovery"),
    "adamw": ("adam",),
}  # fmt: skip
"""Words of other tools and papers for the keys and values of recipes."""


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def same_meaning(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that differ from `name` in punctuation and case alone, and those that it is a synonym of."""
    names, bare = list(known), _bare(name)
    spelled = [one for one in names if _bare(one) == bare]
    return spelled + [one for one in names if one not in spelled and bare in map(_bare, SYNONYMS.get(one, ()))]


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return "; did you mean 'x' or 'y'?" for the `most` known names nearest to `name` in meaning or spelling, or "" where none is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, most)
    near = list(dict.fromkeys([*same_meaning(name, names), *close]))[:most]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def short_repr(value: object) -> str:
    """Return repr(value), cut to 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, or endless nesting
        text = "a value too large to show"
    return text if len(text) <= 60 else text[:57] + "..."
