"""A run from the driver's side: manifest, planes, Ray Train, and the bundle at the end."""

import json
import os
import platform
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
import yaml
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from safetensors.torch import save_file
from tensorboardX import SummaryWriter

from brainscale.bundle import ONNX, WEIGHTS, write_card
from brainscale.checkpoints import Progress, load_best
from brainscale.config import Config, parse
from brainscale.errors import BrainscaleError, ManifestError, OutputError, TrainError
from brainscale.export import export_onnx
from brainscale.files import (
    output_folder,
    read_success,
    refuse_strangers,
    versions,
    write_json,
    write_success,
)
from brainscale.index import (
    index,
    is_manifest,
    manifest_fingerprint,
    read_manifest,
    require_readable,
    write_manifest,
)
from brainscale.models.registry import build, count_parameters
from brainscale.splits import SPLITS, split
from brainscale.tensors import materialise
from brainscale.train_loop import Job, read_history, worker

OnEpoch = Callable[[dict[str, Any]], None]


def train(data: str, out: str, config: Config, on_epoch: OnEpoch = lambda row: None) -> dict[str, Any]:
    """Train a model, or go on where a run of the same configuration and data stopped.

    Needs a connected Ray.

    Args:
        data: a manifest, or a source to index and split.
        out: the run folder.
        config: everything else.
        on_epoch: called with a row of schema HISTORY for each epoch as it ends.

    Returns:
        What the run's `_SUCCESS.json` says.

    Raises:
        BrainscaleError: the data cannot train, the folder is another run's, or training failed.
    """
    check_resources(config)
    manifest = prepare_manifest(data, config)
    run = output_folder(out)
    done = open_run(run, config, manifest)
    if done is not None:
        return done
    blocks = materialise(
        manifest.filter(pc.is_in(manifest["split"], pa.array(["train", "val"]))), config.data.preprocess
    )
    sides = {name: _labelled(manifest, name, config) for name in ("train", "val")}
    job = Job(config=config.model_dump(mode="json"), run=str(run), blocks=blocks, sides=sides)
    with watching(run, on_epoch):
        fit(job, config, run)
    return finish(run, config, manifest)


def prepare_manifest(data: str, config: Config) -> pa.Table:
    """The manifest of a run: read or made, checked, and split if it is not.

    Raises:
        ManifestError: a label is missing or unknown, or a side or a class is empty.
    """
    manifest = read_manifest(data) if is_manifest(data) else index([data], config.data)
    require_readable(manifest, data)
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    _check_labels(readable, config, data)
    if not pc.any(pc.is_valid(manifest["split"])).as_py():
        manifest = split(manifest, val=config.split.val, test=config.split.test, seed=config.train.seed)
    for side in ("train", "val"):
        present = set(manifest.filter(pc.equal(manifest["split"], side))["label"].to_pylist())
        absent = [name for name in config.data.classes if name not in present]
        if absent:
            raise ManifestError(
                f"no sample of class '{absent[0]}' in the {side} part of {data}: add some, or split again"
            )
    return manifest


def _check_labels(readable: pa.Table, config: Config, data: str) -> None:
    labels = readable["label"].to_pylist()
    classes = list(config.data.classes)
    unlabelled = [i for i, label in zip(readable["sample_id"].to_pylist(), labels, strict=True) if label is None]
    if unlabelled:
        folders = ", ".join(sorted(name for names in config.data.classes.values() for name in names))
        raise ManifestError(
            f"{len(unlabelled)} samples of {data} have no label, '{unlabelled[0]}' first: put them into "
            f"folders named after a class ({folders}), or say with data.classes what their folder means"
        )
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ManifestError(f"label '{unknown[0]}' of {data} is no class of data.classes: known: {', '.join(classes)}")
    if len(set(labels)) < 2:
        raise ManifestError(f"{data} holds one class only, '{labels[0]}': a classifier needs two or more")


def _labelled(manifest: pa.Table, side: str, config: Config) -> tuple[list[str], list[int]]:
    number = {name: i for i, name in enumerate(config.data.classes)}
    rows = manifest.filter(pc.equal(manifest["split"], side))
    return rows["sample_id"].to_pylist(), [number[label] for label in rows["label"].to_pylist()]


def open_run(run: Path, config: Config, manifest: pa.Table) -> dict[str, Any] | None:
    """Start a run's folder, or check that it is this configuration's and data's.

    Returns:
        What `_SUCCESS.json` says if the run is complete.

    Raises:
        OutputError: the folder holds another run, or something else.
    """
    refuse_strangers(run, {"config.yaml"}, "run")
    if (run / "config.yaml").exists():
        _refuse_other(run, config, manifest)
    else:
        write_manifest(manifest, run / "manifest.parquet")
        write_json(run / "environment.json", environment(config))
        aside = run / ".config.yaml.tmp"
        aside.write_text(config.to_yaml(), encoding="utf-8")
        aside.replace(run / "config.yaml")  # last: a folder with it holds the other two
    return read_success(run)


