"""What can be said of jobs without a cluster: what travels, what does not, and a log that breaks off."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from brainscale.cli import options
from brainscale.cli.jobs import _format_jobs
from brainscale.cluster import job_log, jobs
from brainscale.cluster.job_main import RESULT
from brainscale.errors import ClusterError, UsageError

NOTES = "2026-11-25 16:43:19,197\tINFO job_manager.py:581 -- Setting up.\nRunning entrypoint for job x: y\n"
TEXT = f"{NOTES}first\nsecond\n{RESULT}{json.dumps({'rows': 3})}\nlast without an end"


class Server:
    """Answers as Ray's client does for one job whose log connection breaks wherever it is told to."""

    def __init__(self, breaks: Iterator[int]) -> None:
        self.breaks, self.connections = breaks, 0
        self.sent: dict[str, Any] = {}

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        end = next(self.breaks, None)
        for at in range(0, len(TEXT) if end is None else end, 7):
            yield TEXT[at : min(at + 7, end or len(TEXT))]
        if end is not None:
            raise ConnectionError("cut")

    def get_job_status(self, job: str) -> JobStatus:
        return JobStatus.SUCCEEDED

    def get_job_logs(self, job: str) -> str:
        return TEXT

    def get_job_info(self, job: str) -> JobDetails:
        return JobDetails(type=JobType.SUBMISSION, submission_id=job, status=JobStatus.SUCCEEDED, entrypoint="")

    def submit_job(self, **sent: Any) -> str:
        self.sent = sent
        folder = Path(sent["runtime_env"]["working_dir"])
        self.names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return str(sent["submission_id"])


def test_no_ctrl_c_is_lost_in_a_busy_log() -> None:
    """One that comes at the moment of a piece ends the following all the same."""

    class Busy(Server):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)
            for _ in range(100):
                yield "epoch\n"

    with pytest.raises(KeyboardInterrupt):
        jobs.follow(Busy(iter([])), "job", lambda line: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("breaks", [[], [0], [3, 6, 11], [8, 20, len(TEXT)]])
def test_each_line_comes_once_however_often_the_connection_breaks(
    breaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server, lines = Server(iter(breaks)), []
    found = jobs.follow(server, "job", lines.append)  # type: ignore[arg-type]
    assert lines == ["first", "second", "last without an end"]
    assert found == jobs.JobOutcome(status=0, result={"rows": 3})
    assert server.connections == len(breaks) + 1


def test_a_server_that_is_gone_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "GONE_S", 0.0)
    with pytest.raises(
        ClusterError, match=r"does not answer any more \(cut\): .* run the same command again to resume"
    ):
        jobs.follow(Server(iter([5] * 100)), "job", lambda line: None)  # type: ignore[arg-type]


def test_the_package_travels_and_nothing_else() -> None:
    server = Server(iter([]))
    first, second = (jobs.submit(server, "score", {"out": "s3://b/c", "sources": ["x"]}) for _ in range(2))  # type: ignore[arg-type]
    assert first != second
    assert first.startswith("brainscale-score-")
    tops = {name.partition("/")[0] for name in server.names}
    assert tops == {"brainscale", "jobs", "configs", "request.json"}
    assert {"brainscale/cluster/jobs.py", "brainscale/cli/jobs.py", "jobs/score.py"} <= server.names
    assert not [name for name in server.names if "__pycache__" in name]
    assert server.sent["metadata"]["out"] == "s3://b/c"


def test_a_head_that_has_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(Server):
        asked = 0

        def submit_job(self, **sent: Any) -> str:
            self.asked += 1
            if self.asked < 3:
                raise RuntimeError("status code 500: No available agent to submit job, please try again later..")
            return super().submit_job(**sent)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = Starting(iter([]))
    assert jobs.submit(server, "score", {"out": "o"}) == server.sent["submission_id"]  # type: ignore[arg-type]
    assert server.asked == 3
    monkeypatch.setattr(jobs, "AGENT_S", 0.0)
    with pytest.raises(ClusterError, match=r"did not accept the job \(.*No available agent"):
        jobs.submit(Starting(iter([])), "score", {"out": "o"})  # type: ignore[arg-type]


def test_what_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LIMIT", 10_000)
    with pytest.raises(
        ClusterError, match=r"the job's upload has \d MiB, but a Jobs server accepts 0 MiB: list the sources"
    ):
        jobs.submit(Server(iter([])), "score", {"out": None})  # type: ignore[arg-type]


def test_keys_do_not_travel() -> None:
    server = Server(iter([]))
    with pytest.raises(UsageError) as refused:
        jobs.submit(server, "score", {"sources": ["s3://user:sesame@bucket/scans"], "out": "o"})  # type: ignore[arg-type]
    assert "sesame" not in str(refused.value)
    assert server.sent == {}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "ray://127.0.0.1:10001",
            "--address takes a Jobs URL such as http://127.0.0.1:8265, not 'ray://127.0.0.1:10001'",
        ),
        ("http://me:sesame@127.0.0.1:8265", "--address contains a password"),
        ("http://127.0.0.1:9", "no Jobs server answers at http://127.0.0.1:9"),
    ],
)
def test_addresses_that_cannot_be(address: str, said: str) -> None:
    with pytest.raises((UsageError, ClusterError)) as refused:
        jobs.connect(address)
    assert said in str(refused.value)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, None, "job an-id failed: why"),
        (JobStatus.FAILED, -9, "job an-id failed: why"),
        (JobStatus.STOPPED, 0, "job an-id stopped: why"),
        (JobStatus.STOPPED, 1, "job an-id stopped: why"),
    ],
)
def test_only_a_job_that_succeeded_ends_with_0(status: JobStatus, code: int | None, said: int | str) -> None:
    class Over(Server):
        def get_job_status(self, job: str) -> JobStatus:
            return status

        def get_job_info(self, job: str) -> JobDetails:
            facts: dict[str, Any] = {"submission_id": job, "status": status, "driver_exit_code": code}
            return JobDetails(type=JobType.SUBMISSION, entrypoint="", message="why", **facts)

    server: Any = Over(iter([]))
    if isinstance(said, int):
        assert jobs.follow(server, "an-id", lambda line: None).status == said
        return
    with pytest.raises(ClusterError, match=said):
        jobs.follow(server, "an-id", lambda line: None)


