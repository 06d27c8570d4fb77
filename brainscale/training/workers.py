"""Choose the number of training workers of a run, and what each of them reserves on the cluster."""

from collections.abc import Callable

from brainscale.cluster.placement import count_trainers
from brainscale.config.sections import Config
from brainscale.training.run_folder import adopt_memory_format
from brainscale.training.step import choose_memory_format


def choose_workers(config: Config, on_notice: Callable[[str], None] = lambda text: None) -> Config:
    """Return the configuration with a number of workers that suits the cluster, if it says `auto`.

    Args:
        config: the configuration.
        on_notice: called with a message if GPUs of the cluster stay idle.
    """
    resources = config.resources
    if resources.workers != "auto":
        return config
    import ray  # here: a run without Ray has one worker

    from brainscale.cluster.capacity import list_nodes  # here, as above

    available = ray.cluster_resources()
    gpu_workers = min(
        available.get("GPU", 0) // resources.gpus_per_worker, available.get("CPU", 0) // resources.cpus_per_worker
    )
    large_enough = [nodes for nodes in list_nodes() if nodes.cpus >= resources.cpus_per_worker]
    gpus = max(1, int(gpu_workers)) if uses_gpu(config) else 0
    workers = count_trainers(large_enough, gpus, config.train.micro_batches)
    if gpus and (idle := describe_idle_gpus(available.get("GPU", 0), workers, config)):
        on_notice(idle)
    return set_workers(config, workers)


def describe_idle_gpus(gpus: float, workers: int, config: Config) -> str | None:
    """Return a message that names the GPUs which stay idle and the batch size that would use more, or None.

    Args:
        gpus: GPUs of the cluster.
        workers: number of workers that will train.
        config: the configuration.
    """
    each, train = config.resources.gpus_per_worker, config.train
    most = int(gpus // each)
    if most <= workers:
        return None
    idle = f"{gpus - workers * each:g} of {gpus:g} GPUs stay idle"
    usable = 1 << (most.bit_length() - 1)
    if usable > workers == train.micro_batches:
        return (
            f"{idle}, because a batch of {train.batch_size} has {workers} micro-batch(es) of {train.micro_batch}: "
            f"--set train.batch_size={usable * train.micro_batch} would use {usable * each:g} (another result)"
        )
    reason = (
        "there are too few CPUs for more workers" if usable > workers else "the number of workers is a power of two"
    )
    return f"{idle}, because {reason}"


def set_workers(config: Config, workers: int) -> Config:
    """Return the configuration with the given number of workers, which does not change the result."""
    return config.model_copy(update={"resources": config.resources.model_copy(update={"workers": workers})})


def fix_memory_format(config: Config, started: Config | None, *, on_gpu: bool) -> Config:
    """Return the configuration with `train.memory_format: auto` replaced by that of a started run, or of this machine.

    Args:
        config: the configuration.
        started: configuration of the run if it was started before.
        on_gpu: whether the run trains on GPUs.
    """
    if config.train.memory_format != "auto":
        return config
    if started is not None:
        return adopt_memory_format(config, started)
    chosen = choose_memory_format(config.train, on_gpu)
    return config.model_copy(update={"train": config.train.model_copy(update={"memory_format": chosen})})


def count_workers(config: Config) -> int:
    """Return the number of workers of a run; 1 while it is `auto`."""
    return 1 if config.resources.workers == "auto" else config.resources.workers


def uses_gpu(config: Config) -> bool:
    """Return whether the run trains on GPUs: as configured, or whenever the connected Ray has one for each worker."""
    if config.resources.device == "auto":
        from brainscale.cluster.capacity import can_have_gpus  # here, as above

        return can_have_gpus(count_workers(config), config.resources.gpus_per_worker)
    return config.resources.device == "cuda"


def resources_per_worker(config: Config) -> dict[str, float]:
    """Return the CPUs and GPUs that Ray reserves for a worker."""
    cpus = {"CPU": config.resources.cpus_per_worker}
    return cpus | ({"GPU": config.resources.gpus_per_worker} if uses_gpu(config) else {})
