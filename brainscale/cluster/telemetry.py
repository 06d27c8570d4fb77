"""Metrics that Ray exports to Prometheus, reported by the processes that do the work.

Ray adds the prefix `ray_` to each name, and the suffix `_total` to the name of a counter.
"""

from collections import Counter
from collections.abc import Iterable

from ray.util import metrics

from brainscale.schema import SKIPPED

SECONDS = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
"""Upper bounds of the buckets of the time for a block, seconds."""


def count_codes(codes: Iterable[str | None]) -> tuple[int, dict[str, int]]:
    """Return the number of scored rows and of errors by code; valid files without an image count as neither."""
    counts = Counter(codes)
    scored = counts.pop(None, 0)
    return scored, {code: n for code, n in counts.items() if code is not None and code not in SKIPPED}


class ScoringMeter:
    """Metrics of a process that scores."""

    def __init__(self) -> None:
        self._images = metrics.Counter("brainscale_images_scored", "Number of rows with a probability.")
        self._errors = metrics.Counter(
            "brainscale_errors", "Number of rows with an error, by error code.", tag_keys=("code",)
        )
        self._seconds = metrics.Histogram(
            "brainscale_block_seconds", "Seconds that an engine took for a block.", SECONDS
        )

    def count_block(self, codes: Iterable[str | None], seconds: float) -> None:
        """Count the rows of a block.

        Args:
            codes: error code of each row; None for a scored row.
            seconds: time that the engine took.
        """
        scored, errors = count_codes(codes)
        if scored:  # Ray's counters refuse 0
            self._images.inc(scored)
        for code, count in errors.items():
            self._errors.inc(count, tags={"code": code})
        self._seconds.observe(seconds)


class TrainingMeter:
    """Progress and speed of a run, reported by one of its workers."""

    def __init__(self) -> None:
        self._rate = metrics.Gauge(
            "brainscale_training_images_a_second", "Training images per second in the last epoch, all workers together."
        )
        self._epoch = metrics.Gauge("brainscale_training_epoch", "Last epoch that was trained.")

    def report_epoch(self, number: int, images: int, seconds: float) -> None:
        """Report a finished epoch.

        Args:
            number: number of the epoch, from 1.
            images: number of images that this process trained on in the epoch; fewer than all after a restart.
            seconds: time for these images, without validation.
        """
        self._epoch.set(number)
        if images:
            self._rate.set(images / seconds)
