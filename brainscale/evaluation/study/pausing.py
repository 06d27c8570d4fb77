"""Pause long computations while tests or benchmarks of the same checkout run: these hold a lock on one file.

`python -m brainscale.evaluation.study.pausing COMMAND…` runs a command with the lock held.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "BRAINSCALE_BUSY_FILE"
"""Environment variable that names another file, or none where it is empty."""


def busy_file() -> Path | None:
    """Return the file that tests and benchmarks lock: `.busy` of the checkout; None where there is no checkout."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    root = Path(__file__).parents[3]
    return root / ".busy" if (root / "pyproject.toml").is_file() else None


@contextmanager
def hold_busy() -> Iterator[None]:
    """Hold the lock for the with-block, together with others that hold it."""
    path = busy_file()
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_busy(path: Path | None) -> bool:
    """Return whether a process holds the lock of a file."""
    if path is None or not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


if __name__ == "__main__":
    with hold_busy():
        sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)  # noqa: S603 - the user's own command
