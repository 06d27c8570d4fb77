"""Planes of a column as one array."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from brainscale.scoring.predictions import stack_planes

SIDE = 3
PLANES = st.lists(st.one_of(st.none(), st.binary(min_size=SIDE**2, max_size=SIDE**2)), max_size=9)


@given(chunks=st.lists(PLANES, min_size=1, max_size=3), start=st.integers(0, 4), length=st.integers(0, 20))
def test_the_planes_of_any_slice_of_a_column(chunks: list[list[bytes | None]], start: int, length: int) -> None:
    column = pa.chunked_array([pa.array(chunk, pa.binary()) for chunk in chunks]).slice(start, length)
    expected = [np.frombuffer(plane, np.uint8) for plane in column.to_pylist() if plane is not None]
    planes = stack_planes(column, SIDE)
    assert planes.shape == (len(expected), SIDE, SIDE)
    assert np.array_equal(planes.reshape(-1, SIDE**2), np.reshape(expected, (-1, SIDE**2)))


def test_planes_in_one_chunk_are_not_copied() -> None:
    column = pa.chunked_array([pa.array([b"012345678", b"abcdefghi"], pa.binary())])
    assert not stack_planes(column, SIDE).flags.owndata
