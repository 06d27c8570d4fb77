"""Blocks of archives that are read in portions, without Ray."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading import plan, portions
from brainscale.reading.file_tables import groups_of
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.reader import plan_files
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile, list_files
from brainscale.scoring.blocks import Block, BlockFile, pack_block, unpack_blocks, version_of
from brainscale.scoring.coverage import plan_blocks
from tests.support.files import GREY, zipped
from tests.support.series import as_series, phantom

REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0), key=b"k" * 16)
VOLUME = phantom((12, 14, 4), air=1)


def blocks_of(folder: Path, mean_files: int) -> list[Block]:
    files = list_files([str(folder)])
    covered = [
        BlockFile(file=file, name=f"name-{file.sample_id}", version=version_of(file), uri=file.uri) for file in files
    ]
    left = SourceFile(sample_id="o.zip", uri="/o.zip")
    covered.append(BlockFile(file=left, name="name-o.zip", version="1", uri="", kept_in=("part",)))

    def plan_series(some: Sequence[SourceFile]) -> ReadingPlan:
        return plan_files(some, REQUEST, name_series=True)

    return [block for chunk in plan_blocks(covered, plan_series, mean_files, {}, 100) for block in chunk]


@pytest.mark.parametrize("group_nbytes", [0, 2**28])
@pytest.mark.parametrize("mean_files", [1, 3, 100])
def test_blocks_hold_each_portion_once_and_cut_no_series(
    mean_files: int, group_nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = as_series(VOLUME, series="1.2.3"), as_series(VOLUME, series="1.2.4")
    mixed = [data for pair in zip(first, second, strict=True) for data in pair]  # two series, by turns
    (tmp_path / "a.zip").write_bytes(zipped({f"{i}": data for i, data in enumerate(mixed)}))
    (tmp_path / "b.zip").write_bytes(zipped({f"{i}.png": GREY.tobytes() for i in range(5)}))
    (tmp_path / "c.dcm").write_bytes(as_series(VOLUME, series="1.2.5")[0])
    monkeypatch.setattr(portions, "LARGE_NBYTES", 2000)
    monkeypatch.setattr(portions, "PORTION_NBYTES", 1)
    monkeypatch.setattr(portions, "DIRECTORIES", 0)
    monkeypatch.setattr(plan, "GROUP_NBYTES", group_nbytes)
    blocks = [unpack_blocks(pack_block(block).table)[0] for block in blocks_of(tmp_path, mean_files)]
    held = [(one.name, one.file.members) for block in blocks for one in block.files]
    assert sorted(members for name, members in held if name == "name-a.zip" and members) == [
        (0, 2),
        *((i, i + 1) for i in range(2, 9)),
    ]
    assert len(set(held)) == len(held)
    assert {name for name, _ in held} == {"name-a.zip", "name-b.zip", "name-c.dcm", "name-o.zip"}
    assert len({block.name for block in blocks}) == len(blocks)
    if group_nbytes:
        groups = [list(groups_of(one.file for one in block.files)) for block in blocks]
        assert sorted(len(group) for some in groups for group in some if group[0].group is not None) == [4, 4]
    else:
        assert len([name for name, _ in held if name == "name-a.zip"]) == 8
    known = {name for block in blocks for one in block.files for name in one.series.values()}
    assert known == {"a.zip!0", "a.zip!1"}
