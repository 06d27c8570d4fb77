"""Are two runs the same to the bit, and if not, where did they part?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from brainscale.config.files import CONFIG_FILE
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.errors import SourceError
from brainscale.training.run_folder import RunFolder, differences
from brainscale.training.trace import Step, read_steps

READ = ("config.yaml", "*.parquet", "*.json")
"""What is read of a run in an object store."""


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first thing in which two runs differ.

    Attributes:
        epoch: from 1; None where they differ after all steps were equal.
        step: of the epoch, from 1.
        what: a tensor's name, `learning_rate`, `samples`, `loss_sum`, `correct`, or `end`.
        one: its value there; for a tensor, a fingerprint of its bits.
        other: its value in the other.
    """

    epoch: int | None
    step: int | None
    what: str
    one: str
    other: str


@dataclass(frozen=True, kw_only=True)
class BitComparison:
    """What a comparison of two runs found.

    Attributes:
        steps: steps that are equal to the bit, from the first on.
        parting: the first difference; None where the runs are equal.
        reasons: what differs in configuration and data.
    """

    steps: int
    parting: Parting | None
    reasons: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the runs are equal to the bit."""
        return self.parting is None

    def to_json(self) -> dict[str, object]:
        """Return what `verify --json` prints."""
        parting = None if self.parting is None else asdict(self.parting)
        return {"equal": self.equal, "steps": self.steps, "parting": parting, "reasons": list(self.reasons)}

    def to_text(self) -> str:
        """Return the comparison in words."""
        if self.parting is None:
            lines = [f"bit-equal: {self.steps} steps, and the weights that were kept"]
        else:
            parting = self.parting
            where = f"epoch {parting.epoch}, step {parting.step}" if parting.step else "the end"
            before = f"{self.steps} steps before it are equal" if self.steps else "no step before it is equal"
            lines = [f"the runs differ from {where}: {parting.what} is {parting.one} and {parting.other} ({before})"]
        return "\n".join([*lines, *(f"  differs: {reason}" for reason in self.reasons)])


def compare_bits(one: str | Path, other: str | Path) -> BitComparison:
    """Compare two runs step by step.

    Args:
        one: a run's folder; it may be unfinished.
        other: another run's folder.

    Raises:
        SourceError: a folder is not a run, or holds no finished epoch.
    """
    first, second = RunFolder(Path(one)), RunFolder(Path(other))
    for run in (first, second):
        if not run.config_file.is_file():
            raise SourceError(f"{run} is not a run: it holds no {CONFIG_FILE}")
        if not any(read_steps(run.path)):
            raise SourceError(f"{run} holds no finished epoch yet: train it further")
    count, parting = 0, None
    for a, b in zip_longest(read_steps(first.path), read_steps(second.path)):
        parting = _parting(a, b)
        if parting is not None:
            break
        count += 1
    parting = parting or _at_the_end(first, second)
    return BitComparison(steps=count, parting=parting, reasons=tuple(_reasons(first, second)))


def _parting(a: Step | None, b: Step | None) -> Parting | None:
    there = a or b
    if there is None:
        return None
    if a is None or b is None:
        ends = ["ends before" if step is None else "goes on" for step in (a, b)]
        return Parting(epoch=there.epoch, step=there.step, what="end", one=ends[0], other=ends[1])
    for name in dict.fromkeys([*a.values, *b.values]):
        left, right = a.values.get(name), b.values.get(name)
        if left != right:
            return Parting(epoch=a.epoch, step=a.step, what=name, one=str(left), other=str(right))
    return None


def _at_the_end(first: RunFolder, second: RunFolder) -> Parting | None:
    """Runs whose steps are equal may still be at different stages, or keep the weights of different epochs."""
    keys = ("weights_sha256", "best_epoch", "best_val_loss")
    facts = [{key: getattr(run.result(), key, None) for key in keys} for run in (first, second)]
    for key in keys:
        if facts[0][key] != facts[1][key]:
            shown = ["unfinished" if value[key] is None else str(value[key]) for value in facts]
            return Parting(epoch=None, step=None, what=key, one=shown[0], other=shown[1])
    return None


def _reasons(first: RunFolder, second: RunFolder) -> Iterator[str]:
    """What could have made two runs part: configuration, data."""
    for key, one, other in differences(first.config().model_dump(mode="json"), second.config().model_dump(mode="json")):
        yield f"{key}: {one} and {other}"
    hashes = {manifest_fingerprint(run.manifest()) for run in (first, second)}
    if len(hashes) > 1:
        yield "data: files, labels or split differ"
