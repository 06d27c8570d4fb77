"""Run a worker that trains without Ray: `python -m brainscale.training.worker_main`, see `worker_process`."""

import os
import pickle
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch

from brainscale.errors import BrainscaleError
from brainscale.training.worker import TrainingJob, train_on

OUT_OF_MEMORY_SCORE = "500"
"""Added to the score by which Linux chooses what it kills when memory is short: the driver must outlive its worker."""


def main() -> None:
    """Read a job from standard input, train it, and write None or the error to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends this process
    with suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE, encoding="ascii")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        job: TrainingJob = pickle.load(sys.stdin.buffer)  # noqa: S301 (of the driver, our own process)
    except EOFError:  # there is nothing to train
        return
    threading.Thread(target=_end_with_driver, args=(sys.stdin.buffer,), daemon=True).start()
    answer = _train(job)
    with suppress(BrokenPipeError):
        answers.write(_pickle(answer))
        answers.flush()


def _end_with_driver(stream: IO[bytes]) -> None:
    """End this process as soon as the driver has ended."""
    stream.read()
    os._exit(1)


def _train(job: TrainingJob) -> BaseException | None:
    """Train a job and return the error that it failed with, or None."""
    try:
        train_on(torch.device("cpu"), job, lambda number, images, seconds: None)
    except Exception as error:  # noqa: BLE001 (the driver decides what to do about it)
        if not isinstance(error, BrainscaleError):
            error.add_note(traceback.format_exc())
        return error
    return None


def _pickle(error: BaseException | None) -> bytes:
    """Return an error as bytes; one that cannot be pickled becomes a RuntimeError with its text."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # noqa: S301 (made here)
    except Exception:  # noqa: BLE001 (an error of some library)
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


if __name__ == "__main__":
    main()
