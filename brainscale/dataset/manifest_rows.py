"""Make rows of a manifest from samples as read: all of a source, or a portion of it."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.label_file import LabelFile
from brainscale.dataset.labels import choose_folder_labels
from brainscale.dataset.manifest import KEY_METADATA
from brainscale.reading.keys import PatientKey
from brainscale.reading.pseudonyms import hide_id, key_fingerprint, pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.schema import HIDDEN, MANIFEST, WINDOW_KEY


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """How samples become rows of a manifest.

    Attributes:
        config: class names of folders, limits, preprocessing, and the similarity of near duplicates.
        label_file: the label file, if there is one.
        pattern: the part of a sample id that names the patient, if one was given.
        key: secret key for the hashes of patients and series.
        hash_paths: whether the names of files and archive members become hashes.
    """

    config: Config
    label_file: LabelFile | None
    pattern: re.Pattern[str] | None
    key: PatientKey
    hash_paths: bool

    @property
    def request(self) -> ReadRequest:
        """What is read of each file."""
        return ReadRequest(
            preprocess=self.config.data.preprocess,
            limits=self.config.limits,
            planes=False,
            hashes=True,
            key=self.key.secret,
        )

    @property
    def name_of(self) -> Callable[[str], str]:
        """Sample id → what messages call the sample."""
        return partial(hide_id, key=self.key.secret) if self.hash_paths else str

    def choose_labels(self, ids: Sequence[str], rows: Sequence[int | None]) -> list[str | None]:
        """Return the label of each sample.

        Args:
            ids: of the samples.
            rows: of the samples in the label file.
        """
        if self.label_file is None or self.label_file.labels is None:
            return choose_folder_labels(ids, self.config.data)
        return [None if row is None else self.label_file.labels[row] for row in rows]

    def make_rows(
        self,
        table: pa.Table,
        labels: Sequence[str | None],
        patients: Sequence[str | None],
        rows: Sequence[int | None],
    ) -> pa.Table:
        """Return samples as rows of a manifest without groups, in their order.

        Args:
            table: samples as read, schema `reading.sample.COLUMNS`.
            labels: of the samples.
            patients: keyed hash of each sample's patient.
            rows: of the samples in the label file, for its other columns.
        """
        known = {name: table[name] for name in table.column_names if name in MANIFEST.names}
        known |= {"label": pa.array(labels, pa.string()), "patient": pa.array(patients, pa.string())}
        nulls = pa.nulls(len(table), pa.null())
        manifest = pa.table([known.get(f.name, nulls).cast(f.type) for f in MANIFEST], schema=MANIFEST)
        for name, values in ({} if self.label_file is None else self.label_file.extra_columns(rows)).items():
            manifest = manifest.append_column(name, values)
        rules = {WINDOW_KEY: self.config.data.window_rule, KEY_METADATA: key_fingerprint(self.key.secret)}
        return manifest.replace_schema_metadata({**(manifest.schema.metadata or {}), **rules})


Notes = dict[str, tuple[int, str]]
"""What is odd about files that were read all the same → number of samples, and the id of the first."""


def count_notes(table: pa.Table) -> Notes:
    """Count the samples that have each note.

    Args:
        table: schema `reading.sample.COLUMNS`.
    """
    noted = table.filter(pc.is_valid(table["note"])).select(["note", "sample_id"])
    counts: Notes = {}
    for note, sample_id in zip(noted["note"].to_pylist(), noted["sample_id"].to_pylist(), strict=True):
        count, first = counts.get(note, (0, sample_id))
        counts[note] = count + 1, first
    return counts


def describe_notes(parts: Iterable[Notes], name_of: Callable[[str], str]) -> Iterator[str]:
    """Yield a line on each note.

    Args:
        parts: of one source, in its order.
        name_of: sample id → what messages call the sample.
    """
    totals: Notes = {}
    for part in parts:
        for note, (count, first) in part.items():
            before, earliest = totals.get(note, (0, first))
            totals[note] = before + count, earliest
    for note, (count, first) in sorted(totals.items()):
        yield f"Note: {note}, for {count} sample(s), the first of them '{name_of(first)}'."


def hide_paths(manifest: pa.Table, key: PatientKey) -> pa.Table:
    """Return the manifest as it can be given away: no paths and no signatures.

    Sample ids and members become hashes, and uri becomes `hidden`.
    """
    columns = {name: manifest[name].to_pylist() for name in ("sample_id", "member")}
    replaced = {
        "signature": pa.nulls(len(manifest), pa.binary()),
        "sample_id": pa.array([hide_id(sample_id, key.secret) for sample_id in columns["sample_id"]], pa.string()),
        "member": pa.array([pseudonym(member, key.secret) for member in columns["member"]], pa.string()),
        "uri": pa.array([HIDDEN] * len(manifest), pa.string()),
    }
    values = [replaced.get(field.name, manifest[field.name]) for field in manifest.schema]
    hidden = pa.table(values, schema=manifest.schema)
    return hidden.sort_by("sample_id")
