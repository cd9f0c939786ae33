"""Tracker: a run in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edcompress.core.errors import EdcompressError, first_line
from edcompress.runs.tracking import Tracker

PACKAGE = "mlflow"


class MLflow:
    """Logs the figures of each epoch to the active MLflow run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures of one epoch."""
        import mlflow

        mlflow.log_metrics(dict(figures), step=step)


@contextmanager
def open_tracker(folder: Path, settings: Mapping[str, object]) -> Iterator[Tracker]:
    """Yield a tracker of an MLflow run where MLFLOW_TRACKING_URI points; a resumed run starts a new MLflow run.

    Raises:
        EdcompressError: MLflow does not take the figures; the message names the address.
    """
    import mlflow

    try:
        with mlflow.start_run(run_name=folder.resolve().name):
            mlflow.log_params(dict(_flat(settings)))
            yield MLflow()
    except mlflow.exceptions.MlflowException as error:
        raise EdcompressError(
            f"--log mlflow: {mlflow.get_tracking_uri()} takes no figures: {first_line(error)}; see MLFLOW_TRACKING_URI, "
            "then continue with --resume, or without --log mlflow"
        ) from error


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted keys and values of a nested mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
