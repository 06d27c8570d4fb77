from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.dataset import splits
from brainscale.dataset.columns import replace_column
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.phantoms import draw_phantom
from brainscale.dataset.split_check import verify_split
from brainscale.dataset.splits import SPLITS, assign_folds, assign_splits
from brainscale.errors import ManifestError
from brainscale.schema import MANIFEST
from tests.support.copies import recognisable
from tests.support.manifests import manifest

samples = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["no_tumour", "tumour", None]), st.booleans()),
    min_size=1,
    max_size=80,
)


def sides(table: pa.Table, column: str) -> dict[str, set[object]]:
    found = defaultdict(set)
    for group, side, label in zip(*(table[c].to_pylist() for c in ("group", column, "label")), strict=True):
        if group is not None and label is not None:
            found[group].add(side)
    return found


@given(samples, st.integers(0, 2**40))
@settings(max_examples=200)
def test_no_group_is_cut_and_only_usable_rows_are_dealt(rows: list[tuple[int, str | None, bool]], seed: int) -> None:
    table = manifest(rows)
    for deal, column in (
        (lambda t: assign_splits(t, val=0.2, test=0.2, seed=seed), "split"),
        (lambda t: assign_folds(t, folds=3, seed=seed), "fold"),
    ):
        try:
            dealt = deal(table)
        except ManifestError:
            continue  # a label with too few groups: said, not cut
        assert all(len(where) == 1 and None not in where for where in sides(dealt, column).values())
        for row in dealt.to_pylist():
            usable = row["error_code"] is None and row["label"] is not None
            assert (row[column] is not None) == usable


def test_an_earlier_split_is_kept_even_where_a_group_grows() -> None:
    before = assign_splits(manifest([(i, "ab"[i % 2], False) for i in range(60)]), val=0.2, test=0.2, seed=1)
    grown = manifest([(i, "ab"[i % 2], False) for i in range(80)]).to_pylist()
    for i in range(20):  # every new image is a near duplicate of an old one, which may rename its group
        image = draw_phantom(0, i, tumour=False, size=96)
        grown[i] |= recognisable(image)
        grown[60 + i] |= recognisable(image[3:-4, 2:])
    after = assign_splits(
        assign_groups(pa.Table.from_pylist(grown, schema=MANIFEST)),
        val=0.2,
        test=0.2,
        seed=1,
        keep=before,
    )
    assert after["split"].to_pylist()[:60] == before["split"].to_pylist()
    assert after["split"].to_pylist()[60:] == before["split"].to_pylist()[:20]


def test_a_group_that_an_earlier_split_cut_goes_where_it_does_no_harm() -> None:
    rows = manifest([(i, "ab"[i % 2], False) for i in range(60)]).to_pylist()
    earlier = [row | {"split": split} for row, split in zip(rows, ("test", "train", "val"), strict=False)]
    rows[0]["patient"] = rows[1]["patient"] = rows[2]["patient"] = "p"
    table = assign_groups(pa.Table.from_pylist(rows, schema=MANIFEST))
    assigned = assign_splits(table, val=0.2, test=0.2, seed=0, keep=pa.Table.from_pylist(earlier, schema=MANIFEST))
    assert assigned["split"].to_pylist()[:3] == ["train"] * 3


def test_earlier_folds_are_kept_and_a_cut_group_goes_where_most_of_it_was() -> None:
    before = assign_folds(manifest([(i, "ab"[i % 2], False) for i in range(60)]), folds=3, seed=0)
    more = manifest([(i, "ab"[i % 2], False) for i in range(90)])
    after = assign_folds(more, folds=3, seed=7, keep=before)["fold"].to_pylist()
    assert after[:60] == before["fold"].to_pylist()
    assert [after.count(fold) for fold in range(3)] == [30, 30, 30]
    for folds, kept in (((2, 1, 2, None), 2), ((2, 1, None, None), 1), ((0, 2, 1, 1), 1)):
        rows = manifest([(i, "ab"[i % 2], False) for i in range(60)]).to_pylist()
        earlier = [row | {"fold": fold} for row, fold in zip(rows, (*folds, 0, 1, 2), strict=False)]
        for row in rows[:4]:
            row["patient"] = "p"
        table = assign_groups(pa.Table.from_pylist(rows, schema=MANIFEST))
        assigned = assign_folds(table, folds=3, seed=0, keep=pa.Table.from_pylist(earlier, schema=MANIFEST))
        assert assigned["fold"].to_pylist()[:4] == [kept] * 4


