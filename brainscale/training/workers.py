"""How many training workers a run has, and what each asks of the cluster."""

import ray

from brainscale.cluster.capacity import can_have_gpus, nodes_there
from brainscale.cluster.placement import trainers
from brainscale.config.sections import Config


def with_chosen_workers(config: Config) -> Config:
    """The configuration with a number of workers, where it left that to the cluster."""
    room, train = config.resources, config.train
    if room.workers != "auto":
        return config
    live = ray.cluster_resources()
    most = min(live.get("GPU", 0) // room.gpus_per_worker, live.get("CPU", 0) // room.cpus_per_worker)
    fit = [nodes for nodes in nodes_there() if nodes.cpus >= room.cpus_per_worker]
    return with_workers(config, trainers(fit, max(1, int(most)) if uses_gpu(config) else 0, train.micro_batches))


def with_workers(config: Config, workers: int) -> Config:
    """The configuration with so many workers, which decide no result."""
    return config.model_copy(update={"resources": config.resources.model_copy(update={"workers": workers})})


def workers_of(config: Config) -> int:
    """How many workers a run has; one as long as that is left to the cluster."""
    return 1 if config.resources.workers == "auto" else config.resources.workers


def uses_gpu(config: Config) -> bool:
    """Whether the run trains on GPUs: as configured, or wherever the cluster can have one for each worker."""
    if config.resources.device == "auto":
        return can_have_gpus(workers_of(config), config.resources.gpus_per_worker)
    return config.resources.device == "cuda"


def resources_per_worker(config: Config) -> dict[str, float]:
    """What Ray sets aside for a worker."""
    cpus = {"CPU": config.resources.cpus_per_worker}
    return cpus | ({"GPU": config.resources.gpus_per_worker} if uses_gpu(config) else {})
