"""This machine's processors: the name of the CPU, as bits are promised for one kind of it, and whether it has a GPU."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def read_cpu_model() -> str:
    """Return the name of the CPU, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def has_gpu() -> bool:
    """Return whether this machine has a GPU that CUDA may use; neither torch nor CUDA is loaded for this."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(Path("/dev").glob("nvidia[0-9]*"))
