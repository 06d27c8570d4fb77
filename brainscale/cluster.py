"""Connect to Ray: a local one for this command, the one a job runs in, or a cluster by its Jobs address."""

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from brainscale.config import resource_folder
from brainscale.errors import BrainscaleError, ClusterError, UsageError, first_line

REQUEST = "request.json"
ANSWER_S = 10  # seconds an address may take to answer before it counts as silent


@contextmanager
def local(workers: int) -> Iterator[None]:
    """A Ray on this machine for the with-block; one that is already connected serves as it is.

    It counts more CPUs than workers, so that reading tasks are never starved by them.

    Args:
        workers: how many the work will ask for.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of this default otherwise
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its core writes to our standard error otherwise
    with _standard_error_aside():  # it says there, once, that it took the level
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, workers + 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    _quiet()
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():  # whoever reads it may run code here, and Ray lets everybody read it
        token.chmod(0o600)
    try:
        yield
    finally:
        ray.shutdown()


def run_job(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Main of the scripts in jobs/: connect to the cluster around it, do the request, print what came of it.

    Args:
        function: takes the request that `submit` sent, returns facts to print.
    """
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        _quiet()
        print(json.dumps(function(request), indent=2), flush=True)  # noqa: T201 (a job's log is its output)
    except BrainscaleError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(error.exit_code) from None


def submit(address: str, command: str, request: dict[str, Any], on_log: Callable[[str], None]) -> int:
    """Run jobs/COMMAND.py on a cluster, follow its log, and wait for its end.

    Args:
        address: of the Jobs server, such as http://127.0.0.1:8265.
        command: train, evaluate or score.
        request: JSON-able arguments of the job; paths as the cluster sees them.
        on_log: called with pieces of the job's log as they come.

    Returns:
        The job's exit status.

    Raises:
        ClusterError: nobody answers, the job is refused, or it never ran.
    """
    client = _client(address)
    with _code(request) as folder:
        try:
            job = client.submit_job(
                entrypoint=f"python jobs/{command}.py {REQUEST}",
                runtime_env={"working_dir": str(folder)},
                metadata={"brainscale": command},
            )
        except (RuntimeError, ConnectionError) as error:
            raise ClusterError(f"{address} did not accept the job: {first_line(error)}") from error
    try:
        asyncio.run(_follow(client, job, on_log))
        return _exit_status(client, job)
    except KeyboardInterrupt:
        stop = f"ray job stop {job} --address {address}"
        raise ClusterError(f"the job goes on at {address}; to end it: {stop}") from None


def _client(address: str) -> JobSubmissionClient:
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address takes a Jobs URL such as http://127.0.0.1:8265, not '{address}'")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S):  # noqa: S310 (checked)
            pass
    except urllib.error.HTTPError:
        pass  # it answers; what it wants is the client's business
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Jobs server answers at {address} ({first_line(error)}): is `ray start --head` running?"
        ) from None
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise ClusterError(
            f"{address} does not accept this client's token: put the cluster's into RAY_AUTH_TOKEN, "
            "or its file's path into RAY_AUTH_TOKEN_PATH"
        ) from None
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError(f"{address} does not accept jobs: {first_line(error)}") from error


@contextmanager
def _code(request: dict[str, Any]) -> Iterator[Path]:
    """A folder with the package, jobs/, configs/ and the request: all that travels."""
    with tempfile.TemporaryDirectory(prefix="brainscale-") as name:
        folder, ignore = Path(name), shutil.ignore_patterns("__pycache__", "jobs", "configs")
        shutil.copytree(Path(__file__).parent, folder / "brainscale", ignore=ignore)
        for extra in ("jobs", "configs"):
            shutil.copytree(resource_folder(extra), folder / extra, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        yield folder


async def _follow(client: JobSubmissionClient, job: str, on_log: Callable[[str], None]) -> None:
    async for piece in client.tail_job_logs(job):
        on_log(piece)


def _exit_status(client: JobSubmissionClient, job: str) -> int:
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)
    info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code is None or info.driver_exit_code < 0:
        raise ClusterError(f"job {job} {str(info.status).lower()}: {first_line(info.message or 'no reason given')}")
    return int(info.driver_exit_code)


def _quiet() -> None:
    """Ray's own notes go to its log files; warnings and errors still reach standard error.

    The raylet's would reach standard output, where results are.
    """
    ray_worker.print_to_stdstream = _raylet_says
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _raylet_says(data: dict[str, Any], ignore_prefix: bool) -> None:
    """To standard error; not that many processes were started, which folds side by side need."""
    if "worker processes have been started" not in str(data["lines"]):
        ray_worker.print_worker_logs(data, sys.stderr, ignore_prefix)


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
