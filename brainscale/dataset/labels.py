"""Labels and patients of samples, from folder names or from a label file."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import csv

from brainscale.config.sections import DataConfig
from brainscale.errors import ManifestError
from brainscale.reading import sample_ids
from brainscale.reading.pseudonyms import PatientKey, pseudonym


@dataclass(frozen=True)
class LabelRow:
    """Label and patient of a sample in a label file.

    Attributes:
        label: class name.
        patient: identifier of the patient, not hashed yet.
    """

    label: str | None = None
    patient: str | None = None


def make_label_columns(
    table: pa.Table, label_rows: Mapping[str, LabelRow] | None, path: str, data: DataConfig, key: PatientKey
) -> dict[str, pa.Array]:
    """Return the column label and, with a label file, the column patient.

    Args:
        table: samples as read, with the columns sample_id and patient.
        label_rows: the rows of the label file by name; None to take labels from folder names.
        path: the label file, for error messages.
        data: class names and their folders.
        key: secret key for the hashes of patients.

    Raises:
        ManifestError: the label file labels a sample that is not in the sources.
    """
    ids = table["sample_id"].to_pylist()
    if label_rows is None:
        return {"label": pa.array([find_folder_label(i, data) for i in ids], pa.string())}
    names_of_all = {name for i in ids for name in _names_in_label_file(i)}
    if unmatched := sorted(set(label_rows) - names_of_all):
        raise ManifestError(
            f"{path} labels '{unmatched[0]}', which is not in the sources: remove that row, or add its source"
        )
    rows = [next((label_rows[n] for n in _names_in_label_file(i) if n in label_rows), LabelRow()) for i in ids]
    patients = zip(rows, table["patient"].to_pylist(), strict=True)
    return {
        "label": pa.array([row.label for row in rows], pa.string()),
        "patient": pa.array([pseudonym(row.patient, key.secret) or hashed for row, hashed in patients], pa.string()),
    }


def _names_in_label_file(sample_id: str) -> tuple[str, str, str]:
    """Return the names under which a label file may list a sample: its id, its file or member, its outermost file."""
    return sample_id, sample_id.partition("#")[0], sample_ids.split_id(sample_id)[0]


def find_folder_label(sample_id: str, data: DataConfig) -> str | None:
    """Return the class of the nearest folder or archive above a sample that is named after one, or None."""
    folders = sample_id.replace("!", "/").split("/")[:-1]
    labels = (data.label(name) or data.label(name.partition(".")[0]) for name in reversed(folders))
    return next((label for label in labels if label is not None), None)


def read_labels(path: str, data: DataConfig) -> dict[str, LabelRow]:
    """Read a CSV file with the columns sample_id, label and, if known, patient; return its rows by sample_id.

    A label is the name of a class, or a folder name that stands for one.

    Raises:
        ManifestError: the file cannot be read, lacks a column, or has a label that is no class.
    """
    columns = ("sample_id", "label", "patient")
    try:
        options = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
        table = csv.read_csv(path, convert_options=options)
        rows = table.select([name for name in columns if name in table.column_names]).to_pylist()
        missing = [name for name in columns[:2] if name not in table.column_names]
    except (OSError, pa.ArrowInvalid) as error:
        raise ManifestError(
            f"{path} cannot be read as CSV ({error}): give a CSV file with the columns sample_id and label"
        ) from None
    if missing:
        raise ManifestError(
            f"{path} has no column '{missing[0]}': the columns are sample_id, label and, if known, patient"
        )
    label_rows = {}
    for row in rows:
        label = data.label(row["label"] or "")
        if label is None:
            classes = ", ".join(data.classes)
            raise ManifestError(
                f"unknown label '{row['label']}' of '{row['sample_id']}' in {path}: use one of {classes}, "
                "or add it to data.classes"
            )
        label_rows[row["sample_id"]] = LabelRow(label, row.get("patient") or None)
    return label_rows
