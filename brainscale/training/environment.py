"""What could change a result's bits beside the configuration: hardware and library versions."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from brainscale.config.sections import Config
from brainscale.version import __version__


def environment(config: Config) -> dict[str, Any]:
    """What could change a result's bits, beside the configuration."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads_per_worker": config.train.threads,
        "workers": config.resources.workers,
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "versions": library_versions(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that could change a result."""
    names = ("torch", "torchvision", "numpy", "pillow", "pyarrow", "ray", "onnxruntime", "scikit-learn")
    return {"brainscale": __version__, **{name: metadata.version(name) for name in names}}
