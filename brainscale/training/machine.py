"""What a machine has that matters to brainscale: processors, memory, disks and library versions; no names."""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from brainscale.config.environment import CGROUP, count_cpus, read_limit
from brainscale.models.processor import read_cpu_model
from brainscale.training.environment import read_library_versions

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Ray has its object store)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine, as processes on it see it.

    Attributes:
        cpu: model of the CPU.
        instructions: instruction set that torch uses on it, such as AVX512.
        cpus: number of CPUs that this process may use.
        memory_gib: memory that this process may use, GiB.
        shared_memory_gib: size of /dev/shm, where Ray has its object store, GiB; 0 without it.
        disk_gib: free space of the folder for temporary files, where Ray spills to, GiB.
        gpus: name of each GPU.
        gpu_memory_gib: memory of each GPU, GiB.
        cuda: version of CUDA; None without a GPU.
        bf16: whether the GPUs compute in bfloat16.
        python: version of Python.
        versions: library → version.
    """

    cpu: str
    instructions: str
    cpus: int
    memory_gib: float
    shared_memory_gib: float
    disk_gib: float
    gpus: tuple[str, ...] = ()
    gpu_memory_gib: tuple[float, ...] = ()
    cuda: str | None = None
    bf16: bool = False
    python: str
    versions: Mapping[str, str]


def read_machine() -> Machine:
    """Return what this machine has."""
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    shared = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.exists() else 0
    return Machine(
        cpu=read_cpu_model(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cpus=count_cpus(),
        memory_gib=_gib(read_memory()),
        shared_memory_gib=_gib(shared),
        disk_gib=_gib(shutil.disk_usage(tempfile.gettempdir()).free),
        gpus=tuple(device.name for device in devices),
        gpu_memory_gib=tuple(_gib(device.total_memory) for device in devices),
        cuda=torch.version.cuda if devices else None,
        bf16=bool(devices) and torch.cuda.is_bf16_supported(),
        python=sys.version.split()[0],
        versions=read_library_versions(),
    )


def read_memory(cgroup: Path = CGROUP) -> int:
    """Return the memory that this process may use, in bytes: that of the machine, or of its container.

    Args:
        cgroup: folder with the limits of the container.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_limit(cgroup / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _gib(nbytes: float) -> float:
    return round(nbytes / GIB, 1)
