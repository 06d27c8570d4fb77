"""Are two runs the same to the bit, and if not, where did they part?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

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


def compare_bits(one: str, other: str) -> dict[str, Any]:
    """Compare two runs step by step.

    Args:
        one: a run's folder; it may be unfinished.
        other: another's.

    Returns:
        equal, steps (compared), parting (None if equal), reasons (what differs in configuration and data).

    Raises:
        SourceError: a folder is no run, or holds no finished epoch.
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
    return {
        "equal": parting is None,
        "steps": count,
        "parting": vars(parting) if parting else None,
        "reasons": list(_reasons(first, second)),
    }


def as_text(facts: Mapping[str, Any]) -> str:
    """What `verify` found, for a person."""
    if facts["equal"]:
        lines = [f"bit-equal: {facts['steps']} steps, and the weights that were kept"]
    else:
        parting = facts["parting"]
        where = f"epoch {parting['epoch']}, step {parting['step']}" if parting["step"] else "the end"
        equal = f"{facts['steps']} steps before it are equal" if facts["steps"] else "nothing before it is compared"
        lines = [f"they part at {where}: {parting['what']} is {parting['one']} and {parting['other']} ({equal})"]
    return "\n".join([*lines, *(f"  differs: {reason}" for reason in facts["reasons"])])


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
    facts = [{key: (run.facts() or {}).get(key) for key in keys} for run in (first, second)]
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
