"""One command at a time trains in a run folder, on a disk and in a store."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brainscale.errors import OutputError
from brainscale.storage.remote import ObjectStore
from brainscale.storage.workspace import Workspace
from brainscale.training import owner
from brainscale.training.owner import OWNERS, Owner, own_run


@pytest.fixture(params=["disk", "store"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A run folder on a disk, or in a store; owners are taken for dead after a second."""
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(owner, "STALE_SECONDS", 1.0)
    (tmp_path / OWNERS).mkdir()
    return Workspace(tmp_path, ObjectStore(f"file://{tmp_path}") if request.param == "store" else None)


def claims(run: Workspace) -> list[Path]:
    return sorted((run.path / OWNERS).glob("*"))


def write_claim(run: Workspace, *, name: str = "other", **changes: object) -> Path:
    """A claim of another machine that holds the run, with changes."""
    claim = {"host": "elsewhere", "name": "node-7", "pid": 12, "started": "34", "beats": "0", "holds": 1, **changes}
    (run.path / OWNERS).mkdir(exist_ok=True)
    path = run.path / OWNERS / f"{name}.json"
    path.write_text(json.dumps(claim))
    return path


def test_a_second_command_is_refused_while_the_first_works(run: Workspace) -> None:
    text = rf"another command \(process {os.getpid()} on .*\) already trains in .*: wait for its end, or choose"
    with own_run(run):
        first = claims(run)
        with pytest.raises(OutputError, match=text), own_run(run):
            pass
        assert claims(run) == first  # the second leaves nothing behind
    assert claims(run) == []
    with own_run(run):
        pass


def test_the_claim_of_a_process_that_was_killed_is_removed_at_once(run: Workspace) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    alive = owner._describe_process(child.pid)
    write_claim(run, **alive)
    with pytest.raises(OutputError, match=f"process {child.pid} on"), own_run(run):
        pass
    child.kill()
    child.wait()
    said: list[str] = []
    with own_run(run, said.append):
        assert len(claims(run)) == 1
    assert said == []
    write_claim(run, **{**alive, "pid": os.getpid()})  # the number of the process was used again
    with own_run(run):
        pass


def test_an_owner_on_another_machine_counts_as_dead_when_it_stands_still(run: Workspace) -> None:
    write_claim(run)
    said: list[str] = []
    with own_run(run, said.append):
        assert len(claims(run)) == 1
    assert len(said) == 1
    assert said[0].startswith("waiting 1 s to see whether another command (process 12 on node-7) still trains in ")


def test_an_owner_on_another_machine_that_works_is_left_alone(run: Workspace) -> None:
    path = write_claim(run)
    timer = threading.Timer(0.3, lambda: path.write_text(path.read_text().replace('"0"', '"1"')))
    timer.start()
    with pytest.raises(OutputError, match=r"process 12 on node-7\) already trains"), own_run(run):
        pass
    assert claims(run) == [path]


def test_two_that_begin_together_never_both_get_the_run(run: Workspace) -> None:
    """Each as if on a machine of its own, several times."""
    both = threading.Barrier(2)
    for _ in range(3):
        got: list[str] = []
        both_done = threading.Event()

        def begin(name: str, got: list[str] = got, both_done: threading.Event = both_done) -> None:
            one = Owner(owner._claims_of(run), str(run), lambda text: None, f"{name}.json")
            both.wait()
            try:
                one.acquire()
            except OutputError:
                return
            got.append(name)
            both_done.wait(5)
            one.release()

        threads = [threading.Thread(target=begin, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        both_done.set()
        for thread in threads:
            thread.join()
        assert len(got) <= 1


@pytest.mark.parametrize("how", ["removed", "held"])
def test_a_command_that_stood_still_ends_when_another_took_over(run: Workspace, how: str) -> None:
    started = time.monotonic()
    with (
        pytest.raises(OutputError, match="was taken over by another command, because this one stood still"),
        own_run(run),
    ):
        if how == "removed":
            claims(run)[0].unlink()
        else:
            write_claim(run)
        time.sleep(20)  # the work, which is interrupted
    assert time.monotonic() - started < 10


def test_an_interrupt_of_a_person_stays_one(run: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt), own_run(run):
        raise KeyboardInterrupt
    assert claims(run) == []
