"""Run commands as jobs on a cluster, through its Jobs server: submit, follow, list and stop them."""

import asyncio
import json
import secrets
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from brainscale import logs
from brainscale.cluster.job_log import JobLog
from brainscale.cluster.job_main import REQUEST
from brainscale.cluster.ray_private import job_client
from brainscale.cluster.session import quiet
from brainscale.config.files import resource_folder
from brainscale.errors import RERUN, ClusterError, UsageError, first_line
from brainscale.storage.remote import refuse_keys
from brainscale.version import __version__

Client: TypeAlias = JobSubmissionClient
"""A connection to a Jobs server."""
REQUEST_S = 120.0  # time-out of one request, such as the upload of a job
ANSWER_S = 10.0  # time-out of the first answer of a server
GONE_S = 30.0  # time without an answer after which a server counts as lost
STOP_S = 60.0  # time that a job may take to end after it was told to stop
LIMIT = 100 * 2**20  # bytes that a Jobs server accepts as one upload
RAY_SETTINGS = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "ERROR",  # the log is for a person
    "RAY_JOB_STOP_WAIT_TIME_S": "20",  # before a job that was told to stop is killed; by default 3
}
"""Ray's settings in the environment of a job."""
AGENT_S = 90.0
"""Seconds that a head which has just started gets for the agent that starts jobs."""
NO_AGENT = "No available agent"
"""What a Jobs server says meanwhile."""
UNREACHED = (RuntimeError, ConnectionError, OSError, ClientError, asyncio.TimeoutError)
"""Exceptions of Ray's client for a server that does not answer, or answers with an error."""


def connect(address: str) -> Client:
    """Connect to a Jobs server.

    Args:
        address: URL of the server, such as http://127.0.0.1:8265.

    Raises:
        UsageError: the address is not a URL, or contains a password.
        ClusterError: the server does not answer, or refuses this client.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(
            f"--address takes a Jobs URL such as http://127.0.0.1:8265, not '{address.rpartition('@')[2]}'"
        )
    if "@" in urlsplit(address).netloc:
        raise UsageError("--address contains a password: set the cluster's token in RAY_AUTH_TOKEN instead")
    quiet()
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S):  # noqa: S310 (checked)
            pass
    except urllib.error.HTTPError:
        pass  # the server answers; the client below handles what it refuses
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Jobs server answers at {address} ({first_line(error)}): check the address, and that `ray start "
            "--head` runs there"
        ) from None
    try:
        return job_client(address, REQUEST_S)
    except AuthenticationError:
        raise ClusterError(
            f"{address} does not accept the token of this machine: set the cluster's token in RAY_AUTH_TOKEN, or the "
            "path of its file in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError(
            f"{address} does not accept jobs ({first_line(error)}): check the address, and its version of Ray"
        ) from error


def submit(client: Client, command: str, request: dict[str, Any], log_format: str = "text") -> str:
    """Submit a command as a job.

    Args:
        client: connection to the Jobs server.
        command: train, evaluate, score or index: the script of this name in jobs/.
        request: arguments of the command, as JSON; paths as the cluster sees them.
        log_format: format of the job's log, text or json.

    Returns:
        The job's unique id.

    Raises:
        UsageError: an address contains a key.
        ClusterError: the upload is too large, or the server refuses the job.
    """
    for text in _texts(request):
        refuse_keys(text)
    job = f"brainscale-{command}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with _upload(request) as folder:
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if nbytes > LIMIT:
            raise ClusterError(
                f"the job's upload has {nbytes / 2**20:.0f} MiB, but a Jobs server accepts {LIMIT / 2**20:.0f} MiB: "
                "list the sources in a file on the cluster's storage (@FILE) or in a manifest"
            )
        return _submit(
            client,
            entrypoint=f"python jobs/start.py {command} {REQUEST}",
            submission_id=job,
            runtime_env={"working_dir": str(folder), "env_vars": {**RAY_SETTINGS, logs.VARIABLE: log_format}},
            metadata={"brainscale": __version__, "command": command, "out": str(request.get("out") or "")},
        )


def _submit(client: JobSubmissionClient, **job: Any) -> str:
    """Submit a job; a head that has just started and has no agent yet is asked again."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            return client.submit_job(**job)
        except UNREACHED as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise ClusterError(
                    f"the Jobs server did not accept the job ({first_line(error)}): check the cluster and {RERUN}"
                ) from error
        time.sleep(1)


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """The outcome of a job that has ended.

    Attributes:
        status: exit status.
        result: result that the job printed; None if it failed before.
    """

    status: int
    result: dict[str, Any] | None


