"""Decoded planes in a file that lies in memory, which a driver and its worker process share."""

import mmap
from dataclasses import dataclass

import numpy as np


class MemoryPlanes:
    """Random access to planes in memory that processes share.

    Args:
        planes: uint8 [n, S, S].
        rows: int64 [m]; position i is the plane `rows[i]`.
    """

    def __init__(self, planes: np.ndarray, rows: np.ndarray) -> None:
        self._planes, self._rows = planes, rows

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        """Do nothing: all planes are in memory."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]."""
        planes: np.ndarray = self._planes[self._rows[positions]]
        return planes


@dataclass(frozen=True, kw_only=True)
class SharedPlanes:
    """Planes of some samples in a file without a name, which lies in memory.

    Attributes:
        descriptor: of the file; the worker inherits it.
        count: number of planes in the file.
        rows: int64 [m], the plane of each sample.
    """

    descriptor: int
    count: int
    rows: np.ndarray

    def open(self, side: int) -> MemoryPlanes:
        """Return access by position to planes of a side, in pixels."""
        memory = mmap.mmap(self.descriptor, self.count * side**2, prot=mmap.PROT_READ)
        return MemoryPlanes(np.frombuffer(memory, np.uint8).reshape(self.count, side, side), self.rows)
