"""Folders of an object store: whole objects, what changed and nothing else, patience, and clear refusals."""

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from brainscale.dataset.manifest import is_manifest, read_manifest, write_either_form, write_manifest
from brainscale.errors import RERUN, OutputError, SampleError, SourceError, StorageError, UsageError
from brainscale.reading.sources import UNREACHABLE, list_files, open_file
from brainscale.reading.versions import has_changed
from brainscale.schema import MANIFEST
from brainscale.storage import remote
from brainscale.storage.local import SUCCESS, read_success, write_success
from brainscale.storage.remote import ObjectStore, join_address, retrying, split_address
from brainscale.storage.workspace import fetch, open_workspace
from tests.support.stores import Gate, gs_server, make_bucket, place, s3_server
from tests.support.tables import manifest

KINDS = {"s3": s3_server, "gs": gs_server}


@pytest.fixture(scope="module", params=KINDS)
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    log = tmp_path_factory.mktemp(request.param) / "log"
    with pytest.MonkeyPatch.context() as patch, KINDS[request.param](log) as port:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setattr(remote, "GOOGLE_S", 1)
        gate = Gate(port)
        if request.param == "s3":
            make_bucket(gate.address, "bucket")
        yield gate
        gate.close()


@pytest.fixture
def address(gate: Gate, request: pytest.FixtureRequest) -> str:
    """A folder of this test's own."""
    gate.is_open = True
    return place(request.node.callspec.params["gate"], gate.address, request.node.originalname)


@pytest.fixture
def direct(gate: Gate, address: str) -> str:
    """The same folder without the gate: Google's client reads at a place without letting Python's other threads run."""
    return address.replace(gate.address, f"127.0.0.1:{gate.to}")


def put(store: ObjectStore, name: str, data: bytes) -> None:
    store.put(name, io.BytesIO(data))


def test_an_object_is_written_read_listed_and_removed(address: str) -> None:
    store = ObjectStore(address)
    assert store.names() == {}
    big = bytes(range(256)) * 2**16  # 16 MiB: in several pieces
    put(store, "a/b c%.bin", big)
    put(store, "top", b"")
    assert sorted(store.names()) == ["a/b c%.bin", "top"]
    assert store.get("a/b c%.bin") == big
    store.remove(["top", "never-was"])
    assert sorted(store.names()) == ["a/b c%.bin"]
    with pytest.raises(FileNotFoundError):
        store.get("top")


