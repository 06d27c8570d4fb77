"""Pieces run in children that are paused, stopped and resumed; time limits and budgets; nothing is trained here."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brainscale.errors import OutputError, UsageError
from brainscale.evaluation.study import processes, runs
from brainscale.evaluation.study.budget import (
    DEFAULT_FLOPS_PER_SECOND,
    OVERHEAD_SECONDS,
    Estimator,
    count_operations,
    format_budget,
)
from brainscale.evaluation.study.pausing import VARIABLE, busy_file, hold_busy, is_busy
from brainscale.evaluation.study.processes import find_done, read_spent
from brainscale.evaluation.study.results import _require_budget
from brainscale.evaluation.study.runs import StudyPlan, choose_pieces, own_folder, run_pieces
from tests.support.studies import FOLDS, complete, plan, study

CHILD = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
request = json.loads((folder / "request.json").read_text())
steps = folder / "steps.txt"
for step in range(len(steps.read_text()) if steps.exists() else 0, {steps}):
    time.sleep(0.05)
    with steps.open("a") as file:
        file.write(".")
{end}
(folder / "_SUCCESS.json").write_text(json.dumps({{"identity": request["identity"], "format": 1}}))
"""
"""A piece of some steps, each of which is kept when it is stopped."""
Child = Callable[..., None]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Replace the process of a piece by one that only counts steps."""

    def replace(steps: int = 1, end: str = "") -> None:
        path = tmp_path / "child.py"
        path.write_text(CHILD.format(steps=steps, end=end), encoding="utf-8")
        monkeypatch.setattr(processes, "CHILD", (str(path),))
        monkeypatch.setattr(processes, "POLL_SECONDS", 0.05)

    return replace


@pytest.fixture
def small(tmp_path: Path) -> StudyPlan:
    return plan(study(tmp_path), tmp_path / "out")


def run(small: StudyPlan, *, minutes: float | None = None, busy: Path | None = None) -> tuple[runs.Outcome, list[str]]:
    said: list[str] = []
    pieces = choose_pieces(small, (), ())
    return run_pieces(small, pieces, minutes=minutes, busy=busy, on_notice=said.append), said


def test_each_piece_is_run_once_and_its_time_is_kept(small: StudyPlan, child: Child) -> None:
    child()
    outcome, said = run(small)
    assert (outcome.finished, outcome.left, outcome.failures) == (4, 0, {})
    assert said[0].startswith("1 of 4: table/brainmrnet, seed 1, repeat 1, fold 1, about ")
    assert len(find_done(small.out)) == 4
    for piece in choose_pieces(small, (), ()):
        spent = read_spent(small.out / piece.folder)
        assert spent.starts == 1
        assert 0.05 < spent.seconds < 60
        assert 0 < spent.cpu_seconds < spent.seconds + 5
    assert run(small) == (runs.Outcome(finished=0, left=0, failures={}), [])


def test_a_piece_of_another_configuration_is_run_again_beside_the_earlier_one(tmp_path: Path, child: Child) -> None:
    child()
    run(plan(study(tmp_path), tmp_path / "out"))
    rows = {"brainmrnet": {}, "paper": {"set": ["model.name=brainmrnet_paper", "train.epochs=2"]}}
    changed = plan(study(tmp_path, {"table": {**FOLDS, "rows": rows}}), tmp_path / "out")
    outcome, said = run(changed)
    assert outcome.finished == 2
    assert "paper" in said[0]
    assert len(find_done(tmp_path / "out")) == 6


def test_a_failed_piece_is_named_and_the_others_go_on(small: StudyPlan, child: Child) -> None:
    child(end="if 'paper' in str(folder): sys.exit('Error: the disk is full: free some space')")
    outcome, said = run(small)
    assert (outcome.finished, outcome.left) == (2, 2)
    assert set(outcome.failures.values()) == {"the disk is full: free some space"}
    assert any("table/paper, seed 1, repeat 1, fold 1 failed: the disk is full" in text for text in said)
    child()
    assert run(small)[0].finished == 2


def test_a_piece_is_not_begun_if_it_would_not_end_in_time(small: StudyPlan, child: Child) -> None:
    child(steps=20)
    brainmrnet, paper, _ = small.rows
    complete(brainmrnet.pieces[0], small.out, seconds=60)
    complete(paper.pieces[0], small.out, seconds=600)
    estimator = Estimator(small.out, small.rows, small.done())
    assert [estimator.seconds(row.pieces[1]) for row in (brainmrnet, paper)] == [60, 600]
    outcome, said = run(small, minutes=600.5 / 60)
    assert (outcome.finished, outcome.left) == (1, 1)  # the other takes ten minutes, and a second of these is over
    assert not any("table/paper" in text for text in said)


def test_a_piece_that_is_longer_than_the_limit_is_stopped_and_resumed(small: StudyPlan, child: Child) -> None:
    child(steps=60)
    (piece, *_) = pieces = choose_pieces(small, (), ("paper",))
    estimated = Estimator(small.out, small.rows, {}).seconds(piece)
    folder, calls = small.out / piece.folder, 0
    assert estimated > 2
    while not (folder / "_SUCCESS.json").exists():
        calls += 1
        run_pieces(small, pieces[:1], minutes=1.5 / 60, busy=None, on_notice=lambda text: None)
    assert 2 <= calls <= 10
    assert (folder / "steps.txt").read_text() == "." * 60
    spent = read_spent(folder)
    assert spent.starts == calls
    assert spent.seconds > 3


def test_a_killed_command_loses_no_step(small: StudyPlan, child: Child, tmp_path: Path) -> None:
    """Ctrl-C stops the child too; the same command again goes on from its last step."""
    child(steps=40)
    piece = choose_pieces(small, (), ())[0]
    folder = small.out / piece.folder

    def interrupt() -> None:
        while not (folder / "steps.txt").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_pieces(small, [piece], minutes=None, busy=None, on_notice=lambda text: None)
    thread.join()
    done = len((folder / "steps.txt").read_text())
    time.sleep(0.3)
    assert len((folder / "steps.txt").read_text()) == done < 40  # no child is left
    assert run_pieces(small, [piece], minutes=None, busy=None, on_notice=lambda text: None).finished == 1
    assert (folder / "steps.txt").read_text() == "." * 40
    assert read_spent(folder).starts == 2


def test_pieces_run_side_by_side(small: StudyPlan, child: Child) -> None:
    """Each waits until two have begun: alone, none would end."""
    two_began = "while len(list(folder.parents[6].rglob('steps.txt'))) < 2: time.sleep(0.05)"
    child(end=two_began)
    pieces, said = choose_pieces(small, (), ()), list[str]()
    outcome = run_pieces(small, pieces, minutes=1, busy=None, on_notice=said.append, parallel=2)
    assert (outcome.finished, outcome.left, outcome.failures) == (4, 0, {})
    assert [text.partition(":")[0] for text in said] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]


def test_a_stop_ends_all_that_run_and_a_pause_is_said_once(small: StudyPlan, child: Child, tmp_path: Path) -> None:
    child(steps=200)
    busy, said = tmp_path / "busy", list[str]()

    def interrupt() -> None:
        while len(list(small.out.rglob("steps.txt"))) < 2:
            time.sleep(0.05)
        with locked(busy):
            while "paused while tests or benchmarks run" not in said:
                time.sleep(0.05)
            time.sleep(0.2)
        while "resumed" not in said:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_pieces(small, choose_pieces(small, (), ()), minutes=None, busy=busy, on_notice=said.append, parallel=2)
    thread.join()
    assert said[2:] == ["paused while tests or benchmarks run", "resumed"]
    steps = [path.read_text() for path in small.out.rglob("steps.txt")]
    time.sleep(0.3)
    assert [path.read_text() for path in small.out.rglob("steps.txt")] == steps  # no child is left
    assert len(steps) == 2


def test_an_error_with_one_piece_leaves_none_running(
    small: StudyPlan, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(steps=200)

    def refuse(path: Path, _facts: object) -> None:
        if len(list(small.out.rglob("steps.txt"))) == 2:
            raise OutputError(f"{path} cannot be written")

    monkeypatch.setattr(processes, "write_json", refuse)
    monkeypatch.setattr(processes, "SAVE_SECONDS", 0)
    with pytest.raises(OutputError, match="cannot be written"):
        run_pieces(small, choose_pieces(small, (), ()), minutes=None, busy=None, on_notice=print, parallel=2)
    steps = [path.read_text() for path in small.out.rglob("steps.txt")]
    time.sleep(0.3)
    assert [path.read_text() for path in small.out.rglob("steps.txt")] == steps
    assert 0 < max(map(len, steps)) < 200


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def test_pieces_pause_while_tests_run(small: StudyPlan, child: Child, tmp_path: Path) -> None:
    child(steps=10)
    busy, said = tmp_path / "busy", list[str]()
    piece = choose_pieces(small, (), ())[0]
    folder = small.out / piece.folder
    counts: list[int] = []

    def hold() -> None:
        with locked(busy):
            while len(said) < 2:
                time.sleep(0.02)
            time.sleep(0.2)
            counts.append(len((folder / "steps.txt").read_text()) if (folder / "steps.txt").exists() else 0)
            time.sleep(1.0)
            counts.append(len((folder / "steps.txt").read_text()) if (folder / "steps.txt").exists() else 0)

    thread = threading.Thread(target=hold)
    thread.start()
    while not is_busy(busy):
        time.sleep(0.01)
    assert run_pieces(small, [piece], minutes=None, busy=busy, on_notice=said.append).finished == 1
    thread.join()
    assert counts[0] == counts[1] < 10
    assert said[1:] == ["paused while tests or benchmarks run", "resumed"]
    spent = read_spent(folder)
    assert spent.paused_seconds > 0.9
    assert (folder / "_SUCCESS.json").exists()


def test_the_lock_is_a_file_of_the_checkout_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert busy_file() == Path(__file__).parents[3] / ".busy"
    monkeypatch.setenv(VARIABLE, "")
    assert busy_file() is None
    assert not is_busy(None)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "busy"))
    assert not is_busy(tmp_path / "busy")
    with hold_busy(), hold_busy():
        assert is_busy(tmp_path / "busy")
    assert not is_busy(tmp_path / "busy")
    code = "from brainscale.evaluation.study.pausing import busy_file, is_busy; exit(7 if is_busy(busy_file()) else 1)"
    command = [sys.executable, "-m", "brainscale.evaluation.study.pausing", sys.executable, "-c", code]
    assert subprocess.run(command).returncode == 7


def test_hours_are_those_of_finished_pieces_or_follow_from_operations(small: StudyPlan) -> None:
    brainmrnet, paper, _ = small.rows
    estimate = Estimator(small.out, small.rows, {})
    operations = count_operations(paper.pieces[0])
    assert estimate.seconds(paper.pieces[0]) == OVERHEAD_SECONDS + operations / DEFAULT_FLOPS_PER_SECOND
    complete(brainmrnet.pieces[0], small.out, seconds=3600)
    one, two, three = small.budget()
    assert (one.done, one.left, one.hours_spent, one.hours_left, one.source) == (1, 1, 1, 1, "measured")
    speed = count_operations(brainmrnet.pieces[0]) / (3600 - OVERHEAD_SECONDS)
    operations = sum(map(count_operations, paper.pieces))
    assert two.hours_left == pytest.approx((2 * OVERHEAD_SECONDS + operations / speed) / 3600)
    assert (three.done, three.left) == (0, 0)
    text = format_budget([one, two, three])
    assert "table/both" not in text
    assert text.splitlines()[-1].split()[:3] == ["All", "1", "3"]


def test_a_study_beyond_its_budget_is_refused(small: StudyPlan) -> None:
    _require_budget(small)
    complete(small.rows[0].pieces[0], small.out, seconds=7200)
    with pytest.raises(UsageError, match="small would take .* hours, and its budget_hours are 1: make it smaller, or"):
        _require_budget(small)


def test_two_commands_do_not_run_in_one_folder(small: StudyPlan) -> None:
    small.out.mkdir()
    refused = pytest.raises(OutputError, match="another `brainscale results` runs there")
    with own_folder(small.out), refused, own_folder(small.out):
        pass
    with own_folder(small.out):
        pass
