"""A store is listed by many prefixes at a time, and an inventory says the same as a listing: ids, order, addresses."""

import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.errors import SourceError
from brainscale.reading import inventory, listing
from brainscale.reading.sources import SourceFile, list_files
from brainscale.storage.remote import filesystem_of
from tests.support.stores import Gate, client_of, options

NAMES = ["a.x", "a/b", "a/b.c", "a/b!c/d#1", "a/%21", "a b/ü+1.png", "a/b/c", "a-/z", "B/1", "deep/er/than/five/six/x"]


def put(gate: Gate, folder: str, names: list[str]) -> str:
    """Write small objects, and return the address of their folder."""
    client = client_of(f"127.0.0.1:{gate.to}")
    for name in names:
        client.put_object(Bucket="bucket", Key=f"{folder}/{name}", Body=name.encode())
    return f"s3://bucket/{folder}{options(gate.address)}"


def count_lists(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that grows by one entry for each listing: whether it is recursive."""
    calls: list[bool] = []
    real = listing._Prefixes._list

    def counted(self: Any, folder: str, recursive: bool = True) -> Any:
        calls.append(recursive)
        return real(self, folder, recursive)

    monkeypatch.setattr(listing._Prefixes, "_list", counted)
    return calls


def check(address: str, names: list[str]) -> list[SourceFile]:
    files = list_files([address])
    ids = [file.sample_id for file in files]
    assert ids == sorted(ids)
    root = filesystem_of(address)[1]
    assert {filesystem_of(file.uri)[1] for file in files} == {f"{root}/{name}" for name in names}
    assert all(file.modified and file.modified % 10**9 == 0 for file in files)
    return files


def test_names_of_a_store_are_in_the_order_of_ids(s3_gate: Gate) -> None:
    files = check(put(s3_gate, "order", NAMES), NAMES)
    assert [file.sample_id for file in files][:4] == ["B/1", "a b/ü+1.png", "a-/z", "a.x"]
    assert [file.nbytes for file in files if file.sample_id == "a/b/c"] == [5]
    (one,) = list_files([put(s3_gate, "one", ["x y"]).replace("/one", "/one/x%20y")])
    assert (one.sample_id, one.nbytes) == ("x y", 3)


def test_keys_with_an_empty_part_are_not_lost(s3_gate: Gate) -> None:
    names = ["a/1", "b//2", "/3", "b/4"]
    assert [file.sample_id for file in check(put(s3_gate, "empty", names), names)] == ["3", "a/1", "b/2", "b/4"]


def test_many_folders_are_listed_side_by_side(s3_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"p{number:03d}/{n}" for number in range(40) for n in range(2)]
    address = put(s3_gate, "many", names)
    calls = count_lists(monkeypatch)
    monkeypatch.setattr(s3_gate, "delay", 0.2)
    began = time.monotonic()
    check(address, names)
    assert calls == [False] + [True] * 40
    assert time.monotonic() - began < 40 * 0.2


def test_very_many_small_folders_are_one_listing(s3_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "THREADS", 2)
    names = [f"p{number:03d}/{n}" for number in range(20) for n in range(2)]
    calls = count_lists(monkeypatch)
    check(put(s3_gate, "small", names), names)
    assert calls == [False, *[True] * 4, True]


def test_nobody_waits_for_the_rest_of_a_listing(s3_gate: Gate) -> None:
    address = put(s3_gate, "rest", ["a/1", "b/1"])
    walk = listing.walk_source(address)
    assert next(walk).path == "a/1"
    walk.close()


Pack = Callable[[list[dict[str, Any]]], tuple[str, str, bytes]]


def as_csv(objects: list[dict[str, Any]]) -> tuple[str, str, bytes]:
    names = ("Bucket", "Key", "Size", "LastModifiedDate", "IsLatest", "IsDeleteMarker", "StorageClass")
    lines = []
    for row in objects:
        when = row["LastModified"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        size = "" if row["Deleted"] else str(row["Size"])
        latest, deleted = str(row["Latest"]).lower(), str(row["Deleted"]).lower()
        cells = ("bucket", quote_plus(row["Key"], safe="/"), size, when, latest, deleted, row["StorageClass"])
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return "CSV", ", ".join(names), gzip.compress("\n".join(lines).encode())


def as_parquet(objects: list[dict[str, Any]]) -> tuple[str, str, bytes]:
    table = pa.table(
        {
            "bucket": ["bucket"] * len(objects),
            "key": [row["Key"] for row in objects],
            "size": [None if row["Deleted"] else row["Size"] for row in objects],
            "last_modified_date": pa.array([row["LastModified"] for row in objects], pa.timestamp("ms", "UTC")),
            "is_latest": [row["Latest"] for row in objects],
            "is_delete_marker": [row["Deleted"] for row in objects],
            "storage_class": [row["StorageClass"] for row in objects],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=3)
    return "Parquet", "message s3.inventory { … }", sink.getvalue()


def objects_of(gate: Gate, folder: str) -> list[dict[str, Any]]:
    """Return what an inventory of a folder of the bucket says, with an old version, a delete marker and a folder."""
    rows = client_of(f"127.0.0.1:{gate.to}").list_objects_v2(Bucket="bucket", Prefix=f"{folder}/")["Contents"]
    rows = [row | {"Latest": True, "Deleted": False} for row in reversed(rows)]
    old = rows[0] | {"Latest": False, "Size": 1, "LastModified": datetime(2020, 1, 1, tzinfo=UTC)}
    gone = rows[0] | {"Key": f"{folder}/gone", "Deleted": True}
    return [old, *rows, gone, rows[0] | {"Key": f"{folder}/a/", "Size": 0}]


def write_inventory(gate: Gate, objects: list[dict[str, Any]], pack: Pack, place: str) -> dict[str, bytes]:
    """Write an inventory in two files, and return its objects by key."""
    files = {}
    for number, rows in enumerate((objects[::2], objects[1::2])):
        kind, schema, data = pack(rows)
        files[f"{place}/data/{number}"] = data
    entries = [
        {"key": key, "size": len(data), "MD5checksum": hashlib.md5(data, usedforsecurity=False).hexdigest()}
        for key, data in files.items()
    ]
    manifest = {"sourceBucket": "bucket", "destinationBucket": "arn:aws:s3:::bucket", "version": "2016-11-30"}
    manifest |= {"fileFormat": kind, "fileSchema": schema, "files": entries}
    files[f"{place}/2026-11-26T01-00Z/manifest.json"] = json.dumps(manifest).encode()
    for key, data in files.items():
        client_of(f"127.0.0.1:{gate.to}").put_object(Bucket="bucket", Key=key, Body=data)
    return files


@pytest.mark.parametrize("run_rows", [3, 2**19])
@pytest.mark.parametrize("pack", [as_csv, as_parquet])
def test_an_inventory_says_what_a_listing_says(
    s3_gate: Gate, tmp_path: Path, pack: Pack, run_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "RUN_ROWS", run_rows)
    monkeypatch.setattr(inventory, "BATCH_ROWS", 2)
    folder = f"inv-{pack.__name__}-{run_rows}"
    listed = check(put(s3_gate, folder, NAMES), NAMES)
    files = write_inventory(s3_gate, objects_of(s3_gate, folder), pack, f"reports-{folder}/bucket/daily")
    place = f"reports-{folder}/bucket/daily/2026-11-26T01-00Z/manifest.json"
    assert list_files([f"s3://bucket/{place}{options(s3_gate.address)}"]) == listed
    for key, data in files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    local = list_files([f"file://{tmp_path / place}"])
    assert [file.uri for file in local] == [file.uri.partition("?")[0] for file in listed]
    assert [(file.sample_id, file.nbytes, file.modified) for file in local] == [
        (file.sample_id, file.nbytes, file.modified) for file in listed
    ]


def test_an_inventory_with_an_altered_or_missing_file_is_refused(s3_gate: Gate, tmp_path: Path) -> None:
    put(s3_gate, "bad", ["a", "b"])
    files = write_inventory(s3_gate, objects_of(s3_gate, "bad"), as_csv, "reports-bad")
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(files.popitem()[1])
    with pytest.raises(SourceError, match=r"reports-bad/data/0 is not near it\. Copy it into the same folder"):
        list_files([str(manifest)])
    for key, data in files.items():
        (tmp_path / Path(key).name).write_bytes(data)
    assert [file.sample_id for file in list_files([str(manifest)])] == ["a", "b"]
    (tmp_path / "1").write_bytes(b"other")
    with pytest.raises(SourceError, match=r"data/1 is not the one that S3 wrote \(MD5\)"):
        list_files([str(manifest)])
    facts = json.loads(manifest.read_bytes())
    facts["files"][1]["MD5checksum"] = hashlib.md5(b"other", usedforsecurity=False).hexdigest()
    manifest.write_text(json.dumps(facts))
    with pytest.raises(SourceError, match="data/1 cannot be read as CSV"):
        list_files([str(manifest)])
    manifest.write_text(json.dumps(facts | {"fileFormat": "ORC"}))
    with pytest.raises(SourceError, match="in the format ORC. Let S3 write it as CSV or Parquet"):
        list_files([str(manifest)])
    manifest.write_text(json.dumps(facts | {"files": [{}]}))
    with pytest.raises(SourceError, match="is not a complete manifest"):
        list_files([str(manifest)])


def test_another_file_of_that_name_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"files": []}')
    assert [file.sample_id for file in list_files([str(tmp_path / "manifest.json")])] == ["manifest.json"]
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    (tmp_path / "folder" / "manifest.json" / "1").write_text("x")
    assert [file.sample_id for file in list_files([str(tmp_path / "folder" / "manifest.json")])] == ["1"]
