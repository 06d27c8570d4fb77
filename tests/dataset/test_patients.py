"""Patients: whose samples must stay together, and who is no patient."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.data_sections import DataConfig, PreprocessConfig
from brainscale.dataset.label_file import LabelFile
from brainscale.dataset.labels import choose_folder_labels
from brainscale.dataset.patients import Patients, describe_unknown_patients, find_patients, resolve_issuers
from brainscale.dataset.subject_names import compile_patient_pattern, find_bids_subject, match_patient
from brainscale.errors import UsageError
from brainscale.reading.file_tables import file_table
from brainscale.reading.keys import PatientKey
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sources import list_files
from brainscale.schema import MANIFEST
from tests.support.dicom import dataset, written

KEY = PatientKey(secret=b"k" * 16, random=False)
DATA = DataConfig()


def dicom(patient: str | None, seed: int, issuer: str | None = None, series: str | None = None) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 4096, (8, 8), np.uint16)
    elements = {"PatientID": patient, "IssuerOfPatientID": issuer, "SeriesInstanceUID": series or f"1.2.{seed + 1}"}
    return written(dataset(pixels, **{name: value for name, value in elements.items() if value is not None}))


def read(folder: Path) -> pa.Table:
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64), planes=False, key=KEY.secret)
    return pa.concat_tables(read_tables(file_table(list_files([str(folder)])), request=request))


def made(ids: Sequence[str], **columns: object) -> pa.Table:
    return pa.Table.from_pylist(
        [
            dict.fromkeys(COLUMNS.names)
            | {"sample_id": name, "uri": name}
            | {column: values[row] for column, values in columns.items()}
            for row, name in enumerate(ids)
        ],
        schema=COLUMNS,
    )


def find(
    table: pa.Table, pattern: str | None = None, patients: dict[str, str] | None = None, **chosen: bool
) -> Patients:
    ids = table["sample_id"].to_pylist()
    file = None
    if patients is not None:
        file = LabelFile(
            path="f.csv",
            row_of={name: row for row, name in enumerate(patients)},
            labels=None,
            patients=[name or None for name in patients.values()],
            patient_column_chosen=chosen.get("chosen", False),
            extra=pa.table({}),
            notices=(),
        )
    rows = [None] * len(ids) if file is None else file.rows(ids)
    compiled = None if pattern is None else compile_patient_pattern(pattern)
    return find_patients(table, choose_folder_labels(ids, DATA), rows, file, compiled, DATA, KEY)


def hashed(*names: str | None) -> list[str | None]:
    return [pseudonym(name, KEY.secret) for name in names]


def test_a_missing_issuer_parts_no_patient(tmp_path: Path) -> None:
    for seed, (name, patient, issuer) in enumerate(
        [("a", "00123", "HOSPITAL"), ("b", "00123", None), ("c", "00123\0", "HOSPITAL"), ("e", "123", None)]
    ):
        (tmp_path / f"{name}.dcm").write_bytes(dicom(patient, seed, issuer))
    assert find(read(tmp_path)).hashes == hashed("00123", "00123", "00123", "123")
    (tmp_path / "d.dcm").write_bytes(dicom("00123", 9, "OTHER"))
    a, b, c, d, e = find(read(tmp_path)).hashes
    assert a == b == c
    assert len({a, d, e}) == 3
    (tmp_path / "d.dcm").write_bytes(dicom("00123", 9, "unknown"))
    assert find(read(tmp_path)).hashes == hashed("00123", "00123", "00123", "00123", "123")


@given(st.lists(st.tuples(st.sampled_from([None, "p", "q"]), st.sampled_from([None, "x", "y"])), max_size=12))
def test_only_different_issuers_part_patients(samples: list[tuple[str | None, str | None]]) -> None:
    issued = [f"{patient}|{issuer}" if patient and issuer else None for patient, issuer in samples]
    found = resolve_issuers([patient for patient, _ in samples], issued)
    for (patient, issuer), one in zip(samples, found, strict=True):
        assert (one is None) == (patient is None)
        for (other_patient, other_issuer), other in zip(samples, found, strict=True):
            if patient is not None and one == other:
                assert patient == other_patient
            if patient is not None and patient == other_patient:
                assert (one == other) or len({i for p, i in samples if p == patient} - {None}) > 1
                assert (one == other) or issuer != other_issuer
                assert (one != other) or issuer == other_issuer or None in (issuer, other_issuer)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no letter or digit"),
        ("---", "no letter or digit"),
        ("N/A", "na"),
        ("nan", "nan"),
        ("<Unknown>", "unknown"),
        ("ANONYMOUS", "anonymous"),
        ("Anonymised^Patient", "anonymised"),
        ("anon", "anon"),
        ("PATIENT_UNKNOWN", "unknown"),
        ("None.", "none"),
        ("0", "zeros"),
        ("000000", "zeros"),
        ("xxx", "a repeated character"),
        ("XX", "a repeated character"),
        ("999999", "a repeated character"),
        ("1", None),
        ("11", None),
        ("A", None),
        ("x", None),
        ("ANON0017", None),
        ("Nancy", None),
        ("Nanna", None),
        ("unknown7", None),
        ("007", None),
        ("无名", None),
    ],
)
def test_placeholders(text: str, word: str | None) -> None:
    assert find_placeholder(text) == word


def test_patients_may_be_numbered_from_0() -> None:
    assert [find_placeholder(text, numbers=False) for text in ("0", "00", "999999", "NA")] == [None, None, None, "na"]


@given(st.text(max_size=6), st.sampled_from(["NA", "nan", "Unknown", "ANONYMOUS", "null"]), st.text(max_size=6))
def test_punctuation_around_a_placeholder_changes_nothing(before: str, word: str, after: str) -> None:
    def signs(text: str) -> str:
        return "".join(character for character in text if not character.isalnum())

    found = find_placeholder(signs(before) + word + signs(after))
    assert found == word.lower()


def test_an_anonymous_export_has_no_patients(tmp_path: Path) -> None:
    for n in range(24):
        path = tmp_path / ("yes" if n % 2 else "no") / f"{n}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom("ANONYMOUS", n))
    patients = find(read(tmp_path))
    assert patients.hashes == [None] * 24
    (notice,) = patients.notices
    assert "24 sample(s) have a placeholder instead of a patient (anonymous 24)" in notice
    assert "--patient-from REGEX" in notice
    assert "--patient-column" in notice
    assert len(set(find(read(tmp_path), r"(\d+)\.dcm").hashes)) == 24


def series(count: int, ids: Sequence[str], **columns: object) -> pa.Table:
    patients = [pseudonym(name, KEY.secret) for name in ids]
    names = [f"{'yes' if n % 2 else 'no'}/{n}.dcm" for n in range(count)]
    return made(names, patient=patients, **columns)


def test_one_identifier_on_nearly_all_series_of_two_labels_is_no_patient() -> None:
    patients = find(series(24, ["EXPORT 17"] * 22 + ["b", "c"]))
    assert patients.hashes == [None] * 22 + hashed("b", "c")
    (notice,) = patients.notices
    assert "One PatientID is shared by 22 of 24 samples (22 of 24 series or files) with different labels" in notice
    assert "EXPORT" not in notice
    named = {f"{'yes' if n % 2 else 'no'}/{n}.dcm": f"p{n}" for n in range(24)}
    assert find(series(24, ["EXPORT 17"] * 24), patients=named).notices == []  # a label file names them all
    assert find(series(24, ["a"] * 19 + ["b"] * 5)).notices == []  # below 80 %
    assert find(series(9, ["a"] * 9)).notices == []  # few
    assert find(series(24, ["a"] * 24, scan=["one"] * 24)).notices == []  # one series
    assert find(made([f"yes/{n}.dcm" for n in range(24)], patient=hashed("a") * 24)).notices == []  # one label


def test_a_word_after_sub_that_nearly_all_files_share_is_no_subject() -> None:
    names = [f"sub-sampled/{'yes' if n % 2 else 'no'}/{n}.png" for n in range(24)]
    patients = find(made(names))
    assert patients.hashes == [None] * 24
    assert patients.notices[0].startswith("One BIDS subject is shared by 24 of 24 samples (24 of 24 series or files")
    assert len(set(find(made(names), r"(\d+)\.png").hashes)) == 24


def test_a_patient_column_that_the_user_names_is_trusted() -> None:
    table = made([f"{'yes' if n % 2 else 'no'}/{n}.png" for n in range(24)])
    named = dict.fromkeys(table["sample_id"].to_pylist(), "p")
    assert find(table, patients=named).hashes == [None] * 24
    assert find(table, patients=named, chosen=True).hashes == hashed("p") * 24
    assert find(table, "^(y|n)").hashes == hashed("n", "y") * 12


def test_placeholders_of_a_label_file_are_missing_and_said() -> None:
    table = made([f"p/{n}.png" for n in range(5)])
    named = dict(zip(table["sample_id"].to_pylist(), ["NA", "nan", "unknown", "", "0"], strict=True))
    patients = find(table, patients=named)
    assert patients.hashes == [None] * 4 + hashed("0")
    assert "3 sample(s) have a placeholder instead of a patient (na 1, nan 1, unknown 1)" in patients.notices[0]


def test_the_order_of_precedence() -> None:
    ids = ["sub-01/a.dcm", "sub-02/b.dcm", "sub-03/c.dcm", "x/d.dcm"]
    table = made(ids, patient=hashed("D1", "D2", None, None))
    assert find(table).hashes == hashed("D1", "D2", "sub-03", None)
    assert find(table, patients={ids[0]: "F"}).hashes == hashed("F", "D2", "sub-03", None)
    patients = find(table, r"sub-(\d+)", patients={ids[0]: "F"})
    assert patients.hashes == hashed("F", "02", "03", None)
    assert "--patient-from does not match 1 of 4 sample(s), for example 'x/d.dcm'" in patients.notices[0]


@pytest.mark.parametrize(
    ("sample_id", "subject"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz#3", "sub-01"),
        ("sub-01/ses-02/anat/sub-01_ses-02_T2w.nii.gz", "sub-01"),
        ("sub-00/anat/x.png", "sub-00"),
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("siteA/sub-01/x.png", "siteA/sub-01"),
        ("siteB/sub-01_slice7.png", "siteB/sub-01"),
        ("set.zip!bids/sub-ab12/x.png", "set/bids/sub-ab12"),
        ("sub-01.zip!anat/T1.nii", "sub-01"),
        ("set/sub-01.tar.gz!sub-01/a.png", "set/sub-01"),
        ("yes/sub-01_3.png", "sub-01"),
        ("no_tumor/sub-01_9.png", "sub-01"),
        ("Training/glioma/sub-01_9.png", "sub-01"),
        ("T1w/sub-01.nii", "sub-01"),
        ("set/derivatives/prep/sub-01/x.nii", "set/sub-01"),
        ("set/sourcedata/sub-01/x.dcm", "set/sub-01"),
        ("task_sub-07.png", "sub-07"),
        ("SUB-01/x.png", "sub-01"),
        ("sub-unknown/x.png", None),
        ("subject1/x.png", None),
        ("asub-01/x.png", None),
        ("sub-/x.png", None),
        ("sub_01/x.png", None),
        ("x.png", None),
    ],
)
def test_bids_subjects(sample_id: str, subject: str | None) -> None:
    assert find_bids_subject(sample_id, lambda folder: DATA.label(folder) is not None) == subject


@given(st.integers(0, 99), st.lists(st.sampled_from(["ses-1", "anat", "yes", "x.zip!a"]), max_size=3), st.booleans())
def test_what_stands_below_the_subject_changes_nothing(number: int, below: list[str], in_name: bool) -> None:
    sample_id = "/".join(["set", f"sub-{number:02d}", *below, f"sub-{number:02d}_T1w.nii" if in_name else "a.nii"])
    assert find_bids_subject(sample_id) == f"set/sub-{number:02d}"


def test_24_subjects_with_two_contrasts_are_24_patients() -> None:
    ids = [
        f"sub-{n:02d}/anat/sub-{n:02d}_{kind}.nii.gz#{k}" for n in range(24) for kind in ("T1w", "T2w") for k in (0, 1)
    ]
    found = find(made(ids)).hashes
    assert len(set(found)) == 24
    assert None not in found
    assert all(len(set(found[4 * n : 4 * n + 4])) == 1 for n in range(24))


@pytest.mark.parametrize(
    ("pattern", "sample_id", "patient"),
    [
        (r"^([^/]+)/", "p1/a.png", "p1"),
        (r"(a|b)(?P<patient>\d+)", "x/a12.png", "12"),
        (r"(\d*)\.png", "x/a.png", None),
        (r"nothing(\d)", "x/a.png", None),
        (r"(y)?\.png", "a.png", None),
        (r"!(.*)#", "a.zip!p7#3", "p7"),
    ],
)
def test_a_pattern_names_patients(pattern: str, sample_id: str, patient: str | None) -> None:
    assert match_patient(compile_patient_pattern(pattern), sample_id) == patient


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression"),
        ("sub-.*", "has no group"),
        ("(?:x)", "has no group"),
        ("[", "is not a reg"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        compile_patient_pattern(pattern)
    assert "\n" not in str(error.value)


def test_samples_without_a_patient_are_counted() -> None:
    rows = [
        dict.fromkeys(MANIFEST.names) | {"sample_id": f"{n}", "uri": "x", "patient": patient, "error_code": code}
        for n, (patient, code) in enumerate([("p", None), (None, None), (None, "corrupt")])
    ]
    text = describe_unknown_patients(pa.Table.from_pylist(rows, schema=MANIFEST))
    assert text is not None
    assert text.startswith("The patient is unknown for 1 of 2 samples, so slices of one patient may be in different")
    assert describe_unknown_patients(pa.Table.from_pylist(rows[:1], schema=MANIFEST)) is None
