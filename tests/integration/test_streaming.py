"""A set larger than the object stores is decoded window by window, and ends with the same bits."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from brainscale.config.files import load_config
from brainscale.dataset.phantoms import write_phantoms
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.training import plane_store
from brainscale.training.plane_store import KeptBlocks, PlaneLocations
from tests.support.runs import SMALL, Invoke, succeed, weights

pytestmark = [pytest.mark.ray]
ROOT = Path(__file__).parents[2]
SIDE = 1024


def test_a_set_larger_than_the_object_store(tmp_path: Path) -> None:
    """Of 144 MiB through one of 76 MiB: twice the same planes as read directly, and nothing is spilled."""
    write_phantoms(tmp_path, 144, seed=1, size=64)
    command = [sys.executable, "-m", "tests.support.small_store", str(tmp_path), str(SIDE)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    facts = json.loads(done.stdout)
    request = ReadRequest(preprocess=load_config(None, [f"data.image_size={SIDE}"]).data.preprocess)
    samples = list(read_samples(tmp_path, request))
    expected = {s.sample_id: hashlib.sha256(s.plane.tobytes()).hexdigest() for s in samples if s.plane is not None}
    assert len(expected) == facts["planes_mib"] == 144
    assert facts["hashes"] == [expected, expected]
    assert facts["streamed"]
    assert facts["spilled_mib"] == 0
    assert "decoded again for each window" in facts["notices"][0]


def test_a_node_gets_the_rows_of_its_own_worker(ray_cluster: None) -> None:
    """Where blocks are on several nodes: tasks pick the rows where the blocks are."""
    planes = np.random.default_rng(0).integers(0, 256, (24, 8, 8), np.uint8)
    tables = [pa.table({"plane": [plane.tobytes() for plane in part]}) for part in np.split(planes, 3)]
    block, row = np.divmod(np.arange(24, dtype=np.int32), 8)
    blocks = KeptBlocks(refs=[ray.put(table) for table in tables])
    locations = PlaneLocations(blocks=blocks, block=block, row=row, in_place=False, spread=True)
    store, positions = locations.open(8), np.array([17, 3, 20, 4])
    store.hold(positions)
    assert np.array_equal(store.take(positions), planes[positions])


def test_streaming_changes_no_bit(
    ray_cluster: None, scans: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept by one worker and streamed by two, in several windows."""
    windows = ["--set", "train.shuffle_window=16", "--set", "train.epochs=1"]
    arguments = ["train", "--data", scans, *SMALL[:-2], *windows]
    kept, streamed = tmp_path / "kept", tmp_path / "streamed"
    assert "decoded again" not in succeed(invoke(*arguments, "--out", kept)).stderr
    monkeypatch.setattr(plane_store, "STORE_SHARE", 1e-5)
    result = succeed(invoke(*arguments, "--out", streamed, "--workers", "2"))
    assert "decoded again for each window" in result.stderr
    assert weights(streamed) == weights(kept)
