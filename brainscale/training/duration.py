"""How long a training may take: extrapolated from a few seconds of its steps, and from reading some of its files."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from brainscale.config.sections import Config
from brainscale.reading.pace import measure_reading
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile
from brainscale.training.machine import count_cpus
from brainscale.training.planned_data import SPLITS_READ, DataPlan
from brainscale.training.speed import measure_steps
from brainscale.training.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long it takes with one worker on this machine, extrapolated from a few seconds of work.

    Attributes:
        device: device that was measured.
        read_rate: samples that one process reads a second; None if there was none to read.
        train_rate: images that one worker trains on a second.
        validation_rate: images that it validates a second.
        read_seconds: reading and decoding of all samples, by as many processes as there are CPUs.
        epoch_seconds: one epoch with its validation.
        total_seconds: what is left: reading, and all epochs that are not finished.

    The last three are None where the samples are not known.
    """

    device: str
    read_rate: float | None
    train_rate: float
    validation_rate: float
    read_seconds: float | None = None
    epoch_seconds: float | None = None
    total_seconds: float | None = None


def measure_duration(
    config: Config, data: DataPlan, workplace: Workplace, epochs_done: Iterable[int], files: Iterable[SourceFile]
) -> Duration | None:
    """Return how long runs take one after another, from a few steps and files; None for a GPU that is not here.

    Args:
        config: configuration of each run.
        data: the samples of each run.
        workplace: where they would train.
        epochs_done: finished epochs of each run that is not complete.
        files: files to read some of.
    """
    wants_gpu = workplace.device != "cpu"
    if workplace.device == "cuda" and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")
    request = ReadRequest(preprocess=config.data.preprocess, limits=config.limits)
    speed = measure_steps(config, device)
    measured = Duration(
        device=device.type,
        read_rate=measure_reading(files, request),
        train_rate=speed.training,
        validation_rate=speed.validation,
    )
    if not data.is_known:
        return measured
    train, val = map(data.count, SPLITS_READ)
    reading = 0.0 if measured.read_rate is None else (train + val) / (measured.read_rate * count_cpus())
    epoch = train / speed.training + val / speed.validation
    total = sum(reading + max(0, config.train.epochs - done) * epoch for done in epochs_done)
    return replace(measured, read_seconds=reading, epoch_seconds=epoch, total_seconds=total)
