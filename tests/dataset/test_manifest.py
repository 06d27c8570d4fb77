"""A manifest is one file or a folder of shards; both are read alike, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import brainscale
from brainscale.config.sections import Config
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.manifest import (
    check_manifest,
    is_manifest,
    manifest_fingerprint,
    open_manifest_shards,
    read_manifest,
    require_paths,
    write_either_form,
    write_manifest,
)
from brainscale.dataset.summary import summarise
from brainscale.errors import FormatError, ManifestError, OutputError
from brainscale.storage import shards
from brainscale.storage.local import SUCCESS
from brainscale.storage.ownership import require_own
from brainscale.storage.tables import KEY
from tests.support.runs import Invoke, succeed
from tests.support.tables import manifest

TABLE = manifest(np.arange(40) % 2).replace_schema_metadata({"patient_key": "abc"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_few_rows_are_one_file_and_many_a_folder_of_shards(tmp_path: Path) -> None:
    assert write_either_form(TABLE, str(tmp_path / "one.parquet")) == 0
    assert write_either_form(TABLE, str(tmp_path / "many.parquet"), 15) == 3
    assert write_either_form(TABLE, f"{tmp_path}/folder/") == 1
    assert (tmp_path / "one.parquet").is_file()
    expected = check_manifest(TABLE, "it")
    for place in ("one.parquet", "many.parquet", "folder"):
        assert is_manifest(str(tmp_path / place))
        read = read_manifest(tmp_path / place)
        assert read.equals(expected)
        assert read.schema.metadata[b"patient_key"] == b"abc"
        assert summarise(read) == summarise(TABLE)
    assert not is_manifest(str(tmp_path))


def test_shards_are_named_in_the_order_of_their_ids_and_say_what_they_are(tmp_path: Path) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    files = sorted((tmp_path / "m").glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [15, 15, 10]
    ids = [i for file in files for i in pq.read_table(file)["sample_id"].to_pylist()]
    assert ids == sorted(TABLE["sample_id"].to_pylist())
    assert {pq.read_schema(file).metadata[KEY] for file in files} == {b"manifest 3"}
    facts = json.loads((tmp_path / "m" / SUCCESS).read_text())
    assert [shard["name"] for shard in facts["shards"]] == [file.name for file in files]
    assert (facts["table"], facts["rows"]) == ("manifest", 40)
    assert pq.read_table(tmp_path / "m")["sample_id"].to_pylist() == ids, "other readers take the folder as it is"


def test_the_same_rows_are_the_same_files(tmp_path: Path) -> None:
    pieces = pa.concat_tables([TABLE.slice(0, 7), TABLE.slice(7)])
    for table, place in ((TABLE, "a"), (pieces, "b")):
        write_either_form(table, str(tmp_path / place), 15, as_folder=True)
    assert names(tmp_path / "a") == names(tmp_path / "b")


def test_an_incomplete_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    (tmp_path / "m" / SUCCESS).unlink()
    assert is_manifest(str(tmp_path / "m"))
    with pytest.raises(ManifestError, match=f"^{tmp_path}/m is not complete, since it has no _SUCCESS.json: write the"):
        read_manifest(tmp_path / "m")


def test_a_missing_shard_and_one_of_another_format_are_refused(tmp_path: Path) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    first = min((tmp_path / "m").glob("*.parquet"))
    pq.write_table(pq.read_table(first).replace_schema_metadata({KEY: b"manifest 1"}), first)
    with pytest.raises(FormatError, match="has format 1 of manifest"):
        read_manifest(tmp_path / "m")
    first.unlink()
    with pytest.raises(ManifestError, match=f"lists {first.name}, which is missing"):
        read_manifest(tmp_path / "m")


def test_what_fails_half_way_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    other, write = manifest(np.arange(50) % 2), shards.write_shard

    def write_two(table: pa.Table, location: str, kind: str, number: int) -> shards.Shard:
        if number == 2:
            raise OutputError("the disk is full")
        return write(table, location, kind, number)

    monkeypatch.setattr(shards, "write_shard", write_two)
    with pytest.raises(OutputError, match="the disk is full"):
        write_either_form(other, str(tmp_path / "m"), 15)
    assert len(read_manifest(tmp_path / "m")) == 40
    monkeypatch.undo()
    assert write_either_form(other, str(tmp_path / "m"), 15) == 4
    assert len(read_manifest(tmp_path / "m")) == 50
    assert len(names(tmp_path / "m")) == 5, "no old shard is left"


def test_a_file_gives_way_to_a_folder_and_other_things_stay(tmp_path: Path) -> None:
    write_manifest(TABLE, tmp_path / "m.parquet")
    assert write_either_form(TABLE, str(tmp_path / "m.parquet"), 15) == 3
    assert len(read_manifest(tmp_path / "m.parquet")) == 40
    assert names(tmp_path) == ["m.parquet"]
    require_own(tmp_path / "m.parquet", "", kind="manifest")
    (tmp_path / "scans").mkdir()
    require_own(tmp_path / "scans", "", kind="manifest")
    (tmp_path / "scans" / "a.png").touch()
    with pytest.raises(OutputError, match="scans/ is a folder that holds no manifest"):
        require_own(f"{tmp_path}/scans/", "", kind="manifest", overwrite=True)
    with pytest.raises(ManifestError, match="no manifest at"):
        read_manifest(tmp_path / "scans")


def test_what_takes_a_manifest_takes_a_folder_of_shards(tmp_path: Path) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    write_manifest(TABLE, tmp_path / "m.parquet")
    config = Config()
    one, many = (open_or_index(str(tmp_path / name), config) for name in ("m.parquet", "m"))
    assert many.equals(one)
    require_paths(many, "m")
    assert manifest_fingerprint(many) == manifest_fingerprint(one)
    assert brainscale.load_manifest(tmp_path / "m").equals(one)
    assert brainscale.summary(tmp_path / "m") == brainscale.summary(one)
    assert open_manifest_shards(tmp_path / "m.parquet") is None
    assert open_manifest_shards(f"{tmp_path}/m/").rows == 40


def test_a_sharded_manifest_is_split_into_shards(tmp_path: Path, invoke: Invoke) -> None:
    write_either_form(TABLE, str(tmp_path / "m"), 15, as_folder=True)
    write_manifest(TABLE, tmp_path / "m.parquet")
    for place, out in (("m", "split/"), ("m.parquet", "split.parquet")):
        facts = json.loads(succeed(invoke("split", tmp_path / place, "--out", f"{tmp_path}/{out}", "--json")).stdout)
        assert facts["form"] == ("one file" if place == "m.parquet" else "folder of 3 shards")
    assert read_manifest(tmp_path / "split").equals(read_manifest(tmp_path / "split.parquet"))
    succeed(invoke("split", tmp_path / "split", "--verify"))
    in_place = ("split", tmp_path / "split", "--out", tmp_path / "split", "--folds", 2, "--regroup")
    assert "is an input of this command: --overwrite replaces it" in invoke(*in_place).stderr
    succeed(invoke(*in_place, "--overwrite"))
    again = read_manifest(tmp_path / "split")
    assert len(again) == 40, "in its own place"
    assert again["fold"].null_count == 0
    assert len(names(tmp_path / "split")) == 4
    overlap = succeed(invoke("overlap", tmp_path / "split", tmp_path / "m", "--json"))
    assert len(json.loads(overlap.stdout)) == 40
