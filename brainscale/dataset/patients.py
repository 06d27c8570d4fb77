"""Patients of samples: from a label file, a pattern, DICOM files or BIDS names; placeholders are no patients."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import DataConfig
from brainscale.dataset.label_file import LabelFile
from brainscale.dataset.subject_names import find_bids_subject, match_patient
from brainscale.reading.keys import PatientKey
from brainscale.reading.placeholders import find_placeholder
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.sample_ids import split_id

TYING_SHARE, TYING_SERIES = 0.8, 10
"""One identifier on at least this share of at least so many series or files, of two labels, is a placeholder."""
HEADER_SOURCE, BIDS_SOURCE = "PatientID", "BIDS subject"
"""What notices call an identifier in a DICOM header, and one in a sample id."""
REMEDY = (
    "To name patients, use `brainscale index --patient-from REGEX`, or --labels FILE.csv with --patient-column NAME."
)


@dataclass(kw_only=True)
class Patients:
    """The patient of each sample, and what to tell the user.

    Attributes:
        hashes: keyed hash of each sample's patient; None where it is not known.
        placeholders: word → number of samples that have it in place of a patient.
        notices: messages for the user, one line each.
    """

    hashes: list[str | None]
    placeholders: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What may name the patient of each sample, before what needs all samples at once.

    Attributes:
        by_file: keyed hash of the patient in the label file.
        by_pattern: keyed hash of the part of the sample id that the pattern names.
        by_header: keyed hash of the patient in the DICOM header; None throughout with a pattern, as is the next.
        by_bids: keyed hash of the subject that the sample id names.
        words: placeholder in place of a patient.
        mismatches: rows of readable samples that the pattern does not match.
    """

    by_file: list[str | None]
    by_pattern: list[str | None]
    by_header: list[str | None]
    by_bids: list[str | None]
    words: list[str | None]
    mismatches: list[int]


def find_candidates(
    table: pa.Table,
    file_rows: Sequence[int | None],
    file: LabelFile | None,
    pattern: re.Pattern[str] | None,
    data: DataConfig,
    key: PatientKey,
) -> Candidates:
    """Return what may name the patient of each sample; arguments as for `find_patients`."""
    ids = table["sample_id"].to_pylist()
    nobody: list[str | None] = [None] * len(ids)
    words = nobody.copy()
    by_file = by_pattern = by_header = by_bids = nobody
    mismatches: list[int] = []
    if file is not None and file.patients is not None:
        named = [None if row is None else file.patients[row] for row in file_rows]
        by_file = _hash_names(named, words, key)
    if pattern is not None:
        matches = [match_patient(pattern, sample_id) for sample_id in ids]
        by_pattern = _hash_names(matches, words, key)
        is_readable = pc.is_null(table["error_code"]).to_pylist()
        mismatches = [n for n, match in enumerate(matches) if match is None and is_readable[n]]
    else:
        words = [known or word for known, word in zip(words, table["patient_placeholder"].to_pylist(), strict=True)]
        by_header = table["patient"].to_pylist()
        by_bids = _hash_names(_bids_subjects(ids, data), words, key)
    return Candidates(
        by_file=by_file,
        by_pattern=by_pattern,
        by_header=by_header,
        by_bids=by_bids,
        words=words,
        mismatches=mismatches,
    )


def find_patients(
    table: pa.Table,
    labels: Sequence[str | None],
    file_rows: Sequence[int | None],
    file: LabelFile | None,
    pattern: re.Pattern[str] | None,
    data: DataConfig,
    key: PatientKey,
    name_of: Callable[[str], str] = str,
) -> Patients:
    """Return the patients of samples: by the label file, else by the pattern or, without one, by DICOM, else by BIDS.

    Args:
        table: samples as read, schema `reading.sample.COLUMNS`.
        labels: label of each sample.
        file_rows: row of each sample in the label file.
        file: the label file, if there is one.
        pattern: the part of a sample id that names the patient; a sample that it does not match has no patient.
        data: classes, whose folders tell no data sets apart.
        key: secret key for the hashes.
        name_of: sample id → what messages call the sample.
    """
    candidates = find_candidates(table, file_rows, file, pattern, data, key)
    series = _series(table)
    patients = Patients(hashes=list(candidates.by_file))
    if file is not None and not file.patient_column_chosen:
        _drop_tying(patients.hashes, series, labels, f"patient in {file.path}", patients)
    if pattern is not None:
        _fill(patients.hashes, candidates.by_pattern)
        if rows := candidates.mismatches:
            readable = table["error_code"].null_count
            patients.notices.append(
                describe_mismatches(len(rows), readable, name_of(table["sample_id"][rows[0]].as_py()))
            )
    else:
        resolved = resolve_issuers(candidates.by_header, table["patient_with_issuer"].to_pylist())
        for hashes, what in ((resolved, HEADER_SOURCE), (candidates.by_bids, BIDS_SOURCE)):
            others = [None if known else other for known, other in zip(patients.hashes, hashes, strict=True)]
            _drop_tying(others, series, labels, what, patients)
            _fill(patients.hashes, others)
    patients.placeholders.update(
        word for word, hashed in zip(candidates.words, patients.hashes, strict=True) if word and hashed is None
    )
    patients.notices += describe_placeholders(patients.placeholders)
    return patients


