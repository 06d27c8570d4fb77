"""Standard error as one JSON object a line; standard output as ever."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale import logs
from brainscale.cli import progress as shown
from brainscale.cli.progress import format_log_line, show_job_log, show_progress
from brainscale.dataset.columns import replace_column
from brainscale.logs import notice
from brainscale.scoring.result import Amount
from tests.support.manifests import manifest
from tests.support.runs import Invoke


def lines(text: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(list(line)[:3] == ["time", "level", "event"] for line in found)
    return found


def test_errors_and_facts_are_objects_and_the_result_stays(invoke: Invoke, tmp_path: Path) -> None:
    table = manifest([(i, "tumour" if i % 2 else "no_tumour", False) for i in range(20)])
    patients = pa.array([f"patient {i}" for i in range(20)])
    pq.write_table(replace_column(table, "patient", patients), tmp_path / "m")
    out = tmp_path / "s.parquet"
    arguments = ["split", tmp_path / "m", "--out", out, "--overwrite"]
    plain, done = invoke(*arguments), invoke("--log-format", "json", *arguments)
    assert (done.exit_code, done.stdout) == (0, plain.stdout)
    what, line, then = lines(done.stderr)
    assert [str(one["message"]) for one in (what, then)] == plain.stderr.splitlines()
    assert (line["level"], line["event"], line["facts"]["manifest"]) == ("info", "done", str(out))  # type: ignore[index]
    assert lines(invoke(*arguments, "--log-format", "json").stderr)[1]["facts"] == line["facts"]
    assert invoke("config", "show", "demo", "--log-format", "xml").exit_code == 2
    for wrong, status in ((["split", "none", "--out", "y.parquet"], 1), (["bogus"], 2), (["train"], 2)):
        failed = invoke("--log-format", "json", *wrong)
        (line,) = lines(failed.stderr)
        assert (failed.exit_code, failed.stdout, line["level"], line["exit_status"]) == (status, "", "error", status)
        assert line["message"]
        assert "Error:" not in str(line["message"])
    assert invoke("split", "none", "--out", "y.parquet").stderr.startswith(
        "Error: "
    )  # one call's choice is not the next's


def speak(seconds: float) -> None:
    """Show an epoch, a notice and the progress of scoring, for as long as progress is told once."""
    row = dict.fromkeys(("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"), 0.5)
    with show_progress() as display:
        display.show_epoch({"epoch": 1, "best": True, **row}, 3)
        notice("worker 0 failed")
        display.start_scoring(Amount(files=4, nbytes=400), Amount())
        display.advance_scoring(Amount(files=2, nbytes=100, rows=3, errors=1))
        time.sleep(1.5 * seconds)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> float:
    """Time between two lines of progress, without a terminal."""
    for name in ("LINE_SECONDS", "OBJECT_SECONDS"):
        monkeypatch.setattr(shown, name, 0.4)
    return 0.4


def test_progress_is_objects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    speak(seconds)
    epoch, said, scored = lines(capsys.readouterr().err)
    assert (epoch["event"], epoch["epoch"], epoch["epochs"], epoch["val_loss"]) == ("epoch", 1, 3, 0.5)
    assert (said["event"], said["message"]) == ("notice", "worker 0 failed")
    assert (scored["event"], scored["stage"], scored["done"], scored["total"]) == ("progress", "scoring", 2, 4)
    assert (scored["nbytes"], scored["total_nbytes"], scored["samples"], scored["errors"]) == (100, 400, 3, 1)


def test_a_job_s_objects_read_like_the_command_s_own_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    speak(seconds)
    own = capsys.readouterr().err
    monkeypatch.setenv(logs.VARIABLE, "json")
    speak(seconds)
    job = capsys.readouterr().err
    monkeypatch.delenv(logs.VARIABLE)
    with show_job_log() as show:
        for line in [*job.splitlines(), "a line of Ray's", '{"no": "event"}']:
            show(line)
    rate = re.compile(r"[\d,.]+ samples/s|(, \d+ s left)?$", re.MULTILINE)
    lines_shown = capsys.readouterr().err
    assert rate.sub("", lines_shown) == rate.sub("", own) + "a line of Ray's\n" + '{"no": "event"}\n'
    assert len(own.splitlines()) == 3
    assert "scoring: 2/4 files, 0 kB of 0 kB" in own
    monkeypatch.setenv(logs.VARIABLE, "json")
    with show_job_log() as show:
        show(job.splitlines()[0])
        show("a line of Ray's")
    passed, said = lines(capsys.readouterr().err)
    assert passed == json.loads(job.splitlines()[0])
    assert (said["event"], said["message"]) == ("notice", "a line of Ray's")
    assert format_log_line(json.dumps({"event": "done", "facts": {}})) is None


def test_the_environment_asks_too() -> None:
    command = [sys.executable, "-m", "brainscale", "split", "none.parquet", "--out", "y.parquet"]
    done = subprocess.run(command, env=os.environ | {logs.VARIABLE: "json"}, capture_output=True, text=True)
    (line,) = lines(done.stderr)
    assert (done.returncode, line["event"], line["exit_status"]) == (1, "error", 1)


def test_a_terminal_obeys_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.log("error", "Error: a\x1b[31m\nb\u202e is missing")
    assert capsys.readouterr().err == "Error: a\\x1b[31m\\nb\\u202e is missing\n"
