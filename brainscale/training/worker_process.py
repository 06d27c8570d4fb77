"""The processes of workers that train without Ray, as their driver sees them.

The driver sends a training job through the process's standard input, which stays open: where it ends, the driver has
ended, and the worker ends too. Its standard output says how far it is; the last line is None, or the error that it
failed with.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import brainscale
from brainscale.errors import first_line
from brainscale.training.attempts import AttemptError, WorkerEndedError, find_first
from brainscale.training.exact_sum import Group
from brainscale.training.pace import ReportStep
from brainscale.training.worker import TrainingJob
from brainscale.training.worker_messages import decode_error, decode_step, encode_job

MODULE = "brainscale.training.worker_main"
LAST_WORDS_S = 5.0
"""Seconds that the other workers have for saying what happened to them, after the first one failed."""


class WorkerProcess:
    """A process that trains one job: it starts at once, and loads its libraries until the job comes. Ends with `with`.

    Args:
        descriptors: file descriptors that it inherits.
    """

    def __init__(self, descriptors: Sequence[int] = ()) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (what it writes to standard error, until `close`)
        jobs_end, jobs = os.pipe()
        answers, answers_end = os.pipe()
        self._jobs, self._answers = os.fdopen(jobs, "wb"), os.fdopen(answers, "rb")
        try:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, "-m", MODULE],
                stdin=jobs_end,
                stdout=answers_end,
                stderr=self._messages,
                pass_fds=descriptors,
                env=os.environ | {"PYTHONPATH": _search_path(), "PYTHONSAFEPATH": "1"} | _stay_on_this_machine(),
            )
        finally:
            os.close(jobs_end)
            os.close(answers_end)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def train(self, job: TrainingJob, group: Group, report_step: ReportStep) -> None:
        """Train a job to its end, as one worker of a group.

        Args:
            job: the job.
            group: the group.
            report_step: called inside an epoch, once a second at most, if this is the first worker.

        Raises:
            AttemptError: the worker failed, or its process ended.
        """
        line = encode_job(job, group)
        try:
            self._jobs.write(line)
            self._jobs.flush()
            answer = self._answers.readline()
            while (report := decode_step(answer)) is not None:
                report_step(report)
                answer = self._answers.readline()
            error = decode_error(answer)
        except (BrokenPipeError, ValueError):  # an answer that is not there, or not whole
            error = WorkerEndedError(self._describe_end(self._process.wait()))
        if error is not None:
            raise AttemptError(f"worker {group.rank} failed", error) from error

    def end(self) -> None:
        """End the process, if it runs."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process, and close what it was spoken to with."""
        self.end()
        self._answers.close()
        with suppress(BrokenPipeError):  # of a job that it did not read to its end
            self._jobs.close()
        self._messages.close()

    def _describe_end(self, status: int) -> str:
        """Return how the process ended, with the last line that it wrote to standard error."""
        if status == -signal.SIGKILL:
            return "its process was killed (SIGKILL), perhaps because this machine has too little memory"
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        last = next((first_line(line) for line in reversed(lines) if line.strip()), "it left no message")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"its process ended ({how}): {last}"


def train_together(workers: Sequence[WorkerProcess], job: TrainingJob, report_step: ReportStep) -> None:
    """Train one job on several processes, to its end.

    Args:
        workers: the processes, which have no job yet.
        job: the job.
        report_step: as for `WorkerProcess.train`.

    Raises:
        AttemptError: a worker failed; the error is that of the first, and all processes have ended.
    """
    with tempfile.TemporaryDirectory(prefix="brainscale-") as folder, ThreadPoolExecutor(len(workers)) as pool:
        groups = [Group(rank=rank, workers=len(workers), store=f"{folder}/store") for rank in range(len(workers))]
        calls = [
            pool.submit(worker.train, job, group, report_step) for worker, group in zip(workers, groups, strict=True)
        ]
        try:
            wait(calls, return_when=FIRST_EXCEPTION)
            ended, _ = wait(calls, timeout=LAST_WORDS_S)
        finally:
            for worker in workers:
                worker.end()
        failures = {rank: error for rank, call in enumerate(calls) if call in ended and (error := call.exception())}
    if failures:
        causes = {rank: error.cause if isinstance(error, AttemptError) else error for rank, error in failures.items()}
        raise failures[find_first(causes)]


def _stay_on_this_machine() -> dict[str, str]:
    """Return the environment in which workers of one machine listen to each other only, and to no network."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    return {} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback}


def _search_path() -> str:
    """Return where the process finds Python's libraries: where this one does, whatever the working folder is."""
    root = str(Path(brainscale.__file__).absolute().parents[1])
    folders = [folder for folder in sys.path if Path(folder).is_absolute()]
    return os.pathsep.join(folders if root in folders else [root, *folders])
