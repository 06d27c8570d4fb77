"""Commands as jobs of a cluster, through its Jobs server: submit, follow, list, stop."""

import asyncio
import json
import re
import secrets
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from brainscale import logs
from brainscale.cluster.job_main import REQUEST, RESULT
from brainscale.cluster.ray_private import job_client
from brainscale.cluster.session import quiet
from brainscale.config.files import resource_folder
from brainscale.errors import ClusterError, UsageError, first_line
from brainscale.storage.remote import refuse_keys
from brainscale.version import __version__

REQUEST_S = 120.0  # seconds that one request may take, such as the upload
ANSWER_S = 10.0  # seconds an address may take to answer before it counts as silent
GONE_S = 30.0  # seconds without an answer after which a server that did answer counts as gone
STOP_S = 60.0  # seconds a job may take to end once it was told to
QUIET_S = 60.0  # seconds of a log without a line after which its connection is made anew
LIMIT = 100 * 2**20  # bytes that a Jobs server takes as one upload
SERVERS_OWN = re.compile(r"\S+ \S+\tINFO job_manager\.py|Running entrypoint for job ")
"""What a Jobs server notes in a job's log."""
UNREACHED = (RuntimeError, ConnectionError, OSError, ClientError, asyncio.TimeoutError)
"""How Ray's client says that a server does not answer, or not as it should."""


def connect(address: str) -> JobSubmissionClient:
    """A client of a Jobs server.

    Args:
        address: such as http://127.0.0.1:8265.

    Raises:
        UsageError: no such address, or one with a password.
        ClusterError: nobody answers, or not to this client.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(
            f"--address takes a Jobs URL such as http://127.0.0.1:8265, not '{address.rpartition('@')[2]}'"
        )
    if "@" in urlsplit(address).netloc:
        raise UsageError("--address holds a password: put the cluster's token into RAY_AUTH_TOKEN instead")
    quiet()
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
        return job_client(address, REQUEST_S)
    except AuthenticationError:
        raise ClusterError(
            f"{address} does not accept this client's token: put the cluster's into RAY_AUTH_TOKEN, "
            "or its file's path into RAY_AUTH_TOKEN_PATH"
        ) from None
    except (RuntimeError, ConnectionError) as error:
        raise ClusterError(f"{address} does not accept jobs: {first_line(error)}") from error


def submit(client: JobSubmissionClient, command: str, request: dict[str, Any], log_format: str = "text") -> str:
    """Send a command to a cluster.

    Args:
        client: of its Jobs server.
        command: train, evaluate, score or index: the script of that name in jobs/.
        request: JSON-able arguments; paths as the cluster sees them.
        log_format: of what it says, text or json.

    Returns:
        The job's id, which no other job has.

    Raises:
        UsageError: a key stands in an address.
        ClusterError: it is too large, or the server refuses it.
    """
    for place in _texts(request):
        refuse_keys(place)
    job = f"brainscale-{command}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with _code(request) as folder:
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if nbytes > LIMIT:
            raise ClusterError(
                f"what the job needs is {nbytes / 2**20:.0f} MiB, and a Jobs server takes {LIMIT / 2**20:.0f}: "
                "name its sources in a file on the cluster's storage (@FILE) or a manifest"
            )
        try:
            return client.submit_job(
                entrypoint=f"python jobs/{command}.py {REQUEST}",
                submission_id=job,
                runtime_env={"working_dir": str(folder), "env_vars": {logs.VARIABLE: log_format}},
                metadata={"brainscale": __version__, "command": command, "out": str(request.get("out") or "")},
            )
        except UNREACHED as error:
            raise ClusterError(f"the job was not accepted: {first_line(error)}") from error


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """What became of a job.

    Attributes:
        status: its exit status.
        result: what it printed as its result, if it came to one.
    """

    status: int
    result: dict[str, Any] | None


def follow(client: JobSubmissionClient, job: str, on_line: Callable[[str], None]) -> JobOutcome:
    """Pass a job's log on, line by line, until the job ends.

    Args:
        client: of the Jobs server.
        job: its id.
        on_line: called with each line of the log but the result, each once, however often the connection breaks.

    Raises:
        ClusterError: the job was stopped, never ran, or the server has gone.
    """
    log, silent_since = _Log(on_line), None
    while True:
        try:
            asyncio.run(log.take(client, job))
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
                    f"the Jobs server has gone ({first_line(error)}): once a cluster is there, run the same command "
                    "again to go on"
                ) from None
        time.sleep(0.5)


class _Log:
    """A log as it comes; every connection begins at its first character again."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._seen, self._line = on_line, 0, ""
        self.result: dict[str, Any] | None = None

    async def take(self, client: JobSubmissionClient, job: str) -> None:
        at, pieces = 0, client.tail_job_logs(job)
        with suppress(StopAsyncIteration, asyncio.TimeoutError):  # a connection may die without a word
            while True:
                async with asyncio.timeout(QUIET_S):  # wait_for may lose a Ctrl-C that comes with a piece
                    piece = await anext(pieces)
                self._add(piece[max(0, self._seen - at) :])
                at += len(piece)

    def end(self, whole: str) -> None:
        """What is left of the whole log, and its last line if nothing ends it."""
        self._add(whole[self._seen :])
        if self._line:
            self._add("\n")

    def _add(self, text: str) -> None:
        self._seen += len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith(RESULT):
                self.result = json.loads(line.removeprefix(RESULT))
            elif not SERVERS_OWN.match(line):
                self._on_line(line)