def _refuse_other(run: Path, config: Config, manifest: pa.Table) -> None:
    before = parse(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")), where=str(run / "config.yaml"))
    if before.fingerprint != config.fingerprint:
        key, old, new = next(_differences(before.model_dump(mode="json"), config.model_dump(mode="json")))
        raise OutputError(
            f"{run} is a run of another configuration: {key} is {old} there, {new} here; choose a new --out"
        )
    if manifest_fingerprint(read_manifest(run / "manifest.parquet")) != manifest_fingerprint(manifest):
        raise OutputError(f"{run} is a run on other data: files, labels or split differ; choose a new --out")


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            if name != "resources":
                yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, json.dumps(old), json.dumps(new)


def uses_gpu(config: Config) -> bool:
    """Whether the run trains on GPUs: as configured, or wherever the cluster has one for each worker."""
    if config.resources.device == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.resources.workers)
    return config.resources.device == "cuda"


def check_resources(config: Config) -> None:
    """Refuse at once what the cluster can never give.

    Raises:
        TrainError: names what was asked for and what is there.
    """
    have, workers = ray.cluster_resources(), config.resources.workers
    kind = "GPU" if uses_gpu(config) else "CPU"
    if have.get(kind, 0) < workers:
        raise TrainError(f"{workers} workers need {workers} {kind}s, and the cluster has {have.get(kind, 0):g}")


def fit(job: Job, config: Config, run: Path) -> None:
    """Let Ray Train run the loop on every worker.

    Raises:
        TrainError: a worker failed; one line with its reason.
    """
    gpu = uses_gpu(config)
    scratch = run / "checkpoints" / f".ray-{uuid.uuid4().hex[:8]}"  # new each time: Ray's own notes are not resumed
    trainer = TorchTrainer(
        worker,
        train_loop_config={name: getattr(job, name) for name in job.__dataclass_fields__},
        scaling_config=ScalingConfig(num_workers=config.resources.workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(name=scratch.name, storage_path=str(scratch.parent)),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainError(_cause(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cause(error: TrainingFailedError) -> str:
    """The first worker's own reason, in one line."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    cause: BaseException = failures[min(failures)]
    while cause.__cause__ is not None and not isinstance(cause, BrainscaleError):
        cause = cause.__cause__
    if isinstance(cause, BrainscaleError):
        return str(cause)
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"a training worker failed: {lines[-1].strip() if lines else type(cause).__name__}"


@contextmanager
def watching(run: Path, on_epoch: OnEpoch) -> Iterator[None]:
    """Follow history.parquet: TensorBoard and `on_epoch` for every epoch that ends in the with-block."""
    stop, seen = threading.Event(), len(list(read_history(run)))
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=seen + 1)

    def publish() -> None:
        nonlocal seen
        for row in list(read_history(run))[seen:]:
            seen += 1
            for name in ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
                writer.add_scalar(name, row[name], row["epoch"])
            on_epoch(row)

    def follow() -> None:
        while not stop.wait(0.2):
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


def finish(run: Path, config: Config, manifest: pa.Table) -> dict[str, Any]:
    """Write the bundle of the best epoch, then `_SUCCESS.json`."""
    progress = Progress(list(read_history(run)))
    if progress.best is None:
        raise TrainError(f"{run} holds no finished epoch: run the same command again")
    network = build(config.model.name, len(config.data.classes))
    weights = load_best(run / "checkpoints", progress)
    network.load_state_dict(weights)
    folder = run / "model"
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / WEIGHTS)
    export_onnx(network, config.data.image_size, folder / ONNX)
    card = write_card(
        folder,
        {
            "architecture": config.model.name,
            "classes": config.data.classes,
            "preprocess": config.data.preprocess,
            "threshold": 0.5,
            "threshold_source": "fixed",
            "parameters": count_parameters(network),
            "manifest_sha256": manifest_fingerprint(manifest),
            "config_sha256": config.fingerprint,
            "seed": config.train.seed,
            "epoch": progress.best["epoch"],
            "versions": versions(),
        },
    )
    sizes = {side: pc.sum(pc.equal(manifest["split"], side)).as_py() or 0 for side in SPLITS}
    facts = {
        "samples": sizes,
        "epochs": progress.epoch,
        "best_epoch": progress.best["epoch"],
        "best_val_loss": progress.best["val_loss"],
        **{name: getattr(card, name) for name in ("weights_sha256", "manifest_sha256", "config_sha256")},
    }
    write_success(run, facts)
    return facts


def environment(config: Config) -> dict[str, Any]:
    """What could change a result's bits, beside the configuration."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads_per_worker": config.train.threads,
        "workers": config.resources.workers,
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "versions": versions(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
