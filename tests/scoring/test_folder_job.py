"""Jobs on a scores folder, run again, side by side, killed, and on files that change; without Ray or images."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainscale.errors import FormatError, OutputError
from brainscale.reading.file_tables import files_of_manifest
from brainscale.schema import MANIFEST
from brainscale.scoring import blocks, part_writer, scorer
from brainscale.scoring.blocks import PackedBlock
from brainscale.scoring.folders import open_scores_folder
from brainscale.scoring.listing import find_listing, read_listing
from brainscale.scoring.locally import LocalRunner
from brainscale.scoring.parts import parse_part
from brainscale.scoring.scorer import BlockDone
from brainscale.storage.folder import Folder
from tests.support.scoring import (
    Job,
    Killed,
    codes_of,
    finished,
    made_up_bundle,
    quick,
    read_text,
    rows_of,
    score,
    snapshot,
    write_texts,
)

TEXTS: dict[str, object] = {f"{i:02}.png": f"scan {i}" for i in range(40)}


@pytest.fixture(autouse=True)
def text_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "source", TEXTS)


def test_every_file_is_a_row_and_success_names_the_parts(source: Path, tmp_path: Path) -> None:
    write_texts(source, {"b.png": "bad", "v.nii": 5})
    scores = score(tmp_path / "out", source)
    facts = finished(tmp_path / "out")
    assert codes_of(tmp_path / "out") == {
        **dict.fromkeys(TEXTS),
        "b.png": "corrupt",
        **{f"v.nii#{i}": None for i in range(5)},
    }
    assert (facts["files"], facts["rows"], facts["errors"]) == (42, 46, {"corrupt": 1})
    assert len(facts["parts"]) > 5
    assert scores.progress is not None
    assert scores.progress.rows_now == 46
    for name in facts["parts"]:
        part = parse_part(name)
        assert part is not None
        assert part.rows == len(pa.parquet.read_table(tmp_path / "out" / name))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"_SUCCESS.json", "_listing", *facts["parts"]}


def test_a_call_of_the_engine_begins_before_the_last_has_ended_also_of_another_block(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, under_way, most = scorer.score_rows, list[int](), list[int]()

    def slow(rows: pa.Table, *arguments: Any, **options: Any) -> pa.Table:
        under_way.append(len(rows))
        most.append(len(under_way))
        time.sleep(0.05)
        under_way.pop()
        return real(rows, *arguments, **options)

    monkeypatch.setattr(scorer, "score_rows", slow)
    score(tmp_path / "out", source)
    finished(tmp_path / "out")
    assert len(most) > 5  # each block is one call
    assert max(most) == 1 + scorer.CALLS_AHEAD


def test_a_rerun_of_a_complete_folder_touches_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    job = Job(out, (source,))
    assert job.run().progress is None
    assert job.run(update=True).progress is None
    assert job.run(prune=True).progress is None
    assert job.done == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 8), min_size=1, max_size=6))
def test_jobs_killed_after_any_block_give_what_an_undisturbed_one_gives(
    kills: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kills")
    source = write_texts(folder / "source", {**TEXTS, "bad.png": "bad", "v.nii": 9})
    score(folder / "untouched", source)
    Folder(str(folder / "out")).create()
    for count in kills:
        job = Job(folder / "out", (source,))
        try:
            job.run(kill_after=count)
        except Killed:
            assert not (folder / "out" / "_SUCCESS.json").exists()
    score(folder / "out", source)
    assert snapshot(folder / "out") == snapshot(folder / "untouched")
    assert finished(folder / "out")["parts"] == finished(folder / "untouched")["parts"]


def test_a_resumed_job_begins_where_the_killed_one_ended(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first, second = Job(out, (source,)), Job(out, (source,))
    with pytest.raises(Killed):
        first.run(kill_after=3)
    there = snapshot(out)
    rows = sum(part.rows for part in map(parse_part, there) if part)
    scores = second.run()
    assert scores.progress is not None
    assert second.done[0].files == rows > 0
    assert scores.progress.rows_now == 40 - rows
    assert there.items() <= snapshot(out).items()


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_second_job_on_the_same_folder_and_sources(when: int, source: Path, tmp_path: Path) -> None:
    """It begins and ends while the first one is in the middle: nobody fails, and nobody owns the folder."""
    out, calls = tmp_path / "out", list[int]()
    score(tmp_path / "untouched", source)
    out.mkdir()

    def another() -> None:
        calls.append(1)
        if len(calls) == when + 1:
            score(out, source)

    assert Job(out, (source,)).run(on_part=another).rows == 40
    assert snapshot(out) == snapshot(tmp_path / "untouched")
    assert len(list((out / "_listing").glob("*.json"))) == 1
    finished(out)


def test_a_job_that_meets_another_listing_adopts_it(source: Path, tmp_path: Path) -> None:
    """A file comes between the listings of two jobs that begin at the same moment."""
    out = tmp_path / "out"
    out.mkdir()
    calls = list[int]()

    class Late(LocalRunner):
        """Its planning takes so long that another job binds a listing meanwhile."""

        def plan(self, files: Any) -> Any:
            found = super().plan(files)
            calls.append(1)
            if len(calls) == 1:
                write_texts(source, {"new.png": "new"})
                score(out, source)
            return found

    scores = Job(out, (source,)).run(start=Late)
    winner = find_listing(Folder(str(out)))
    assert winner is not None
    names = sorted(p.name for p in (out / "_listing").glob("*.json"))
    assert names[0] == winner.name == scores.listing
    facts = finished(out)
    assert facts["listing"] == winner.name
    assert facts["rows"] == winner.files
    score(out, source, update=True)
    assert codes_of(out) == {**dict.fromkeys(TEXTS), "new.png": None}
    finished(out)


def test_new_files_wait_for_update(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    before = snapshot(out)
    write_texts(source, {"new.png": "new"})
    job = Job(out, (source,))
    assert job.run().files_not_in_it == 1
    assert snapshot(out) == before
    scores = job.run(update=True)
    assert scores.files_not_in_it is None
    assert scores.rows == 41
    assert len(before.keys() - snapshot(out).keys()) <= 2  # the block that it fell into
    assert codes_of(out) == {**dict.fromkeys(TEXTS), "new.png": None}
    assert job.run().progress is None


def test_an_incomplete_folder_says_which_files_are_left_out(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Killed):
        Job(out, (source,)).run(kill_after=1)
    write_texts(source, {"new.png": "new"})
    job = Job(out, (source,))
    job.run()
    assert [text for text in job.notices if text.startswith("1 file(s) are new since this job began")]
    assert codes_of(out) == dict.fromkeys(TEXTS)


def test_a_changed_file_is_scored_anew_without_being_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    before, old = snapshot(out), rows_of(out)
    write_texts(source, {"07.png": "quite another scan"})
    scores = score(out, source)
    assert scores.rows == 40
    assert len(before.keys() - snapshot(out).keys()) == 1
    new = rows_of(out)
    assert [row["sample_id"] for row in new] == [row["sample_id"] for row in old]
    assert [row["sample_id"] for row, other in zip(old, new, strict=True) if row != other] == ["07.png"]
    finished(out)


def test_a_file_of_one_name_and_size_but_another_time_is_another_file(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    (source / "07.png").write_text("scan X")
    os.utime(source / "07.png", ns=(1, 1))
    old = rows_of(out)
    score(out, source)
    changed = [row["sample_id"] for row, other in zip(old, rows_of(out), strict=True) if row != other]
    assert changed == ["07.png"]
    finished(out)


def test_a_volume_of_130_slices_that_shrank_to_40_between_a_kill_and_the_rerun(source: Path, tmp_path: Path) -> None:
    write_texts(source, {"v.nii": 130})
    for blocks_done in range(20):
        out = tmp_path / f"{blocks_done}"
        out.mkdir()
        write_texts(source, {"v.nii": 130})
        try:
            Job(out, (source,)).run(kill_after=blocks_done)
        except Killed:
            write_texts(source, {"v.nii": 40})
            score(out, source)
            assert codes_of(out) == {**dict.fromkeys(TEXTS), **{f"v.nii#{i}": None for i in range(40)}}
            finished(out)
            assert Job(out, (source,)).run().progress is None
        else:
            return
    pytest.fail("the job has more blocks than files")


def test_a_file_that_changes_while_it_is_read(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def reads_and_writes(file: Any, request: Any) -> Iterator[Any]:
        yield from read_text(file, request)
        if file.sample_id == "07.png":
            write_texts(source, {"07.png": f"another scan, of {len(request.key)}"})

    with monkeypatch.context() as patch:
        patch.setattr("brainscale.reading.reader._read_members", reads_and_writes)
        scores = score(out, source)
    assert scores.errors == {"changed": 1}
    assert codes_of(out) == {**dict.fromkeys(TEXTS), "07.png": "changed"}
    (row,) = (row for row in rows_of(out) if row["sample_id"] == "07.png")
    assert row["probability"] is row["sha256"] is None
    assert row["uri"] == str(source / "07.png")
    finished(out)
    score(out, source)
    assert codes_of(out) == dict.fromkeys(TEXTS)
    finished(out)


def test_a_volume_that_changes_while_it_is_read_is_one_row(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a block of several parts too, where some of them are written before it changes."""
    monkeypatch.setattr(part_writer, "PART_NBYTES", 8 * 64**2)
    write_texts(source, {"v.nii": 30})
    out = tmp_path / "out"

    def reads_and_writes(file: Any, request: Any) -> Iterator[Any]:
        for sample in read_text(file, request):
            if sample.frame == 29:
                write_texts(source, {"v.nii": 12})
            yield sample

    with monkeypatch.context() as patch:
        patch.setattr("brainscale.reading.reader._read_members", reads_and_writes)
        score(out, source)
    ids = [row["sample_id"] for row in rows_of(out)]
    assert len(ids) == len(set(ids))
    score(out, source)
    assert codes_of(out) == {**dict.fromkeys(TEXTS), **{f"v.nii#{i}": None for i in range(12)}}
    finished(out)


