"""The process of a worker that trains without Ray, as its driver sees it.

The driver sends a training job through the process's standard input, which stays open: where it ends, the driver has
ended, and the worker ends too. Its standard output says how far it is; the last line is None, or the error that it
failed with.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import brainscale
from brainscale.errors import first_line
from brainscale.training.attempts import AttemptError, WorkerEndedError
from brainscale.training.pace import ReportStep
from brainscale.training.worker import TrainingJob
from brainscale.training.worker_messages import decode_error, decode_step, encode_job

MODULE = "brainscale.training.worker_main"


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
                env=os.environ | {"PYTHONPATH": _search_path(), "PYTHONSAFEPATH": "1"},
            )
        finally:
            os.close(jobs_end)
            os.close(answers_end)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def train(self, job: TrainingJob, report_step: ReportStep) -> None:
        """Train a job to its end.

        Args:
            job: the job.
            report_step: called inside an epoch, once a second at most.

        Raises:
            AttemptError: the worker failed, or its process ended.
        """
        line = encode_job(job)
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
            raise AttemptError("worker 0 failed", error) from error

    def close(self) -> None:
        """End the process, if it runs."""
        self._process.kill()
        self._process.wait()
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


def _search_path() -> str:
    """Return where the process finds Python's libraries: where this one does, whatever the working folder is."""
    root = str(Path(brainscale.__file__).absolute().parents[1])
    folders = [folder for folder in sys.path if Path(folder).is_absolute()]
    return os.pathsep.join(folders if root in folders else [root, *folders])
