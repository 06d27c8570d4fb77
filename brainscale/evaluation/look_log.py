"""Log of the evaluations of a run's test samples: whoever evaluates often enough finds a lucky model."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from brainscale.hashing import fingerprint

LOG = "test_looks.jsonl"


def log_look(run: Path, contents: Iterable[str], out: Path) -> int:
    """Note in a run's folder that its model is evaluated on some samples.

    Args:
        run: the run folder.
        contents: sha256 of each sample's bytes; neither order nor names tell one set from another.
        out: folder of the evaluation.

    Returns:
        Number of times these samples were evaluated, this time included.
    """
    samples = fingerprint(sorted(contents))
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "samples": samples, "out": out.name}
    with (run / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    return sum(look["samples"] == samples for look in read_looks(run))


def read_looks(run: Path) -> list[dict[str, str]]:
    """Return all evaluations noted so far: time, samples and out of each."""
    path = run / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
