"""The log of looks at a test set: counted by samples and model, readable whatever happened to it; no Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import StorageError
from brainscale.evaluation.look_log import LOG, LookCount, log_look, read_looks

SAMPLES = ["b" * 64, "a" * 64]


def test_a_look_is_counted_once_for_each_model_and_samples(tmp_path: Path) -> None:
    assert log_look(tmp_path, SAMPLES, "one", "a") == LookCount(looks=1)
    assert log_look(tmp_path, SAMPLES[::-1], "one", "b") == LookCount(looks=1)
    assert log_look(tmp_path, SAMPLES, "two", "c") == LookCount(looks=2)
    assert log_look(tmp_path, SAMPLES[:1], "two", "d") == LookCount(looks=1)
    assert log_look(tmp_path, SAMPLES, "one", "e") == LookCount(looks=2)
    assert [json.loads(line)["out"] for line in (tmp_path / LOG).read_text().splitlines()] == ["a", "c", "d"]


@given(st.binary(max_size=60))
def test_a_damaged_line_costs_a_note_and_no_look(tmp_path_factory: pytest.TempPathFactory, damage: bytes) -> None:
    """Any bytes between two lines, or in place of the end of the last one."""
    run = tmp_path_factory.mktemp("run")
    log_look(run, SAMPLES, "one", "a")
    line = (run / LOG).read_bytes()
    damage = damage.replace(b"\n", b"x")
    (run / LOG).write_bytes(line + damage)
    notices: list[str] = []
    assert log_look(run, SAMPLES, "two", "b", on_notice=notices.append).looks == 2
    assert log_look(run, SAMPLES, "two", "b", on_notice=notices.append).looks == 2
    looks, _ = read_looks(run)
    assert [look.model for look in looks] == ["one", "two"]
    note = f"Note: {run.name}/{LOG}: line 2 is damaged and not counted as a look at the test set."
    assert notices == ([note, note] if damage.strip() else [])


def test_a_last_line_that_was_written_in_part_stays_apart_from_the_next(tmp_path: Path) -> None:
    log_look(tmp_path, SAMPLES, "one", "a")
    log_look(tmp_path, SAMPLES, "two", "b")
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole[:-30])
    notices: list[str] = []
    assert log_look(tmp_path, SAMPLES, "three", "c", on_notice=notices.append).looks == 2
    assert len(notices) == 1
    assert (tmp_path / LOG).read_bytes().startswith(whole[:-30] + b"\n{")
    assert [look.model for look in read_looks(tmp_path)[0]] == ["one", "three"]


@pytest.mark.parametrize("line", ["[]", "{}", "null", '{"time": "", "samples": 1, "model": "m", "out": "o"}'])
def test_json_that_is_no_look_is_damaged(tmp_path: Path, line: str) -> None:
    (tmp_path / LOG).write_text(f"{line}\n{line}\n")
    looks, notes = read_looks(tmp_path)
    assert (looks, len(notes)) == ([], 1)
    assert "2 lines, the first of them 1, are damaged" in notes[0]


def test_a_log_that_is_no_file_costs_a_note(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    notices: list[str] = []
    counted = log_look(tmp_path, SAMPLES, "one", "a", on_notice=notices.append)
    assert counted == LookCount(looks=1, not_logged="the run cannot be written (Is a directory)")
    assert [text.split(":")[0] for text in notices] == ["Note", "Note"]


def test_a_store_that_refuses_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StorageError("refused", final=True)

    counted = log_look(tmp_path, SAMPLES, "one", "a", publish=refuse)
    assert counted.looks == 1
    assert counted.not_logged == "the run cannot be written (its object store does not accept it)"
    assert not (tmp_path / LOG).exists()
    log_look(tmp_path, SAMPLES, "one", "a")
    before = (tmp_path / LOG).read_bytes()
    assert log_look(tmp_path, SAMPLES, "two", "b", publish=refuse).looks == 2
    assert (tmp_path / LOG).read_bytes() == before


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from brainscale.evaluation.look_log import log_look
from brainscale.errors import OutputError
from brainscale.storage.local import write_json
run = Path(sys.argv[1])
if subprocess.run(["mount", "--bind", run, run]).returncode or subprocess.run(
    ["mount", "-o", "remount,ro,bind", run, run]
).returncode:
    sys.exit(77)
print(log_look(run, ["a"], "one", "a", on_notice=print))
try:
    write_json(run / "card.json", {})
except OutputError as error:
    print(error)
"""


def test_a_read_only_run_stays_as_it_is(tmp_path: Path) -> None:
    """On a read-only mount, where even root may not write."""
    run = tmp_path / "run"
    run.mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", READ_ONLY, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("NOT TESTED: this machine does not allow a mount of one's own")
    assert done.returncode == 0, done.stderr
    notice, counted, refused = done.stdout.splitlines()
    assert notice == (
        "Note: the run run cannot be written (Read-only file system): this look at its test set is not counted there."
    )
    assert counted == "LookCount(looks=1, not_logged='the run cannot be written (Read-only file system)')"
    assert "card.json cannot be written (Read-only file system)" in refused
    assert not list(run.iterdir())
