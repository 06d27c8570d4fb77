"""Connect to Ray: to the cluster that this process runs on, or to a local Ray that is started for this command."""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from brainscale import progress
from brainscale.cluster.ray_private import send_raylet_messages_to_stderr
from brainscale.errors import ClusterError, first_line

LOGGERS = ("ray", "ray.data", "ray.train", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray that set their own level."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise Ray warns about its own default
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray's core writes to this command's standard error
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage report leaves this machine
    "RAY_num_workers_soft_limit": "16",  # otherwise idle processes end, and each new one imports for a second
}
"""Environment variables of a local Ray; a variable that is already set keeps its value."""

EXPECTED = ("worker processes have been started", "it was killed by `ray.kill`")
"""Messages of Ray that are no news: of folds that run in parallel, and of engines that a job ends before their work."""

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@contextmanager
def session(workers: int | None = None, object_store_gib: float | None = None) -> Iterator[None]:
    """Connect to Ray for the with-block: to a connected or surrounding Ray if there is one, or else to a new local one.

    A local Ray counts at least one CPU more than there are workers, so that reading always has one.

    Args:
        workers: number of workers that the work will ask for; None if unknown.
        object_store_gib: size of a local Ray's object store, GiB; None for Ray's default.

    Raises:
        ClusterError: the surrounding Ray does not answer, or a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
    progress.stage("starting Ray" if "RAY_ADDRESS" not in os.environ else "connecting to Ray")
    if surrounding := os.environ.get("RAY_ADDRESS"):  # inside a job, or on nodes that a scheduler started
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"no Ray answers at RAY_ADDRESS={surrounding} ({first_line(error)}): start it, or unset RAY_ADDRESS to "
                "use this machine alone"
            ) from None
        quiet()
        try:
            yield
        finally:
            ray.shutdown()
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _ensure_private_token()
    try:
        with _held_standard_error():  # Ray reports there that it changed its log level
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, (workers or 1) + 1),
                include_dashboard=False,
                object_store_memory=None if object_store_gib is None else int(object_store_gib * 2**30),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray has no exception of its own for processes that do not start in time
        ray.shutdown()
        raise ClusterError(f"a local Ray did not start ({first_line(error)}): run the same command again") from error
    quiet()
    try:
        yield
    finally:
        ray.shutdown()


def _ensure_private_token() -> None:
    """Create Ray's token file for its owner only, since Ray would create one that everybody can read."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # a home folder that cannot be written: Ray reports it if it needs the file
        token.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), os.fdopen(os.open(token, CREATE, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
        token.chmod(0o600)


def quiet() -> None:
    """Keep Ray's messages out of standard output; warnings and errors of its raylet go to standard error."""
    send_raylet_messages_to_stderr(*EXPECTED)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _held_standard_error() -> Iterator[None]:
    """Hold back what native code writes to standard error, and show it only if the with-block fails."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException:
            buffer.seek(0)
            os.write(original, buffer.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
