"""Load libraries in a process whose memory is limited, when the first file needs them.

Those of all formats take half a second of a process's start, and most jobs need only some. What a library takes is
not counted towards the limit.
"""

import os
import resource
import sys
from importlib import import_module
from typing import Any

LIBRARIES_NBYTES = 2**30
"""Memory that all libraries together may take: address space, most of which is never used."""


_statm: int | None = None
"""Descriptor of /proc/self/statm, opened while this process could still open it."""


def limit_memory(mib: int) -> None:
    """Limit how much this process may still grow: an allocation beyond fails and does not exhaust the machine."""
    global _statm  # noqa: PLW0603 - one limit for the process
    if sys.platform == "linux":
        _statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        nbytes = _count_nbytes(_statm) + mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes + LIBRARIES_NBYTES))


def load(name: str) -> Any:
    """Return the module of a name; the first time, the limit of memory grows by what it and its libraries take."""
    if name in sys.modules:
        return sys.modules[name]
    if _statm is None:  # a process without a limit
        return import_module(name)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _count_nbytes(_statm)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        return import_module(name)
    finally:
        grown = max(0, _count_nbytes(_statm) - before)
        resource.setrlimit(resource.RLIMIT_AS, (min(hard, soft + grown), hard))


def _count_nbytes(statm: int) -> int:
    """Return the address space of this process."""
    return int(os.pread(statm, 32, 0).split()[0]) * resource.getpagesize()
