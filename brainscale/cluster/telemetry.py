"""Counters and gauges that Ray hands to Prometheus, from the processes that do the work.

Ray puts `ray_` before a name, and `_total` behind a counter's.
"""

from collections import Counter
from collections.abc import Iterable

from ray.util import metrics

from brainscale.schema import SKIPPED

SECONDS = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
"""Upper bounds of the buckets for a block's time."""


def tally(codes: Iterable[str | None]) -> tuple[int, dict[str, int]]:
    """Rows that were scored, and rows in error by code; what is in order and yet no image is neither."""
    counts = Counter(codes)
    scored = counts.pop(None, 0)
    return scored, {code: n for code, n in counts.items() if code is not None and code not in SKIPPED}


class ScoringMeter:
    """What an engine's process has scored."""

    def __init__(self) -> None:
        self._images = metrics.Counter("brainscale_images_scored", "Rows with a probability.")
        self._errors = metrics.Counter("brainscale_errors", "Rows in error, by code.", tag_keys=("code",))
        self._seconds = metrics.Histogram("brainscale_block_seconds", "Seconds an engine took for a block.", SECONDS)

    def block(self, codes: Iterable[str | None], seconds: float) -> None:
        """Count a block.

        Args:
            codes: error code of each row, None where it was scored.
            seconds: that the engine took.
        """
        scored, errors = tally(codes)
        if scored:  # a counter takes no zero
            self._images.inc(scored)
        for code, count in errors.items():
            self._errors.inc(count, tags={"code": code})
        self._seconds.observe(seconds)


class TrainingMeter:
    """How far a run is and how fast it goes; one worker of it says so."""

    def __init__(self) -> None:
        self._rate = metrics.Gauge("brainscale_training_images_a_second", "Of the last epoch, all workers together.")
        self._epoch = metrics.Gauge("brainscale_training_epoch", "The last epoch trained.")

    def epoch(self, number: int, images: int, seconds: float) -> None:
        """Say that an epoch is done.

        Args:
            number: of the epoch, from 1.
            images: trained on since this process began with the epoch.
            seconds: it took for them, validation left out.
        """
        self._epoch.set(number)
        if images:
            self._rate.set(images / seconds)
