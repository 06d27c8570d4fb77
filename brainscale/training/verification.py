"""Compare two runs bit by bit, and find the first step at which they differ."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from brainscale.config.files import CONFIG_FILE
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.errors import SourceError
from brainscale.training.history import list_hardware
from brainscale.training.run_folder import RunFolder, find_differences
from brainscale.training.trace import TracedStep, read_steps

READ = ("config.yaml", "*.parquet", "*.json")
"""Patterns of the files to download of a run in an object store."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference between two runs.

    Attributes:
        epoch: number of the epoch, from 1; None if all steps are equal.
        step: number of the step in the epoch, from 1; None if all steps are equal.
        what: what differs: the name of a tensor, `learning_rate`, `samples`, `loss_sum`, `correct`, `end` (one run has
            more steps), or a result of the run.
        one: value in the first run, as JSON; of a tensor, the fingerprint of its bits.
        other: value in the second run.
    """

    epoch: int | None
    step: int | None
    what: str
    one: object
    other: object

    def to_text(self) -> str:
        """Return the difference in words."""
        where = f"epoch {self.epoch}, step {self.step}" if self.step else "the end"
        if self.what == "end":
            return f"the runs differ at {where}: the first run {self.one}, the second {self.other}"
        return f"the runs differ at {where}: {self.what} is {self.one} in the first run, {self.other} in the second"


@dataclass(frozen=True, kw_only=True)
class BitComparison:
    """Result of the comparison of two runs.

    Attributes:
        steps: number of equal steps before the first difference.
        difference: the first difference; None if the runs are equal.
        reasons: differences in configuration, hardware and data.
    """

    steps: int
    difference: Difference | None
    reasons: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the runs are equal to the last bit."""
        return self.difference is None

    def to_json(self) -> dict[str, object]:
        """Return the output of `verify --json`."""
        difference = None if self.difference is None else asdict(self.difference)
        return {"equal": self.equal, "steps": self.steps, "parting": difference, "reasons": list(self.reasons)}

    def to_text(self) -> str:
        """Return the result in words."""
        if self.difference is None:
            lines = [f"bit-equal: all {self.steps} steps and the final weights"]
        else:
            lines = [f"{self.difference.to_text()} (equal steps before: {self.steps})"]
        return "\n".join([*lines, *(f"  differs: {reason}" for reason in self.reasons)])


def compare_bits(one: str | Path, other: str | Path) -> BitComparison:
    """Compare two runs step by step.

    Args:
        one: folder of a run, finished or not.
        other: folder of another run.

    Raises:
        SourceError: a folder is not a run, or has no finished epoch.
    """
    first, second = RunFolder(Path(one)), RunFolder(Path(other))
    for run in (first, second):
        if not run.config_file.is_file():
            raise SourceError(
                f"{run} is not a run (it has no {CONFIG_FILE}): give a folder that `brainscale train` wrote"
            )
        if not any(read_steps(run.path)):
            raise SourceError(f"{run} has no finished epoch yet: train it first")
    count, difference = 0, None
    for first_step, second_step in zip_longest(read_steps(first.path), read_steps(second.path)):
        difference = _compare_steps(first_step, second_step)
        if difference is not None:
            break
        count += 1
    difference = difference or _compare_results(first, second)
    return BitComparison(steps=count, difference=difference, reasons=tuple(_find_reasons(first, second)))


def _compare_steps(first: TracedStep | None, second: TracedStep | None) -> Difference | None:
    """Return the first difference between two steps; a run that has ended has None."""
    present = first or second
    if present is None:
        return None
    if first is None or second is None:
        one, other = ("has ended" if step is None else "continues" for step in (first, second))
        return Difference(epoch=present.epoch, step=present.step, what="end", one=one, other=other)
    for name in dict.fromkeys([*first.values, *second.values]):
        one_value, other_value = first.values.get(name), second.values.get(name)
        if one_value != other_value:
            return Difference(epoch=first.epoch, step=first.step, what=name, one=one_value, other=other_value)
    return None


def _compare_results(first: RunFolder, second: RunFolder) -> Difference | None:
    """Return a difference between runs with equal steps: one is not finished, or they kept different epochs."""
    keys = ("weights_sha256", "best_epoch", "best_val_loss")
    results = [{key: getattr(run.result(), key, None) for key in keys} for run in (first, second)]
    for key in keys:
        if results[0][key] != results[1][key]:
            one, other = ("unfinished" if result[key] is None else result[key] for result in results)
            return Difference(epoch=None, step=None, what=key, one=one, other=other)
    return None


def _find_reasons(first: RunFolder, second: RunFolder) -> Iterator[str]:
    """Yield the differences in configuration, hardware and data, which may be why two runs differ."""
    old, new = (run.config().model_dump(mode="json") for run in (first, second))
    for key, one, other in find_differences(old, new):
        yield f"{key}: {one} and {other}"
    hardware = [list_hardware(run.history()) for run in (first, second)]
    if hardware[0] != hardware[1]:
        yield "hardware: " + " and ".join(" then ".join(parts) or "unknown" for parts in hardware)
    fingerprints = {manifest_fingerprint(run.manifest()) for run in (first, second)}
    if len(fingerprints) > 1:
        yield "data: files, labels or splits differ"
