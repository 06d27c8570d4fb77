"""How often a test set was looked at: who looks often enough finds a lucky model."""

import json
import time
from pathlib import Path

LOG = "test_looks.jsonl"


def look(run: Path, samples_sha256: str, out: Path) -> int:
    """Note in a run's folder that its model is being judged on some samples.

    Args:
        run: the run folder.
        samples_sha256: fingerprint of the samples.
        out: where the evaluation goes.

    Returns:
        How many times these samples were looked at, this time included.
    """
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "samples": samples_sha256, "out": out.name}
    with (run / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    return sum(found["samples"] == samples_sha256 for found in read_looks(run))


def read_looks(run: Path) -> list[dict[str, str]]:
    """Every look noted so far."""
    path = run / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