def manifest_of(source: Path) -> pa.Table:
    rows = [
        {"sample_id": s.sample_id, "uri": s.uri, "sha256": s.sha256, "nbytes": Path(s.uri).stat().st_size}
        for path in sorted(source.iterdir())
        for s in read_text(next(iter_files(path)), made_up_request())
    ]
    return pa.Table.from_pylist([dict.fromkeys(MANIFEST.names) | row for row in rows], schema=MANIFEST)


def iter_files(path: Path) -> Iterator[Any]:
    from brainscale.reading.sources import SourceFile

    yield SourceFile(sample_id=path.name, uri=str(path))


def made_up_request() -> Any:
    from brainscale.reading.request import ReadRequest

    return ReadRequest(preprocess=made_up_bundle().info.preprocess)


def test_samples_of_a_manifest_whose_bytes_differ_or_are_gone(source: Path, tmp_path: Path) -> None:
    write_texts(source, {"v.nii": 4})
    out, spec = tmp_path / "out", made_up_bundle().info.preprocess
    files = files_of_manifest(manifest_of(source), spec)
    files.sort(key=lambda file: file.sample_id)
    whole = dict.fromkeys(TEXTS) | {f"v.nii#{i}": None for i in range(4)}
    score(out, files=files)
    assert codes_of(out) == whole
    write_texts(source, {"07.png": "scan x"})
    (source / "08.png").unlink()
    other = tmp_path / "other"
    scores = score(other, files=files)
    assert codes_of(other) == {**whole, "07.png": "changed", "08.png": "gone"}
    assert scores.errors == {"changed": 1, "gone": 1}
    (row,) = (row for row in rows_of(other) if row["sample_id"] == "07.png")
    assert row["probability"] is None
    assert row["error"] == "the bytes are not those that the manifest describes: index the source again"
    finished(other)
    write_texts(source, {"07.png": "scan 7"})  # as it was
    score(other, files=files)
    assert codes_of(other) == {**whole, "08.png": "gone"}


