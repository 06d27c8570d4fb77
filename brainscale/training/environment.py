"""Record the hardware and library versions of a run, which can change its result besides the configuration."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from brainscale.config.sections import Config
from brainscale.version import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "pyarrow", "ray", "onnxruntime", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Hardware and library versions, as environment.json has them.

    Attributes:
        python: version of Python.
        platform: operating system and architecture.
        cpu: model of the CPU.
        cpus: number of logical CPUs.
        threads_per_worker: number of CPU threads of each worker.
        workers: number of workers.
        gpus: name of each GPU.
        cuda: version of CUDA; None without a GPU.
        cudnn: version of cuDNN; None without a GPU.
        versions: library → version.
    """

    python: str
    platform: str
    cpu: str
    cpus: int | None
    threads_per_worker: int
    workers: int | str
    gpus: tuple[str, ...]
    cuda: str | None
    cudnn: int | None
    versions: Mapping[str, str]


def describe_environment(config: Config) -> Environment:
    """Return the hardware and library versions of this process."""
    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Environment(
        python=sys.version.split()[0],
        platform=platform.platform(),
        cpu=_read_cpu_model(),
        cpus=os.cpu_count(),
        threads_per_worker=config.train.threads,
        workers=config.resources.workers,
        gpus=gpus,
        cuda=torch.version.cuda if gpus else None,
        cudnn=torch.backends.cudnn.version() if gpus else None,
        versions=read_library_versions(),
    )


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def read_library_versions() -> dict[str, str]:
    """Return the versions of brainscale and of the libraries that could change a result."""
    return {"brainscale": __version__, **{name: metadata.version(name) for name in LIBRARIES}}
