"""Where a scoring job would run, and how long it may take: extrapolated from a few seconds of reading and scoring."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from brainscale.config.environment import count_cpus
from brainscale.models.bundle import Bundle
from brainscale.models.engines import GPU_BATCH, EngineOptions, load_engine, read_network, resolve_engine
from brainscale.models.processor import has_gpu
from brainscale.reading.pace import READ_FILES, count_rate, measure_reading
from brainscale.reading.small_jobs import is_ray_near
from brainscale.scoring.bulk import needs_ray
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Amount
from brainscale.scoring.scorer import request_of
from brainscale.scoring.spool import SpooledFiles

ENGINE_SECONDS = 2.0
"""Seconds for which an engine scores made-up planes."""
PLANES = 4
"""Planes of one call for each CPU, where an engine is measured."""


@dataclass(frozen=True, kw_only=True)
class ScoringWorkplace:
    """Where scoring runs.

    Attributes:
        ray: `none`, `local` (started for the job) or `connected`.
        engine: onnx or torch; on Ray, what this machine would use.
        on_gpu: whether that uses a GPU.
        workers: maximum number of engines; None for as many as there is room for.
    """

    ray: Literal["none", "local", "connected"]
    engine: str
    on_gpu: bool
    workers: int | None


@dataclass(frozen=True, kw_only=True)
class ScoringDuration:
    """How long it takes on this machine alone, extrapolated from a few seconds of work.

    Attributes:
        read_rate: samples that one process reads a second; None if there were fewer than two.
        score_rate: planes that the engine scores a second, with all CPUs or one GPU.
        total_seconds: reading and scoring of what is left.
    """

    read_rate: float | None
    score_rate: float
    total_seconds: float


def find_workplace(job: ScoringJob, files: SpooledFiles, object_store_gib: float | None) -> ScoringWorkplace:
    """Return where a job would run.

    Args:
        job: the job.
        files: the files of its sources.
        object_store_gib: size of a local Ray's object store, if it was given.
    """
    on_ray = needs_ray(job, files, object_store_gib)
    engine = resolve_engine(job.engine, 1 if on_ray and has_gpu() else 0)
    ray: Literal["none", "local", "connected"] = "connected" if is_ray_near() else "local"
    return ScoringWorkplace(
        ray=ray if on_ray else "none", engine=engine.name, on_gpu=engine.on_gpu, workers=job.workers if on_ray else 1
    )


def measure_duration(
    job: ScoringJob, files: SpooledFiles, left: Amount, workplace: ScoringWorkplace
) -> ScoringDuration:
    """Read some files, score made-up planes, and return how long what is left takes.

    On a CPU, reading and the engine share it, so that their times add up; a GPU scores while the CPUs read.
    """
    cpus = count_cpus()
    reading = measure_reading(islice(files, 0, None, max(1, files.count // READ_FILES)), request_of(job))
    scoring = measure_engine(job.bundle, replace(job.engine, name=workplace.engine, on_gpu=workplace.on_gpu), cpus)
    seconds = (0.0 if reading is None else left.rows / (reading * cpus), left.rows / scoring)
    total = max(seconds) if workplace.on_gpu else sum(seconds)
    return ScoringDuration(read_rate=reading, score_rate=scoring, total_seconds=total)


def measure_engine(bundle: Bundle, options: EngineOptions, threads: int) -> float:
    """Return planes a second of an engine for a model, on made-up planes; a network is not compiled for this.

    Args:
        bundle: the model.
        options: options from `resolve_engine`.
        threads: number of CPU threads.
    """
    options = replace(options, compiled=False)
    engine = load_engine(bundle.info, read_network(bundle, options), options, threads=threads)
    side, count = bundle.info.preprocess.image_size, GPU_BATCH if options.on_gpu else PLANES * threads
    planes = np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)
    engine(planes[:threads])  # the first call is slow
    return count_rate(count, lambda: engine(planes), ENGINE_SECONDS)
