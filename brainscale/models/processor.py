"""The name of this machine's processor: bits are promised for one kind of it."""

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
