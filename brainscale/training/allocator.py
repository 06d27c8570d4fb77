"""Make glibc keep large buffers for reuse, since every training step needs the same ones again.

By default glibc returns each buffer to the operating system, which clears every page before it hands it out again.
That takes a fifth of a step of brainmrnet at 224² (`python benchmarks/train.py`).
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt, from malloc.h


def keep_buffers() -> None:
    """Set up this process's allocator to keep large buffers; does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