def describe_mismatches(mismatches: int, samples: int, first: str) -> str:
    """Return the line on samples that `--patient-from` does not match; `first` is what to call one of them."""
    return (
        f"--patient-from does not match {mismatches} of {samples} sample(s), for example '{first}': they have no "
        "patient, unless a label file names one."
    )


def describe_placeholders(placeholders: Counter[str]) -> list[str]:
    """Return a line on placeholders in place of patients; none without any."""
    if not placeholders:
        return []
    found = ", ".join(f"{word} {count}" for word, count in sorted(placeholders.items()))
    return [
        f"{placeholders.total()} sample(s) have a placeholder instead of a patient ({found}) and count as samples "
        f"without a known patient. {REMEDY}"
    ]


def describe_tying(what: str, rows: int, samples: int, shared: int, total: int) -> str:
    """Return the line on one identifier that so many samples and series or files share."""
    return (
        f"One {what} is shared by {rows} of {samples} samples ({shared} of {total} series or files) with different "
        f"labels. It is ignored as a placeholder. {REMEDY}"
    )


def resolve_issuers(patients: Sequence[str | None], with_issuer: Sequence[str | None]) -> list[str | None]:
    """Return the hash that stands for each sample's patient.

    One identifier is one patient, unless its samples name different issuers: then it is one patient for each issuer,
    and samples without an issuer belong to the most frequent one.

    Args:
        patients: hash of each sample's identifier.
        with_issuer: hash of the identifier and its issuer; None without an issuer.
    """
    issuers: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, issued in zip(patients, with_issuer, strict=True):
        if patient is not None and issued is not None:
            issuers[patient][issued] += 1
    usual = {
        patient: min(counts, key=lambda issued: (-counts[issued], issued))
        for patient, counts in issuers.items()
        if len(counts) > 1
    }
    return [
        issued or usual[patient] if patient in usual else patient
        for patient, issued in zip(patients, with_issuer, strict=True)
    ]


def count_unknown_patients(manifest: pa.Table) -> tuple[int, int]:
    """Return the number of samples without a known patient, and that of all samples that could be read."""
    readable = manifest["patient"].filter(pc.is_null(manifest["error_code"]))
    return readable.null_count, len(readable)


def describe_unknown_patients(manifest: pa.Table) -> str | None:
    """Return in one sentence for how many samples no patient is known and what follows; None if all are known."""
    return describe_patients(*count_unknown_patients(manifest))


def describe_patients(unknown: int, samples: int) -> str | None:
    """Return what `describe_unknown_patients` says of so many samples."""
    if not unknown:
        return None
    return (
        f"The patient is unknown for {unknown:,} of {samples:,} samples, so slices of one patient may be in different "
        "splits."
    )


def _series(table: pa.Table) -> list[tuple[str, str | None] | None]:
    """Return what tells series apart: the series of a sample where it has one, else its file; None for an error."""
    rows = zip(*(table[name].to_pylist() for name in ("scan", "sample_id", "error_code")), strict=True)
    return [None if code else (scan, None) if scan else split_id(sample_id)[:2] for scan, sample_id, code in rows]


def _hash_names(names: Sequence[str | None], words: list[str | None], key: PatientKey) -> list[str | None]:
    """Return the hash of each name; of placeholders, the words are filled in instead."""
    hash_name = cache(lambda name: pseudonym(name, key.secret))
    hashes: list[str | None] = []
    for row, name in enumerate(names):
        word = find_placeholder(name, numbers=False) if name else None
        words[row] = words[row] or word
        hashes.append(hash_name(name) if name and word is None else None)
    return hashes


def _fill(hashes: list[str | None], others: Sequence[str | None]) -> None:
    hashes[:] = [hashed or other for hashed, other in zip(hashes, others, strict=True)]


def _bids_subjects(sample_ids: Sequence[str], data: DataConfig) -> list[str | None]:
    is_class = cache(lambda folder: data.label(folder) is not None)
    of_file = cache(lambda path: find_bids_subject(path, is_class))
    return [of_file(sample_id.partition("#")[0]) for sample_id in sample_ids]


def _drop_tying(
    hashes: list[str | None],
    series: Sequence[tuple[str, str | None] | None],
    labels: Sequence[str | None],
    what: str,
    patients: Patients,
) -> None:
    """Remove the hash of one identifier that nearly all series or files share although their labels differ."""
    series_of: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
    for hashed, one in zip(hashes, series, strict=True):
        if hashed is not None and one is not None:
            series_of[hashed].add(one)
    tying = max(series_of, key=lambda hashed: len(series_of[hashed]), default=None)
    total = len(set(series) - {None})
    if tying is None or total < TYING_SERIES or len(series_of[tying]) < TYING_SHARE * total:
        return
    rows = [row for row, hashed in enumerate(hashes) if hashed == tying]
    if len({labels[row] for row in rows} - {None}) < 2:
        return
    patients.notices.append(describe_tying(what, len(rows), len(hashes), len(series_of[tying]), total))
    for row in rows:
        hashes[row] = None
