"""A sharded manifest gives the groups, splits, checks, overlaps and counts that one file gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.manifest import made_up_rows
from brainscale.config.data_sections import DataConfig
from brainscale.dataset import shard_columns, sharded, sharded_checks
from brainscale.dataset.columns import replace_column
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.inclusion import clear_left_out
from brainscale.dataset.manifest import cut_shards, open_as_shards, read_manifest, write_manifest
from brainscale.dataset.on_ray import map_on_ray, shuffle_on_ray
from brainscale.dataset.overlap import ManifestFacts, find_overlap
from brainscale.dataset.shard_columns import ManifestColumns, keys_of, shuffle_here
from brainscale.dataset.sharded_summary import add_counts, count_shards, describe_gaps_of_shards
from brainscale.dataset.split_check import verify_split
from brainscale.dataset.splits import assign_folds, assign_splits
from brainscale.dataset.summary import describe_gaps, summarise
from brainscale.errors import ManifestError
from brainscale.storage.shards import write_shards

ROWS = 3000


@pytest.fixture(scope="module")
def made_up() -> pa.Table:
    return made_up_rows(0, ROWS)


@pytest.fixture(scope="module")
def grouped(made_up: pa.Table) -> pa.Table:
    return assign_groups(made_up)


def columns_of(table: pa.Table, folder: Path, shard_rows: int = 700) -> ManifestColumns:
    """The columns of a table that is written as shards."""
    return ManifestColumns((write_shards(cut_shards(table, shard_rows), folder, "manifest"),), map, shuffle_here)


@pytest.fixture(params=["here", pytest.param("on Ray", marks=pytest.mark.ray)])
def columns(request: pytest.FixtureRequest, made_up: pa.Table, tmp_path: Path) -> ManifestColumns:
    made = columns_of(made_up, tmp_path / "made-up")
    if request.param == "on Ray":
        request.getfixturevalue("ray_cluster")
        made = replace(made, run=map_on_ray, shuffle=shuffle_on_ray)
    return made


def test_groups_and_splits_are_those_of_one_file(
    columns: ManifestColumns, grouped: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_columns, "BUCKET", 40)
    monkeypatch.setattr(shard_columns, "BUCKETS_AT_A_TIME", 2)
    request = sharded.SplitRequest(val=0.15, test=0.2, seed=3)
    written, notice = sharded.split_shards(columns, str(tmp_path / "out"), request, regroup=True, similarity=0.97)
    assert notice is None
    assert len(written.shards) == 5
    many, one = read_manifest(tmp_path / "out"), assign_splits(grouped, val=0.15, test=0.2, seed=3)
    assert pc.count_distinct(one["group"]).as_py() < 0.9 * ROWS, "there is something to find"
    assert many.equals(one)
    check = sharded_checks.verify_shards(replace(columns, tables=(written,)))
    assert check == verify_split(one)
    assert not check.violations


def test_near_duplicates_in_different_shards_are_found(made_up: pa.Table, tmp_path: Path) -> None:
    alone = made_up
    for column in ("patient", "scan"):
        alone = replace_column(alone, column, pa.nulls(ROWS, pa.string()))
    one = assign_groups(alone)
    groups = sharded.find_groups(columns_of(alone, tmp_path / "m", 500))
    assert [
        f"{key:016x}" if valid else None for key, valid in zip(groups.keys.tolist(), groups.valid, strict=True)
    ] == (one["group"].to_pylist())
    sizes = one["group"].value_counts().field("counts").to_numpy()
    assert (sizes > 1).sum() > 100


@pytest.mark.parametrize("folds", [None, 4])
def test_earlier_splits_and_folds_are_kept_as_in_one_file(grouped: pa.Table, tmp_path: Path, folds: int | None) -> None:
    old = grouped.slice(0, 1500)
    old = assign_splits(old, val=0.2, test=0.3, seed=1) if folds is None else assign_folds(old, folds=folds, seed=1)
    shuffled = old.take(np.random.default_rng(0).permutation(1500))
    swapped = replace_column(old, "sha256", shuffled["sha256"].combine_chunks())  # so that groups are cut
    for keep in (old, swapped):
        earlier = columns_of(keep, tmp_path / "old", 400)
        columns = columns_of(grouped, tmp_path / "new")
        request = sharded.SplitRequest(val=0.2, test=0.0, folds=folds, seed=2, keep=earlier)
        rows, _ = sharded.assign_rows(columns, sharded.read_groups(columns), request)
        if folds is None:
            expected = assign_splits(grouped, val=0.2, test=0.0, seed=2, keep=keep)["split"]
        else:
            expected = assign_folds(grouped, folds=folds, seed=2, keep=keep)["fold"]
        assert [request.values[row] if row >= 0 else None for row in rows.tolist()] == expected.to_pylist()


def test_more_groups_than_are_balanced_are_assigned_by_hash(
    grouped: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brainscale.dataset.splits.BALANCED_GROUPS", 100)
    columns, request = columns_of(grouped, tmp_path / "m"), sharded.SplitRequest(val=0.15, test=0.2)
    rows, notice = sharded.assign_rows(columns, sharded.read_groups(columns), request)
    assert notice
    assert "assigned by hash" in notice
    expected = assign_splits(grouped, val=0.15, test=0.2, seed=0)["split"].to_pylist()
    assert [request.values[row] if row >= 0 else None for row in rows.tolist()] == expected


def test_a_wrong_split_is_found_as_in_one_file(grouped: pa.Table, tmp_path: Path) -> None:
    draw = np.random.default_rng(0).choice(["train", "val", "test"], ROWS)
    wrong = replace_column(grouped, "split", pa.array(draw))
    check = sharded_checks.verify_shards(columns_of(wrong, tmp_path / "m"))
    assert len(check.violations) > 1000
    assert check == verify_split(wrong)
    with pytest.raises(ManifestError, match="neither splits nor folds"):
        sharded_checks.verify_shards(columns_of(grouped, tmp_path / "n"))


def test_the_overlap_is_that_of_two_files(grouped: pa.Table, tmp_path: Path) -> None:
    first, second = grouped.slice(0, 1813), grouped.slice(1500)
    tables = [columns_of(table, tmp_path / name).tables[0] for table, name in ((first, "a"), (second, "b"))]
    write_manifest(second, tmp_path / "b.parquet")
    for other in (tables[1], open_as_shards(str(tmp_path / "b.parquet"))):
        both = ManifestColumns((tables[0], other), map, shuffle_here)
        shared = sharded_checks.find_shared_samples(both, 1813)
        assert shared.equals(find_overlap(first, second))
        assert set(shared["kind"].to_pylist()) == {"exact", "near", "patient"}
        facts = sharded_checks.count_facts(replace(both, tables=(other,)))
        assert facts.schema.metadata == ManifestFacts.of(read_manifest(tmp_path / "b")).schema.metadata
        assert replace(facts, schema=pa.schema([])) == replace(ManifestFacts.of(second), schema=pa.schema([]))


def test_the_counts_are_those_of_one_file(grouped: pa.Table, tmp_path: Path) -> None:
    table = assign_folds(clear_left_out(grouped), folds=3, seed=0)
    labels = pc.if_else(pa.array(np.arange(ROWS) % 50 == 0), None, table["label"])
    table = assign_splits(replace_column(table, "label", labels), val=0.2, test=0.2, seed=0)
    ids = pc.replace_substring(table["sample_id"], "scans/", "yes/no/")
    table = replace_column(table, "sample_id", ids)
    columns = columns_of(table, tmp_path / "m")
    counts = count_shards(columns, DataConfig())
    assert add_counts(columns, counts) == summarise(table)
    assert list(describe_gaps_of_shards(counts)) == list(describe_gaps(table, DataConfig()))


@pytest.mark.parametrize(("column", "different"), [("sha256", 6), ("patient", 7)])
def test_keys_are_equal_for_equal_values_only(column: str, different: int) -> None:
    texts = ["0123456789abcdef", "0123456789abcdef0", "0123456789abcdeX", "a", "b", "0123456789abcdef", "", "a"]
    keys = keys_of(pa.chunked_array([pa.array([*texts, None])]), column).tolist()[:-1]
    assert (keys[0], keys[3]) == (keys[5], keys[7])
    assert len(set(keys)) == different - 1, "of a hash, the first 16 digits count"
    hashes = keys_of(pa.chunked_array([pa.array(texts[:2])]), "sha256")
    assert hashes.tolist() == [0x0123456789ABCDEF] * 2
    signatures = [bytes(256), bytes(255) + b"\1", b"\1" + bytes(255), bytes(256)]
    mixed = keys_of(pa.chunked_array([pa.array(signatures, pa.binary())]), "signature").tolist()
    assert mixed[0] == mixed[3]
    assert len(set(mixed)) == 3


def test_groups_of_other_names_are_refused(grouped: pa.Table, tmp_path: Path) -> None:
    other = replace_column(grouped, "group", pa.array(["g1"] * ROWS))
    with pytest.raises(ManifestError, match="make them again with `brainscale split --regroup`"):
        sharded.read_groups(columns_of(other, tmp_path / "m"))
