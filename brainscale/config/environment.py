"""What the environment of this process says: the Ray that it shall use, and how many CPUs."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def surrounding_ray() -> str | None:
    """Return the address in `RAY_ADDRESS`, as in a job or on nodes that a scheduler started; None without one."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def count_cpus(cgroup: Path = CGROUP) -> int:
    """Return the number of CPUs that this process may use: those of the machine, or of its container.

    Args:
        cgroup: folder with the limits of the container.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_limit(cgroup / "cpu.max").partition(" ")
    return min(cpus, max(1, int(quota) // int(period))) if quota.isdigit() and period.isdigit() else cpus


def read_limit(path: Path) -> str:
    """Return what a file of a container's limits says; empty where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
