"""How far training is inside an epoch: what the first worker reports, and what the driver makes of it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from brainscale.config.sections import TrainConfig
from brainscale.formatting import format_duration
from brainscale.progress import Listener, Progress

REPORT_SECONDS = 1.0
"""Seconds between two reports at least."""
ESTIMATE_AFTER = 60.0
"""Seconds of training after which the whole is estimated."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """How far a worker is.

    Attributes:
        epoch: number of the epoch, from 1.
        step: steps of the epoch that are done.
        steps: steps of the whole epoch.
        first_step: steps that were done before this worker began the epoch.
        samples: samples of all workers in the steps since.
        seconds: time for them.
    """

    epoch: int
    step: int
    steps: int
    first_step: int
    samples: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for another process."""
        return asdict(self)


ReportStep = Callable[[StepReport], None]


def ignore_step(report: StepReport) -> None:
    """Do nothing with a report."""


class StepReporter:
    """Reports the steps of an epoch, one of them a second at most, and the first and the last.

    Args:
        report: takes the reports.
        epoch: number of the epoch, from 1.
        steps: steps of the whole epoch.
        first_step: steps that are done already.
    """

    def __init__(self, report: ReportStep, epoch: int, steps: int, first_step: int) -> None:
        self._report, self._epoch, self._steps, self._first_step = report, epoch, steps, first_step
        self._began = self._reported = time.monotonic()
        self.add_step(first_step, 0)

    def add_step(self, step: int, samples: int) -> None:
        """Report a step, if it is time.

        Args:
            step: steps of the epoch that are done.
            samples: samples of all workers since the first step.
        """
        now = time.monotonic()
        if self._first_step < step < self._steps and now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        report = StepReport(
            epoch=self._epoch,
            step=step,
            steps=self._steps,
            first_step=self._first_step,
            samples=samples,
            seconds=now - self._began,
        )
        self._report(report)


class TrainingPace:
    """Shows the reports of a run, and once, after a minute, how long the whole run takes.

    Args:
        listener: what shows them.
        settings: settings of the training.
    """

    def __init__(self, listener: Listener, settings: TrainConfig) -> None:
        self._listener, self._settings = listener, settings
        self._start: tuple[int, float] | None = None
        self._estimated = False

    def show(self, report: StepReport) -> None:
        """Show a report."""
        validating = report.step == report.steps
        self._listener.show(
            Progress(
                stage=f"epoch {report.epoch}/{self._settings.epochs}{', validation' if validating else ''}",
                done=report.step,
                total=report.steps,
                unit="steps",
                samples=report.samples,
                seconds=report.seconds,
                done_before=report.first_step,
            )
        )
        position, now = (report.epoch - 1) * report.steps + report.step, time.monotonic()
        if self._start is None or position < self._start[0]:  # new workers begin at the last checkpoint
            self._start = position, now
        first, began = self._start
        if not self._estimated and position > first and now - began >= ESTIMATE_AFTER:
            self._estimated = True
            left = self._settings.epochs * report.steps - first
            self._listener.announce(self._describe(left * (now - began) / (position - first), resumed=first > 0))

    def _describe(self, seconds: float, *, resumed: bool) -> str:
        """Return how long the run takes in one sentence."""
        epochs = "the epochs that were left" if resumed else f"all {self._settings.epochs} epochs"
        earlier = "; less if training stops early" if self._settings.keep == "best" else ""
        return f"about {format_duration(seconds)} for {epochs} at this speed{earlier}"
