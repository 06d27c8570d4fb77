"""Pages that `index` writes beside the manifest."""

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import brainscale as bs
from tests.support.runs import Invoke, succeed

pytestmark = pytest.mark.ray


def test_index_writes_the_pages(ray_cluster: None, phantoms: Path, invoke: Invoke, tmp_path: Path) -> None:
    source = Path(shutil.copytree(phantoms, tmp_path / "set"))
    first = min((source / "yes").iterdir())
    shutil.copy(first, source / "no" / "copy.png")
    arguments = ["index", source, "--out", tmp_path / "m.parquet", "--pairs", tmp_path / "p.html"]
    succeed(invoke(*arguments, "--audit", tmp_path / "a.html"))
    assert "identical copies of other files, not shown" in (tmp_path / "p.html").read_text(encoding="utf-8")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Duplicates with two labels: 1 pair<" in text
    assert "no/copy.png" in text
    manifest = bs.index(source, pairs=tmp_path / "pairs.html", audit=tmp_path / "other.html")
    assert len(manifest) == 61
    origin = re.compile("brainscale index [0-9a-f]{16}")  # other options made it
    assert origin.sub("", (tmp_path / "other.html").read_text(encoding="utf-8")) == origin.sub("", text)


def test_predictions_of_a_run_beside_the_labels(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    evaluated = tmp_path / "evaluated"
    succeed(invoke("evaluate", run, "--split", "all", "--out", evaluated))
    arguments = ["index", scans, "--out", tmp_path / "m.parquet", "--audit", tmp_path / "a.html"]
    succeed(invoke(*arguments, "--audit-run", evaluated))
    predicted = pq.read_table(evaluated / "predictions.parquet")
    wrong = {row["sha256"] for row in predicted.to_pylist() if row["prediction"] != row["label"]}
    contents = len(set(predicted["sha256"].to_pylist()))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f"Predictions that differ from the label: {len(wrong)} of {contents} samples" in text