def test_an_earlier_manifest_that_does_not_fit_is_refused() -> None:
    table = manifest([(i, "ab"[i % 2], False) for i in range(60)])
    folded, halved = assign_folds(table, folds=4, seed=0), assign_splits(table, val=0.2, test=0.2, seed=0)
    with pytest.raises(ManifestError, match="the earlier manifest has 4 folds, not 5: use its number of folds"):
        assign_folds(table, folds=5, seed=0, keep=folded)
    with pytest.raises(ManifestError, match="has no folds: give one that `brainscale split --folds` wrote"):
        assign_folds(table, folds=4, seed=0, keep=halved)
    with pytest.raises(ManifestError, match="has no splits: give one that `brainscale split` wrote"):
        assign_splits(table, val=0.2, test=0.2, seed=0, keep=folded)
    odd = pa.Table.from_pylist([table.to_pylist()[0] | {"split": "holdout"}], schema=MANIFEST)
    with pytest.raises(ManifestError, match="unknown split 'holdout': use train, val, test"):
        assign_splits(table, val=0.2, test=0.2, seed=0, keep=odd)
    with pytest.raises(ManifestError, match=r"1 fold\(s\) leave nothing to train on: use 2 or more"):
        assign_folds(table, folds=1, seed=0)


def test_a_split_that_nobody_asks_for_is_kept_and_not_counted() -> None:
    table = manifest([(i, "ab"[i % 2], False) for i in range(100)])
    before = assign_splits(table, val=0.1, test=0.2, seed=0)
    more = manifest([(i, "ab"[i % 2], False) for i in range(200)])
    after = assign_splits(more, val=0.25, test=0, seed=0, keep=before)["split"].to_pylist()
    assert after[:100] == before["split"].to_pylist()
    assert [after.count(split) for split in SPLITS] == [135, 45, 20]


def test_kept_groups_that_leave_a_split_without_a_label_are_named() -> None:
    table = manifest([(i, "ab"[i % 2], False) for i in range(60)])
    rows = [row | {"split": "train" if row["label"] == "b" else "test"} for row in table.to_pylist()]
    with pytest.raises(
        ManifestError, match=r"none of the 30 group\(s\) with label '.' is in split '.*': split without the earlier"
    ):
        assign_splits(table, val=0.2, test=0.2, seed=0, keep=pa.Table.from_pylist(rows, schema=MANIFEST))


