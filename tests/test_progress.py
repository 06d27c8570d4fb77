"""What work tells of its progress, and how it is shown on terminals of several widths and without one."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale import progress
from brainscale.cli import progress as cli
from brainscale.config.sections import TrainConfig
from brainscale.progress import Progress
from brainscale.training import pace
from brainscale.training.pace import StepReport, StepReporter, TrainingPace


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[Progress] = []

    def announce(self, text: str) -> None:
        self.lines.append(text)

    def show(self, one: Progress) -> None:
        self.seen.append(one)


def test_a_stage_counts_for_the_listener_of_its_context_from_any_thread() -> None:
    recorder = Recorder()
    assert not progress.is_watched()
    with progress.shown_by(recorder), progress.within("fold 2 of 5"):
        progress.announce("begins")
        stage = progress.stage("reading", 3, "files", 300)
        thread = threading.Thread(target=lambda: (stage.advance(1, nbytes=100), progress.announce("is not heard")))
        thread.start()
        thread.join()
        assert list(progress.each("ab", "comparing", 2, "pairs")) == ["a", "b"]
    progress.announce("nobody listens")
    assert recorder.lines == ["fold 2 of 5: begins"]
    assert [(one.stage, one.done, one.nbytes) for one in recorder.seen] == [
        ("fold 2 of 5, reading", 0, 0),
        ("fold 2 of 5, reading", 1, 100),
        *(("fold 2 of 5, comparing", done, 0) for done in range(3)),
    ]


def test_speed_and_time_left_count_what_was_done_here_only() -> None:
    one = Progress(stage="epoch 2/3", done=6, total=10, unit="steps", samples=64, seconds=2, done_before=4)
    assert (one.fraction, one.samples_a_second, one.seconds_left) == (0.6, 32, 4)
    in_bytes = Progress(stage="reading", done=9, total=10, unit="files", nbytes=25, total_nbytes=100, seconds=1)
    assert (in_bytes.fraction, in_bytes.samples_a_second, in_bytes.seconds_left) == (0.25, None, 3)
    assert progress.parse_progress(json.loads(json.dumps(one.to_json()))) == one


@given(
    stage=st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=60),
    done=st.integers(0, 10**9),
    total=st.none() | st.integers(0, 10**9),
    nbytes=st.integers(0, 10**15),
    total_nbytes=st.none() | st.integers(0, 10**15),
    samples=st.integers(0, 10**9),
    errors=st.integers(0, 10**6),
    seconds=st.floats(0, 10**6),
    width=st.integers(20, 200),
)
def test_a_bar_is_never_wider_than_the_terminal(width: int, **fields: object) -> None:
    bar = cli.format_bar(Progress(unit="files", **fields), "3 s", width)  # type: ignore[arg-type]
    assert len(bar) <= width
    assert "\n" not in bar


def test_what_matters_least_is_left_out_first() -> None:
    one = Progress(stage="epoch 13/30", done=12, total=40, unit="steps", samples=384, seconds=4)
    wide, narrow = (cli.format_bar(one, "", width) for width in (114, 54))
    assert wide == "epoch 13/30 ━━━━━━────────────── " + " 30 %  12/40 steps, 96 samples/s, 9.3 s left"
    assert narrow == "epoch 13/30  12/40 steps, 96 samples/s, 9.3 s left"
    titled = Progress(**{**vars(one), "stage": "repeat 1 of 2, fold 2 of 5, epoch 13/30"})
    assert cli.format_bar(titled, "", 54) == "repeat 1 of 2, fold 2 of 5, epoch 13/30  9.3 s left"
    assert cli.format_bar(Progress(stage="starting Ray"), "7 s", 54) == "starting Ray  7 s"


def test_a_worker_reports_the_first_and_last_step_and_one_a_second() -> None:
    reports: list[StepReport] = []
    reporter = StepReporter(reports.append, epoch=2, steps=100, first_step=4)
    for step in range(5, 101):
        reporter.add_step(step, 8 * (step - 4))
    assert [(one.step, one.samples) for one in reports] == [(4, 0), (100, 768)]
    assert (reports[1].epoch, reports[1].first_step) == (2, 4)


def test_the_whole_is_estimated_once_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    recorder = Recorder()
    shown = TrainingPace(recorder, TrainConfig(epochs=30))
    for step in range(21):
        clock[0] = 6.0 * step
        shown.show(StepReport(epoch=1, step=step, steps=20, first_step=0, samples=step, seconds=clock[0]))
        assert len(recorder.lines) == (step >= 10)
    assert recorder.lines == ["about 1 h 0 min for all 30 epochs at this speed; less if training stops early"]
    assert recorder.seen[-1].stage == "epoch 1/30, validation"


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.LINE_SECONDS == 30
    monkeypatch.setattr(cli, "LINE_SECONDS", 0.2)
    with cli.show_progress():
        progress.announce("Indexing scans")
        stage = progress.stage("reading", 1000, "files")
        for _ in range(400):
            stage.advance()
        threading.Event().wait(0.5)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "Indexing scans"
    assert len(others) == 2
    assert all(line.startswith("reading: 400/1,000 files") for line in others)
