"""Where a training would run, as far as that is known without Ray; needs no torch until it is asked."""

import os
from dataclasses import dataclass
from typing import Literal

from brainscale.config.sections import Config
from brainscale.errors import ClusterError
from brainscale.models.processor import has_gpu
from brainscale.reading.small_jobs import is_ray_near


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where training would run.

    Attributes:
        ray: `none`, `local` (started for the run) or `connected`.
        workers: number of workers; auto: one for each GPU or node of the cluster.
        device: cpu, cuda, or auto while only the cluster knows.
        threads: CPU threads of each worker.
    """

    ray: Literal["none", "local", "connected"]
    workers: int | Literal["auto"]
    device: str
    threads: int


def find_workplace(config: Config, samples: int) -> Workplace:
    """Return where a run would train.

    Args:
        config: its configuration.
        samples: number of its samples to decode.

    Raises:
        ClusterError: this machine, on which Ray would be started, can never hold the workers.
    """
    from brainscale.training.locally import can_train_here, planes_fit_here  # here: torch takes seconds to load
    from brainscale.training.workers import count_workers

    resources, threads = config.resources, config.train.threads
    if can_train_here(config) and planes_fit_here(samples, config):
        return Workplace(ray="none", workers=count_workers(config), device="cpu", threads=threads)
    if is_ray_near():
        return Workplace(ray="connected", workers=resources.workers, device=resources.device, threads=threads)
    require_room_here(config)
    device = resources.device if resources.device != "auto" else "auto" if has_gpu() else "cpu"
    workers = 1 if resources.workers == "auto" and device == "cpu" else resources.workers
    return Workplace(ray="local", workers=workers, device=device, threads=threads)


def require_room_here(config: Config) -> None:
    """Refuse workers for which a Ray on this machine would have no room.

    Raises:
        ClusterError: there is no GPU, or there are too few CPUs.
    """
    resources = config.resources
    workers = 1 if resources.workers == "auto" else resources.workers
    if resources.device == "cuda" and not has_gpu():
        raise ClusterError(
            "--device cuda needs a GPU, but this machine has none: use --device cpu, or the --address of a cluster"
        )
    needed, cpus = workers * resources.cpus_per_worker, max(os.cpu_count() or 1, workers + 1)  # as a local Ray counts
    if needed > cpus:
        raise ClusterError(
            f"{workers} worker(s) need {needed:g} CPUs, but this machine has {cpus}: ask for fewer or smaller workers, "
            "or give the --address of a cluster"
        )
