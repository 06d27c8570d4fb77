"""Record the hardware and library versions of a run, which can change its result besides the configuration.

`Environment` describes the machine of the command, for people. `Arithmetic` describes what computes on a worker: only
workers that agree on it give the same bits, so a run is not resumed with another one unless it is allowed.
"""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from brainscale.config.sections import Config
from brainscale.hashing import fingerprint
from brainscale.models.processor import read_cpu_model
from brainscale.version import __version__

if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What decides the bits of a result, besides configuration and data.

    Attributes:
        device: cpu or cuda.
        processor: model of the CPU or GPU.
        instructions: instruction set of the CPU, such as AVX512, or compute capability of the GPU.
        threads: number of CPU threads of a worker.
        versions: library → version, with cuda and cudnn on a GPU.
    """

    device: str
    processor: str
    instructions: str
    threads: int
    versions: Mapping[str, str]

    def to_text(self) -> str:
        """Return the arithmetic in one line."""
        threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.device == "cpu" else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.device}: {self.processor} ({self.instructions}{threads}); {versions}"

    def difference(self, other: "Arithmetic") -> str | None:
        """Return the first difference from a later arithmetic in words, or None if they are equal."""
        mine, theirs = ({**asdict(one), **one.versions} for one in (self, other))
        for name in dict.fromkeys([*mine, *theirs]):
            if name != "versions" and mine.get(name) != theirs.get(name):
                return f"{name} is {mine.get(name, 'missing')} there, {theirs.get(name, 'missing')} here"
        return None

    @property
    def fingerprint(self) -> int:
        """Return a number for the arithmetic, below 2⁶³."""
        return int(fingerprint(asdict(self))[:15], 16)


def describe_arithmetic(device: "torch.device") -> Arithmetic:
    """Return the arithmetic of this process on a device."""
    import torch  # here: an evaluation reads versions, and does without it as long as it can

    versions = read_library_versions()
    kept = {name: versions[name] for name in ("brainscale", "numpy", "pillow")}
    kept["torch"] = torch.__version__  # with the build, such as 2.9.1+cpu
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        processor, instructions = properties.name, f"sm_{properties.major}{properties.minor}"
        kept |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    else:
        processor, instructions = read_cpu_model(), torch.backends.cpu.get_cpu_capability()
    return Arithmetic(
        device=device.type,
        processor=processor,
        instructions=instructions,
        threads=torch.get_num_threads(),
        versions=kept,
    )


def describe_environment(config: Config) -> Environment:
    """Return the hardware and library versions of this process."""
    import torch  # here, as above

    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Environment(
        python=sys.version.split()[0],
        platform=platform.platform(),
        cpu=read_cpu_model(),
        cpus=os.cpu_count(),
        threads_per_worker=config.train.threads,
        workers=config.resources.workers,
        gpus=gpus,
        cuda=torch.version.cuda if gpus else None,
        cudnn=torch.backends.cudnn.version() if gpus else None,
        versions=read_library_versions(),
    )


def read_library_versions() -> dict[str, str]:
    """Return the versions of brainscale and of the libraries that could change a result."""
    return {"brainscale": __version__, **{name: metadata.version(name) for name in LIBRARIES}}
