"""The session's training, as MLflow has it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.mlflow_runs import losses, only_run
from tests.support.runs import weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_training_is_in_mlflow(run: Path, tmp_path: Path) -> None:
    client, found = only_run(run.parent / "mlflow")
    history = pq.read_table(run / "history.parquet")
    assert found.info.status == "FINISHED"
    assert losses(client, found.info.run_id) == list(enumerate(history["val_loss"].to_pylist(), start=1))
    facts = json.loads((run / "_SUCCESS.json").read_text())
    for name in ("weights_sha256", "manifest_sha256", "config_sha256"):
        assert found.data.tags[name] == facts[name]
    assert found.data.params["data.image_size"] == "64"
    fetched = Path(client.download_artifacts(found.info.run_id, "model", str(tmp_path)))
    assert files(fetched) == files(run / "model")
    assert weights(run) == found.data.tags["weights_sha256"]
    assert str(run.parent) not in (run / "config.yaml").read_text()


def files(model: Path) -> dict[str, bytes]:
    """Of a bundle, but the card, which later evaluations of the session's run add to."""
    return {p.name: p.read_bytes() for p in model.iterdir() if p.name != "README.md"}