def follow(client: Client, job: str, on_line: Callable[[str], None]) -> JobOutcome:
    """Follow a job's log until the job ends.

    Args:
        client: connection to the Jobs server.
        job: id of the job.
        on_line: called once with each line of the log except the result, even if the connection breaks.

    Raises:
        ClusterError: the job was stopped or never ran, or the server does not answer any more.
    """
    log, silent_since = JobLog(on_line), None
    while True:
        try:
            asyncio.run(log.read(client, job))
            if client.get_job_status(job).is_terminal():
                log.end(client.get_job_logs(job))
                return JobOutcome(status=_exit_status(client.get_job_info(job)), result=log.result)
            silent_since = None
        except UNREACHED as error:
            if _is_unknown(error):
                raise _unknown(job) from None
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > GONE_S:
                raise ClusterError(
                    f"the Jobs server does not answer any more ({first_line(error)}): when the cluster is back, {RERUN}"
                ) from None
        time.sleep(0.5)


def _exit_status(info: JobDetails) -> int:
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED or info.driver_exit_code is None or info.driver_exit_code <= 0:
        reason = first_line(info.message or "no reason given")
        raise ClusterError(f"job {info.submission_id} {str(info.status).lower()}: {reason}; {RERUN}")
    return int(info.driver_exit_code)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job that brainscale submitted.

    Attributes:
        id: unique id of the job.
        status: pending, running, succeeded, failed or stopped.
        command: train, evaluate, score or index; None if unknown.
        out: output of the command, a path or an address; None if unknown.
        started: time of the start, UTC, ISO 8601; None before it.
        seconds: time from the start to the end, or until now; None before the start.
    """

    id: str
    status: str
    command: str | None
    out: str | None
    started: str | None
    seconds: float | None


def list_jobs(client: Client) -> list[JobRecord]:
    """Return the jobs that brainscale submitted, the latest first.

    Raises:
        ClusterError: the server does not answer.
    """
    jobs = [info for info in _request(client.list_jobs) if (info.metadata or {}).get("brainscale")]
    return [_record(info) for info in sorted(jobs, key=lambda info: info.start_time or 0, reverse=True)]


def _record(info: JobDetails) -> JobRecord:
    began, ended = (info.start_time or 0) / 1000, (info.end_time or 0) / 1000
    metadata = info.metadata or {}
    return JobRecord(
        id=str(info.submission_id),
        status=str(info.status).lower(),
        command=metadata.get("command"),
        out=metadata.get("out"),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)) if began else None,
        seconds=round((ended or time.time()) - began, 1) if began else None,
    )


def read_log(client: Client, job: str) -> list[str]:
    """Return the lines of a job's log so far, without its result and the lines of Ray.

    Raises:
        ClusterError: there is no such job, or the server does not answer.
    """
    lines: list[str] = []
    JobLog(lines.append).end(str(_request(lambda: client.get_job_logs(job), job)))
    return lines


def stop(client: Client, job: str) -> str:
    """Stop a job, wait until it has ended, and return its status.

    Raises:
        ClusterError: there is no such job, it does not end, or the server does not answer.
    """
    _request(lambda: client.stop_job(job), job)
    deadline = time.monotonic() + STOP_S
    while not (status := _request(lambda: client.get_job_status(job), job)).is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(f"job {job} is still {str(status).lower()} {STOP_S:g} s after the stop: try again")
        time.sleep(0.5)
    return str(status).lower()


def _request(request: Callable[[], Any], job: str = "") -> Any:
    try:
        return request()
    except UNREACHED as error:
        if _is_unknown(error):
            raise _unknown(job) from None
        raise ClusterError(f"the Jobs server does not answer ({first_line(error)}): check the cluster") from None


def _is_unknown(error: BaseException) -> bool:
    return "status code 404" in str(error) or getattr(error, "status", None) == HTTPStatus.NOT_FOUND


def _unknown(job: str) -> ClusterError:
    return ClusterError(f"no job with id '{job}': `brainscale jobs list` lists the jobs")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


@contextmanager
def _upload(request: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder with everything that is uploaded: the package, jobs/, configs/ and the request."""
    with tempfile.TemporaryDirectory(prefix="brainscale-") as name:
        folder, ignore = Path(name), shutil.ignore_patterns("__pycache__", "jobs", "configs")
        shutil.copytree(Path(__file__).parents[1], folder / "brainscale", ignore=ignore)
        for extra in ("jobs", "configs"):
            shutil.copytree(resource_folder(extra), folder / extra, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        yield folder
