"""A block scored in an actor, in the Prometheus text of the node."""

import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from brainscale.cluster.telemetry import TrainingMeter
from brainscale.models import engines as engines
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.models.engines import EngineOptions
from brainscale.schema import PREDICTIONS
from brainscale.scoring.predictions import ScoringJob

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CODE = "telemetry_test"


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, bundle: Bundle) -> None:
        options = EngineOptions(name="onnx")
        network = ray.put(engines.read_network(bundle, options))
        self._engine = ScoringActor(ScoringJob(bundle=bundle, threshold=0.5), options, network, threads=1)

    def score(self, rows: pa.Table) -> pa.Table:
        return self._engine(rows)


def block(bundle: Bundle) -> pa.Table:
    """Two planes and an error."""
    size = bundle.info.preprocess.image_size
    plane = np.zeros((size, size), np.uint8).tobytes()
    columns = {
        "sample_id": ["a", "b", "c"],
        "uri": ["a", "b", "c"],
        "error_code": [None, None, CODE],
        "error": [None, None, "made here"],
    }
    known = pa.table({name: pa.array(values, PREDICTIONS.field(name).type) for name, values in columns.items()})
    planes = pa.array([plane, plane, None], pa.binary())
    return known.append_column("plane", planes).append_column("file_rows", pa.array([3, 3, 3], pa.int64()))


def exported() -> str:
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def value(text: str, name: str, *labels: str) -> float | None:
    """Of the one series that has the labels."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and all(x in line for x in labels)]
    return float(lines[0].rpartition(" ")[2]) if len(lines) == 1 else None


def test_ray_exports_what_was_scored_and_how_training_goes(run: Path) -> None:
    bundle = open_bundle(run)
    actor = Worker.remote(bundle)
    scored = ray.get(actor.score.remote(block(bundle)))
    assert scored["error_code"].to_pylist() == [None, None, CODE]
    TrainingMeter().report_epoch(7, images=60, seconds=4.0)
    wanted, until = f'code="{CODE}"', time.monotonic() + 60
    while wanted not in (text := exported()) or "brainscale_training_epoch{" not in text:
        assert time.monotonic() < until, "nothing was exported in a minute"
        time.sleep(1)
    own = re.search(rf"^ray_brainscale_errors_total{{.*{wanted}.*$", text, re.MULTILINE)
    assert own is not None
    worker = next(part for part in own[0].split(",") if part.startswith("WorkerId="))
    assert value(text, "ray_brainscale_errors_total", worker) == 1
    assert value(text, "ray_brainscale_images_scored_total", worker) == 2
    assert value(text, "ray_brainscale_block_seconds_count", worker) == 1
    rates = re.findall(r"^ray_brainscale_training_images_a_second{.* (\S+)$", text, re.MULTILINE)
    assert 15.0 in map(float, rates)
