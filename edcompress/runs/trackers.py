"""Where the figures of each epoch go besides epochs.jsonl: TensorBoard and MLflow, behind one small protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Protocol

from edcompress.core.errors import EdcompressError, InputError, first_line
from edcompress.core.recipe.recipe import Recipe
from edcompress.runs.folder import RunFolder


class Tracker(Protocol):
    """Takes figures; `step` counts the epochs of search and fine-tuning together, from 0."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Keep figures by name, such as "search/loss"."""


_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def require_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a logger that does not exist, or whose package is not installed."""
    for name in names:
        if name not in _PACKAGES:
            raise InputError(f"--log {name}: choose {' or '.join(_PACKAGES)}")
        if find_spec(_PACKAGES[name]) is None:
            raise InputError(f"--log {name} needs a package; install it with: pip install 'edcompress[{name}]'")


@contextmanager
def open_trackers(names: Sequence[str], folder: RunFolder, recipe: Recipe) -> Iterator[list[Tracker]]:
    """The loggers of a run in `folder`; closed at the end of the block, and told whether it failed."""
    with ExitStack() as stack:
        yield [stack.enter_context(_OPENERS[name](folder, recipe)) for name in names]


class _TensorBoard:
    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder.tensorboard))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()


@contextmanager
def _tensorboard(folder: RunFolder, _: Recipe) -> Iterator[Tracker]:
    board = _TensorBoard(folder)
    try:
        yield board
    finally:
        board.writer.close()


class _MLflow:
    def log(self, figures: Mapping[str, float], step: int) -> None:
        import mlflow

        mlflow.log_metrics(dict(figures), step=step)


@contextmanager
def _mlflow(folder: RunFolder, recipe: Recipe) -> Iterator[Tracker]:
    """A run of MLflow's where MLFLOW_TRACKING_URI says; a run that is resumed begins another one."""
    import mlflow

    try:
        with mlflow.start_run(run_name=folder.path.resolve().name):
            mlflow.log_params(dict(_flat(recipe.model_dump(mode="json"))))
            yield _MLflow()
    except mlflow.exceptions.MlflowException as error:
        raise EdcompressError(
            f"--log mlflow: {mlflow.get_tracking_uri()} takes no figures: {first_line(error)}; see MLFLOW_TRACKING_URI, "
            "then go on with --resume, or without --log mlflow"
        ) from error


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


_OPENERS = {"tensorboard": _tensorboard, "mlflow": _mlflow}
