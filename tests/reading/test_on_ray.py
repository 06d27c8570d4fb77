"""How files are cut into the blocks that Ray's tasks read; without a running Ray."""

import pytest

from brainscale.reading.on_ray import MAX_BLOCK_NBYTES, cut_blocks
from brainscale.reading.sources import SourceFile


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