def _exit_status(info: JobDetails) -> int:
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED or info.driver_exit_code is None or info.driver_exit_code <= 0:
        reason = first_line(info.message or "no reason given")
        raise ClusterError(f"job {info.submission_id} {str(info.status).lower()}: {reason}")
    return int(info.driver_exit_code)


def list_jobs(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """The jobs that brainscale sent, the latest first: id, status, command, out, started, seconds."""
    ours = [info for info in _asked(client.list_jobs) if (info.metadata or {}).get("brainscale")]
    return [_facts(info) for info in sorted(ours, key=lambda info: info.start_time or 0, reverse=True)]


def _facts(info: JobDetails) -> dict[str, Any]:
    began, ended = (info.start_time or 0) / 1000, (info.end_time or 0) / 1000
    metadata = info.metadata or {}
    return {
        "id": info.submission_id,
        "status": str(info.status).lower(),
        "command": metadata.get("command"),
        "out": metadata.get("out"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)) if began else None,
        "seconds": round((ended or time.time()) - began, 1) if began else None,
    }


def log_of(client: JobSubmissionClient, job: str) -> str:
    """A job's log so far."""
    return str(_asked(lambda: client.get_job_logs(job), job))


def stop(client: JobSubmissionClient, job: str) -> str:
    """End a job and wait until it has; its status then.

    Raises:
        ClusterError: no such job, or it does not end.
    """
    _asked(lambda: client.stop_job(job), job)
    deadline = time.monotonic() + STOP_S
    while not (status := _asked(lambda: client.get_job_status(job), job)).is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(f"job {job} was told to stop and is still {str(status).lower()}")
        time.sleep(0.5)
    return str(status).lower()


def _asked(question: Callable[[], Any], job: str = "") -> Any:
    try:
        return question()
    except UNREACHED as error:
        if _is_unknown(error):
            raise _unknown(job) from None
        raise ClusterError(f"the Jobs server does not answer: {first_line(error)}") from None


def _is_unknown(error: BaseException) -> bool:
    return "status code 404" in str(error) or getattr(error, "status", None) == HTTPStatus.NOT_FOUND


def _unknown(job: str) -> ClusterError:
    return ClusterError(f"no job {job}: `brainscale jobs list` names those that are there")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


@contextmanager
def _code(request: dict[str, Any]) -> Iterator[Path]:
    """A folder with the package, jobs/, configs/ and the request: all that travels."""
    with tempfile.TemporaryDirectory(prefix="brainscale-") as name:
        folder, ignore = Path(name), shutil.ignore_patterns("__pycache__", "jobs", "configs")
        shutil.copytree(Path(__file__).parents[1], folder / "brainscale", ignore=ignore)
        for extra in ("jobs", "configs"):
            shutil.copytree(resource_folder(extra), folder / extra, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        yield folder
