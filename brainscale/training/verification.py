"""Are two runs the same to the bit, and if not, where did they part?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from brainscale.config.files import parse_config
from brainscale.dataset.manifest import manifest_fingerprint, read_manifest
from brainscale.errors import SourceError
from brainscale.storage.local import read_success
from brainscale.training.run_folder import differences
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
    first, second = Path(one), Path(other)
    for run in (first, second):
        if not (run / "config.yaml").is_file():
            raise SourceError(f"{run} is no run: it holds no config.yaml")
        if not any(read_steps(run)):
            raise SourceError(f"{run} holds no finished epoch yet: train it further")
    count, parting = 0, None
    for a, b in zip_longest(read_steps(first), read_steps(second)):
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


def _at_the_end(first: Path, second: Path) -> Parting | None:
    """Runs whose steps are equal may still be at different stages, or keep the weights of different epochs."""
    keys = ("weights_sha256", "best_epoch", "best_val_loss")
    facts = [{key: (read_success(run) or {}).get(key) for key in keys} for run in (first, second)]
    for key in keys:
        if facts[0][key] != facts[1][key]:
            shown = ["unfinished" if value[key] is None else str(value[key]) for value in facts]
            return Parting(epoch=None, step=None, what=key, one=shown[0], other=shown[1])
    return None


def _reasons(first: Path, second: Path) -> Iterator[str]:
    """What could have made two runs part: configuration, data."""
    for key, one, other in differences(_config(first), _config(second)):
        yield f"{key}: {one} and {other}"
    hashes = {manifest_fingerprint(read_manifest(run / "manifest.parquet")) for run in (first, second)}
    if len(hashes) > 1:
        yield "data: files, labels or split differ"


def _config(run: Path) -> dict[str, Any]:
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return parse_config(values, where=str(run / "config.yaml")).model_dump(mode="json")
