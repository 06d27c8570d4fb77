"""Train again from the last checkpoint after a worker failed.

An error that new workers would meet again, such as a full disk, ends the run.
"""

import shutil
from collections.abc import Callable, Mapping

from brainscale.errors import RERUN, BrainscaleError, TrainError, first_line
from brainscale.storage.workspace import Workspace
from brainscale.training.exact_sum import PeerError


class WorkerEndedError(Exception):
    """The process of a worker ended before its work did."""


class AttemptError(Exception):
    """The workers of a run failed.

    Args:
        what: what happened, for people.
        cause: the error that caused it.
    """

    def __init__(self, what: str, cause: BaseException) -> None:
        super().__init__(f"{what}: {first_line(cause)}")
        self.cause = cause


def run_with_restarts(attempt: Callable[[], None], limit: int, on_restart: Callable[[str], None]) -> None:
    """Call a function that trains to the end, and again when its workers failed.

    Args:
        attempt: trains from the latest checkpoint; raises AttemptError.
        limit: maximum number of restarts.
        on_restart: called with a message for each restart.

    Raises:
        BrainscaleError: training cannot continue; the message is one line with the reason.
    """
    earlier, restarts = "", 0
    while True:
        try:
            return attempt()
        except AttemptError as error:
            cause = error.cause
            if isinstance(cause, BrainscaleError):
                raise cause from error
            if restarts == limit or not can_be_mended(cause, earlier):
                raise TrainError(f"{error} (the run is kept up to its last checkpoint): {RERUN}") from error
            restarts, earlier = restarts + 1, first_line(cause)
            on_restart(f"{error}: restart {restarts} of {limit}")


def find_first(failures: Mapping[int, BaseException]) -> int:
    """Return the rank of the worker that failed first: the others fail after it, because they wait for it.

    Args:
        failures: rank → error; one that brainscale wrote for a person comes first.
    """
    return min(
        failures,
        key=lambda rank: (
            not isinstance(failures[rank], BrainscaleError),
            isinstance(failures[rank], PeerError),
            rank,
        ),
    )


def can_be_mended(error: BaseException, earlier: str) -> bool:
    """Return whether new workers may succeed after an error.

    Args:
        error: the error that ended the workers.
        earlier: first line of the error that ended the workers before; torch's same error again is no accident.
    """
    if type(error).__module__.startswith("ray.") or isinstance(error, (PeerError, OSError, WorkerEndedError)):
        return True
    return isinstance(error, RuntimeError) and first_line(error) != earlier


def clear_leftovers(run: Workspace) -> None:
    """Remove Ray's own files, and the incomplete files of a command that was killed."""
    if run.store is not None:
        run.store.remove(name for name in run.store.names() if name.startswith("checkpoints/.ray-"))
        return
    for folder in (run.path / "checkpoints").glob(".ray-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for incomplete in run.path.rglob(".*.tmp"):
        incomplete.unlink(missing_ok=True)
