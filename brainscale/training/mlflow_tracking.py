"""A run in MLflow: parameters, tags, metrics of each epoch, and the bundle. A server that fails never stops training.

The place of the server is no part of the configuration, which is written to many files.
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

NOTE = "mlflow.json"
"""In a run: which run of MLflow it is, and how many of its epochs are there."""
EXPERIMENT = "brainscale"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow tells its makers of use otherwise
    "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever names a folder wants one
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven take minutes, and progress waits for them
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Of MLflow's client, where the environment does not say otherwise."""


def checked_uri(uri: str) -> str:
    """A tracking address that is fit to be passed on; a folder's path becomes absolute.

    Raises:
        UsageError: it holds credentials, or could.
    """
    if "://" not in uri and uri != "databricks":
        return Path(uri.removeprefix("file:")).absolute().as_uri()
    parts = urlsplit(uri)
    if "@" in parts.netloc or (parts.query and parts.scheme in ("http", "https")):
        raise UsageError(
            "--mlflow takes an address without credentials: "
            "put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return uri


def require_mlflow() -> None:
    """Refuse before any work what could not be tracked.

    Raises:
        UsageError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("--mlflow needs MLflow's client: pip install 'brainscale[mlflow]'")


@contextmanager
def tracked(
    uri: str | None,
    run: Path,
    config: Config,
    tags: dict[str, str],
    history: Sequence[Epoch],
    say: Callable[[str], None],
) -> Iterator["Tracking"]:
    """A run of MLflow for the with-block; it ends as killed or failed when the block does.

    Args:
        uri: of the tracking server, as `checked` gives it; without one nothing is sent.
        run: the run folder.
        config: its parameters.
        tags: what else is known at the beginning.
        history: rows of schema HISTORY of the epochs before.
        say: takes one line when the server fails.
    """
    tracking = Tracking(uri, run, config, tags, say)
    tracking.begin(history)
    try:
        yield tracking
    except BaseException as error:
        tracking.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


class Tracking:
    """Sends what comes of a run to MLflow, and what could not be sent when next it can.

    The arguments are those of `tracked`.
    """

    def __init__(
        self, uri: str | None, run: Path, config: Config, tags: dict[str, str], say: Callable[[str], None]
    ) -> None:
        self._uri, self._note, self._name, self._say = uri, run / NOTE, run.name, say
        self._params, self._tags = flattened(config), {"brainscale": __version__, **tags}
        self._client: Any = None
        self._id, self._sent = "", 0
        self._rows: list[Epoch] = []
        self._failed = False

    def begin(self, history: Sequence[Epoch]) -> None:
        """Open the run, the one of the folder's note if there is one, and send the epochs that it lacks."""
        self._rows = list(history)
        self._attempt(self._send)

    def epoch(self, row: Epoch) -> None:
        """Send a row of schema HISTORY."""
        self._rows.append(row)
        self._attempt(self._send)

    def end(self, status: str, tags: dict[str, str] | None = None, bundle: Path | None = None) -> None:
        """Say how the run ended; a finished one sends all that is left, also where an attempt failed before.

        Args:
            status: FINISHED, FAILED or KILLED.
            tags: what is known only now.
            bundle: folder of the model.
        """

        def close() -> None:
            self._send()
            if bundle is not None:
                self._client.log_artifacts(self._id, str(bundle), "model")
            for key, value in (tags or {}).items():
                self._client.set_tag(self._id, key, value)
            self._client.set_terminated(self._id, status)

        self._attempt(close, again=status == "FINISHED")

    def _attempt(self, action: Callable[[], None], again: bool = False) -> None:
        if self._uri is None or (self._failed and not again):
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (a library of many back ends, and training matters more)
            if not self._failed:
                reason = first_line(error).replace(self._uri, "the server")
                self._say(f"MLflow fails ({reason}): training goes on; what is missing is tried once more at its end")
            self._failed = True

    def _open(self) -> None:
        from mlflow.entities import Param, RunTag

        self._client = _client(str(self._uri))
        self._id, self._sent = self._known() or ("", 0)
        params = self._params
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
            params = {key: value for key, value in params.items() if not key.startswith("resources.")}  # set for good
        else:
            self._id = self._client.create_run(_experiment(self._client), run_name=self._name).info.run_id
            self._keep()
        self._client.log_batch(
            self._id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in self._tags.items()],
        )

    def _known(self) -> tuple[str, int] | None:
        """Id and epochs of the run that the folder's note names, if this server has it."""
        from mlflow.exceptions import MlflowException

        if not self._note.exists():
            return None
        note = json.loads(self._note.read_text(encoding="utf-8"))
        try:
            self._client.get_run(note["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return note["run_id"], note["epochs"]

    def _send(self) -> None:
        from mlflow.entities import Metric

        if not self._id:
            self._open()
        now = int(time.time() * 1000)
        rows = [row for row in self._rows if row["epoch"] > self._sent]
        metrics = [
            Metric(name, value, now, row["epoch"]) for row in rows for name, value in tracked_metrics(row).items()
        ]
        for start in range(0, len(metrics), 500):  # MLflow takes 1,000 at a time
            self._client.log_batch(self._id, metrics=metrics[start : start + 500])
        self._sent = max((row["epoch"] for row in rows), default=self._sent)
        self._rows.clear()
        self._keep()

    def _keep(self) -> None:
        write_json(self._note, {"run_id": self._id, "epochs": self._sent})


def flattened(config: Config) -> dict[str, str]:
    """`section.key` → value as text; what is no single value as JSON."""
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }


def _client(uri: str) -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of each attempt
    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))
