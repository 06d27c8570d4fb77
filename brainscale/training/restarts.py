"""What Ray Train's controller says of workers that died; apart, since that process imports it and little else."""

from typing import Any

from ray.train import UserCallback

from brainscale.errors import first_line
from brainscale.storage.workspace import open_workspace
from brainscale.training.notices import write_notice


class Restarts(UserCallback):
    """Says that a worker died, and what happens next; called where Ray Train's controller runs.

    Args:
        run: the run folder.
        limit: deaths that are made good.
    """

    def __init__(self, run: str, limit: int) -> None:
        self.run, self.limit, self.count = run, limit, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """One notice for each death."""
        self.count += 1
        rank = min(worker_exceptions)
        then = f"restart {self.count} of {self.limit}" if self.count <= self.limit else "no restart is left"
        with open_workspace(self.run, (), known=["*"]) as run:
            write_notice(run.path, f"worker {rank} failed ({first_line(worker_exceptions[rank])}): {then}")
