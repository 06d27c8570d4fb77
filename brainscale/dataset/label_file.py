"""Label files: a CSV file with the label, the patient and other columns of samples."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from brainscale.config.class_names import normalise_name
from brainscale.config.data_sections import DataConfig
from brainscale.errors import ManifestError, UsageError
from brainscale.reading import sample_ids
from brainscale.reading.acquisition import Acquisition
from brainscale.schema import MANIFEST

ID_NAMES = ("file", "filename", "filepath", "path", "image", "imagename", "imagepath", "imagefile")
"""Names of the column of the samples, where it is the only one of these; case, spaces, `_` and `-` do not matter."""
PATIENT_NAMES = ("patient", "patientid", "subject", "subjectid", "participant", "participantid")
"""Names of the column of the patients, where there is no `patient` and only one of these."""
IDENTIFYING = {
    *PATIENT_NAMES,
    *("pid", "patientnumber", "patientno", "subjectnumber", "subjectno", "mrn", "medicalrecordnumber"),
    *("hospitalid", "hospitalnumber", "nhsnumber", "ssn", "socialsecuritynumber", "accession", "accessionnumber"),
    *("name", "fullname", "patientname", "subjectname", "firstname", "givenname", "lastname", "familyname", "surname"),
    *("initials", "patientinitials", "birthdate", "dateofbirth", "dob", "patientbirthdate"),
    *("address", "patientaddress", "phone", "phonenumber", "telephone", "email"),
}
"""Names of columns that may tell who a patient is: they are left out of the manifest. Dots do not matter either."""
SAID_BY_HEADERS = {field.name for field in fields(Acquisition)}
"""Columns that a manifest fills from the headers of files; a label file may have its own of the same names."""
GIVEN = "given_"
"""What the names of such columns of a label file begin with in the manifest."""
MISSING = ("", "na", "n/a", "nan", "null", "unknown")
"""What stands for no label, in any case."""


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """Columns of a label file that the user named; None for the default.

    Attributes:
        id: column that names samples, files or archives.
        label: column of the labels.
        patient: column of the patients.
    """

    id: str | None = None
    label: str | None = None
    patient: str | None = None

    def require_file(self, labels: str) -> None:
        """Refuse names of columns without a label file.

        Raises:
            UsageError: a column is named, but the labels come from folders.
        """
        for name, value in (("id", self.id), ("label", self.label), ("patient", self.patient)):
            if value is not None and labels == "folder":
                raise UsageError(f"--{name}-column names a column of a label file: add --labels FILE.csv")


DEFAULT_COLUMNS = LabelColumns()


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """The rows of a label file.

    Attributes:
        path: path of the file.
        row_of: name of a sample, a file or an archive → its row.
        labels: class of each row; None if the file has no labels.
        patients: identifier of each row's patient, not hashed; None if the file has none.
        patient_column_chosen: whether the user named the column of the patients.
        extra: the other columns, which go into the manifest.
        notices: messages for the user, one line each.
    """

    path: str
    row_of: Mapping[str, int]
    labels: Sequence[str | None] | None
    patients: Sequence[str | None] | None
    patient_column_chosen: bool
    extra: pa.Table
    notices: Sequence[str]

    def rows(self, ids: Sequence[str]) -> list[int | None]:
        """Return the row of each sample; None where the file does not name it.

        Raises:
            ManifestError: the file names a sample that is not among them.
        """
        rows, matched = self.match(ids)
        self.require_matches(matched)
        return rows

    def match(self, ids: Sequence[str]) -> tuple[list[int | None], set[str]]:
        """Return the row of each sample, as `rows` does, and the names in the file that some sample has."""
        names = [_names(sample_id) for sample_id in ids]
        matched = self.row_of.keys() & {name for names_of_sample in names for name in names_of_sample}
        return [next((self.row_of[name] for name in row if name in matched), None) for row in names], matched

    def require_matches(self, matched: set[str]) -> None:
        """Check that every name in the file is that of a sample.

        Raises:
            ManifestError: one is not among the names that `match` returned.
        """
        if unmatched := sorted(self.row_of.keys() - matched):
            raise ManifestError(
                f"{self.path} labels '{unmatched[0]}', which is not in the sources: remove that row, or add its source"
            )

    def extra_columns(self, rows: Sequence[int | None]) -> dict[str, pa.ChunkedArray]:
        """Return the other columns for the given rows of the file; null where a sample has none."""
        index = pa.array(rows, pa.int64())
        return {name: self.extra[name].take(index) for name in self.extra.column_names}


def read_label_file(path: str, data: DataConfig, columns: LabelColumns) -> LabelFile:
    """Read a CSV file with one row for each sample, file or archive; it may be separated by semicolons or tabs.

    A label is the name of a class, or a folder name that stands for one.

    Raises:
        ManifestError: the file cannot be read, lacks a column, has one that a manifest has too, has a label that is no
            class, or lists a sample twice with different values.
    """
    table = _read_csv(path, columns)
    id_column = _choose(path, table, "id", columns.id, "sample_id", ID_NAMES)
    label_column = _choose(path, table, "label", columns.label, "label", ())
    patient_column = _choose(path, table, "patient", columns.patient, "patient", PATIENT_NAMES)
    listed = ", ".join(table.column_names)
    if id_column is None:
        raise ManifestError(
            f"{path} has no column 'sample_id' (its columns are {listed}): name the column of the samples with "
            "--id-column"
        )
    if label_column is None and patient_column is None:
        raise ManifestError(
            f"{path} has no column 'label' (its columns are {listed}): name the column of the labels with "
            "--label-column"
        )
    notices = [] if label_column else [f"{path} has no column 'label': labels come from folder names."]
    others = [name for name in table.column_names if name not in (id_column, label_column, patient_column)]
    if said := [name for name in others if name in MANIFEST.names and name in SAID_BY_HEADERS]:
        names_now = [f"{GIVEN}{name}" if name in said else name for name in table.column_names]
        table, others = table.rename_columns(names_now), [f"{GIVEN}{n}" if n in said else n for n in others]
        renamed = ", ".join(f"{name} → {GIVEN}{name}" for name in said)
        notices.append(f"{path}: renamed column(s) that manifests fill from the headers of files: {renamed}.")
    if clashing := [name for name in others if name in MANIFEST.names]:
        raise ManifestError(
            f"{path} has a column '{clashing[0]}', and so has every manifest: rename or remove it in the file"
        )
    if private := [name for name in others if normalise_name(name.replace(".", "")) in IDENTIFYING]:
        notices.append(f"{path}: left out column(s) that may identify patients: {', '.join(private)}.")
    if encoded := [name for name in others if pa.types.is_binary(table[name].type)]:
        notices.append(f"{path}: left out column(s) that are not in UTF-8: {', '.join(encoded)}.")
    extra = table.select([name for name in others if name not in (*private, *encoded)])
    names = [_normalise_path(name) for name in _texts(table, id_column)]
    labels = None if label_column is None else _classes(path, names, _texts(table, label_column), data)
    patients = None if patient_column is None else [text or None for text in _texts(table, patient_column)]
    compared = {"label": labels, "patient": patients} | {n: extra[n].to_pylist() for n in extra.column_names}
    return LabelFile(
        path=path,
        row_of=_index_rows(path, names, {name: values for name, values in compared.items() if values is not None}),
        labels=labels,
        patients=patients,
        patient_column_chosen=columns.patient is not None,
        extra=extra,
        notices=notices,
    )


def _read_csv(path: str, columns: LabelColumns) -> pa.Table:
    """Read all columns with their types, but those of names, labels and patients as text."""
    try:
        with Path(path).open("rb") as stream:
            header = stream.readline().decode("utf-8-sig").rstrip("\r\n")
        delimiter = max(",;\t", key=header.count)
        raw_names = next(csv.reader([header], delimiter=delimiter), [])
        special = {"sample_id", "label", "patient", columns.id, columns.label, columns.patient}
        as_text = {
            raw: pa.string()
            for raw in raw_names
            if raw.strip() in special or normalise_name(raw) in ("label", "sampleid", *ID_NAMES, *PATIENT_NAMES)
        }
        table = arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(column_types=as_text),
        )
    except FileNotFoundError:
        raise ManifestError(f"no label file at {path}: give the path of a CSV file, or `folder`") from None
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{path} cannot be read as CSV ({reason}): give a CSV file in UTF-8 with the columns sample_id and label"
        ) from None
    table = table.rename_columns([name.strip() for name in table.column_names])
    if repeated := [name for name in table.column_names if table.column_names.count(name) > 1]:
        raise ManifestError(f"{path} has two columns '{repeated[0]}': remove or rename one")
    named = table.select([name for name in table.column_names if name])  # pandas writes its index without a name
    return pa.table({name: _empty_to_null(named[name]) for name in named.column_names})


def _empty_to_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without padding, and null for an empty one; other types as they are."""
    if not pa.types.is_string(values.type):
        return values
    texts = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _choose(
    path: str, table: pa.Table, role: str, chosen: str | None, default: str, others: Sequence[str]
) -> str | None:
    """Return the column of a role: the one the user named, else the default, else the only one with another name."""
    names = table.column_names
    if chosen is not None:
        if chosen not in names:
            raise ManifestError(f"{path} has no column '{chosen}': its columns are {', '.join(names)}")
        return chosen
    if default in names:
        return default
    candidates = [name for name in names if normalise_name(name) in (normalise_name(default), *others)]
    if len(candidates) > 1:
        raise ManifestError(
            f"{path} has no column '{default}', but {' and '.join(candidates)}: name one with --{role}-column"
        )
    return candidates[0] if candidates else None


