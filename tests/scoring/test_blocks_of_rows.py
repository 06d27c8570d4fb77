"""Blocks of a manifest's rows: each file once, whole, whatever the order of the rows."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.sample_ids import file_of
from brainscale.schema import MANIFEST
from brainscale.scoring import rows
from brainscale.scoring.blocks import unpack_blocks

SPEC = PreprocessConfig()
BUNDLE: Any = SimpleNamespace(info=SimpleNamespace(preprocess=SPEC))
IDS = st.builds(
    "{}{}".format,
    st.sampled_from(["a.zip", "a.zip b", "a", "b\nc", "z/0"]),
    st.sampled_from(["", "!m.png", "!n.png#2", "#0", "#10", "#2"]),
)


def rows_of(ids: list[str]) -> pa.Table:
    return pa.Table.from_pylist([{"sample_id": i, "uri": f"/x/{file_of(i)}"} for i in ids], schema=MANIFEST)


@given(st.lists(IDS, unique=True, max_size=25), st.integers(1, 3), st.integers(1, 3))
def test_each_file_is_in_one_block_with_all_of_its_samples(ids: list[str], parts: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PART_FILES", parts * block)
        patch.setattr(rows, "BLOCK_FILES", block)
        blocks = list(rows.blocks_of(rows_of(ids), BUNDLE))
    files = [one.file for packed in blocks for block in unpack_blocks(packed.table) for one in block.files]
    expected = files_of_manifest(rows_of(sorted(ids, key=lambda i: (file_of(i), i))), SPEC)
    assert [file.sample_id for file in files] == [file.sample_id for file in expected]
    assert [file.sample_ids for file in files] == [file.sample_ids for file in expected]
