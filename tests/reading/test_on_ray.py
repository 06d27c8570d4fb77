"""How files are cut into the blocks that Ray's tasks read; without a running Ray."""

import pyarrow as pa
import pytest

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.on_ray import MAX_BLOCK_NBYTES, cut_blocks
from brainscale.reading.sources import SourceFile
from brainscale.schema import MANIFEST


def make_files(count: int, nbytes: int | None = 30_000) -> list[SourceFile]:
    return [SourceFile(sample_id=str(i), uri=str(i), nbytes=nbytes) for i in range(count)]


@pytest.mark.parametrize(("count", "longest"), [(10, 10), (5000, 64), (500_000, 122), (5_000_000, 1024)])
def test_a_larger_job_has_larger_blocks(count: int, longest: int) -> None:
    one = SourceFile(sample_id="a", uri="a", nbytes=1)
    sizes = [len(block) for block in cut_blocks([one] * count)]
    assert sum(sizes) == count
    assert max(sizes) == longest
    assert len(set(sizes[:-1])) <= 1


def test_a_large_file_is_a_block_of_its_own() -> None:
    small, large = make_files(3), make_files(1, 2 * MAX_BLOCK_NBYTES)
    assert [len(block) for block in cut_blocks([*small, *large, *small])] == [3, 1, 3]
    assert [len(block) for block in cut_blocks(make_files(3, MAX_BLOCK_NBYTES // 2))] == [2, 1]
    assert [file for block in cut_blocks(small) for file in block] == small


def test_files_of_one_series_are_in_one_block() -> None:
    files = [SourceFile(sample_id=f"{i:03}", uri="", nbytes=2**20, group=i // 100) for i in range(250)]
    assert [len(block) for block in cut_blocks(files)] == [100, 100, 50]
    small = [SourceFile(sample_id=f"{i:03}", uri="", nbytes=1, group=i // 30) for i in range(90)]
    assert [len(block) for block in cut_blocks([*small, *make_files(3)])] == [60, 33]


def test_a_manifest_of_archives_is_cut_as_the_archives_are() -> None:
    archives, members, nbytes = 16, 500, 200_000
    rows = [
        {"sample_id": f"{i:02}.zip!{k:04}", "uri": f"/{i:02}.zip", "nbytes": nbytes}
        for i in range(archives)
        for k in range(members)
    ]
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST)
    files = files_of_manifest(manifest, PreprocessConfig())
    source = [SourceFile(sample_id=f"{i:02}.zip", uri=f"/{i:02}.zip", nbytes=members * nbytes) for i in range(archives)]
    assert [file.nbytes for file in files] == [file.nbytes for file in source]
    assert len(list(cut_blocks(files))) == len(list(cut_blocks(source))) == archives


def test_a_volume_of_a_manifest_has_the_size_of_its_file_whatever_its_slices() -> None:
    rows = [{"sample_id": f"{name}#{i}", "uri": f"/{name}", "nbytes": 7} for name in ("a", "b!c") for i in range(9)]
    rows.append({"sample_id": "b!d", "uri": "/b!c", "nbytes": None})
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST)
    assert [file.nbytes for file in files_of_manifest(manifest, PreprocessConfig())] == [7, 7]
