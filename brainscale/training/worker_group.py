"""Run the training loop on a group of workers with Ray Train, and start the group again after a failure.

A worker that fails raises its error. Ray Train notices it within seconds, whatever the other workers wait for, and ends
all of them.
"""

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError

from brainscale.cluster.local_folders import ensure_home
from brainscale.cluster.telemetry import TrainingMeter
from brainscale.progress import is_watched
from brainscale.reading.on_ray import Mailbox
from brainscale.storage.workspace import Workspace
from brainscale.training.attempts import AttemptError, clear_leftovers, find_first, run_with_restarts
from brainscale.training.exact_sum import choose_backend
from brainscale.training.pace import ReportStep, ignore_step
from brainscale.training.worker import TrainingJob, train_on
from brainscale.training.workers import count_workers, resources_per_worker, uses_gpu

ensure_home()  # Ray Train looks for it when it is imported
import ray.train.torch  # noqa: E402
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer  # noqa: E402

HEALTH_CHECK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""Seconds between two looks at the workers; the default of 2 s would delay every run."""


def train_worker(arguments: Mapping[str, Any]) -> None:
    """Train on the device of this worker; Ray Train calls this on each worker.

    Args:
        arguments: the training job under the key `job`, and what takes reports of its steps under `report_step`.

    Raises:
        BrainscaleError: training cannot continue, and would not if it were tried again.
    """
    train_on(ray.train.torch.get_device(), arguments["job"], TrainingMeter().report_epoch, arguments["report_step"])


def fit(
    job: TrainingJob,
    run: Workspace,
    on_restart: Callable[[str], None] = lambda text: None,
    report_step: ReportStep = ignore_step,
) -> None:
    """Run the training loop on every worker, and start all workers again when one of them fails.

    Args:
        job: the input of every worker.
        run: the run folder.
        on_restart: called with a message for each restart.
        report_step: called inside an epoch, once a second at most.

    Raises:
        BrainscaleError: training cannot continue; the message is one line with the reason.
    """

    def attempt() -> None:
        try:
            with _open_reports(report_step) as send_step:
                _fit_once(job, run, send_step)
        except (TrainingFailedError, RayError) as error:
            rank, cause = find_cause(error)
            what = "Ray stopped during this run" if rank is None else f"worker {rank} failed"
            raise AttemptError(what, cause) from error

    run_with_restarts(attempt, job.config.resources.restarts, on_restart)


@contextmanager
def _open_reports(report_step: ReportStep) -> Iterator[ReportStep]:
    """Yield what a worker calls so that a function of this process is called."""
    if not is_watched():
        yield ignore_step
        return
    mailbox = Mailbox()
    with mailbox.received_by(report_step):
        yield mailbox.send


def _fit_once(job: TrainingJob, run: Workspace, report_step: ReportStep) -> None:
    """Run the training loop on one group of workers."""
    config = job.config
    for name, value in HEALTH_CHECK.items():
        os.environ.setdefault(name, value)
    gpu = uses_gpu(config)
    clear_leftovers(run)
    filesystem, checkpoints = run.filesystem("checkpoints")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "report_step": report_step},
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


def find_cause(error: TrainingFailedError | RayError) -> tuple[int | None, BaseException]:
    """Return the rank and the error of the worker that failed first, or None and the reason why Ray stopped."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        return None, getattr(error, "controller_failure", error)
    rank = find_first(failures)
    return rank, failures[rank]
