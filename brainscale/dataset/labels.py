"""Labels and patients of samples, from folder names or a label file."""

from dataclasses import dataclass

import pyarrow as pa
from pyarrow import csv

from brainscale.config.sections import DataConfig
from brainscale.errors import ManifestError
from brainscale.reading import sample_ids
from brainscale.reading.pseudonyms import PatientKey, pseudonym


def label_columns(
    table: pa.Table, given: "dict[str, LabelRow] | None", file: str, data: DataConfig, key: PatientKey
) -> dict[str, pa.Array]:
    """The columns label and, where a file names patients, patient."""
    ids = table["sample_id"].to_pylist()
    if given is None:
        return {"label": pa.array([label_of(i, data) for i in ids], pa.string())}
    found = [next((given[name] for name in _names_of(i) if name in given), LabelRow()) for i in ids]
    known = {name for i in ids for name in _names_of(i)}
    if strange := sorted(set(given) - known):
        raise ManifestError(f"{file} labels '{strange[0]}', which is not in the sources")
    patients = zip(found, table["patient"].to_pylist(), strict=True)
    return {
        "label": pa.array([row.label for row in found], pa.string()),
        "patient": pa.array([pseudonym(row.patient, key.secret) or theirs for row, theirs in patients], pa.string()),
    }


def _names_of(sample_id: str) -> tuple[str, str, str]:
    """What a label's file may call a sample: itself, its file or member, the file that holds it."""
    return sample_id, sample_id.partition("#")[0], sample_ids.split_id(sample_id)[0]


def label_of(sample_id: str, data: DataConfig) -> str | None:
    """The class that the nearest folder or archive above a sample names, if any does."""
    above = sample_id.replace("!", "/").split("/")[:-1]
    tried = (data.label(name) or data.label(name.partition(".")[0]) for name in reversed(above))
    return next((label for label in tried if label is not None), None)


@dataclass(frozen=True)
class LabelRow:
    """What a label's file says of a sample."""

    label: str | None = None
    patient: str | None = None


def read_labels(path: str, data: DataConfig) -> dict[str, LabelRow]:
    """sample_id → class and patient from a CSV file; a label may be a class or a folder name that means one.

    Raises:
        ManifestError: no such file, no such columns, or a label that means no class.
    """
    wanted = ("sample_id", "label", "patient")
    try:
        options = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()))
        table = csv.read_csv(path, convert_options=options)
        rows = table.select([name for name in wanted if name in table.column_names]).to_pylist()
        missing = [name for name in wanted[:2] if name not in table.column_names]
    except (OSError, pa.ArrowInvalid) as error:
        raise ManifestError(f"{path} is no CSV file with columns sample_id and label: {error}") from None
    if missing:
        raise ManifestError(f"{path} has no column {missing[0]}: it needs sample_id and label, and may have patient")
    found = {}
    for row in rows:
        label = data.label(row["label"] or "")
        if label is None:
            known = ", ".join(data.classes)
            raise ManifestError(f"{path}: label '{row['label']}' of '{row['sample_id']}' is no class: known: {known}")
        found[row["sample_id"]] = LabelRow(label, row.get("patient") or None)
    return found
