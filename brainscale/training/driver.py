"""Train a model from the driver's process: prepare the data, run the workers, and write the bundle.

The workers are on Ray, or those of a small run on CPUs are processes of this machine.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from tensorboardX import SummaryWriter

from brainscale import progress
from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint
from brainscale.errors import BrainscaleError
from brainscale.storage.local import SUCCESS
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training.arguments import find_finished
from brainscale.training.history import HISTORY_FILE, Epoch, read_history, tracked_metrics
from brainscale.training.locally import LocalTrainer, can_train_here
from brainscale.training.mlflow_tracking import MLFLOW_FILE, check_tracking_uri, require_mlflow, track_run
from brainscale.training.notices import read_notices, write_notice
from brainscale.training.owner import OWNERS, own_run
from brainscale.training.pace import ReportStep, TrainingPace
from brainscale.training.run_folder import ENVIRONMENT_FILE, Run, RunFolder
from brainscale.training.samples import list_labelled_samples, prepare_manifest
from brainscale.training.worker import SplitSamples, StoredSamples, TrainingJob
from brainscale.training.workers import fix_memory_format

SPLITS_IN_TRAINING = ("train", "val")
DRIVER_FILES = (CONFIG_FILE, ENVIRONMENT_FILE, MANIFEST_FILE, HISTORY_FILE, "notices/*", MLFLOW_FILE, SUCCESS)
"""Files that a driver needs in order to resume a run."""
FOLDER_POLL_SECONDS = 0.2
STORE_POLL_SECONDS = 2.0
"""Seconds between two checks for new epochs and notices of a run, in a local folder and in an object store."""
OnEpoch = Callable[[Epoch], None]


class PlaneIndex(Protocol):
    """The planes of a run."""

    def locate(self, sample_ids: Sequence[str]) -> StoredSamples:
        """Return the planes of the given samples, in their order."""


class Trainer(Protocol):
    """What keeps the planes of a run, and trains.

    Attributes:
        config: configuration of the run, with its number of workers.
        on_gpu: whether it trains on GPUs.
    """

    config: Config
    on_gpu: bool

    def has_room(self, manifest: pa.Table) -> bool:
        """Return whether the planes of a manifest fit."""

    def begin(self) -> None:
        """Start what takes long to start."""

    def store(self, splits: Sequence[pa.Table], config: Config) -> PlaneIndex:
        """Decode the planes of the rows of a manifest, without errors, one table for each split."""

    def fit(self, job: TrainingJob, run: Workspace, on_restart: Callable[[str], None], report_step: ReportStep) -> None:
        """Train from the latest checkpoint to the end."""


def train_model(
    data: str | pa.Table,
    out: str,
    config: Config,
    on_epoch: OnEpoch = lambda row: None,
    on_notice: Callable[[str], None] = lambda text: None,
    tracking: str | None = None,
) -> Run:
    """Train a model, or resume a run with the same configuration and data.

    A run whose workers have CPUs on this machine, and whose decoded planes fit in its memory, needs no Ray; any other
    runs on the Ray that is connected, or on a local one.

    Args:
        data: a manifest (a table, a path or an address), or a source to index and split.
        out: path or address of the run folder.
        config: configuration of the run.
        on_epoch: called with a row of schema HISTORY at the end of each epoch.
        on_notice: called with each message for the user, such as a failed worker or a damaged checkpoint.
        tracking: address of an MLflow server, or a folder, to log the run to.

    Raises:
        BrainscaleError: the data cannot be used for training, the folder holds another run, or training failed.
    """
    if tracking is not None:
        tracking = check_tracking_uri(tracking)
        require_mlflow()
    if (finished := find_finished(data, out, config, on_notice)) is not None:
        return finished
    is_source = isinstance(data, str) and not is_manifest(data)
    manifest = None if is_source else prepare_manifest(data, config, on_notice)
    with ExitStack() as stack:
        locations = [data if isinstance(data, str) else None, out]
        trainer: Trainer = stack.enter_context(
            LocalTrainer(config) if can_train_here(config) else _open_ray(config, locations, on_notice)
        )
        trainer.begin()
        if manifest is None:
            manifest = prepare_manifest(data, trainer.config, on_notice)
        if not trainer.has_room(manifest):
            stack.close()
            trainer = stack.enter_context(_open_ray(config, locations, on_notice))
            trainer.has_room(manifest)
        config = trainer.config
        workspace = stack.enter_context(open_workspace(out, DRIVER_FILES, own_files=[f"{OWNERS}/*"], what="run"))
        stack.enter_context(own_run(workspace, on_notice))
        folder = RunFolder(workspace.path)
        config = fix_memory_format(config, folder.config() if folder.is_started() else None, on_gpu=trainer.on_gpu)
        finished = folder.start(config, manifest)
        run = finished or _train(trainer, workspace, config, manifest, on_epoch, on_notice, tracking)
    return replace(run, path=str(workspace))


def _train(
    trainer: Trainer,
    workspace: Workspace,
    config: Config,
    manifest: pa.Table,
    on_epoch: OnEpoch,
    on_notice: Callable[[str], None],
    tracking: str | None,
) -> Run:
    """Read the planes, train on the workers, and write the bundle."""
    workspace.push()
    splits = [manifest.filter(pc.equal(manifest["split"], split)) for split in SPLITS_IN_TRAINING]
    planes = trainer.store(splits, config)
    samples = {}
    for split in SPLITS_IN_TRAINING:
        ids, labels = list_labelled_samples(manifest, split, config)
        samples[split] = SplitSamples(sample_ids=ids, labels=labels, planes=planes.locate(ids))
    folder = RunFolder(workspace.path)
    hashes = {"config_sha256": config.fingerprint, "manifest_sha256": manifest_fingerprint(manifest)}
    with track_run(tracking, folder.path, config, hashes, folder.history(), on_notice) as tracker:
        workspace.push()

        def on_row(row: Epoch) -> None:
            on_epoch(row)
            tracker.log_epoch(row)

        def on_restart(text: str) -> None:
            try:
                write_notice(workspace.path, text)
                workspace.push()
            except BrainscaleError:  # the disk is full, or the store is away: the message matters more than its file
                on_notice(text)

        with follow_workers(workspace, on_row, on_notice):
            job = TrainingJob(config=config, run=str(workspace), samples=samples)
            progress.stage("starting the workers" if config.resources.workers != 1 else "starting the worker")
            trainer.fit(job, workspace, on_restart, TrainingPace(progress.current_listener(), config.train).show)
        progress.stage("writing the model")
        workspace.pull(HISTORY_FILE, "checkpoints/best-*", force=True)
        from brainscale.training.finish import finish_run  # here: what it loads would delay the first step

        def on_finish(text: str) -> None:
            write_notice(workspace.path, text)  # a cross-validation reads it there
            on_notice(text)

        run = finish_run(folder, config, manifest, on_finish)
        tracker.end("FINISHED", {"weights_sha256": run.weights_sha256}, folder.model)
    return run


def _open_ray(
    config: Config, locations: Sequence[str | None], on_notice: Callable[[str], None]
) -> AbstractContextManager[Trainer]:
    from brainscale.training.on_ray import RayTrainer  # here: its libraries take seconds to load

    return RayTrainer(config, locations, on_notice)


@contextmanager
def follow_workers(run: Workspace, on_epoch: OnEpoch, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Pass on the epochs and notices that the workers write during the with-block.

    Args:
        run: the run folder.
        on_epoch: called with a row of schema HISTORY at the end of each epoch; TensorBoard gets it too.
        on_notice: called with each message of a worker.
    """
    stop = threading.Event()
    published_epochs, published_notices = len(read_history(run.path)), set(read_notices(run.path))
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=published_epochs + 1)

    def publish() -> None:
        nonlocal published_epochs
        run.pull(HISTORY_FILE, "notices/*")
        for name, text in read_notices(run.path, skip=published_notices).items():
            published_notices.add(name)
            on_notice(text)
        for row in read_history(run.path)[published_epochs:]:
            published_epochs += 1
            for name, value in tracked_metrics(row).items():
                writer.add_scalar(name, value, row["epoch"])
            on_epoch(row)

    def follow() -> None:
        while not stop.wait(FOLDER_POLL_SECONDS if run.store is None else STORE_POLL_SECONDS):
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
