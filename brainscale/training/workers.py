"""Choose the number of training workers of a run, and what each of them reserves on the cluster."""

import ray

from brainscale.cluster.capacity import can_have_gpus, list_nodes
from brainscale.cluster.placement import count_trainers
from brainscale.config.sections import Config


def choose_workers(config: Config) -> Config:
    """Return the configuration with a number of workers that suits the cluster, if it says `auto`."""
    resources = config.resources
    if resources.workers != "auto":
        return config
    available = ray.cluster_resources()
    gpu_workers = min(
        available.get("GPU", 0) // resources.gpus_per_worker, available.get("CPU", 0) // resources.cpus_per_worker
    )
    large_enough = [nodes for nodes in list_nodes() if nodes.cpus >= resources.cpus_per_worker]
    gpus = max(1, int(gpu_workers)) if uses_gpu(config) else 0
    return set_workers(config, count_trainers(large_enough, gpus, config.train.micro_batches))


def set_workers(config: Config, workers: int) -> Config:
    """Return the configuration with the given number of workers, which does not change the result."""
    return config.model_copy(update={"resources": config.resources.model_copy(update={"workers": workers})})


def count_workers(config: Config) -> int:
    """Return the number of workers of a run; 1 while it is `auto`."""
    return 1 if config.resources.workers == "auto" else config.resources.workers


def uses_gpu(config: Config) -> bool:
    """Return whether the run trains on GPUs: as configured, or whenever the cluster has one for each worker."""
    if config.resources.device == "auto":
        return can_have_gpus(count_workers(config), config.resources.gpus_per_worker)
    return config.resources.device == "cuda"


def resources_per_worker(config: Config) -> dict[str, float]:
    """Return the CPUs and GPUs that Ray reserves for a worker."""
    cpus = {"CPU": config.resources.cpus_per_worker}
    return cpus | ({"GPU": config.resources.gpus_per_worker} if uses_gpu(config) else {})
