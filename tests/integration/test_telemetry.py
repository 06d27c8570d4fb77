"""A block scored in an actor, in the Prometheus text of the node."""

import gzip
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from brainscale.cluster.telemetry import TrainingMeter
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.models.engines import EngineOptions
from brainscale.models.graphs import make_graphs
from brainscale.reading.sources import list_files
from brainscale.scoring.blocks import BlockFile, PackedBlock, make_block, pack_block
from brainscale.scoring.on_ray import EngineActor, _to_bytes
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.scorer import BlockDone
from brainscale.storage.folder import Folder
from tests.support.images import write_image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CODE = "nested_too_deep"


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, bundle: Bundle) -> None:
        options = EngineOptions(name="onnx")
        job = ScoringJob(bundle=bundle, threshold=0.5, has_key=False)
        self._engine = EngineActor(job, options, make_graphs(bundle, options, 0), threads=1)

    def score(self, data: bytes, folder: Folder) -> list[BlockDone]:
        return self._engine.score(data, folder, {})


def block(folder: Path) -> PackedBlock:
    """Two images and a file that is none, with an error code that no other test has."""
    for number in range(2):
        write_image(folder / f"{number}.png", seed=number)
    deep = b"deep"
    for _ in range(8):
        deep = gzip.compress(deep)
    (folder / "deep.gz").write_bytes(deep)
    files = [BlockFile(file=one, name=one.sample_id, version="", uri=one.uri) for one in list_files([str(folder)])]
    return pack_block(make_block(files, {}))


def exported() -> str:
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def training_rates(text: str) -> list[float]:
    return [
        float(rate) for rate in re.findall(r"^ray_brainscale_training_images_a_second{.* (\S+)$", text, re.MULTILINE)
    ]


def value(text: str, name: str, *labels: str) -> float | None:
    """Of the one series that has the labels."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and all(x in line for x in labels)]
    return float(lines[0].rpartition(" ")[2]) if len(lines) == 1 else None


def test_ray_exports_what_was_scored_and_how_training_goes(run: Path, tmp_path: Path) -> None:
    bundle = open_bundle(run)
    actor = Worker.remote(bundle)  # type: ignore[attr-defined]
    out = Folder(str(tmp_path / "scores"))
    out.create()
    (done,) = ray.get(actor.score.remote(_to_bytes([block(tmp_path / "scans")]), out))
    assert (done.rows, done.codes) == (3, {CODE: 1})
    TrainingMeter().report_epoch(7, images=60, seconds=4.0)
    wanted, until = f'code="{CODE}"', time.monotonic() + 60
    while wanted not in (text := exported()) or 15.0 not in training_rates(text):  # an earlier run has one, too
        assert time.monotonic() < until, "nothing was exported in a minute"
        time.sleep(1)
    own = re.search(rf"^ray_brainscale_errors_total{{.*{wanted}.*$", text, re.MULTILINE)
    assert own is not None
    worker = next(part for part in own[0].split(",") if part.startswith("WorkerId="))
    assert value(text, "ray_brainscale_errors_total", worker) == 1
    assert value(text, "ray_brainscale_images_scored_total", worker) == 2
    assert value(text, "ray_brainscale_block_seconds_count", worker) == 1
    assert "brainscale_training_epoch{" in text
