"""Connect to Ray: a local one for this command, or the one around it."""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from brainscale.cluster.ray_private import send_raylet_messages_to_stderr
from brainscale.errors import ClusterError, first_line

TALKERS = ("ray", "ray.data", "ray.train", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers that have a level of their own."""

OF_OUR_OWN = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of this default otherwise
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its core writes to our standard error otherwise
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing of a job on scans is reported anywhere
    "RAY_num_workers_soft_limit": "16",  # idle processes end otherwise, and a new one imports for a second
}
"""Environment of a Ray that we start; what is set already stays."""

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@contextmanager
def session(workers: int | None = None, object_store_gib: float | None = None) -> Iterator[None]:
    """A Ray on this machine for the with-block; one that is already connected, or around this process, serves as it is.

    It counts more CPUs than workers, so that reading tasks are never starved by them.

    Args:
        workers: how many the work will ask for, where that is known.
        object_store_gib: memory of a new Ray's object store; Ray's own choice without.
    """
    if ray.is_initialized():
        yield
        return
    if around := os.environ.get("RAY_ADDRESS"):  # as in a job, or where a scheduler started the nodes
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"no Ray answers at RAY_ADDRESS={around} ({first_line(error)}): unset it for a local one"
            ) from None
        quiet()
        try:
            yield
        finally:
            ray.shutdown()
        return
    for name, value in OF_OUR_OWN.items():
        os.environ.setdefault(name, value)
    _private_token()
    try:
        with _standard_error_aside():  # it says there, once, that it took the level
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, (workers or 1) + 1),
                include_dashboard=False,
                object_store_memory=None if object_store_gib is None else int(object_store_gib * 2**30),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises no kind of its own where its processes do not come up in time
        ray.shutdown()
        raise ClusterError(f"Ray did not start ({first_line(error)}): run the same command again") from error
    quiet()
    try:
        yield
    finally:
        ray.shutdown()


def _private_token() -> None:
    """The token that Ray asks for, readable by its owner alone; Ray would let everybody read the one it makes."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # a home that cannot be written: Ray says so if it matters
        token.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), os.fdopen(os.open(token, NEW, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
        token.chmod(0o600)


def quiet() -> None:
    """Leave Ray's own notes to its log files; warnings and errors still reach standard error."""
    send_raylet_messages_to_stderr(unless="worker processes have been started")  # which folds side by side need
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _standard_error_aside() -> Iterator[None]:
    """Keep what native code writes to standard error; show it only if the with-block fails."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(real, aside.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
