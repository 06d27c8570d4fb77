"""Folds by a column: one for each value; groups stay whole, and one with several values is named."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import brainscale as bs
from brainscale.dataset.folds_by_column import assign_folds_by, describe_missing_values
from brainscale.errors import ManifestError, UsageError
from tests.support.tables import manifest


def with_sites(sites: list[object], groups: list[str] | None = None, kind: pa.DataType | None = None) -> pa.Table:
    """A manifest with a column of sites; labels take turns."""
    columns = {} if groups is None else {"group": groups}
    return manifest([i % 2 for i in range(len(sites))], **columns).append_column("site", pa.array(sites, kind))


def test_each_value_is_a_fold_in_order() -> None:
    assigned, names = assign_folds_by(with_sites(["DU", "CS", "DU", None, "FG", "CS"]), "site")
    assert names == ["CS", "DU", "FG"]
    assert assigned["fold"].to_pylist() == [1, 0, 1, None, 2, 0]
    assert describe_missing_values(assigned, "site") == "1 labelled sample(s) are in no fold: their site is unknown"
    assert bs.split(with_sites(["DU", "CS"]), folds_by="site")["fold"].to_pylist() == [1, 0]


def test_whole_numbers_are_in_their_order() -> None:
    assigned, names = assign_folds_by(with_sites([10, 9, 9, 10]), "site")
    assert (names, assigned["fold"].to_pylist()) == (["9", "10"], [1, 0, 0, 1])
    assert describe_missing_values(assigned, "site") is None


def test_a_sample_without_a_value_goes_with_its_group() -> None:
    assigned, _ = assign_folds_by(with_sites(["CS", None, "DU"], ["a", "a", "b"]), "site")
    assert assigned["fold"].to_pylist() == [0, 0, 1]


def test_samples_that_training_leaves_out_have_no_fold() -> None:
    table = with_sites(["CS", "DU", "FG", "CS"])
    for column, values in (("error_code", [None, None, "corrupt", None]), ("left_out", [None] * 3 + ["empty"])):
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.string()))
    assigned, names = assign_folds_by(table, "site")
    assert (names, assigned["fold"].to_pylist()) == (["CS", "DU"], [0, 1, None, None])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.permutations("xyzxyzxy"))
@settings(max_examples=40, deadline=None)
def test_no_group_is_in_two_folds(groups: list[str], sites: list[str]) -> None:
    """Where a group has one value; the fold is that of the value."""
    of_group = dict(zip("abcdefgh", sites, strict=True))
    table = with_sites([of_group[group] for group in groups], groups)
    if len({of_group[group] for group in groups}) < 2:
        with pytest.raises(ManifestError, match="column site has 1 value"):
            assign_folds_by(table, "site")
        return
    assigned, names = assign_folds_by(table, "site")
    assert [names[fold] for fold in assigned["fold"].to_pylist()] == assigned["site"].to_pylist()


def test_a_group_with_several_values_is_named() -> None:
    table = with_sites(["CS", "DU", "DU", "CS"], ["a", "b", "a", "c"])
    expected = r"group a has several values of site: '0000.png' \(CS\) and '0002.png' \(DU\) are of one patient"
    with pytest.raises(ManifestError, match=expected):
        assign_folds_by(table, "site")


def test_columns_that_name_no_folds_are_refused() -> None:
    with pytest.raises(ManifestError, match="the manifest has no column place: choose site, format, mode, "):
        assign_folds_by(with_sites(["a", "b"]), "place")
    with pytest.raises(ManifestError, match="column site holds decimal numbers"):
        assign_folds_by(with_sites([0.5, 0.25]), "site")
    with pytest.raises(UsageError, match="folds_by cannot be combined with"):
        bs.split(with_sites(["a", "b"]), folds_by="site", folds=2)
