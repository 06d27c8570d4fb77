"""Which jobs are over before Ray would be up."""

from collections.abc import Iterable

from brainscale.reading.sources import SourceFile

MAX_FILES = 512
MAX_NBYTES = 64 * 2**20


def is_small(files: Iterable[SourceFile]) -> bool:
    """Return whether one process does a job in about the time that Ray takes to start."""
    nbytes = 0
    for count, file in enumerate(files, 1):
        nbytes += file.nbytes or 0
        if count > MAX_FILES or nbytes > MAX_NBYTES:
            return False
    return True
