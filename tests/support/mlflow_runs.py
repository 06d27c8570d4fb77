"""Runs that MLflow holds in a folder, read with its own client."""

from pathlib import Path
from typing import Any


def only_run(store: Path) -> Any:
    """MLflow's client for a folder, and the one run of ours there."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("brainscale").experiment_id])
    return client, found


def losses(client: Any, run_id: str) -> list[tuple[int, float]]:
    """Epoch and validation loss of each epoch that was sent."""
    return [(m.step, m.value) for m in client.get_metric_history(run_id, "val_loss")]
