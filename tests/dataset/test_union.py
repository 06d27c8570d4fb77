"""What several models have seen, as one manifest."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import check_manifest
from brainscale.dataset.union import STRONGEST, unite_manifests
from tests.support.tables import digest, manifest

SPLITS = st.sampled_from([None, *STRONGEST])


def splits_of(table: pa.Table) -> dict[str, str | None]:
    return dict(zip(table["sha256"].to_pylist(), table["split"].to_pylist(), strict=True))


@given(st.lists(st.tuples(SPLITS, SPLITS, SPLITS), min_size=1, max_size=8))
def test_a_sample_is_what_the_model_that_saw_most_of_it_saw(rows: list[tuple[str | None, ...]]) -> None:
    tables = [manifest([0] * len(rows), split=[row[i] for row in rows]) for i in range(3)]
    united = check_manifest(unite_manifests(tables), "the union")
    rank = {name: place for place, name in enumerate((None, *STRONGEST))}
    expected = {digest(i): max(row, key=rank.__getitem__) for i, row in enumerate(rows)}
    assert splits_of(united) == expected
    assert unite_manifests(tables[::-1]).equals(united)


def test_equal_manifests_are_their_own_union() -> None:
    table = manifest([0, 1], split=["train", "test"], fold=[0, 1])
    assert unite_manifests([table, table]) is table


def test_a_copy_under_another_name_has_been_seen_too() -> None:
    one = manifest([0], split=["train"])
    other = replace_column(manifest([0], split=["test"]), "sample_id", pa.array(["copy.png"]))
    assert unite_manifests([one, other])["split"].to_pylist() == ["train", "train"]


def test_two_samples_of_one_name_are_both_kept() -> None:
    one = manifest([0, 1], split=["train", "test"])
    other = manifest([0], split=["test"], sha256=[digest("other")])
    united = unite_manifests([one, other])
    names = [f"{digest(0)[:8]}/0000.png", f"{digest('other')[:8]}/0000.png"]
    assert united["sample_id"].to_pylist() == sorted(["0001.png", *names])
    assert splits_of(united) == {digest(0): "train", digest(1): "test", digest("other"): "test"}


def test_columns_of_all_are_kept_and_of_one_are_not() -> None:
    one, other = manifest([0], split=["train"], left_out=["empty"]), manifest([0], split=["test"])
    one = one.append_column("site", pa.array(["a"])).append_column("age", pa.array([3]))
    other = other.append_column("site", pa.array(["a"])).append_column("age", pa.array(["three"]))
    united = unite_manifests([one, other])
    assert "site" in united.column_names
    assert "age" not in united.column_names
    assert united["left_out"].to_pylist() == [None]  # it did train one of them
