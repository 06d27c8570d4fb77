"""Report failed workers from Ray Train's controller; a module of its own, since the controller imports little else."""

from typing import Any

from ray.train import UserCallback

from brainscale.errors import first_line
from brainscale.storage.workspace import open_workspace
from brainscale.training.notices import write_notice


class RestartNotices(UserCallback):
    """Writes a notice when a worker fails, with what happens next; runs in Ray Train's controller.

    Args:
        run: path or address of the run folder.
        limit: maximum number of restarts.
    """

    def __init__(self, run: str, limit: int) -> None:
        self.run, self.limit, self.failures = run, limit, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Write one notice for each failure."""
        self.failures += 1
        rank = min(worker_exceptions)
        restart = f"restart {self.failures} of {self.limit}" if self.failures <= self.limit else "no restart is left"
        with open_workspace(self.run, (), own_files=["*"]) as run:
            write_notice(run.path, f"worker {rank} failed ({first_line(worker_exceptions[rank])}): {restart}")
