"""Commands that must succeed, the settings of a short training, and how to read what they leave behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from brainscale.cli.main import main

Invoke = Callable[..., Result]
SMALL = [
    *("--set", "data.image_size=64", "--set", "data.crop=1.0", "--set", "train.batch_size=16"),
    *("--set", "train.micro_batch=4", "--set", "train.threads=1", "--epochs", "2"),
]
long = pytest.mark.skipif("BRAINSCALE_LONG" not in os.environ, reason="the long form: make faults")


def invoke(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def weights(run: Path) -> str:
    return str(json.loads((run / "_SUCCESS.json").read_text())["weights_sha256"])


def scores(folder: Path) -> list[dict[str, object]]:
    """Rows of a folder of scores, by sample."""
    return sorted(
        (row for p in folder.glob("part-*.parquet") for row in pq.read_table(p).to_pylist()),
        key=lambda row: str(row["sample_id"]),
    )
