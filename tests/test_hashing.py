"""Hashes of JSON values."""

from hypothesis import given
from hypothesis import strategies as st

from brainscale.hashing import fingerprint, fingerprint_of_lists

LISTS = st.lists(st.lists(st.none() | st.text() | st.integers(), max_size=9), max_size=4)


@given(LISTS, st.integers(1, 4))
def test_lists_in_pieces_have_the_hash_of_the_lists(lists: list[list[object]], size: int) -> None:
    pieces = [[part[i : i + size] for i in range(0, len(part), size)] for part in lists]
    assert fingerprint_of_lists(pieces) == fingerprint(lists)
    assert fingerprint_of_lists([[*some, []] for some in pieces]) == fingerprint(lists)
