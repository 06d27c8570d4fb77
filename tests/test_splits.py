from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.errors import ManifestError
from brainscale.schema import MANIFEST
from brainscale.splits import SPLITS, fold, groups, split

samples = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["no_tumour", "tumour", None]), st.booleans()),
    min_size=1,
    max_size=80,
)


def manifest(rows: list[tuple[int, str | None, bool]]) -> pa.Table:
    """content, label, in error → a manifest; equal contents are copies."""
    full = [
        dict.fromkeys(MANIFEST.names)
        | {
            "sample_id": f"{i:03d}.png",
            "uri": f"/x/{i}",
            "sha256": f"{content:064x}"[::-1],
            "label": label,
            "error_code": "corrupt" if bad else None,
        }
        for i, (content, label, bad) in enumerate(rows)
    ]
    return groups(pa.Table.from_pylist(full, schema=MANIFEST))


def sides(table: pa.Table, column: str) -> dict[str, set[object]]:
    found = defaultdict(set)
    for group, side, label in zip(*(table[c].to_pylist() for c in ("group", column, "label")), strict=True):
        if group is not None and label is not None:
            found[group].add(side)
    return found


@given(samples, st.integers(0, 2**40))
@settings(max_examples=200, deadline=None)
def test_no_group_is_cut_and_only_usable_rows_are_dealt(rows: list[tuple[int, str | None, bool]], seed: int) -> None:
    table = manifest(rows)
    for deal, column in (
        (lambda t: split(t, val=0.2, test=0.2, seed=seed), "split"),
        (lambda t: fold(t, folds=3, seed=seed), "fold"),
    ):
        try:
            dealt = deal(table)
        except ManifestError:
            continue  # a label with too few groups: said, not cut
        assert all(len(where) == 1 and None not in where for where in sides(dealt, column).values())
        for row in dealt.to_pylist():
            usable = row["error_code"] is None and row["label"] is not None
            assert (row[column] is not None) == usable


@given(st.integers(12, 80), st.integers(12, 80), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_shares_hold_within_each_label(sick: int, well: int, seed: int) -> None:
    rows = [(i, "tumour" if i < sick else "no_tumour", False) for i in range(sick + well)]
    dealt = split(manifest(rows), val=0.15, test=0.2, seed=seed)
    for label, count in (("tumour", sick), ("no_tumour", well)):
        for side, share in zip(SPLITS, (0.65, 0.15, 0.2), strict=True):
            have = sum(r["split"] == side and r["label"] == label for r in dealt.to_pylist())
            assert abs(have - share * count) <= 2
            assert have >= 1


def test_the_order_of_a_listing_plays_no_part_and_the_seed_does() -> None:
    rows = [(i, "tumour" if i % 2 else "no_tumour", False) for i in range(40)]
    table = manifest(rows)
    one = split(table, val=0.2, test=0.2, seed=1).sort_by("sample_id")
    shuffled = table.take(pa.array([(i * 7) % 40 for i in range(40)]))
    assert split(shuffled, val=0.2, test=0.2, seed=1).sort_by("sample_id") == one
    assert split(table, val=0.2, test=0.2, seed=2) != one


def test_a_group_with_two_labels_stays_whole() -> None:
    rows = [(i, "tumour" if i % 2 else "no_tumour", False) for i in range(20)] + [(0, "tumour", False)]
    dealt = split(manifest(rows), val=0.2, test=0.2, seed=0).to_pylist()
    assert dealt[0]["split"] == dealt[-1]["split"]


def test_too_few_images_are_named() -> None:
    few = manifest([(0, "tumour", False), (1, "tumour", False), (2, "no_tumour", False)])
    with pytest.raises(
        ManifestError, match=r"label 'no_tumour' has 1 distinct image\(s\), too few for test, val, train"
    ):
        split(few, val=0.2, test=0.2, seed=0)
    with pytest.raises(ManifestError, match="too few for 3 folds"):
        fold(few, folds=3, seed=0)
    with pytest.raises(ManifestError, match="no sample has a label"):
        split(manifest([(0, None, False)]), val=0.2, test=0.2, seed=0)
