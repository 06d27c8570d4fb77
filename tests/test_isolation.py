"""A decoder that dies, hangs or prints costs one file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from brainscale.errors import SampleError
from brainscale.isolation import Child

ODD_CHILD = """
import ctypes, os, sys, time
from brainscale.isolation import bound_memory, serve
def handler_of(settings):
    bound_memory(512)
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
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    (tmp_path / "odd_child.py").write_text(ODD_CHILD)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    child = Child("odd_child", {"set": 1}, seconds=10)
    yield child
    child.close()


def test_answers_come_back_with_facts_and_bytes(child: Child) -> None:
    blob = bytes(range(256)) * 10_000
    answers = [(facts, bytes(data)) for facts, data in child.ask({"do": "echo", "times": 3}, blob)]
    assert [facts["i"] for facts, _ in answers] == [0, 1, 2]
    assert all(data == blob and facts["set"] == 1 for facts, data in answers)


def test_a_crash_costs_one_request(child: Child) -> None:
    ((before, _),) = child.ask({"do": "echo"}, b"")
    with pytest.raises(SampleError, match=r"decoder_crashed: the decoder died of it \(SIGSEGV\)"):
        list(child.ask({"do": "crash"}, b""))
    ((after, _),) = child.ask({"do": "echo"}, b"")
    assert after["pid"] != before["pid"]


def test_memory_is_bounded(child: Child) -> None:
    ((facts, _),) = child.ask({"do": "eat"}, b"")
    assert facts["did"] == "MemoryError"


def test_a_hang_ends(tmp_path: Path, child: Child) -> None:
    hasty = Child("odd_child", {}, seconds=3)
    assert list(hasty.ask({"do": "echo"}, b""))
    with pytest.raises(SampleError, match="timed_out: decoding took more than 3 seconds"):
        list(hasty.ask({"do": "hang"}, b""))
    hasty.close()


def test_an_answer_that_is_not_heard_to_its_end_mixes_with_no_other(child: Child) -> None:
    next(child.ask({"do": "echo", "times": 5}, b"first"))
    ((facts, data),) = child.ask({"do": "echo"}, b"second")
    assert bytes(data) == b"second"
    assert facts["i"] == 0
