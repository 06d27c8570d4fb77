"""How long a training may take: extrapolated from a few seconds of its steps, and from reading some of its files."""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from brainscale.config.environment import count_cpus
from brainscale.config.sections import Config
from brainscale.reading.pace import measure_reading
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile
from brainscale.training.norm_statistics import MAX_SAMPLES
from brainscale.training.planned_data import DataPlan
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
        epoch_seconds: one epoch with its validation, without precise statistics of batch norm; the mean of several
            runs, as of the reading.
        total_seconds: what is left: reading, all epochs that are not finished, and these statistics.

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
    config: Config, runs: Sequence[tuple[DataPlan, int]], workplace: Workplace, files: Iterable[SourceFile]
) -> Duration | None:
    """Return how long runs take one after another, from a few steps and files; None for a GPU that is not here.

    Args:
        config: configuration of each run.
        runs: samples and finished epochs of each run that is not complete, of one at least.
        workplace: where they would train.
        files: files to read some of.
    """
    has_cuda = torch.cuda.is_available()
    if workplace.device == "cuda" and not has_cuda:
        return None
    device = torch.device("cuda" if workplace.device != "cpu" and has_cuda else "cpu")
    request = ReadRequest(preprocess=config.data.preprocess, limits=config.limits)
    speed = measure_steps(config, device)
    measured = Duration(
        device=device.type,
        read_rate=measure_reading(files, request),
        train_rate=speed.training,
        validation_rate=speed.validation,
    )
    if not all(data.is_known for data, _ in runs):
        return measured
    read_rate = math.inf if measured.read_rate is None else measured.read_rate * count_cpus()
    reading = [data.count_read() / read_rate for data, _ in runs]
    epochs = [data.count("train") / speed.training + data.count("val") / speed.validation for data, _ in runs]
    left = [max(0, config.train.epochs - done) for _, done in runs]
    norms = [min(data.count("train"), MAX_SAMPLES) / speed.norm_statistics for data, _ in runs]
    measurements = left if config.train.keep == "best" else [min(1, count) for count in left]
    total = sum(reading) + sum(map(operator.mul, epochs, left)) + sum(map(operator.mul, norms, measurements))
    return replace(measured, read_seconds=fmean(reading), epoch_seconds=fmean(epochs), total_seconds=total)