def test_more_groups_than_can_be_balanced_are_assigned_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group alone then has its split: others that are added or removed do not move it."""
    rows = [(i, "tumour" if i % 3 else "no_tumour", False) for i in range(3000)]
    table = manifest(rows)
    assert splits.BALANCED_GROUPS == 1_000_000
    assert splits.notice_of_hashing(table) is None
    monkeypatch.setattr(splits, "BALANCED_GROUPS", 2000)
    assert str(splits.notice_of_hashing(table)).startswith("3,000 groups, more than 2,000: they are assigned by hash")
    assigned = assign_splits(table, val=0.15, test=0.2, seed=0).to_pylist()
    fewer = assign_splits(manifest(rows[:2500]), val=0.15, test=0.2, seed=0)["split"].to_pylist()
    assert fewer == [row["split"] for row in assigned[:2500]]
    folds = [assign_folds(manifest(some), folds=3, seed=0)["fold"].to_pylist() for some in (rows, rows[:2500])]
    assert folds[1] == folds[0][:2500]
    for label, count in (("tumour", 2000), ("no_tumour", 1000)):
        for side, share in zip(SPLITS, (0.65, 0.15, 0.2), strict=True):
            have = sum(r["split"] == side and r["label"] == label for r in assigned)
            assert abs(have - share * count) < 4 * (count * share * (1 - share)) ** 0.5
    kept = assign_splits(table, val=0.15, test=0.2, seed=1, keep=assign_splits(table, val=0.15, test=0.2, seed=0))
    assert kept["split"].to_pylist() == [row["split"] for row in assigned]
    monkeypatch.setattr(splits, "BALANCED_GROUPS", 2)
    with pytest.raises(ManifestError, match="is in split 'val': use another seed"):
        assign_splits(manifest([(i, "a" if i < 9 else "b", False) for i in range(12)]), val=0.01, test=0.01, seed=0)


def test_patients_series_bytes_and_pictures_join_and_errors_do_not() -> None:
    rows = manifest([(i, "a", False) for i in range(9)]).to_pylist()
    rows[0]["patient"] = rows[1]["patient"] = "p"
    rows[1]["scan"] = rows[2]["scan"] = "s"
    image = draw_phantom(0, 0, tumour=False, size=96)
    rows[2] |= recognisable(image)
    rows[3] |= recognisable(image.T)
    rows[4] |= recognisable(image[3:-4, 2:])
    rows[5]["sha256"] = rows[4]["sha256"]
    rows[6] |= {"patient": "p", "error_code": "corrupt"}
    table = pa.Table.from_pylist(rows, schema=MANIFEST)
    named = assign_groups(table)["group"].to_pylist()
    assert len(set(named[:6])) == 1
    assert named[0] == min(row["sha256"] for row in rows[:6])[:16]
    assert named[6] is None
    assert len(set(named[7:])) == 2
    assert len(set(assign_groups(table, None)["group"].to_pylist()[:6])) == 3
    assert assign_groups(table.take([8, 3, 5, 0, 1, 2, 4, 6, 7]))["group"].to_pylist()[3] == named[0]


def test_verify_finds_a_cut_whatever_the_column_group_says() -> None:
    table = assign_splits(manifest([(i // 2, "ab"[i // 2 % 2], False) for i in range(100)]), val=0.2, test=0.2, seed=0)
    check = verify_split(table)
    assert (check.verified, check.groups, len(check.violations)) == ("split", 50, 0)
    check.require_intact()
    rows = table.to_pylist()
    rows[1] |= {"split": "val" if rows[0]["split"] != "val" else "test", "group": "own"}
    check = verify_split(pa.Table.from_pylist(rows, schema=MANIFEST))
    with pytest.raises(ManifestError, match=r"1 pair\(s\) .* in different splits, .* '000.png' .*: same file: run"):
        check.require_intact()
    with pytest.raises(ManifestError, match="neither splits nor folds"):
        verify_split(manifest([(0, "a", False)]))


def test_verify_says_why_samples_belong_together() -> None:
    rows = manifest([(i, "a", False) for i in range(10)]).to_pylist()
    image = draw_phantom(0, 0, tumour=False, size=96)
    rows[0]["patient"] = rows[1]["patient"] = "p"
    rows[2]["scan"] = rows[3]["scan"] = "s"
    rows[4] |= recognisable(image)
    rows[5] |= recognisable(image[::-1, 3:])
    rows[6]["group"] = rows[7]["group"]
    rows[8]["patient"] = rows[9]["patient"] = "q"
    for number, row in enumerate(rows[:9]):
        row |= {"split": ["train", "test"][number % 2], "fold": 0}
    violations = verify_split(pa.Table.from_pylist(rows, schema=MANIFEST)).violations
    assert [(v.first_id[:3], v.second_id[:3], v.reason) for v in violations] == [
        ("000", "001", "same patient"),
        ("002", "003", "same series"),
        ("004", "005", "near duplicate"),
        ("006", "007", "same group"),
    ]
    assert [v.similarity is not None for v in violations] == [False, False, True, False]
    assert "'004.png' in train and '005.png' in test: near duplicate (1.000)" in str(violations[2])
    without = [row | {"signature": None} for row in rows]
    check = verify_split(pa.Table.from_pylist(without, schema=MANIFEST))
    assert (check.samples_without_signature, len(check.violations)) == (10, 3)


def test_verify_refuses_what_it_cannot_check() -> None:
    rows = manifest([(i, "a", False) for i in range(3)]).to_pylist()
    with pytest.raises(ManifestError, match="unknown split 'foo' in the manifest: use train, val, test"):
        verify_split(pa.Table.from_pylist([row | {"split": "foo"} for row in rows], schema=MANIFEST))
    broken = [row | {"split": "test", "error_code": "corrupt"} for row in rows]
    with pytest.raises(ManifestError, match="every row of the manifest is an error"):
        verify_split(pa.Table.from_pylist(broken, schema=MANIFEST))


def test_verify_finds_samples_that_only_others_connect() -> None:
    """A sample without a label has no split, but may be the link between two that have one."""
    rows = manifest([(i, "a", False) for i in range(3)]).to_pylist()
    rows[0] |= {"patient": "p", "split": "train"}
    rows[1] |= {"patient": "p", "scan": "s", "label": None}
    rows[2] |= {"scan": "s", "split": "test"}
    (violation,) = verify_split(pa.Table.from_pylist(rows, schema=MANIFEST)).violations
    assert (violation.first_id, violation.second_id) == ("000.png", "002.png")
    assert violation.reason == "linked through other samples"


def test_the_order_of_a_listing_plays_no_part_and_the_seed_does() -> None:
    rows = [(i, "tumour" if i % 2 else "no_tumour", False) for i in range(40)]
    table = manifest(rows)
    one = assign_splits(table, val=0.2, test=0.2, seed=1).sort_by("sample_id")
    shuffled = table.take(pa.array([(i * 7) % 40 for i in range(40)]))
    assert assign_splits(shuffled, val=0.2, test=0.2, seed=1).sort_by("sample_id") == one
    assert assign_splits(table, val=0.2, test=0.2, seed=2) != one


def test_a_group_with_two_labels_stays_whole() -> None:
    rows = [(i, "tumour" if i % 2 else "no_tumour", False) for i in range(20)] + [(0, "tumour", False)]
    dealt = assign_splits(manifest(rows), val=0.2, test=0.2, seed=0).to_pylist()
    assert dealt[0]["split"] == dealt[-1]["split"]


def test_too_few_images_are_named() -> None:
    few = manifest([(0, "tumour", False), (1, "tumour", False), (2, "no_tumour", False)])
    with pytest.raises(ManifestError, match=r"1 group\(s\) with label 'no_tumour' are too few for 3 splits: add"):
        assign_splits(few, val=0.2, test=0.2, seed=0)
    with pytest.raises(ManifestError, match="too few for 3 folds: add images of this label, or use fewer folds"):
        assign_folds(few, folds=3, seed=0)
    with pytest.raises(ManifestError, match="no sample has a label"):
        assign_splits(manifest([(0, None, False)]), val=0.2, test=0.2, seed=0)
    giant = manifest([(0, "ab"[i % 2], False) for i in range(4)])
    with pytest.raises(ManifestError, match="if the 4 of 4 samples in the largest group are of several patients, name"):
        assign_splits(giant, val=0.2, test=0.2, seed=0)


def test_labelled_samples_without_a_group_are_refused() -> None:
    table = manifest([(i, "ab"[i % 2], False) for i in range(12)])
    groups = [None, *table["group"].to_pylist()[1:]]
    with pytest.raises(ManifestError, match=r"1 labelled sample\(s\) have no group, the first of them .*--regroup"):
        assign_folds(replace_column(table, "group", pa.array(groups, pa.string())), folds=2, seed=0)


def test_no_seed_is_unlucky() -> None:
    """Three groups of each label are enough for three splits."""
    table = manifest([(i, "ab"[i % 2], False) for i in range(6)])
    for seed in range(50):
        for assigned, column in (
            (assign_splits(table, val=0.15, test=0.2, seed=seed), "split"),
            (assign_folds(table, folds=3, seed=seed), "fold"),
        ):
            assert len({(row[column], row["label"]) for row in assigned.to_pylist()}) == 6
