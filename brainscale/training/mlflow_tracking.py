"""Log a run to MLflow: parameters, tags, metrics of each epoch, and the bundle. A failing server never stops training.

The address of the server is not part of the configuration, because the configuration is written to many files.
"""

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from brainscale.config.sections import Config
from brainscale.errors import UsageError, first_line
from brainscale.storage.local import write_json
from brainscale.training.history import Epoch, tracked_metrics
from brainscale.version import __version__

MLFLOW_FILE = "mlflow.json"
"""File of a run folder with the id of the MLflow run and the number of epochs sent to it."""
EXPERIMENT = "brainscale"
BATCH_METRICS = 500  # MLflow accepts at most 1,000 metrics in one request
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # otherwise MLflow reports its use to its makers
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder as the address is a deliberate choice
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of seven takes minutes, and progress waits for it
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Settings of MLflow's client, unless the environment sets them."""


def check_tracking_uri(uri: str) -> str:
    """Return a tracking address that is safe to pass on; the path of a folder becomes absolute.

    Raises:
        UsageError: the address contains credentials, or could contain them.
    """
    if "://" not in uri and uri != "databricks":
        return Path(uri.removeprefix("file:")).absolute().as_uri()
    parts = urlsplit(uri)
    if "@" in parts.netloc or (parts.query and parts.scheme in ("http", "https")):
        raise UsageError(
            "--mlflow takes an address without credentials: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return uri


def require_mlflow() -> None:
    """Check that MLflow is installed, before any work begins.

    Raises:
        UsageError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("--mlflow needs MLflow's client: pip install 'brainscale[mlflow]'")


@contextmanager
def track_run(
    uri: str | None,
    run: Path,
    config: Config,
    tags: dict[str, str],
    history: Sequence[Epoch],
    on_notice: Callable[[str], None],
) -> Iterator["RunTracker"]:
    """Log a run to MLflow during the with-block; an exception in it ends the MLflow run as failed or killed.

    Args:
        uri: address of the tracking server, as `check_tracking_uri` returns it; None logs nothing.
        run: the run folder.
        config: configuration of the run, logged as parameters.
        tags: tags of the MLflow run.
        history: rows of schema HISTORY of the epochs that are finished already.
        on_notice: called with one message when the server fails.
    """
    tracker = RunTracker(uri, run, config, tags, on_notice)
    tracker.begin(history)
    try:
        yield tracker
    except BaseException as error:
        tracker.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


class RunTracker:
    """Sends the epochs and the bundle of a run to MLflow, and sends again later what the server did not accept.

    The arguments are those of `track_run`.
    """

    def __init__(
        self, uri: str | None, run: Path, config: Config, tags: dict[str, str], on_notice: Callable[[str], None]
    ) -> None:
        self._uri, self._file, self._run_name, self._on_notice = uri, run / MLFLOW_FILE, run.name, on_notice
        self._params, self._tags = flatten_config(config), {"brainscale": __version__, **tags}
        self._client: Any = None
        self._run_id, self._epochs_sent = "", 0
        self._pending: list[Epoch] = []
        self._failed = False

    def begin(self, history: Sequence[Epoch]) -> None:
        """Open the MLflow run of this folder, or create one, and send the epochs that it lacks."""
        self._pending = list(history)
        self._attempt(self._send_epochs)

    def log_epoch(self, row: Epoch) -> None:
        """Send a row of schema HISTORY."""
        self._pending.append(row)
        self._attempt(self._send_epochs)

    def end(self, status: str, tags: dict[str, str] | None = None, bundle: Path | None = None) -> None:
        """Set the final status; a finished run sends all that is missing, even if the server failed before.

        Args:
            status: FINISHED, FAILED or KILLED.
            tags: more tags of the MLflow run.
            bundle: folder of the model, uploaded as an artifact.
        """

        def close() -> None:
            self._send_epochs()
            if bundle is not None:
                self._client.log_artifacts(self._run_id, str(bundle), "model")
            for key, value in (tags or {}).items():
                self._client.set_tag(self._run_id, key, value)
            self._client.set_terminated(self._run_id, status)

        self._attempt(close, after_failure=status == "FINISHED")

    def _attempt(self, action: Callable[[], None], after_failure: bool = False) -> None:
        """Run an action that talks to the server; report the first failure, and then try only where asked to."""
        if self._uri is None or (self._failed and not after_failure):
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (MLflow has many back ends, and no error of theirs may stop training)
            if not self._failed:
                reason = first_line(error).replace(self._uri, "the server")
                self._on_notice(
                    f"logging to MLflow failed ({reason}): training continues, and the missing data is sent at its end"
                )
            self._failed = True

    def _open_run(self) -> None:
        from mlflow.entities import Param, RunTag

        self._client = _make_client(str(self._uri))
        self._run_id, self._epochs_sent = self._find_existing_run() or ("", 0)
        params = self._params
        if self._run_id:
            self._client.update_run(self._run_id, status="RUNNING")
            # MLflow refuses to change a parameter, and resources may change when a run is resumed
            params = {key: value for key, value in params.items() if not key.startswith("resources.")}
        else:
            experiment = _find_experiment(self._client)
            self._run_id = self._client.create_run(experiment, run_name=self._run_name).info.run_id
            self._write_file()
        self._client.log_batch(
            self._run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in self._tags.items()],
        )

    def _find_existing_run(self) -> tuple[str, int] | None:
        """Return id and epochs of the MLflow run in the run folder's file, or None if this server does not have it."""
        from mlflow.exceptions import MlflowException

        if not self._file.exists():
            return None
        facts = json.loads(self._file.read_text(encoding="utf-8"))
        try:
            self._client.get_run(facts["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return facts["run_id"], facts["epochs"]

    def _send_epochs(self) -> None:
        from mlflow.entities import Metric

        if not self._run_id:
            self._open_run()
        now = int(time.time() * 1000)
        rows = [row for row in self._pending if row["epoch"] > self._epochs_sent]
        metrics = [
            Metric(name, value, now, row["epoch"]) for row in rows for name, value in tracked_metrics(row).items()
        ]
        for start in range(0, len(metrics), BATCH_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH_METRICS])
        self._epochs_sent = max((row["epoch"] for row in rows), default=self._epochs_sent)
        self._pending.clear()
        self._write_file()

    def _write_file(self) -> None:
        write_json(self._file, {"run_id": self._run_id, "epochs": self._epochs_sent})


def flatten_config(config: Config) -> dict[str, str]:
    """Return `section.key` → value as text; a list or mapping as JSON."""
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }


def _make_client(uri: str) -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they would log each retry
    return MlflowClient(tracking_uri=uri)


def _find_experiment(client: Any) -> str:
    """Return the id of the experiment, which is created if the server does not have it."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))
