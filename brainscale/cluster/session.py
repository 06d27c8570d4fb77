"""Connect to Ray: to the cluster that this process runs on, or to a local Ray that is started for this command."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from brainscale import progress
from brainscale.cluster.local_folders import LocalFolders, ensure_home, ensure_private_token, open_folders
from brainscale.cluster.ray_private import require_answer, send_raylet_messages_to_stderr
from brainscale.config.environment import surrounding_ray
from brainscale.errors import ClusterError, describe_remedy, first_line

LOGGERS = ("ray", "ray.data", "ray.train", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray that set their own level."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise Ray warns about its own default
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray's core writes to this command's standard error
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # no cloud takes this machine back
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage report leaves this machine
    "RAY_num_workers_soft_limit": "16",  # otherwise idle processes end, and each new one imports for a second
}
"""Environment variables of a local Ray; a variable that is already set keeps its value."""

EXPECTED = ("worker processes have been started", "it was killed by `ray.kill`")
"""Messages of Ray that are no news: of folds that run in parallel, and of engines that a job ends before their work."""

ANSWER_S = 10.0
"""Time that a surrounding Ray may take to answer, seconds."""


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
    ensure_home()
    surrounding = surrounding_ray()
    progress.stage("starting Ray" if surrounding is None else "connecting to Ray")
    if surrounding is not None:
        _connect(surrounding)
        try:
            yield
        finally:
            ray.shutdown()
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ensure_private_token()
    with open_folders() as folders:
        _start(folders, max(os.cpu_count() or 1, (workers or 1) + 1), object_store_gib)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    """Connect to the Ray that surrounds this process.

    Raises:
        ClusterError: it does not answer; Ray itself would try for a quarter of an hour.
    """
    if address.startswith(("http://", "https://")):
        raise ClusterError(f"RAY_ADDRESS={address} is a Jobs URL: unset RAY_ADDRESS, and pass --address {address}")
    try:
        require_answer(address, ANSWER_S)
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError:
        raise ClusterError(
            f"the Ray at RAY_ADDRESS={address} does not accept the token of this machine: set the cluster's token in "
            "RAY_AUTH_TOKEN, or the path of its file in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray answers at RAY_ADDRESS={address} ({first_line(error)}): start it, or unset RAY_ADDRESS to "
            "use this machine alone"
        ) from None
    quiet()


def _start(folders: LocalFolders, cpus: int, object_store_gib: float | None) -> None:
    """Start a local Ray.

    Raises:
        ClusterError: it does not start.
    """
    try:
        with _held_standard_error():  # Ray reports there that it changed its log level
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=None if object_store_gib is None else int(object_store_gib * 2**30),
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folders.temporary,
                object_spilling_directory=folders.spill,
            )
    except Exception as error:  # Ray has no exception of its own for processes that do not start in time
        ray.shutdown()
        remedy = describe_remedy(error) or "run the same command again"
        raise ClusterError(f"a local Ray did not start ({first_line(error)}): {remedy}") from error
    quiet()


def quiet() -> None:
    """Keep Ray's messages out of standard output; warnings and errors of its raylet go to standard error."""
    send_raylet_messages_to_stderr(*EXPECTED)
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # Ray Data sets its level again when it is imported
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