def _texts(table: pa.Table, column: str) -> list[str]:
    texts: list[str] = table[column].cast(pa.string()).fill_null("").to_pylist()
    return texts


def _classes(path: str, names: Sequence[str], labels: Sequence[str], data: DataConfig) -> list[str | None]:
    """Return the class of each label; None for a missing one."""
    class_of = {label: data.label(label) for label in set(labels)}
    for name, label in zip(names, labels, strict=True):
        if class_of[label] is None and label.lower() not in MISSING:
            classes = ", ".join(data.classes)
            raise ManifestError(
                f"unknown label '{label}' of '{name}' in {path}: use one of {classes}, or add it to data.classes"
            )
    return [class_of[label] for label in labels]


def _index_rows(path: str, names: Sequence[str], columns: Mapping[str, Sequence[object]]) -> dict[str, int]:
    """Return name → its first row; a row that comes again must be the same."""
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        if not name:
            raise ManifestError(
                f"{path} names no sample in row {row + 1} after the header: fill in its name, or remove the row"
            )
        first = row_of.setdefault(name, row)
        for column, values in columns.items():
            if values[first] != values[row]:
                found = f" ({values[first] or 'none'} and {values[row] or 'none'})" if column == "label" else ""
                raise ManifestError(
                    f"{path} lists '{name}' more than once, with different values of '{column}'{found}: keep one row"
                )
    return row_of


def _normalise_path(name: str) -> str:
    """Return a path with forward slashes and without `./` in front, as sample ids are."""
    return name.replace("\\", "/").removeprefix("./")


def _names(sample_id: str) -> tuple[str, str, str]:
    """Return the names under which a file may list a sample: its id, its file or member, its outermost file."""
    names = sample_id, sample_id.partition("#")[0], sample_ids.file_of(sample_id)
    return tuple(map(_normalise_path, names))  # type: ignore[return-value]  # three again
