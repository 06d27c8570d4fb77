"""What a folder of parts says was done, against plain sets, without Ray."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.errors import OutputError
from brainscale.reading import sample_ids
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.scoring.ledger import find_ids, hash_ids, read_ledger, remove_duplicate_rows
from brainscale.scoring.parts import OWNER_FILE, PART_FILES, claim_folder, write_part
from brainscale.storage.workspace import Workspace

IDENTITY = {"model": "w"}
OWNER = "this job"
SCHEMA = PREDICTIONS.append(pa.field("file_rows", pa.int32()))
Row = tuple[str, int | None]  # id, rows of its file if it is the last one


def part(folder: Path, rows: list[Row], code: str | None = None) -> None:
    table = pa.Table.from_pylist(
        [{"sample_id": i, "uri": i, "model": "w", "file_rows": n, "error_code": code} for i, n in rows], schema=SCHEMA
    )
    (folder / OWNER_FILE).write_text(OWNER)
    (told,) = write_part(table, folder=str(folder), job=OWNER, identity=IDENTITY).to_pylist()
    assert told["problem"] is None


def rows_of(unit: str, count: int) -> list[Row]:
    if count == 1:
        return [(unit, 1)]
    return [(sample_ids.join_id(unit, frame=i), count if i == count - 1 else None) for i in range(count)]


def unit(name: str, ids: tuple[str, ...] | None = None) -> SourceFile:
    return SourceFile(sample_id=name, uri=name, sample_ids=ids)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_file_is_missing_until_every_sample_of_it_is_there(sizes: list[int], chance: random.Random) -> None:
    rows = [row for i, size in enumerate(sizes) for row in rows_of(f"f{i}", size)]
    there = [row for row in rows if chance.random() < 0.7]
    chance.shuffle(there)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while there:
            cut = chance.randint(1, len(there))
            part(folder, there[:cut])
            rows, there = [row for row in rows if row not in there[:cut]], there[cut:]
        units = [unit(f"f{i}") for i in range(len(sizes))]
        ledger = read_ledger(Workspace(folder), IDENTITY)
        left = {sample_ids.file_of(i) for i, _ in rows}
        assert [u.sample_id for u in ledger.find_missing(units)] == [u.sample_id for u in units if u.sample_id in left]
        assert not len(ledger.hash_others(units))
        assert not len(ledger.duplicates)
        all_ids = {i for k, size in enumerate(sizes) for i, _ in rows_of(f"f{k}", size)}
        begun = ledger.hash_begun(ledger.find_missing(units))
        written = all_ids - {i for i, _ in rows}
        assert set(find_ids(Workspace(folder), files=begun)) == {i for i in written if sample_ids.file_of(i) in left}


def test_rows_of_other_files_and_rows_that_are_twice_are_named(tmp_path: Path) -> None:
    part(tmp_path, [("a", 1), ("b", 1)])
    part(tmp_path, [("b", 1), ("c#0", None)])
    folder = Workspace(tmp_path)
    ledger = read_ledger(folder, IDENTITY)
    assert set(find_ids(folder, samples=ledger.duplicates)) == {"b"}
    assert set(find_ids(folder, files=ledger.hash_others([unit("a"), unit("b")]))) == {"c#0"}
    assert [u.sample_id for u in ledger.find_missing([unit("a"), unit("b"), unit("c"), unit("d")])] == ["c", "d"]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_rows_of_two_jobs_are_kept_once(sizes: list[int], chance: random.Random) -> None:
    rows = [row for i, size in enumerate(sizes) for row in rows_of(f"f{i}", size)]
    with tempfile.TemporaryDirectory() as name:
        folder = Workspace(Path(name))
        for _ in range(2):  # each job writes every row, in parts of its own
            chance.shuffle(rows)
            cuts = sorted(chance.sample(range(len(rows) + 1), min(2, len(rows))))
            for some in (rows[: cuts[0]], rows[cuts[0] : cuts[-1]], rows[cuts[-1] :]):
                if some:
                    part(folder.path, some)
        before = read_ledger(folder, IDENTITY)
        if len(before.duplicates):  # else both jobs cut their parts alike
            remove_duplicate_rows(folder, before.duplicates, OWNER)
        after = read_ledger(folder, IDENTITY)
        assert not len(after.duplicates)
        assert after.samples.tolist() == before.samples.tolist() == sorted(hash_ids(i for i, _ in rows).tolist())
        assert after.find_missing([unit(f"f{i}") for i in range(len(sizes))]) == []
        assert sum(pq.read_metadata(p).num_rows for p in folder.path.glob(PART_FILES)) == len(rows)


def test_a_job_writes_nothing_once_another_has_taken_over(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"sample_id": "a", "uri": "a", "model": "w", "file_rows": 1}], schema=SCHEMA)
    first = claim_folder(Workspace(tmp_path))
    second = claim_folder(Workspace(tmp_path))
    told = {
        job: write_part(table, folder=str(tmp_path), job=job, identity=IDENTITY)["problem"][0].as_py()
        for job in (first, second)
    }
    assert told == {first: "another job took it over", second: None}
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []
    (tmp_path / OWNER_FILE).unlink()  # as the folder is complete
    late = write_part(table, folder=str(tmp_path), job=second, identity=IDENTITY)
    assert late["problem"].to_pylist() == ["another job took it over"]


def test_samples_that_a_manifest_wants_are_enough(tmp_path: Path) -> None:
    part(tmp_path, [("scan#0", None), ("scan#2", None)], code="corrupt")
    ledger = read_ledger(Workspace(tmp_path), IDENTITY)
    assert ledger.find_missing([unit("scan", ("scan#0", "scan#2"))]) == []
    assert len(ledger.find_missing([unit("scan", ("scan#0", "scan#1"))])) == 1
    assert ledger.codes == {"corrupt": 2}


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    ledger = read_ledger(Workspace(tmp_path), IDENTITY)
    assert len(ledger.find_missing([unit("a")])) == 1
    assert not len(ledger.hash_begun([unit("a")]))
    assert ledger.find_missing([]) == []


def test_another_model_is_refused(tmp_path: Path) -> None:
    part(tmp_path, [("a", 1)])
    with pytest.raises(OutputError, match=r"another model \(w there, x here\)"):
        read_ledger(Workspace(tmp_path), {"model": "x"})


def test_a_ledger_takes_few_bytes_a_row(tmp_path: Path) -> None:
    part(tmp_path, [(f"{i:06}.png", 1) for i in range(5000)])
    ledger = read_ledger(Workspace(tmp_path), IDENTITY)
    assert sum(a.nbytes for a in (ledger.samples, ledger.files, ledger.done)) == 48 * 5000
    assert len(np.unique(hash_ids(f"{i}" for i in range(5000)))) == 5000
    assert len(list(tmp_path.glob(PART_FILES))) == 1