def test_a_copy_is_put_back_with_what_changed_and_its_success_last(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_put, real_remove = ObjectStore.put, ObjectStore.remove
    monkeypatch.setattr(
        ObjectStore, "put", lambda self, name, source: (done.append(name), real_put(self, name, source))
    )
    monkeypatch.setattr(
        ObjectStore, "remove", lambda self, names: real_remove(self, [done.append(f"-{n}") or n for n in names])
    )
    with open_workspace(address, (SUCCESS, "z*", "kept")) as folder:
        assert str(folder) == address
        (folder.path / "zoo").write_text("1")
        (folder.path / "kept").write_text("same")
        (folder.path / ".half.tmp").write_text("never")
        write_success(folder.path, {"rows": 1})
    assert done == ["kept", "zoo", SUCCESS]
    done.clear()
    with open_workspace(address, (SUCCESS, "z*", "kept")) as folder:
        assert read_success(folder.path) is not None
        (folder.path / SUCCESS).unlink()
        (folder.path / "zoo").write_text("22")
        folder.push()
        assert done == [f"-{SUCCESS}", "zoo"]
        write_success(folder.path, {"rows": 2})
    assert done == [f"-{SUCCESS}", "zoo", SUCCESS]
    assert json.loads(ObjectStore(address).get(SUCCESS))["rows"] == 2


def test_a_mark_that_lacks_a_fact_is_one_line(tmp_path: Path) -> None:
    write_success(tmp_path, {"rows": 1})
    facts = read_success(tmp_path)
    assert facts is not None
    assert facts["rows"] == 1
    with pytest.raises(OutputError, match="does not say 'samples'"):
        facts["samples"]


def test_two_copies_see_each_other(address: str) -> None:
    with open_workspace(address, ()) as one, open_workspace(address, (), own_files=["*"]) as other:
        for text in ("first", "second, longer"):
            (one.path / "history").write_text(text)
            one.push()
            other.pull("history")
            assert (other.path / "history").read_text() == text
        other.push()
        assert sorted(ObjectStore(address).names()) == ["history"]


def test_a_folder_of_something_else_is_refused_by_its_address(address: str) -> None:
    put(ObjectStore(address), "thesis.doc", b"mine")
    with pytest.raises(OutputError) as refused, open_workspace(address, (SUCCESS,), what="scores"):
        pytest.fail("taken")
    assert str(refused.value) == f"{address} holds other files and no scores: choose a new folder"


def test_errors_name_the_address_and_not_the_copy(address: str) -> None:
    put(ObjectStore(address), SUCCESS, b"{")
    with pytest.raises(OutputError) as failed, fetch(address, SUCCESS) as folder:
        read_success(folder)
    assert address in str(failed.value)
    assert "/tmp" not in str(failed.value)  # noqa: S108


def test_an_object_is_read_at_any_place(direct: str) -> None:
    data = bytes(range(256)) * 2**12
    put(ObjectStore(direct), "scan", data)
    with open_file(join_address(direct, "scan")) as (stream, size):
        assert size == len(data)
        assert stream.seek(-3, 2) == size - 3
        assert stream.read() == data[-3:]
        assert stream.read(10) == b""
        assert stream.seek(1000) == 1000
        assert (stream.read(5), stream.tell()) == (data[1000:1005], 1005)
        assert stream.seek(10, 1) == 1015
        assert stream.read(-1) == data[1015:]
    with pytest.raises(SampleError, match="does not exist"), open_file(join_address(direct, "none")):
        pytest.fail("read")


@pytest.mark.parametrize("gate", ["s3"], indirect=True)  # the other server takes no such name
def test_a_name_that_climbs_out_of_the_folder_is_not_brought(address: str, tmp_path: Path) -> None:
    put(ObjectStore(address), "a/../../escaped", b"no")
    with fetch(address, "*") as folder:
        assert not (folder.parent / "escaped").exists()
        assert list(folder.rglob("*")) == []


def test_manifests_lie_in_stores_too(direct: str) -> None:
    row = dict.fromkeys(MANIFEST.names) | {"sample_id": "a", "uri": "/a", "empty": False}
    table = pa.Table.from_pylist([row], schema=MANIFEST)
    place = join_address(direct, "m one.parquet")
    write_manifest(table, place)
    assert is_manifest(place)
    assert not is_manifest(join_address(direct, "m.parquet.png"))
    assert read_manifest(place).equals(table)
    assert split_address(place) == (direct, "m one.parquet")


def test_both_forms_of_a_manifest_replace_each_other_in_a_store(direct: str) -> None:
    place, folder = join_address(direct, "m.parquet"), join_address(direct, "folder/")
    for rows, limit, count in ((4, 10, 0), (25, 10, 3), (15, 10, 2), (3, 10, 0)):
        assert write_either_form(manifest(np.arange(rows) % 2), place, limit) == count
        assert len(read_manifest(place)) == rows
        assert len(ObjectStore(direct).names()) == (count + 1 if count else 1)
    assert not is_manifest(folder)
    write_either_form(manifest(np.arange(6) % 2), folder)
    assert is_manifest(folder)
    assert len(read_manifest(folder)) == 6


def test_a_list_of_files_lies_in_a_store_too(address: str) -> None:
    lines = [join_address(address, name) for name in ("b/2.png", "a/1%20one.png")]
    put(ObjectStore(address), "list.txt", "\n".join(lines).encode())
    units = list_files([f"@{join_address(address, 'list.txt')}"])
    assert [(unit.sample_id, unit.uri) for unit in units] == [("a/1 one.png", lines[1]), ("b/2.png", lines[0])]
    with pytest.raises(SourceError, match="is not a list of files"):
        list_files([f"@{join_address(address, 'nowhere.txt')}"])


def test_a_folder_is_listed_in_the_order_of_ids_with_sizes_and_times(direct: str) -> None:
    for name in ("a/b/c", "a.x", "a/b.c", "z"):
        put(ObjectStore(direct), name, name.encode())
    files = list_files([direct])
    assert [(file.sample_id, file.nbytes) for file in files] == [("a.x", 3), ("a/b.c", 5), ("a/b/c", 5), ("z", 1)]
    for file in files:
        with open_file(file.uri) as (stream, _):
            assert not has_changed(file)
            stream.seek(0)
            assert stream.read().decode() == file.sample_id


def test_a_store_that_is_busy_for_a_while_is_asked_again(gate: Gate, address: str) -> None:
    put(ObjectStore(address), "x", b"content")
    gate.refused, gate.busy = 0, range(gate.asked, gate.asked + 3)
    assert ObjectStore(address).get("x") == b"content"
    assert gate.refused == len(gate.busy)


def test_a_store_that_stays_busy_is_one_clear_line(gate: Gate, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", ())  # its own client asks again for six seconds, beneath us
    gate.is_open = False
    began = time.monotonic()
    with pytest.raises(
        StorageError, match=r"cannot be read or written \(.*\): fix the cause and run the same command again"
    ):
        put(ObjectStore(address), "x", b"content")
    with pytest.raises(SampleError, match=UNREACHABLE), open_file(join_address(address, "x")):
        pytest.fail("read")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("failures", [0, 2, 3, 4])
def test_an_operation_is_tried_once_more_after_each_pause(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    attempts = iter(range(9))

    def fail_at_first() -> str:
        if next(attempts) < failures:
            raise OSError("busy")
        return "content"

    if failures <= 3:
        assert retrying(fail_at_first, "s3://b/x") == "content"
    else:
        with pytest.raises(StorageError, match=r"s3://b/x .* \(busy\)"):
            retrying(fail_at_first, "s3://b/x")
    assert next(attempts) == min(failures, 3) + 1


def test_what_a_store_refuses_is_not_asked_again(gate: Gate, address: str) -> None:
    with pytest.raises(StorageError) as refused:
        put(ObjectStore(address.replace("bucket/", "no-such-bucket/")), "a", b"")
    assert refused.value.final
    assert "NO_SUCH_BUCKET" in str(refused.value) or "its bucket does not exist" in str(refused.value)


def test_keys_in_an_address_are_refused_without_saying_them() -> None:
    with pytest.raises(UsageError) as refused, open_workspace("s3://key:sesame@bucket/x", ()):
        pytest.fail("taken")
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("gate", ["s3"], indirect=True)
def test_a_read_that_breaks_in_the_middle_goes_on(gate: Gate, address: str) -> None:
    data = bytes(range(256)) * 2**12
    put(ObjectStore(address), "scan", data)
    with open_file(join_address(address, "scan")) as (stream, size):
        assert size == len(data)
        stream.seek(0)
        first = stream.read(1000)
        gate.is_open = False
        threading.Timer(1.5, lambda: setattr(gate, "is_open", True)).start()
        assert first + stream.read(-1) == data


class Interrupted(io.BytesIO):
    """Bytes in whose middle somebody presses Ctrl-C."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise KeyboardInterrupt
        return super().read(size)


def test_a_write_that_is_interrupted_leaves_no_half_object(address: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        ObjectStore(address).put("x", Interrupted(bytes(2**25)))
    assert ObjectStore(address).names() == {}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (PermissionError, "PERMISSION_DENIED"),
        (PermissionError, "UNAUTHENTICATED"),
        (pa.ArrowInvalid, "INVALID_ARGUMENT"),
    ],
)
def test_what_googles_store_refuses_is_one_line(kind: type[Exception], code: str) -> None:
    """As its client says it, in pyarrow 26."""
    asked = []

    def refused() -> None:
        asked.append(code)
        raise kind(
            f"google::cloud::Status({code}: Permanent error, with a last message of you may not "
            "error_info={reason=, domain=, metadata={gcloud-cpp.retry.function=ReadObject}})"
        )

    with pytest.raises(StorageError) as failed:
        retrying(refused, "gs://b/x")
    assert str(failed.value) == f"gs://b/x cannot be read or written ({code}: you may not): fix the cause and {RERUN}"
    assert failed.value.final
    assert asked == [code]
