"""configs/cluster/slurm.sbatch with a real Ray: a head and a worker node on loopback, and a job on them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainscale.models.bundle import Bundle
from tests.support.images import write_image
from tests.support.runs import long
from tests.support.slurm import PYTHON, SCRIPT, Allocation

pytestmark = [
    pytest.mark.ray,
    long,
]


def test_a_job_in_an_allocation(bundle: Bundle, tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / "archive" / f"{i}.png", seed=i)
    here = Allocation(
        tmp_path / "slurm", {"VIRTUAL_ENV": str(Path(PYTHON).parents[1]), "PYTHONPATH": str(SCRIPT.parents[2])}
    )
    job = here.start("score", bundle.folder, tmp_path / "archive", "--out", tmp_path / "scores")
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 0, output
    assert json.loads((tmp_path / "scores" / "_SUCCESS.json").read_text())["rows"] == 6
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "scores").glob("part-*")) == 6
    assert [line.split()[:3] for line in here.log.read_text().splitlines() if line.startswith("ray start")] == [
        ["ray", "start", "--head"],
        ["ray", "start", "--block"],
    ]
    assert here.left_behind() == []
