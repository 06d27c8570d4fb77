"""Run a worker that trains without Ray: `python -m brainscale.training.worker_main`, see `worker_process`."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from brainscale.training.exact_sum import joined
from brainscale.training.pace import StepReport
from brainscale.training.worker import train_on
from brainscale.training.worker_messages import decode_job, encode_error, encode_step

OUT_OF_MEMORY_SCORE = "500"
"""Added to the score by which Linux chooses what it kills when memory is short: the driver must outlive its worker."""


def main() -> None:
    """Read a job from standard input, train it, and write how far it is, then None or the error, to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends this process
    with suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE, encoding="ascii")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the driver has ended, or has nothing to train
        return
    threading.Thread(target=_end_with_driver, daemon=True).start()

    def send(answer: bytes) -> None:
        with suppress(BrokenPipeError):
            answers.write(answer)
            answers.flush()

    send(encode_error(_train(line, lambda report: send(encode_step(report)))))


def _end_with_driver() -> None:
    """End this process as soon as the driver has ended."""
    while os.read(0, 1):  # not sys.stdin, whose lock this thread would hold when the process ends
        pass
    os._exit(1)


def _train(line: bytes, report_step: Callable[[StepReport], None]) -> BaseException | None:
    """Train the job of a line and return the error that it failed with, or None."""
    try:
        job, group = decode_job(line)
        with joined(group, job.config.resources.collective_seconds):
            train_on(torch.device("cpu"), job, lambda number, images, seconds: None, report_step)
    except Exception as error:  # noqa: BLE001 (the driver decides what to do about it)
        return error
    return None


if __name__ == "__main__":
    main()
