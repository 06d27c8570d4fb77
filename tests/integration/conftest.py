"""What the tests on a real Ray share: one short training, and how to read what commands leave behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from brainscale.cli.main import main

Invoke = Callable[..., Result]
long = pytest.mark.skipif("BRAINSCALE_LONG" not in os.environ, reason="the long form: make faults")
SMALL = ["--set", "data.image_size=64", "--set", "data.crop=1.0", "--set", "train.batch_size=16", "--epochs", "2"]


def succeed(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def weights(run: Path) -> str:
    return str(json.loads((run / "_SUCCESS.json").read_text())["weights_sha256"])


@pytest.fixture(scope="session")
def run(ray_cluster: None, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    arguments = ["train", "--data", str(scans), "--out", str(folder), *SMALL, "--debug"]
    arguments += ["--mlflow", str(folder.parent / "mlflow")]
    succeed(CliRunner().invoke(main, arguments))
    return folder


def scores(folder: Path) -> list[dict[str, object]]:
    return sorted(
        (row for p in folder.glob("part-*.parquet") for row in pq.read_table(p).to_pylist()),
        key=lambda row: str(row["sample_id"]),
    )
