"""An id names one sample, and comes apart into what it was made of."""

from hypothesis import given
from hypothesis import strategies as st

from brainscale.reading.sample_ids import as_text, escape, file_of, join_id, split_id, unique_name

names = st.text("ab!#%123", min_size=1)
parts = st.tuples(names, st.lists(names), st.none() | st.integers(0, 10**6))


@given(parts)
def test_an_id_comes_apart_into_file_member_and_frame(part: tuple[str, list[str], int | None]) -> None:
    name, path, frame = part
    sample_id = join_id(escape(name), path, frame)
    assert split_id(sample_id) == (escape(name), "!".join(map(escape, path)) or None, frame)
    assert file_of(sample_id) == escape(name)


@given(parts, parts)
def test_two_samples_never_share_an_id(
    one: tuple[str, list[str], int | None], other: tuple[str, list[str], int | None]
) -> None:
    ids = [join_id(escape(name), path, frame) for name, path, frame in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


def test_a_path_that_comes_again_gets_a_number() -> None:
    path_hashes: set[int] = set()
    paths = [("x", "a"), ("x", "a"), ("y", "a"), ("x", "a~2"), ("x", "a")]
    assert [unique_name(path, path_hashes) for path in paths] == ["a", "a~2", "a", "a~2~2", "a~3"]


def test_bytes_that_are_no_text_are_shown() -> None:
    assert as_text(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\xe9"
