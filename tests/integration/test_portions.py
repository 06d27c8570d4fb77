"""A zip archive in portions on a real Ray: several blocks share it, and its rows are those of the whole one."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from brainscale.config.files import load_config
from brainscale.dataset.from_sources import index_sources
from brainscale.models.bundle import Bundle
from brainscale.reading import plan, portions
from brainscale.reading.keys import PatientKey
from brainscale.scoring import blocks
from brainscale.scoring.bulk import score_files
from tests.support.images import write_image
from tests.support.runs import scores
from tests.support.series import as_series, phantom

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
KEY = PatientKey(secret=b"k" * 16, random=False)
CONFIG = load_config(None, ["data.image_size=64", "data.crop=1.0"])
IMAGES = 300


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One zip of 300 small images, some of them twice or damaged, with two series among them."""
    folder = tmp_path_factory.mktemp("portions")
    kinds = [write_image(folder / "kinds" / f"{i}.png", seed=i).read_bytes() for i in range(20)]
    shutil.rmtree(folder / "kinds")
    slices = [*as_series(phantom(), series="1.2.3"), *as_series(phantom(seed=1), series="1.2.4")]
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for i in range(IMAGES):
            archive.writestr(f"yes/{i:03}.png", kinds[i % 20] if i % 30 else b"")
            if i % 13 == 0:
                archive.writestr(f"no/{i // 13:02}.dcm", slices[i // 13])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("yes/007.png", kinds[3])
    return folder


def cut_small(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    nbytes = (source / "all.zip").stat().st_size
    monkeypatch.setattr(portions, "LARGE_NBYTES", 1)
    monkeypatch.setattr(portions, "PORTION_NBYTES", nbytes // 12)
    monkeypatch.setattr(blocks, "MAX_BLOCK_NBYTES", nbytes // 6)
    monkeypatch.setattr(portions, "DIRECTORIES", 0)
    monkeypatch.setattr(plan, "GROUP_NBYTES", 0)


def test_several_blocks_score_one_zip(
    source: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(name: str) -> tuple[Any, list[dict[str, object]], int]:
        result = score_files(str(bundle.folder), [str(source)], str(tmp_path / name))
        return result, scores(tmp_path / name), len(list((tmp_path / name).glob("*.parquet")))

    whole, rows, parts = score("whole")
    assert (whole.files, parts, len(rows)) == (1, 1, IMAGES + 25)
    cut_small(monkeypatch, source)
    cut, same_rows, parts = score("cut")
    assert same_rows == rows
    assert (cut.files, cut.rows, cut.errors) == (1, whole.rows, whole.errors)
    assert parts > 5
    again, same_rows, _ = score("cut")
    assert (again.parts, same_rows) == (cut.parts, rows)
    removed = sorted((tmp_path / "cut").glob("*.parquet"))[1]
    removed.unlink()
    (tmp_path / "cut" / "_SUCCESS.json").unlink()
    again, same_rows, _ = score("cut")
    assert (again.parts, again.files, same_rows) == (cut.parts, 1, rows)
    assert removed.exists()


def test_the_manifest_of_a_zip_in_portions_is_that_of_the_whole_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index() -> pa.Table:
        return index_sources([str(source)], CONFIG, key=KEY, workers=2)

    whole = index()
    assert len(whole) == IMAGES + 25
    cut_small(monkeypatch, source)
    assert index().equals(whole, check_metadata=True)
