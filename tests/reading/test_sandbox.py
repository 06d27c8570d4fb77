"""A decoder that dies, hangs, prints or is taken over costs one file, and knows nothing of its parent."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError, StorageError
from brainscale.reading.children import decoder_of
from brainscale.reading.confinement import Confinement, confine
from brainscale.reading.reader import MAX_CRASHES, read_file, read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.sources import list_files
from brainscale.reading.spawning import KEEP_MEMORY
from tests.support.files import tarred, zipped
from tests.support.images import write_image
from tests.support.series import as_series, phantom

ODD_CHILD = """
import ctypes, os, socket, subprocess, sys, time
from pathlib import Path
from brainscale.reading.libraries import limit_memory
from brainscale.reading.serving import serve
def handler_of(settings):
    limit_memory(512)
    def handle(facts, stream):
        do = facts["do"]
        print("noise on standard output"); os.write(1, b"more")
        if do == "crash": ctypes.string_at(0)
        if do == "hang": time.sleep(60)
        if do == "spin":
            while True: pass
        if do == "babble": facts = {"much": "x" * 2**25}
        if do == "eat": facts = {"did": outcome(bytearray, 2**31)}
        if do == "environment": facts = {"environment": dict(os.environ), "folder": os.getcwd()}
        if do == "escape": facts = {name: outcome(*attempt) for name, attempt in attempts(facts).items()}
        if do == "count":
            while stream.read(10): time.sleep(0.02)
        for i in range(facts.get("times", 1)):
            yield {**facts, **settings, "i": i, "pid": os.getpid()}, stream.read(2**22)
    return handle
def attempts(facts):
    return {
        "read a file": (Path(facts["secret"]).read_text,),
        "list a folder": (os.listdir, "/"),
        "read the parent's environment": (Path(f"/proc/{os.getppid()}/environ").read_bytes,),
        "write a file": (Path(facts["aside"]).write_text, "x"),
        "write to a library": (open, ctypes.__file__, "a"),
        "delete a file": (os.unlink, facts["secret"]),
        "open a socket": (socket.socket,),
        "open a local socket": (socket.socketpair,),
        "start a program": (subprocess.run, ["/bin/true"]),
        "fork": (os.fork,),
        "end the parent": (os.kill, os.getppid(), 0),
        "end the parent by a thread": (call, 234, os.getppid(), os.getppid(), 0),
        "limit the parent": (call, 302, os.getppid(), 0, 0, 0),
        "look into the parent": (call, 101, 16, os.getppid(), 0, 0),
        "make a ring": (call, 425, 1, bytes(120)),
        "read a library": (Path(ctypes.__file__).read_text,),
        "start a thread": (thread,),
    }
def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0: raise OSError(ctypes.get_errno(), "no")
def thread():
    import threading
    one = threading.Thread(target=lambda: None); one.start(); one.join()
def outcome(function, *arguments):
    try: function(*arguments)
    except Exception as error: return type(error).__name__
    except MemoryError: return "MemoryError"
serve(handler_of)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    (tmp_path / "odd_child.py").write_text(ODD_CHILD)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    child = Sandbox("odd_child", {"set": 1}, seconds=10)
    yield child
    child.close()


def blob(data: bytes = b"") -> io.BytesIO:
    return io.BytesIO(data)


