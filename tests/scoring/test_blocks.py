"""Blocks: what they are cut from, and what their names say."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.reading.series import SliceWindow
from brainscale.reading.sources import SourceFile
from brainscale.scoring import blocks
from brainscale.scoring.blocks import (
    LONGEST,
    Block,
    BlockFile,
    choose_block_files,
    cut_blocks,
    make_block,
    pack_block,
    unpack_blocks,
    version_of,
)

IDENTITY = {"model": "w", "threshold": "0.5"}
WINDOW = SliceWindow(low=1.0, high=2.0, slice_index=3, alone=False, empty=False)


def block_file(name: str, nbytes: int = 10, group: int | None = None, **more: Any) -> BlockFile:
    file = SourceFile(sample_id=name, uri=f"/{name}", nbytes=nbytes, modified=1, group=group)
    return replace(BlockFile(file=file, name=name, version=version_of(file), uri=file.uri), **more)


def names_of(files: Sequence[BlockFile], mean: int = 64) -> set[str]:
    return {block.name for block in cut_blocks(files, mean, IDENTITY)}


def test_one_more_file_among_10_000_renames_one_block() -> None:
    files = [block_file(f"{i:05}.png") for i in range(10_000)]
    before = names_of(files)
    assert 100 < len(before) < 250
    renamed = []
    for place in range(50, 10_000, 199):
        after = names_of([*files[:place], block_file(f"{place - 1:05}a.png"), *files[place:]])
        renamed.append(len(before - after))
        assert len(after - before) <= renamed[-1] + 1
    assert renamed.count(1) >= 0.9 * len(renamed)
    assert max(renamed) < 6


def test_one_file_less_or_changed_renames_its_block() -> None:
    files = [block_file(f"{i:05}.png") for i in range(2000)]
    before = names_of(files)
    less = [len(before - names_of([*files[:i], *files[i + 1 :]])) for i in range(0, 2000, 97)]
    assert sorted(less)[len(less) * 3 // 4] <= 2
    for i in range(0, 2000, 97):
        changed = [*files[:i], replace(files[i], version="other"), *files[i + 1 :]]
        assert len(before - names_of(changed)) == 1


@settings(max_examples=100)
@given(
    series=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100 * 2**20), st.booleans()), max_size=60),
    mean=st.integers(1, 20),
)
def test_blocks_are_all_files_in_order_and_cut_no_series(series: list[tuple[int, int, bool]], mean: int) -> None:
    files: list[BlockFile] = []
    for number, (count, nbytes, together) in enumerate(series):
        group = number if together else None
        files += [block_file(f"{number:03}-{i}", nbytes, group) for i in range(count)]
    cut = list(cut_blocks(files, mean, IDENTITY))
    assert [one for block in cut for one in block.files] == files
    assert all(block.files for block in cut)
    block_of = {one.name: number for number, block in enumerate(cut) for one in block.files}
    for one, other in zip(files, files[1:], strict=False):
        if one.file.group is not None and one.file.group == other.file.group:
            assert block_of[one.name] == block_of[other.name]
    for block in cut:
        parts = {one.name if one.file.group is None else str(one.file.group) for one in block.files}
        if len(parts) > 1:
            assert block.nbytes <= blocks.MAX_BLOCK_NBYTES
            assert len(block.files) <= LONGEST * mean


def test_a_block_s_name_follows_from_what_its_rows_depend_on() -> None:
    one, other = block_file("a"), block_file("b")
    name = make_block([one, other], IDENTITY).name

    def with_file(**more: Any) -> BlockFile:
        return replace(one, file=replace(one.file, **more))

    for changed in (
        with_file(windows={"a": WINDOW}),
        with_file(members=(0, 5)),
        replace(one, version="v"),
        replace(one, name="c"),
        replace(one, series={"hash": "a"}),
    ):
        assert make_block([changed, other], IDENTITY).name != name
    low, high = (make_block([with_file(windows={"a": replace(WINDOW, low=x)})], IDENTITY).name for x in (0.0, 1.0))
    assert low != high
    assert make_block([one, other], {**IDENTITY, "threshold": "0.25"}).name != name
    assert make_block([one], IDENTITY).name != name
    for same in (
        with_file(uri="/elsewhere/a"),
        with_file(group=7),
        replace(one, uri="/elsewhere/a"),
        replace(one, kept_in=("part-0123456789abcdef-1.parquet",)),
    ):
        assert make_block([same, other], IDENTITY).name == name
    hashes = (make_block([replace(one, series={key: "a"})], IDENTITY).name for key in ("hash", "of another key"))
    assert len(set(hashes)) == 1
    assert make_block([one, other], dict(reversed(IDENTITY.items()))).name == name


@pytest.mark.parametrize(
    ("file", "other"),
    [
        ({"nbytes": 1, "modified": 2}, {"nbytes": 1, "modified": 3}),
        ({"nbytes": 1, "modified": 2}, {"nbytes": 2, "modified": 2}),
        ({"sample_ids": ("a",), "sha256s": ("0",)}, {"sample_ids": ("a",), "sha256s": ("1",)}),
        ({"sample_ids": ("a#0",), "sha256s": ("0",)}, {"sample_ids": ("a#0", "a#1"), "sha256s": ("0", "0")}),
    ],
)
def test_other_bytes_are_another_version(file: dict[str, Any], other: dict[str, Any]) -> None:
    assert version_of(SourceFile(sample_id="a", uri="a", **file)) != version_of(
        SourceFile(sample_id="a", uri="a", **other)
    )


def test_blocks_travel_as_tables() -> None:
    windows = {"b#0": WINDOW, "b#1": replace(WINDOW, alone=True)}
    file = SourceFile(
        sample_id="b",
        uri="/b",
        nbytes=3,
        sample_ids=("b#0", "b#1"),
        sha256s=("0", None),
        members=(1, 2),
        windows=windows,
    )
    whole = BlockFile(file=file, name="x", version="v", uri="/y", kept_in=("p", "q"), series={"hash": "b#0"})
    block = Block(name="0123456789abcdef", files=(block_file("a", group=3), whole))
    packed = pack_block(block)
    assert (packed.name, packed.files, packed.nbytes) == (block.name, 2, 13)
    assert list(unpack_blocks(packed.table)) == [block]


def test_a_large_job_has_about_a_thousand_blocks() -> None:
    rows = 10**9
    assert choose_block_files(10, 10, 200_000, rows) * 2 > 10  # one or a few
    assert choose_block_files(200_000, 200_000, 200_000 * 20_000, rows) == 200
    assert choose_block_files(2, 10**6, 10**11, rows) == 1
    assert choose_block_files(10**6, 10**6, 10**6, 400) == 100
