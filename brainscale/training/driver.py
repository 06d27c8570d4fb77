"""A run from the driver's side: manifest, planes, Ray Train, and the bundle at the end."""

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from tensorboardX import SummaryWriter

from brainscale.cluster.capacity import require_capacity, require_shared
from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE, manifest_fingerprint
from brainscale.errors import TrainError, first_line
from brainscale.storage.local import SUCCESS
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training.finish import finish_run
from brainscale.training.history import HISTORY_FILE, Epoch, read_history, tracked_metrics
from brainscale.training.mlflow_tracking import NOTE, checked_uri, require_mlflow, tracked
from brainscale.training.notices import read_notices
from brainscale.training.plane_store import materialise_planes
from brainscale.training.restarts import Restarts
from brainscale.training.run_folder import ENVIRONMENT_FILE, Run, RunFolder
from brainscale.training.samples import labelled_samples, prepare_manifest
from brainscale.training.worker import SplitSamples, TrainingJob, train_worker
from brainscale.training.workers import resources_per_worker, uses_gpu, with_chosen_workers, workers_of

SPLITS_IN_TRAINING = ("train", "val")
OURS = (CONFIG_FILE, ENVIRONMENT_FILE, MANIFEST_FILE, HISTORY_FILE, "notices/*", NOTE, SUCCESS)
"""Files that a driver needs in order to resume a run."""
STORE_S = 2.0  # seconds between two looks at a run in an object store
OnEpoch = Callable[[Epoch], None]


def train_model(
    data: str | pa.Table,
    out: str,
    config: Config,
    on_epoch: OnEpoch = lambda row: None,
    on_notice: Callable[[str], None] = lambda text: None,
    tracking: str | None = None,
) -> Run:
    """Train a model, or resume a run of the same configuration and data; needs a connected Ray.

    Args:
        data: a manifest (a table, a path or an address), or a source to index and split.
        out: the run's folder, a path or an address.
        config: everything else.
        on_epoch: called with a row of schema HISTORY as each epoch ends.
        on_notice: called with a line for each failed worker, damaged checkpoint and the like.
        tracking: address of an MLflow server, or a folder, that gets the run too.

    Raises:
        BrainscaleError: the data cannot be trained on, the folder holds another run, or training failed.
    """
    if tracking is not None:
        tracking = checked_uri(tracking)
        require_mlflow()
    require_shared([data if isinstance(data, str) else None, out], config.resources.shared)
    config = with_chosen_workers(config)
    if waiting := require_capacity(workers_of(config), resources_per_worker(config)):
        on_notice(waiting)
    manifest = prepare_manifest(data, config)
    require_shared(manifest["uri"].to_pylist(), config.resources.shared)
    with open_workspace(out, OURS, what="run") as workspace:
        finished = RunFolder(workspace.path).start(config, manifest)
        run = finished or _train(workspace, config, manifest, on_epoch, on_notice, tracking)
    return replace(run, path=str(workspace))


def _train(
    workspace: Workspace,
    config: Config,
    manifest: pa.Table,
    on_epoch: OnEpoch,
    on_notice: Callable[[str], None],
    tracking: str | None,
) -> Run:
    """Read the planes, let Ray Train run, and write the bundle."""
    workspace.push()
    seen = manifest.filter(pc.is_in(manifest["split"], pa.array(SPLITS_IN_TRAINING)))
    planes = materialise_planes(seen, config.data.preprocess, config.limits)
    samples = {}
    for split in SPLITS_IN_TRAINING:
        ids, labels = labelled_samples(manifest, split, config)
        samples[split] = SplitSamples(sample_ids=ids, labels=labels, planes=planes.places(ids))
    folder = RunFolder(workspace.path)
    hashes = {"config_sha256": config.fingerprint, "manifest_sha256": manifest_fingerprint(manifest)}
    with tracked(tracking, folder.path, config, hashes, folder.history(), on_notice) as tracker:
        workspace.push()

        def on_row(row: Epoch) -> None:
            on_epoch(row)
            tracker.epoch(row)

        with follow_workers(workspace, on_row, on_notice):
            fit(TrainingJob(config=config, run=str(workspace), samples=samples), workspace)
        workspace.pull(HISTORY_FILE, "checkpoints/best-*", afresh=True)
        run = finish_run(folder, config, manifest)
        tracker.end("FINISHED", {"weights_sha256": run.weights_sha256}, folder.model)
    return run


def fit(job: TrainingJob, run: Workspace) -> None:
    """Let Ray Train run the loop on every worker, and replace workers that die.

    Raises:
        TrainError: training cannot go on; one line with the reason.
    """
    config = job.config
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # its 2 s would come on top of every run
    gpu = uses_gpu(config)
    clear_leftovers(run)
    filesystem, checkpoints = run.filesystem("checkpoints")
    scratch = f".ray-{uuid.uuid4().hex[:8]}"  # new each time: Ray's own notes are not resumed
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]  # mypy sees the classes of Ray Train's first version, here and below
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers_of(config),
            use_gpu=gpu,
            resources_per_worker=resources_per_worker(config),
            placement_strategy="PACK"
            if gpu
            else "SPREAD",  # GPUs beside each other; CPUs of as many nodes as there are
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=scratch,
            storage_path=checkpoints,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.resources.restarts),
            callbacks=[Restarts(str(run), config.resources.restarts)],  # type: ignore[list-item]
        ),
    )
    on_interrupt = signal.getsignal(signal.SIGINT)  # Ray Train puts its own there, and leaves with status 0
    try:
        result: Any = trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    except (TrainingFailedError, RayError) as error:
        raise TrainError(f"{_cause(error)}; the run's state is kept: run the same command again to resume") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)
        clear_leftovers(run)
    if result.return_value is not None:
        raise TrainError(result.return_value)


def clear_leftovers(run: Workspace) -> None:
    """Remove Ray's own notes, and what a command that was killed left half written."""
    if run.store is not None:
        run.store.remove(name for name in run.store.names() if name.startswith("checkpoints/.ray-"))
        return
    for folder in (run.path / "checkpoints").glob(".ray-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for aside in run.path.rglob(".*.tmp"):
        aside.unlink(missing_ok=True)


def _cause(error: TrainingFailedError | RayError) -> str:
    """The first worker's own reason, or what became of Ray, in one line."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank = min(failures)
        return f"worker {rank} failed: {first_line(failures[rank])}"
    return f"Ray stopped under this run: {first_line(getattr(error, 'controller_failure', error))}"


@contextmanager
def follow_workers(run: Workspace, on_epoch: OnEpoch, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Follow what the workers write in the with-block.

    Args:
        run: the run folder.
        on_epoch: called with a row of schema HISTORY for each epoch as it ends; TensorBoard gets it too.
        on_notice: called with what workers have to say.
    """
    stop, seen, heard = threading.Event(), len(read_history(run.path)), set(read_notices(run.path))
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=seen + 1)

    def publish() -> None:
        nonlocal seen
        run.pull(HISTORY_FILE, "notices/*")
        for name, text in read_notices(run.path, but=heard).items():
            heard.add(name)
            on_notice(text)
        for row in read_history(run.path)[seen:]:
            seen += 1
            for name, value in tracked_metrics(row).items():
                writer.add_scalar(name, value, row["epoch"])
            on_epoch(row)

    def follow() -> None:
        while not stop.wait(0.2 if run.store is None else STORE_S):
            publish()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        publish()
        writer.close()
