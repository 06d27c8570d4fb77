"""Log of the models that were evaluated on a run's test samples: whoever evaluates often enough finds a lucky model."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from brainscale.errors import BrainscaleError
from brainscale.hashing import fingerprint

LOG = "test_looks.jsonl"


@dataclass(frozen=True, kw_only=True)
class Look:
    """A line of the log: a model was evaluated on some samples.

    Attributes:
        time: when, in UTC.
        samples: hash of the samples' contents.
        model: hash of the model: its weights and all that model.json says.
        out: name of the folder of the evaluation.
    """

    time: str
    samples: str
    model: str
    out: str


@dataclass(frozen=True, kw_only=True)
class LookCount:
    """What the log says of some samples.

    Attributes:
        looks: number of models that were evaluated on them, this one included.
        not_logged: why this look could not be written to the log; None if it is there.
    """

    looks: int
    not_logged: str | None = None


def log_look(
    run: Path,
    contents: Iterable[str],
    model: str,
    out: str,
    *,
    publish: Callable[[], None] = lambda: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> LookCount:
    """Note in a run's folder that a model is evaluated on some samples, unless that was noted before.

    A run that cannot be written stays as it is.

    Args:
        run: the run folder.
        contents: sha256 of each sample's bytes; neither order nor names tell one set from another.
        model: hash of the model.
        out: name of the evaluation's folder.
        publish: uploads the log of a run in an object store.
        on_notice: called with a line about a damaged log, and if the log cannot be written.
    """
    samples = fingerprint(sorted(contents))
    looks, damage = read_looks(run)
    for text in damage:
        on_notice(text)
    models = {look.model for look in looks if look.samples == samples}
    if model in models:
        return LookCount(looks=len(models))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    reason = _append(run / LOG, Look(time=now, samples=samples, model=model, out=out), publish)
    if reason is not None:
        name = run.absolute().name
        on_notice(f"Note: the run {name} cannot be written ({reason}): this look at its test set is not counted there.")
        return LookCount(looks=len(models) + 1, not_logged=f"the run cannot be written ({reason})")
    return LookCount(looks=len(models) + 1)


def read_looks(run: Path) -> tuple[list[Look], list[str]]:
    """Return the looks noted so far, and a note for each line, or for the log, that cannot be read."""
    path, name = run / LOG, f"{run.absolute().name}/{LOG}"
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"Note: {name} cannot be read ({error.strerror}): earlier looks at the test set are not counted."]
    looks: list[Look] = []
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            look = _parse(line)
            looks += [look] if look else []
            damaged += [] if look else [number]
    return looks, _describe_damage(name, damaged)


def _parse(line: bytes) -> Look | None:
    """Return the look of a line; None for a line that is damaged or was written in part."""
    try:
        facts = json.loads(line)
        look = Look(**{name: facts[name] for name in Look.__dataclass_fields__})
    except (ValueError, KeyError, TypeError):  # a UnicodeDecodeError is a ValueError
        return None
    return look if all(isinstance(value, str) for value in asdict(look).values()) else None


def _describe_damage(name: str, lines: Sequence[int]) -> list[str]:
    if not lines:
        return []
    which = f"line {lines[0]} is" if len(lines) == 1 else f"{len(lines)} lines, the first of them {lines[0]}, are"
    return [f"Note: {name}: {which} damaged and not counted as a look at the test set."]


def _append(path: Path, look: Look, publish: Callable[[], None]) -> str | None:
    """Add a line to the log; return why that is not possible, and leave the log as it was."""
    line = json.dumps(asdict(look)).encode() + b"\n"
    size: int | None = None
    try:
        with path.open("ab+") as log:
            size = log.seek(0, os.SEEK_END)
            if size:
                log.seek(-1, os.SEEK_END)
                line = line if log.read(1) == b"\n" else b"\n" + line  # the last line was written in part
            log.write(line)
    except OSError as error:
        _restore(path, size)
        return error.strerror or type(error).__name__
    try:
        publish()
    except BrainscaleError:
        _restore(path, size)
        return "its object store does not accept it"
    return None


def _restore(path: Path, size: int | None) -> None:
    """Cut the log to the size that it had; a log that was not there is deleted."""
    with suppress(OSError):
        if size:
            os.truncate(path, size)
        elif size == 0:
            path.unlink()