def test_files_that_are_gone_keep_their_rows_until_they_are_pruned(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    old = {row["sample_id"]: row for row in rows_of(out)}
    (source / "07.png").unlink()
    (source / "21.png").unlink()
    assert score(out, source).progress is None  # complete as it is
    for number in range(40):  # every block is written again, those with rows to keep among them
        if (source / f"{number:02}.png").exists():
            write_texts(source, {f"{number:02}.png": f"other scan {number}"})
    with pytest.raises(
        OutputError, match=r"holds scores of 2 file\(s\) that are not in these sources.*'07.png'.*--upd"
    ):
        score(out, source)
    score(out, source, update=True)
    new = {row["sample_id"]: row for row in rows_of(out)}
    assert new.keys() == old.keys()
    assert [name for name, row in new.items() if row == old[name]] == ["07.png", "21.png"]
    finished(out)
    assert score(out, source, update=True).progress is None
    score(out, source, prune=True)
    assert codes_of(out) == dict.fromkeys(TEXTS.keys() - {"07.png", "21.png"})
    finished(out)


def test_a_neighbour_that_is_new_or_changes_costs_a_gone_file_nothing(source: Path, tmp_path: Path) -> None:
    """Again and again, with a kill between the listing and the parts each time."""
    out = tmp_path / "out"
    score(out, source)
    (source / "07.png").unlink()
    (kept,) = (row for row in rows_of(out) if row["sample_id"] == "07.png")
    for turn in range(3):
        write_texts(source, {"06.png": f"scan 6, {turn}", "08.png": f"scan 8, {turn}", f"07{turn}.png": turn + 2})
        with pytest.raises(Killed):
            Job(out, (source,)).run(update=True, kill_after=0)
        score(out, source, update=True)
        assert [row for row in rows_of(out) if row["sample_id"] == "07.png"] == [kept]
        finished(out)


def test_a_kill_between_the_listing_and_the_first_part_loses_no_kept_row(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    score(out, source)
    old = rows_of(out)
    (source / "07.png").unlink()
    write_texts(source, {name: f"{text}, other" for name, text in TEXTS.items() if name != "07.png"})

    class Dies(LocalRunner):
        def score(self, *arguments: Any) -> Iterator[BlockDone]:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            Job(out, (source,)).run(update=True, start=Dies)
    score(out, source, update=True)
    assert [row for row in rows_of(out) if row["sample_id"] == "07.png"] == [
        r for r in old if r["sample_id"] == "07.png"
    ]
    finished(out)


def test_hidden_names_keep_their_rows_too(source: Path, tmp_path: Path) -> None:
    out, secret = tmp_path / "out", {"key": b"k" * 32, "has_key": True, "hash_paths": True}
    score(out, source, **secret)
    old = rows_of(out)
    assert not any("png" in str(row) for row in old)
    assert not any(b"png" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    (source / "07.png").unlink()
    write_texts(source, {"06.png": "scan 6, other", "new.png": "new"})
    score(out, source, update=True, **secret)
    new = rows_of(out)
    assert len(new) == 41
    assert sum(row in new for row in old) == 39
    assert score(out, source, prune=True, **secret).rows == 40


@pytest.mark.parametrize("code", ["decoder_crashed", "timed_out", "out_of_memory", "store_unreachable"])
def test_errors_that_may_pass_are_tried_again_and_no_others(
    code: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brainscale.errors import SampleError

    write_texts(source, {"bad.png": "bad"})
    out, reads = tmp_path / "out", list[str]()

    def fails(file: Any, request: Any) -> Iterator[Any]:
        reads.append(file.sample_id)
        if file.sample_id == "07.png":
            raise SampleError(code, "for now")
        yield from read_text(file, request)

    with monkeypatch.context() as patch:
        patch.setattr("brainscale.reading.reader._read_members", fails)
        assert score(out, source).errors == {code: 1, "corrupt": 1}
        before, reads[:] = snapshot(out), []
        assert score(out, source).errors == {code: 1, "corrupt": 1}
        assert "07.png" in reads
        assert len(reads) < 20  # its block
        assert snapshot(out) == before
    monkeypatch.setattr("brainscale.reading.reader._read_members", fails)
    code = "corrupt"
    scores = score(out, source)
    assert scores.errors == {"corrupt": 2}
    assert snapshot(out).keys() == before.keys()
    finished(out)
    reads.clear()
    assert score(out, source).progress is None
    assert reads == []


@pytest.mark.parametrize(("first", "then"), [(130, 7), (1, 130), (8, 7)])
def test_a_volume_whose_decoder_crashed_is_there_once_when_it_is_read_again(
    first: int, then: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after so many frames leaves as many rows and an error, more or fewer than the whole file has."""
    from brainscale.errors import SampleError

    write_texts(source, {"v.nii": then})
    out = tmp_path / "out"

    def fails(file: Any, request: Any) -> Iterator[Any]:
        if file.sample_id == "v.nii":
            from dataclasses import replace

            (sample,) = read_text(replace(file, uri=str(source / "00.png")), request)
            for number in range(first - 1):
                yield replace(sample, sample_id=f"v.nii#{number}", uri=file.uri, frame=number)
            raise SampleError("decoder_crashed", "for now")
        yield from read_text(file, request)

    with monkeypatch.context() as patch:
        patch.setattr("brainscale.reading.reader._read_members", fails)
        assert score(out, source).errors == {"decoder_crashed": 1}
        finished(out)
    assert score(out, source).errors == {}
    assert codes_of(out) == {**dict.fromkeys(TEXTS), **{f"v.nii#{i}": None for i in range(then)}}
    finished(out)
    assert score(out, source).progress is None


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"threshold": 0.25}, r"threshold \(0.5 there, 0.25 here\)"),
        ({"bundle": made_up_bundle("x")}, r"model \(w there, x here\)"),
        ({"key": b"k" * 16, "has_key": True}, "scan_key"),
        ({"hash_paths": True}, r"hash_paths \(false there, true here\)"),
    ],
)
def test_another_identity_is_refused(settings: dict[str, Any], what: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(OutputError, match=f"holds scores with another {what}.*choose a new --out"):
        score(out, source, **settings)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("name", ["part-0123456789abcdef.parquet", "part-00000.parquet", "part-0123.last-7.parquet"])
def test_a_folder_of_an_older_naming_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(FormatError, match=f"holds {name}, which another version of brainscale wrote: choose a new --o"):
        open_scores_folder(str(tmp_path))
    assert (tmp_path / name).read_bytes() == b"old"


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="holds other files and no scores"):
        open_scores_folder(str(tmp_path))


def test_a_listing_of_another_version_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    (path,) = (out / "_listing").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    with pytest.raises(FormatError, match="was begun by another version of brainscale: choose a new --out"):
        score(out, source)
    path.write_text("{")
    with pytest.raises(OutputError, match="is damaged: choose a new --out"):
        score(out, source)


def test_a_damaged_part_is_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    whole = snapshot(out)
    (out / "_SUCCESS.json").unlink()
    part = min(out.glob("part-*"))
    part.write_bytes(b"garbage")
    with pytest.raises(OutputError, match=f"{part.name} cannot be read .*: delete it, and its rows will be scored aga"):
        score(out, source)
    part.unlink()
    score(out, source)
    assert snapshot(out) == whole


def test_a_lost_part_is_scored_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    whole = snapshot(out)
    lost = sorted(out.glob("part-*"))[1]
    lost.unlink()
    scores = score(out, source)
    assert scores.progress is not None
    part = parse_part(lost.name)
    assert part is not None
    assert scores.progress.rows_now == part.rows
    assert snapshot(out) == whole


def test_parts_that_no_longer_count_go_with_the_next_run(source: Path, tmp_path: Path) -> None:
    """As when a job is killed after its `_SUCCESS.json` and before it deletes what that replaced."""
    out = tmp_path / "out"
    score(out, source)
    old = snapshot(out)
    write_texts(source, {"07.png": "other"})
    score(out, source)
    new = snapshot(out)
    (name,) = old.keys() - new.keys()
    (out / name).write_bytes(old[name])
    assert score(out, source).progress is None
    assert snapshot(out) == new


def test_a_part_that_arrives_late_leaves_the_folder_as_it_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's write is delayed until another job is complete, and the first one dies after it."""
    score(tmp_path / "untouched", source)
    out = tmp_path / "out"
    out.mkdir()
    real, late = Folder.write, list[tuple[str, bytes]]()

    def holds_back(folder: Folder, name: str, data: Any) -> None:
        if name.startswith("part-"):
            late.append((name, bytes(data)))
            raise Killed
        real(folder, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", holds_back)
        with pytest.raises(Killed):
            Job(out, (source,)).run()
    score(out, source)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name, data in late:
        Folder(str(out)).write(name, data)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert snapshot(out) == snapshot(tmp_path / "untouched")
    assert score(out, source).progress is None


def test_a_success_that_arrives_late_does_not_undo_a_later_job(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job without the new file marks the folder after one with it is complete: no row is lost.

    The first job knows the file that changed since it began by its old time only, and says that it has changed.
    """
    out = tmp_path / "out"
    out.mkdir()
    real, calls = Folder.write, list[str]()

    def delayed(folder: Folder, name: str, data: Any) -> None:
        if name == "_SUCCESS.json" and not calls:
            calls.append(name)
            write_texts(source, {"new.png": "new", "07.png": "another scan"})
            score(out, source, update=True)
        real(folder, name, data)

    monkeypatch.setattr(Folder, "write", delayed)
    Job(out, (source,)).run()
    monkeypatch.undo()
    quick(monkeypatch)
    codes = codes_of(out)
    assert codes.pop("07.png") in (None, "changed")
    assert codes == dict.fromkeys(TEXTS.keys() - {"07.png"} | {"new.png"})
    finished(out)
    score(out, source)
    assert codes_of(out) == {**dict.fromkeys(TEXTS), "new.png": None}
    finished(out)


def test_numbered_parts_of_a_large_file_survive_kills(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume of 50 slices in parts of 8: what is written of it is neither lost nor counted twice, errors included."""
    monkeypatch.setattr(part_writer, "PART_NBYTES", 8 * 64**2)
    volumes = write_texts(tmp_path / "volumes", {"bad.png": "bad", "v.nii": 50})
    score(tmp_path / "untouched", volumes)
    facts = finished(tmp_path / "untouched")
    assert [name for name in facts["parts"] if ".last-" in name]
    assert facts["rows"] == 51
    real = Folder.write
    for count in range(1, 9):
        out, left = tmp_path / f"{count}", [count]
        out.mkdir()

        def dies(folder: Folder, name: str, data: Any, left: list[int] = left) -> None:
            if name.startswith("part-"):
                if not left[0]:
                    raise Killed
                left[0] -= 1
            real(folder, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", dies)
            with pytest.raises(Killed):
                while True:
                    Job(out, (volumes,)).run()
                    (out / "_SUCCESS.json").unlink()
                    left[0] = 0
                    next(iter(out.glob("part-*"))).unlink()
        scores = score(out, volumes)
        assert snapshot(out) == snapshot(tmp_path / "untouched")
        assert (scores.rows, scores.scored, scores.errors) == (51, 50, {"corrupt": 1})
        finished(out)


def test_a_folder_that_vanishes_is_one_line(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def move_it() -> None:
        if out.exists():
            out.rename(tmp_path / "elsewhere")

    with pytest.raises(OutputError, match=r"^[^\n]* cannot be written \(No such file or directory\)[^\n]*$"):
        Job(out, (source,)).run(on_part=move_it)


def test_the_listing_says_what_the_folder_covers(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(out, source)
    folder = Folder(str(out))
    listing = find_listing(folder)
    assert listing is not None
    listed = list(read_listing(folder, listing))
    assert [one.file for one in listed] == sorted(TEXTS)
    assert [one.uri for one in listed] == [str(source / name) for name in sorted(TEXTS)]
    parts = {part.block for part in map(parse_part, snapshot(out)) if part}
    assert {block for one in listed for block in one.blocks} == parts
    assert not list((out / "_listing").glob("*.parquet"))


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 5))
def test_any_history_of_a_folder_ends_with_the_rows_of_its_files(
    seed: int, steps: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files come, change and go, jobs are killed and run side by side: the folder holds what a fresh one would."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    folder = tmp_path_factory.mktemp("history")
    source = write_texts(folder / "source", dict(list(TEXTS.items())[:20]))
    out = folder / "out"
    out.mkdir()
    for step in range(steps):
        for number in chance.sample(range(40), 4):
            path = source / f"{number:02}.png"
            if path.exists() and chance.random() < 0.4:
                path.unlink()
            else:
                kinds = [f"scan {number} of step {step}", str(chance.randint(1, 9)), "bad"]
                write_texts(source, {path.name: chance.choice(kinds)})
        try:
            Job(out, (source,)).run(update=True, prune=True, kill_after=chance.randint(0, 6))
        except Killed:
            continue
    score(out, source, update=True, prune=True)
    score(folder / "fresh", source)
    assert rows_of(out) == rows_of(folder / "fresh")
    finished(out)


def test_blocks_that_nobody_scores_are_an_error(source: Path, tmp_path: Path) -> None:
    """Parts that vanish as they are written: the job ends, and says so."""

    class Forgets(LocalRunner):
        def score(self, blocks: Any, folder: Folder, identity: Any) -> Iterator[BlockDone]:
            for block in blocks:
                assert isinstance(block, PackedBlock)
                yield BlockDone(block=block.name)

    with pytest.raises(OutputError, match="vanish while they are written"):
        score(tmp_path / "out", source, start=Forgets)
    assert blocks.MIN_BLOCK_ROWS == 4
