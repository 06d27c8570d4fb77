"""A decoder that dies, hangs or prints costs one file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from brainscale.config.sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox
from tests.support.images import write_image

ODD_CHILD = """
import ctypes, os, sys, time
from brainscale.reading.sandbox import limit_memory, serve
def handler_of(settings):
    limit_memory(512)
    def handle(facts, blob):
        print("noise on standard output"); os.write(1, b"more")
        if facts["do"] == "crash": ctypes.string_at(0)
        if facts["do"] == "hang": time.sleep(60)
        if facts["do"] == "eat": facts = {"did": type(grab()).__name__}
        for i in range(facts.get("times", 1)):
            yield {**facts, **settings, "i": i, "pid": os.getpid()}, bytes(blob)
    return handle
def grab():
    try: return bytearray(2**31)
    except MemoryError as error: return error
serve(handler_of)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    (tmp_path / "odd_child.py").write_text(ODD_CHILD)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    child = Sandbox("odd_child", {"set": 1}, seconds=10)
    yield child
    child.close()


def test_answers_come_back_with_facts_and_bytes(child: Sandbox) -> None:
    blob = bytes(range(256)) * 10_000
    answers = [(facts, bytes(data)) for facts, data in child.ask({"do": "echo", "times": 3}, blob)]
    assert [facts["i"] for facts, _ in answers] == [0, 1, 2]
    assert all(data == blob and facts["set"] == 1 for facts, data in answers)


def test_a_crash_costs_one_request(child: Sandbox) -> None:
    ((before, _),) = child.ask({"do": "echo"}, b"")
    with pytest.raises(SampleError, match=r"decoder_crashed: the file crashed its decoder \(SIGSEGV\)"):
        list(child.ask({"do": "crash"}, b""))
    ((after, _),) = child.ask({"do": "echo"}, b"")
    assert after["pid"] != before["pid"]


def test_memory_is_limited(child: Sandbox) -> None:
    ((facts, _),) = child.ask({"do": "eat"}, b"")
    assert facts["did"] == "MemoryError"


def test_a_child_that_hangs_is_ended_in_time(tmp_path: Path, child: Sandbox) -> None:
    hasty = Sandbox("odd_child", {}, seconds=3)
    assert list(hasty.ask({"do": "echo"}, b""))
    with pytest.raises(SampleError, match="timed_out: decoding took more than limits.seconds = 3"):
        list(hasty.ask({"do": "hang"}, b""))
    hasty.close()


def test_answers_that_were_not_all_read_mix_with_no_other_request(child: Sandbox) -> None:
    next(child.ask({"do": "echo", "times": 5}, b"first"))
    ((facts, data),) = child.ask({"do": "echo"}, b"second")
    assert bytes(data) == b"second"
    assert facts["i"] == 0


CRASHES = """
import ctypes, sys
if any(argument.endswith("brainscale.reading.decoder") for argument in sys.orig_argv):
    from brainscale.reading.formats import raster
    real = raster.decode
    def decode(data, *rest):
        if b"deadly" in data: ctypes.string_at(0)
        return real(data, *rest)
    raster.decode = decode
"""


def test_a_file_that_crashes_its_decoder_is_a_sample_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segmentation fault is real: a start-up file makes the decoder's process have one."""
    for i in range(3):
        write_image(tmp_path / "scans" / f"{i}.png", seed=i)
    deadly = tmp_path / "scans" / "1.png"
    deadly.write_bytes(deadly.read_bytes() + b"deadly")
    (tmp_path / "sitecustomize.py").write_text(CRASHES)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    request = ReadRequest(preprocess=PreprocessConfig(), key=b"a decoder of this test alone")
    first, second, third = read_samples(tmp_path / "scans", request)
    assert (first.error_code, second.error_code, third.error_code) == (None, "decoder_crashed", None)
    assert "SIGSEGV" in (second.error or "")
    assert third.plane is not None
