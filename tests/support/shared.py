"""Data that is not in the repository, where it is at hand."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("BRAINSCALE_SHARED", Path(__file__).parents[3] / "shared"))


def shared(relative: str) -> Path:
    """A file or folder of it; the test is skipped without."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"NOT TESTED: {relative} is not here; set BRAINSCALE_SHARED to the folder that has it")
    return path
