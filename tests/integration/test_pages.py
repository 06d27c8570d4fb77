"""Pages that `index` writes beside the manifest."""

import shutil
from pathlib import Path

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
    manifest = bs.index(source, pairs=tmp_path / "p.html", audit=tmp_path / "other.html")
    assert len(manifest) == 61
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == text
