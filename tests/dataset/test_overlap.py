"""Samples that two manifests share."""

import pyarrow as pa
import pytest

from brainscale.dataset.manifest import KEY_METADATA, check_manifest
from brainscale.dataset.overlap import count_overlap, find_overlap, have_one_key
from brainscale.errors import ManifestError
from tests.dataset.test_near_duplicates import phantoms, table
from tests.support.copies import recognisable


def test_the_strongest_match_counts_and_copies_of_copies_are_found() -> None:
    first, second, third = (recognisable(image) for image in phantoms()[:3])
    near = recognisable(phantoms()[0][5:, :-3])
    training = table(
        [
            first | {"sha256": "a", "patient": "p", "label": "tumour", "split": "train"},
            second | {"sha256": "b", "scan": "s", "split": "val"},
        ]
    )
    external = table(
        [
            first | {"sha256": "a", "patient": "p", "label": "tumour"},
            near | {"sha256": "c", "patient": "p", "label": "tumour"},
            near | {"sha256": "d", "label": "no_tumour"},  # equal to one that is near
            third | {"sha256": "e", "patient": "p", "scan": "s"},
            third | {"sha256": "f", "patient": "p"},
            third | {"sha256": "g"},
            first | {"sha256": "a", "error_code": "corrupt"},
        ]
    )
    matches = find_overlap(training, external)
    assert [(row["sample_id"][:5], row["kind"], row["other"][:5]) for row in matches.to_pylist()] == [
        ("00000", "exact", "00000"),
        ("00001", "near", "00000"),
        ("00002", "near", "00000"),
        ("00003", "series", "00001"),
        ("00004", "patient", "00000"),
    ]
    assert [value is not None for value in matches["similarity"].to_pylist()] == [False, True, True, False, False]
    assert matches["other_split"].to_pylist() == ["train", "train", "train", "val", "train"]
    counts = {
        count.kind: (count.samples, count.labels) for count in count_overlap(matches, external["error_code"].null_count)
    }
    assert counts == {
        "exact": (1, {"tumour": 1}),
        "near": (2, {"no_tumour": 1, "tumour": 1}),
        "series": (1, {"none": 1}),
        "patient": (1, {"none": 1}),
        "any": (5, {"no_tumour": 1, "none": 2, "tumour": 2}),
    }
    assert find_overlap(training, external, None)["kind"].to_pylist() == ["exact", "patient", "series", "patient"]


def test_nothing_is_shared_with_an_empty_manifest_or_without_signatures() -> None:
    rows = [recognisable(image) | {"signature": None} for image in phantoms()[:2]]
    assert len(find_overlap(table([]), table(rows))) == 0
    assert len(find_overlap(table(rows), table([]))) == 0
    other = [row | {"sha256": f"{number}"} for number, row in enumerate(rows)]
    assert len(find_overlap(table(rows), table(other))) == 0


def test_manifests_of_two_keys_cannot_be_compared_by_patient() -> None:
    one, other = (table([]).replace_schema_metadata({KEY_METADATA: key}) for key in (b"1", b"2"))
    assert have_one_key(one.schema, one.schema)
    assert have_one_key(one.schema, table([]).schema)
    assert not have_one_key(one.schema, other.schema)


@pytest.mark.parametrize("damage", [{"signature": b"short"}, {"phash": None}, {"head_phash": "xyz"}])
def test_a_damaged_signature_is_named(damage: dict[str, bytes | str | None]) -> None:
    rows = [recognisable(image) | {"uri": "x"} for image in phantoms()[:2]]
    check_manifest(table(rows), "m.parquet")
    with pytest.raises(ManifestError, match="m.parquet has a damaged signature or hash of sample '00001.png'"):
        check_manifest(table([rows[0], rows[1] | damage]), "m.parquet")
    check_manifest(table([rows[0], rows[1] | {"signature": None, "phash": None}]), "m.parquet")


def test_a_table_of_another_kind_is_no_manifest() -> None:
    with pytest.raises(ManifestError, match="has no column sample_id"):
        check_manifest(pa.table({"x": [1]}), "m.parquet")
