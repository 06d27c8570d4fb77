"""Names of parts, and which of them count."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import OutputError
from brainscale.schema import PREDICTIONS
from brainscale.scoring.parts import Part, list_parts, parse_part, read_metadata, write_part
from brainscale.storage.folder import Folder

BLOCK = "0123456789abcdef"
PARTS = st.builds(
    Part,
    block=st.text("0123456789abcdef", min_size=16, max_size=16),
    number=st.integers(0, 99_999),
    last=st.booleans(),
    rows=st.integers(0, 10**9),
)


@given(part=PARTS)
def test_a_name_says_what_the_part_is(part: Part) -> None:
    assert parse_part(part.name) == part


@pytest.mark.parametrize(
    "name",
    [
        "part-0123456789abcdef.parquet",
        "part-0123456789abcdef-7.parquet.tmp",
        "part-0123456789ABCDEF-7.parquet",
        "part-0123456789abcdef-1-7.parquet",
        ".part-0123456789abcdef-7.parquet",
        "scans.parquet",
    ],
)
def test_another_name_is_no_part(name: str) -> None:
    assert parse_part(name) is None


def write(folder: Path, number: int, rows: int, code: str | None = None, *, last: bool = True) -> str:
    """A part whose first row has an error."""
    table = [{"sample_id": f"{i}", "uri": f"{i}", "model": "w", "error_code": None if i else code} for i in range(rows)]
    part = Part(block=BLOCK, number=number, last=last, rows=rows)
    write_part(Folder(str(folder)), part, pa.Table.from_pylist(table, PREDICTIONS), {"model": "w"}, "here")
    return part.name


def chosen(folder: Path) -> list[str]:
    return [part.name for part in list_parts(Folder(str(folder))).done.get(BLOCK, ())]


def test_a_block_is_done_with_its_last_part_and_without_a_gap(tmp_path: Path) -> None:
    names = [write(tmp_path, 0, 4, last=False)]
    assert chosen(tmp_path) == []
    names += [write(tmp_path, 2, 3, "corrupt")]
    assert chosen(tmp_path) == []
    assert [part.number for part in list_parts(Folder(str(tmp_path))).begun(BLOCK)] == [0]
    names.insert(1, write(tmp_path, 1, 4, "corrupt", last=False))
    assert chosen(tmp_path) == names
    assert list_parts(Folder(str(tmp_path))).read_codes([BLOCK]) == {BLOCK: {"corrupt": 2}}


@pytest.mark.parametrize(
    ("passing", "clean"),
    [
        ([(0, 3, True)], [(0, 2, True)]),
        ([(0, 2, True)], [(0, 3, True)]),
        ([(0, 4, False), (1, 2, True)], [(0, 3, True)]),
        ([(0, 4, False), (1, 2, True)], [(0, 4, False), (1, 4, False), (2, 1, True)]),
        ([(0, 1, True)], [(0, 4, False), (1, 1, True)]),
    ],
)
def test_of_two_tries_the_one_without_an_error_that_may_pass_counts(
    passing: list[tuple[int, int, bool]], clean: list[tuple[int, int, bool]], tmp_path: Path
) -> None:
    for number, rows, last in passing:
        write(tmp_path, number, rows, "timed_out" if last else None, last=last)
    names = [write(tmp_path, number, rows, "corrupt", last=last) for number, rows, last in clean]
    assert chosen(tmp_path) == names


def test_the_metadata_of_a_part(tmp_path: Path) -> None:
    facts = read_metadata(Folder(str(tmp_path)), write(tmp_path, 0, 3, "corrupt"))
    assert (facts["model"], facts["arithmetic"], facts["brainscale.codes"]) == ("w", "here", '{"corrupt": 1}')
    (tmp_path / "part-x").write_bytes(b"garbage")
    with pytest.raises(OutputError, match="part-x cannot be read .*: delete it"):
        read_metadata(Folder(str(tmp_path)), "part-x")
