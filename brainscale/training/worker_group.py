"""Run the training loop on a group of workers with Ray Train, and start the group again after a failure.

A worker that fails raises its error. Ray Train notices it within seconds, whatever the other workers wait for, and ends
all of them. An error that a new group of workers would meet again, such as a full disk, ends the run.
"""

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Mapping

from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from brainscale.errors import RERUN, BrainscaleError, TrainError, first_line
from brainscale.storage.workspace import Workspace
from brainscale.training.exact_sum import PeerError, choose_backend
from brainscale.training.worker import TrainingJob, train_worker
from brainscale.training.workers import count_workers, resources_per_worker, uses_gpu

HEALTH_CHECK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""Seconds between two looks at the workers; the default of 2 s would delay every run."""


def fit(job: TrainingJob, run: Workspace, on_restart: Callable[[str], None] = lambda text: None) -> None:
    """Run the training loop on every worker, and start all workers again when one of them fails.

    Args:
        job: the input of every worker.
        run: the run folder.
        on_restart: called with a message for each restart.

    Raises:
        BrainscaleError: training cannot continue; the message is one line with the reason.
    """
    limit = job.config.resources.restarts
    earlier, restarts = "", 0
    while True:
        try:
            return _fit_once(job, run)
        except (TrainingFailedError, RayError) as error:
            rank, cause = find_cause(error)
            if isinstance(cause, BrainscaleError):
                raise cause from error
            what = f"Ray stopped during this run: {first_line(cause)}"
            if rank is not None:
                what = f"worker {rank} failed: {first_line(cause)}"
            if restarts == limit or not can_be_mended(cause, earlier):
                raise TrainError(f"{what} (the run is kept up to its last checkpoint): {RERUN}") from error
            restarts, earlier = restarts + 1, first_line(cause)
            on_restart(f"{what}: restart {restarts} of {limit}")


def _fit_once(job: TrainingJob, run: Workspace) -> None:
    """Run the training loop on one group of workers."""
    config = job.config
    for name, value in HEALTH_CHECK.items():
        os.environ.setdefault(name, value)
    gpu = uses_gpu(config)
    clear_leftovers(run)
    filesystem, checkpoints = run.filesystem("checkpoints")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=count_workers(config),
            use_gpu=gpu,
            resources_per_worker=resources_per_worker(config),
            # GPUs are fastest side by side on one node; CPU workers use as many nodes as there are
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        torch_config=TorchConfig(
            backend=choose_backend(gpu, config.resources.gpus_per_worker),
            timeout_s=config.resources.collective_seconds,
        ),
        run_config=RunConfig(
            name=f".ray-{uuid.uuid4().hex[:8]}",  # a new name each time, because Ray must not resume its own state
            storage_path=checkpoints,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0),  # `fit` decides, because Ray would try any error again
        ),
    )
    on_interrupt = signal.getsignal(signal.SIGINT)  # Ray Train replaces it by a handler that exits with status 0
    try:
        trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)
        clear_leftovers(run)


def clear_leftovers(run: Workspace) -> None:
    """Remove Ray's own files, and the incomplete files of a command that was killed."""
    if run.store is not None:
        run.store.remove(name for name in run.store.names() if name.startswith("checkpoints/.ray-"))
        return
    for folder in (run.path / "checkpoints").glob(".ray-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for incomplete in run.path.rglob(".*.tmp"):
        incomplete.unlink(missing_ok=True)


def find_cause(error: TrainingFailedError | RayError) -> tuple[int | None, BaseException]:
    """Return the rank and the error of the worker that failed, or None and the reason why Ray stopped.

    The others fail after it, because they wait for it; an error that brainscale wrote for a person comes first.
    """
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        return None, getattr(error, "controller_failure", error)

    def order(rank: int) -> tuple[bool, bool, int]:
        return not isinstance(failures[rank], BrainscaleError), isinstance(failures[rank], PeerError), rank

    rank = min(failures, key=order)
    return rank, failures[rank]


def can_be_mended(error: BaseException, earlier: str) -> bool:
    """Return whether a new group of workers may succeed after an error.

    Args:
        error: the error that ended the group.
        earlier: first line of the error that ended the group before; torch's same error again is no accident.
    """
    if type(error).__module__.startswith("ray.") or isinstance(error, (PeerError, OSError)):
        return True
    return isinstance(error, RuntimeError) and first_line(error) != earlier
