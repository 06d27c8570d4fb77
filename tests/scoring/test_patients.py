"""Hashes of patients in parts: made with a key that was given, or a manifest's; never with one of a single job."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from brainscale.errors import UsageError
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.sources import SourceFile, walk_files
from brainscale.scoring import bulk
from brainscale.scoring.blocks import version_of
from brainscale.scoring.outputs import write_units
from brainscale.storage.folder import Folder
from tests.support.scoring import made_up_bundle, quick, rows_of, score, snapshot, write_texts

KEY = b"k" * 32
TEXTS = {f"{patient}/{i}.txt": f"{patient}{i}" for patient in ("eva", "max") for i in range(12)}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of two patients, whose names are those of their folders."""
    quick(monkeypatch)
    return write_texts(tmp_path / "source", TEXTS)


def patients_of(out: Path) -> dict[str, str | None]:
    return {row["sample_id"]: row["patient"] for row in rows_of(out)}


def test_without_a_key_no_patient_is_named_and_parts_are_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        score(tmp_path / name, source, key=os.urandom(32))
    assert set(patients_of(tmp_path / "a").values()) == {None}
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_with_a_key_a_patient_has_one_hash(source: Path, tmp_path: Path) -> None:
    score(tmp_path / "a", source, key=KEY, has_key=True)
    assert patients_of(tmp_path / "a") == {name: pseudonym(name[:3], KEY) for name in TEXTS}


def test_a_manifests_patients_are_its_own(source: Path, tmp_path: Path) -> None:
    """With another key than the manifest's, or none; one that it does not know stays unknown."""
    hashes = {"eva": "a" * 32, "max": None}

    def with_patient(file: SourceFile) -> SourceFile:
        patients = (hashes[file.sample_id[:3]],)
        return replace(file, sample_ids=(file.sample_id,), sha256s=(None,), patients=patients)

    files = [with_patient(file) for file in walk_files([str(source)])]
    settings: list[dict[str, Any]] = [{}, {"key": KEY, "has_key": True}]
    for i, options in enumerate(settings):
        out = tmp_path / str(i)
        score(out, source, files=files, **options)
        assert patients_of(out) == {name: hashes[name[:3]] for name in TEXTS}
    other = replace(files[0], patients=("b" * 32,))
    assert version_of(other) != version_of(files[0])  # so its part has another name


def test_the_table_of_patients_joins_what_is_in_several_parts(source: Path, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    scores = score(tmp_path / "out", source, key=KEY, has_key=True)
    assert len(scores.parts) > 1
    notices: list[str] = []
    written = write_units(folder, scores, "patient", made_up_bundle(), notices.append)
    assert (written.unit, written.units, written.units_file) == ("patient", 2, f"{tmp_path / 'out'}.patients.parquet")
    table = {row["patient"]: row for row in pq.read_table(tmp_path / "out.patients.parquet").to_pylist()}
    for name in ("eva", "max"):
        own = [row["probability"] for row in rows_of(tmp_path / "out") if row["sample_id"].startswith(name)]
        row = table[pseudonym(name, KEY)]
        assert (row["slices"], row["maximum"]) == (12, pytest.approx(max(own)))
        assert row["mean"] == pytest.approx(sum(own) / 12)
    (notice,) = notices
    assert notice.startswith(
        "Note: no patient has a prediction: the model has no operating point for patients, as its "
    )


def test_samples_without_a_patient_are_counted(source: Path, tmp_path: Path) -> None:
    scores, notices = score(tmp_path / "out", source), []
    write_units(Folder(str(tmp_path / "out")), scores, "patient", made_up_bundle(), notices.append)
    assert notices[-1] == "Note: 24 sample(s) are in no patient: their patient is not known."
    assert pq.read_table(tmp_path / "out.patients.parquet").num_rows == 0


def test_patients_without_a_key_or_a_manifest_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRAINSCALE_PATIENT_KEY", raising=False)
    monkeypatch.setattr(bulk, "open_bundle", lambda folder, **options: made_up_bundle())
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="Patients need a key, or a manifest that names them. Pass --patient-key FILE"):
        bulk.score_files(str(tmp_path / "model"), [str(source)], str(tmp_path / "out"), unit="patient")
    with pytest.raises(UsageError, match="no unit named 'slice': choose scan or patient"):
        bulk.score_files(str(tmp_path / "model"), [str(source)], str(tmp_path / "out"), unit="slice")
    assert not list((tmp_path / "out").glob("*"))
