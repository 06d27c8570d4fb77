"""Slices that the decoder keeps until the window of their series is known."""

import secrets

from brainscale.reading.formats.frame import Frame

KEPT_NBYTES = 256 * 2**20
"""Pixels of slices that wait for the window of their series; where they are more, the first are decoded again."""


class KeptSlices:
    """Slices that wait for the window of their series, by a name that no other process gives."""

    def __init__(self) -> None:
        self._frames: dict[str, Frame] = {}
        self._process, self._count, self._nbytes = secrets.token_hex(8), 0, 0

    def keep(self, frame: Frame) -> str | None:
        """Keep a slice and return its name; those that came first make room."""
        nbytes = frame.pixels.nbytes
        if nbytes > KEPT_NBYTES:
            return None
        while self._nbytes + nbytes > KEPT_NBYTES:
            self.take(next(iter(self._frames)))
        self._count, self._nbytes = self._count + 1, self._nbytes + nbytes
        name = f"{self._process}-{self._count}"
        self._frames[name] = frame
        return name

    def take(self, name: str) -> Frame | None:
        """Return a slice and keep it no longer; None for one that gave way, or that another process had."""
        frame = self._frames.pop(name, None)
        self._nbytes -= 0 if frame is None else frame.pixels.nbytes
        return frame