def test_answers_come_back_with_facts_and_bytes(child: Sandbox, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    for stream in (blob(data), (tmp_path / "file").open("rb")):
        with stream:
            answers = list(child.ask({"do": "echo", "times": 3}, stream))
            assert [facts["i"] for facts, _ in answers] == [0, 1, 2]
            assert [bytes(part) for _, part in answers] == [data, b"", b""]
            assert all(facts["set"] == 1 for facts, _ in answers)


def test_a_crash_costs_one_request(child: Sandbox) -> None:
    ((before, _),) = child.ask({"do": "echo"}, blob())
    with pytest.raises(SampleError, match=r"decoder_crashed: the file crashed its decoder \(SIGSEGV\)"):
        list(child.ask({"do": "crash"}, blob()))
    ((after, _),) = child.ask({"do": "echo"}, blob())
    assert after["pid"] != before["pid"]


def test_memory_is_limited(child: Sandbox) -> None:
    ((facts, _),) = child.ask({"do": "eat"}, blob())
    assert facts["did"] == "MemoryError"


def test_a_child_that_hangs_is_ended_in_time(child: Sandbox) -> None:
    hasty = Sandbox("odd_child", {}, seconds=3)
    assert list(hasty.ask({"do": "echo"}, blob()))
    with pytest.raises(SampleError, match="timed_out: decoding took more than limits.seconds = 3"):
        list(hasty.ask({"do": "hang"}, blob()))
    hasty.close()


def test_a_child_that_computes_without_end_is_ended_by_the_kernel(child: Sandbox) -> None:
    """Even if its parent is gone: here, the parent waits longer than the child may compute."""
    patient = Sandbox("odd_child", {}, seconds=1)
    patient.start()
    link = patient._socket
    assert link is not None
    link.settimeout(60)
    began = time.monotonic()
    with pytest.raises(SampleError, match="timed_out: decoding took more than limits.seconds = 1"):
        list(patient.ask({"do": "spin"}, blob()))
    assert time.monotonic() - began < 50
    patient.close()


def test_a_file_that_takes_long_to_read_is_not_taken_for_one_that_hangs(tmp_path: Path, child: Sandbox) -> None:
    slow, path = Sandbox("odd_child", {}, seconds=2), tmp_path / "file"
    path.write_bytes(bytes(2000))
    began = time.monotonic()
    with path.open("rb") as stream:
        list(slow.ask({"do": "count"}, stream))
    assert time.monotonic() - began > 3.5
    slow.close()


def test_a_child_that_was_taken_over_cannot_exhaust_its_parent(child: Sandbox) -> None:
    with pytest.raises(SampleError, match="decoder_crashed: the decoder's answer makes no sense"):
        list(child.ask({"do": "babble"}, blob()))


def test_answers_that_were_not_all_read_mix_with_no_other_request(child: Sandbox) -> None:
    next(child.ask({"do": "echo", "times": 5}, blob(b"first")))
    ((facts, data),) = child.ask({"do": "echo"}, blob(b"second"))
    assert bytes(data) == b"second"
    assert facts["i"] == 0


def test_a_child_knows_nothing_of_its_parents_environment(
    child: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("BRAINSCALE_PATIENT_KEY", "another secret of some length")
    ((facts, _),) = child.ask({"do": "environment"}, blob())
    known = {"PYTHONPATH", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert set(facts["environment"]) - {"LD_LIBRARY_PATH", "PYTHONHOME", "LC_CTYPE"} <= known | set(KEEP_MEMORY)
    assert "secret" not in str(facts["environment"])
    assert facts["folder"] == "/"
    assert child._process is not None
    assert b"secret" not in Path(f"/proc/{child._process.pid}/cmdline").read_bytes()


def test_a_folder_with_a_librarys_name_beside_the_user_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dl", "numpy", "PIL"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not the library')")
    write_image(tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    request = ReadRequest(preprocess=PreprocessConfig(), key=str(tmp_path).encode(), hashes=True)
    (sample,) = read_samples("scan.png", request)
    assert (sample.error_code, len(sample.phash or "")) == (None, 16)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux confines a process so")
def test_a_child_cannot_get_out(child: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_text("not for decoders")
    confinement = child.start()
    request = {"do": "escape", "secret": str(secret), "aside": str(tmp_path / "aside")}
    ((facts, _),) = child.ask(request, blob())
    outcomes = {name: facts[name] for name in facts if " " in name or name == "fork"}
    assert (outcomes.pop("read a library"), outcomes.pop("start a thread")) == (None, None)
    of_files = {"read a file", "list a folder", "read the parent's environment"}
    if not confinement.files:
        outcomes = {name: outcome for name, outcome in outcomes.items() if name not in of_files}
    if confinement.network:
        assert set(outcomes.values()) == {"PermissionError"}, outcomes
    assert secret.exists()
    assert not (tmp_path / "aside").exists()
    print(confinement)  # noqa: T201


def test_where_the_kernel_offers_nothing_files_are_decoded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert confine([]) == Confinement()


def test_a_decoder_that_does_not_start_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"decoder_crashed: the decoder does not start \(exit status 1\)"):
        list(Sandbox("no_such_module", {}, seconds=10).ask({}, blob()))


CRASHES = """
import ctypes, os, runpy, time
from brainscale.reading import archives, decoder
from brainscale.reading.formats import raster
real = raster.decode
def decode(data, *rest):
    if b"deadly" in data: ctypes.string_at(0)
    if b"endless" in data: time.sleep(60)
    yield from real(data, *rest)
    if b"late" in data: ctypes.string_at(0)
raster.decode = decode
real_name = archives.as_text
def as_text(name):
    if "trap" in name: os.abort()
    return real_name(name)
archives.as_text = as_text
decoder.serve(decoder._make_handler)
"""


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadRequest:
    """A decoder in which files with certain words have real segmentation faults, and what to ask of it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "crashing_decoder.py").write_text(CRASHES)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr("brainscale.reading.children.DECODER", "crashing_decoder")
    return ReadRequest(preprocess=PreprocessConfig(image_size=64), key=str(tmp_path).encode())


def image(tmp_path: Path, *words: bytes) -> bytes:
    return write_image(tmp_path / "one.png").read_bytes() + b"".join(words)


def outcomes(path: Path, request: ReadRequest) -> dict[str, str | None]:
    samples = list(read_samples(path, request))
    assert len({sample.sample_id for sample in samples}) == len(samples)
    assert all((sample.plane is None) == (sample.error_code is not None) for sample in samples)
    return {sample.sample_id: sample.error_code for sample in samples}


def test_a_decoder_that_was_killed_between_two_files_costs_none(tmp_path: Path, crashing: ReadRequest) -> None:
    (tmp_path / "one.png").write_bytes(image(tmp_path))
    (file,) = list_files([str(tmp_path / "one.png")])
    for _ in range(3):
        assert [sample.error_code for sample in read_file(file, crashing)] == [None]
        pid = decoder_of(crashing).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_file_that_crashes_its_decoder_is_a_sample_with_an_error(tmp_path: Path, crashing: ReadRequest) -> None:
    (tmp_path / "scans").mkdir()
    for i in range(3):
        (tmp_path / "scans" / f"{i}.png").write_bytes(image(tmp_path, b"deadly" if i == 1 else b""))
    first, second, third = read_samples(tmp_path / "scans", crashing)
    assert (first.error_code, second.error_code, third.error_code) == (None, "decoder_crashed", None)
    assert "SIGSEGV" in (second.error or "")
    assert (second.sha256, second.nbytes) == (sha256(image(tmp_path, b"deadly")).hexdigest(), second.nbytes)
    assert third.plane is not None


def test_a_member_that_crashes_its_decoder_costs_no_other_member(tmp_path: Path, crashing: ReadRequest) -> None:
    files = {f"{i}.png": image(tmp_path, {1: b"deadly", 3: b"late"}.get(i, b"")) for i in range(6)}
    for name, pack in (("a.zip", zipped), ("a.tar", tarred)):
        (tmp_path / name).write_bytes(pack(files | {"in.zip": zipped({"x.png": image(tmp_path, b"deadly")})}))
        assert outcomes(tmp_path / name, crashing) == {
            f"{name}!0.png": None,
            f"{name}!1.png": "decoder_crashed",
            f"{name}!2.png": None,
            f"{name}!3.png": None,  # its only picture was there before the crash
            f"{name}!4.png": None,
            f"{name}!5.png": None,
            f"{name}!in.zip!x.png": "decoder_crashed",
        }


def test_slices_that_were_kept_before_a_crash_are_read_again(tmp_path: Path, crashing: ReadRequest) -> None:
    slices = {f"{i:02}": data for i, data in enumerate(as_series(phantom()))}
    (tmp_path / "whole.zip").write_bytes(zipped(slices))
    expected = {s.sample_id.removeprefix("whole"): s for s in read_samples(tmp_path / "whole.zip", crashing)}
    for name, pack in (("a.zip", zipped), ("a.tar", tarred)):
        (tmp_path / name).write_bytes(pack(slices | {"06x.png": image(tmp_path, b"deadly"), "zz.png": image(tmp_path)}))
        found = {s.sample_id: s for s in read_samples(tmp_path / name, crashing)}
        assert found.pop(f"{name}!06x.png").error_code == "decoder_crashed"
        assert found.pop(f"{name}!zz.png").error_code is None
        assert len(found) == len(expected)
        for sample_id, one in found.items():
            other = expected[f".zip!{sample_id.partition('!')[2]}"]
            assert (one.slice_index, one.window_high, one.waiting) == (other.slice_index, other.window_high, None)
            assert np.array_equal(one.plane, other.plane)


def test_an_archive_that_crashes_its_unpacking_is_one_row_beside_its_members(
    tmp_path: Path, crashing: ReadRequest
) -> None:
    files = {"0.png": image(tmp_path), "1.png": image(tmp_path), "trap": b"", "2.png": image(tmp_path)}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    assert outcomes(tmp_path / "a.zip", crashing) == {
        "a.zip!0.png": None,
        "a.zip!1.png": None,
        "a.zip": "decoder_crashed",
    }
    wanted = ("a.zip!0.png", "a.zip!2.png")
    (file,) = list_files([str(tmp_path / "a.zip")])
    read = {s.sample_id: s.error_code for s in read_file(replace(file, sample_ids=wanted), crashing)}
    assert read == {"a.zip!0.png": None, "a.zip!2.png": "decoder_crashed"}


def test_an_archive_of_nothing_but_crashes_is_given_up(tmp_path: Path, crashing: ReadRequest) -> None:
    (tmp_path / "a.zip").write_bytes(
        zipped({f"{i:02}.png": image(tmp_path, b"deadly") for i in range(MAX_CRASHES + 5)})
    )
    ids = [f"a.zip!{i:02}.png" for i in range(MAX_CRASHES)]
    assert outcomes(tmp_path / "a.zip", crashing) == dict.fromkeys([*ids, "a.zip"], "decoder_crashed")


def test_a_member_that_takes_too_long_costs_no_other(tmp_path: Path, crashing: ReadRequest) -> None:
    request = replace(crashing, limits=LimitsConfig(seconds=2))
    (tmp_path / "a.zip").write_bytes(zipped({"0.png": image(tmp_path, b"endless"), "1.png": image(tmp_path)}))
    assert outcomes(tmp_path / "a.zip", request) == {"a.zip!0.png": "timed_out", "a.zip!1.png": None}


def test_a_decoder_killed_from_outside_costs_one_row(tmp_path: Path, crashing: ReadRequest) -> None:
    """As the kernel does when memory runs out."""
    (tmp_path / "a.zip").write_bytes(zipped({f"{i}.png": image(tmp_path) for i in range(800)}))
    codes: list[str | None] = []
    for sample in read_samples(tmp_path / "a.zip", crashing):
        codes.append(sample.error_code)
        if len(codes) == 10:
            process = decoder_of(crashing)._process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
    assert len(codes) == 800
    assert sorted(set(codes), key=str) in ([None, "decoder_crashed"], [None])
    assert codes.count("decoder_crashed") <= 1


class Stored(io.BytesIO):
    """An object in a store: no file of this machine. It stops answering after some bytes."""

    def __init__(self, data: bytes, answered: int) -> None:
        super().__init__(data)
        self.requests, self._answered = 0, answered

    def read(self, size: int | None = -1, /) -> bytes:
        self.requests += 1
        if self.tell() >= self._answered:
            raise StorageError("the store does not answer")
        return super().read(size)


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: gzip.compress(tarred(files))])
def test_an_object_in_a_store_is_read_by_ranges_that_the_parent_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(
        pack({f"{i}.png": write_image(tmp_path / "one.png", i, (400, 300)).read_bytes() for i in range(40)})
    )
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64))
    local = list(read_samples(path, request))
    stored = Stored(path.read_bytes(), 10**9)
    monkeypatch.setattr("brainscale.reading.sources._open", lambda uri: stored)
    away = list(read_samples(path, request))
    assert [(s.sample_id, s.sha256, s.nbytes) for s in away] == [(s.sample_id, s.sha256, s.nbytes) for s in local]
    assert all(np.array_equal(one.plane, other.plane) for one, other in zip(away, local, strict=True))
    assert len(local) == 40
    assert stored.requests < 12 + len(path.read_bytes()) / 2**17

    fails = Stored(path.read_bytes(), path.stat().st_size // 2)
    monkeypatch.setattr("brainscale.reading.sources._open", lambda uri: fails)
    *before, last = read_samples(path, request)
    assert (last.sample_id, last.error_code) == ("a.pack", "store_unreachable")
    assert not {sample.error_code for sample in before} - {None}


def test_the_parent_opens_no_archive(tmp_path: Path) -> None:
    """Neither its libraries nor the formats' are loaded in the process that has the credentials."""
    code = "import sys; from brainscale.reading import reader; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"brainscale.reading.archives", "brainscale.reading.zip_entries", "nibabel", "pydicom"} & set(loaded)


def test_memory_of_parent_and_child_at_their_peak(tmp_path: Path) -> None:
    """A sparse tar, a bomb and a zip of many entries: neither process grows by more than an archive's allowance."""
    bomb = gzip.compress(bytes(400 * 2**20))
    many = zipped({str(i): b"" for i in range(20_000)})
    (tmp_path / "bomb.gz").write_bytes(bomb)
    (tmp_path / "many.zip").write_bytes(many)
    code = """
import resource, sys
from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.reading import reader
from brainscale.reading.children import decoder_of
from brainscale.reading.request import ReadRequest
request = ReadRequest(preprocess=PreprocessConfig(), limits=LimitsConfig(ratio=1))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
sandbox = decoder_of(request)
sandbox.start()
child = lambda: int(next(l.split()[1] for l in open(f"/proc/{sandbox._process.pid}/status") if "VmHWM" in l)) // 1024
child_before = child()
rows = sum(1 for _ in reader.read_samples(sys.argv[1], request))
print(rows, peak() - before, child() - child_before)
"""
    for name in ("bomb.gz", "many.zip"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows, parent, child = map(int, done.stdout.split())
        print(f"{name}: {rows} rows; the parent grew by {parent} MiB, the child by {child} MiB")  # noqa: T201
        assert parent < 40
        assert child < 250
