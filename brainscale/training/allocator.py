"""Let glibc keep the large buffers that every training step needs again.

By default it gives each back to the system and asks for it anew, and the system clears every page: a fifth of a
step of brainmrnet at 224² (`python benchmarks/train.py`).
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt, from malloc.h


def keep_buffers() -> None:
    """Change this process's allocator for good; where it is not glibc's, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
