"""A run logged in MLflow, where that is installed."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nabi.errors import NabiError, SettingError

MOST_LETTERS = 500  # of a parameter's value, which is the least that MLflow's servers take


def tracker() -> Any:
    """MLflow.

    Raises
    ------
    SettingError
        It is not installed.
    """
    try:
        return importlib.import_module("mlflow")
    except ImportError:
        raise SettingError("--mlflow needs mlflow-skinny: pip install mlflow-skinny") from None


def log_run(
    name: str,
    parameters: Mapping[str, Any],
    measures: Mapping[str, float | None],
    history: Mapping[str, Sequence[Any]],
    files: Iterable[Path],
) -> str:
    """Log a finished run, where MLflow's own settings (``MLFLOW_TRACKING_URI``, …) say, and give its identifier.

    Parameters
    ----------
    name : str
        Of the run.
    parameters : mapping
        What it was asked for.
    measures : mapping of str to float
        What came out; those that are None are left out.
    history : mapping of str to sequence
        Columns by name, of which numbers are logged by epoch.
    files : iterable of Path
        Artefacts.

    Raises
    ------
    SettingError
        MLflow is not installed.
    NabiError
        It could not log: the message is its own.
    """
    mlflow = tracker()
    try:
        with mlflow.start_run(run_name=name) as run:
            mlflow.log_params({key: str(value)[:MOST_LETTERS] for key, value in parameters.items()})
            mlflow.log_metrics({key: float(value) for key, value in measures.items() if value is not None})
            for key, values in history.items():
                for step, value in enumerate(values, 1):
                    if isinstance(value, int | float) and not isinstance(value, bool) and key != "epoch":
                        mlflow.log_metric(key, float(value), step=step)
            for file in files:
                mlflow.log_artifact(str(file))
            return str(run.info.run_id)
    except Exception as error:  # whatever a server, a disk or a version of it may raise
        raise NabiError(f"MLflow: {' '.join(str(error).split()) or type(error).__name__}") from error
