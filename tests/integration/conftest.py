"""What the tests on a real Ray share: one short training."""

from pathlib import Path

import pytest

from tests.support.runs import SMALL, invoke, succeed


@pytest.fixture(scope="session")
def run(ray_cluster: None, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    arguments = ["train", "--data", scans, "--out", folder, *SMALL, "--debug"]
    succeed(invoke(*arguments, "--mlflow", folder.parent / "mlflow"))
    return folder