def test_a_port_with_404_in_it_is_no_unknown_job() -> None:
    class Deaf(Server):
        problem = "HTTPConnectionPool(host='127.0.0.1', port=40404): refused"

        def stop_job(self, job: str) -> bool:
            raise RuntimeError(self.problem)

    server: Any = Deaf(iter([]))
    with pytest.raises(ClusterError, match=r"the Jobs server does not answer \(HTTPConnectionPool"):
        jobs.stop(server, "an-id")
    server.problem = "Request failed with status code 404: Job an-id does not exist."
    with pytest.raises(ClusterError, match="no job with id 'an-id': `brainscale jobs list` lists the jobs"):
        jobs.stop(server, "an-id")


def test_a_connection_that_died_without_a_word_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(Server):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            first = self.connections == 0
            async for piece in super().tail_job_logs(job):
                yield piece
                if first and piece.startswith("seco"):
                    await asyncio.sleep(60)

        def get_job_status(self, job: str) -> JobStatus:
            return JobStatus.RUNNING if self.connections == 1 else JobStatus.SUCCEEDED

    monkeypatch.setattr(job_log, "QUIET_S", 0.05)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server, lines = Mute(iter([])), []
    found = jobs.follow(server, "job", lines.append)  # type: ignore[arg-type]
    assert lines == ["first", "second", "last without an end"]
    assert (server.connections, found.result) == (2, {"rows": 3})


@pytest.mark.parametrize("answer", [True, False, click.Abort()])
def test_ctrl_c_on_a_terminal_asks(
    answer: "bool | click.Abort", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def follow(*_: object) -> None:
        raise KeyboardInterrupt

    def confirm(*_: object, **__: object) -> bool:
        if isinstance(answer, click.Abort):
            raise answer
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(jobs, "follow", follow)
    monkeypatch.setattr(jobs, "stop", lambda *_: "stopped")
    monkeypatch.setattr(click, "confirm", confirm)
    server: Any = Server(iter([]))
    if answer is True:
        with pytest.raises(ClusterError, match=r"job j stopped; run the same command again"):
            options.follow_job("http://127.0.0.1:1", server, "j", as_json=False)
        return
    with pytest.raises(SystemExit) as left:
        options.follow_job("http://127.0.0.1:1", server, "j", as_json=False)
    assert left.value.code == 0
    address = "--address http://127.0.0.1:1"
    assert capsys.readouterr().err == (
        f"the job goes on: follow it again with `brainscale jobs logs j {address} --follow`, or stop it with "
        f"`brainscale jobs stop j {address}`\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-24 10:15:00,123\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "Running entrypoint for job brainscale-score-1: python jobs/score.py request.json",
        "2026-11-24 10:15:01,123\tWARNING util.py:650 -- The argument ``concurrency`` is deprecated in Ray 2.51.",
        "[2026-11-24 10:15:02,689 E 5488 5488] core_worker.cc:2465: Actor with class name: 'EngineActor'",
        "[2026-11-24 10:15:02,689 W 5488 5490] (raylet) node_manager.cc:12: low",
        f"{RESULT}{json.dumps({'rows': 3})}",
    ],
)
def test_lines_for_machines_are_not_shown(line: str) -> None:
    class Log(Server):
        def get_job_logs(self, job: str) -> str:
            return f"first\n{line}\nError: the disk is full"

    log: Any = Log(iter([]))
    assert jobs.read_log(log, "j") == ["first", "Error: the disk is full"]


def test_the_list_of_jobs_is_a_table() -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7300))
    job = jobs.JobRecord(id="brainscale-1", status="running", command="train", out="/o", started=started, seconds=65.2)
    waiting = jobs.JobRecord(
        id="brainscale-22", status="pending", command="train", out=None, started=None, seconds=None
    )
    assert _format_jobs([job, waiting]) == [
        "job            status   started        duration   output",
        "brainscale-1   running  2 h 1 min ago  1 min 5 s  /o",
        "brainscale-22  pending  –              –          –",
    ]
