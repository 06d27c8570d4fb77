"""Score into a single file: the parts are written into a folder beside it, become one table, and are removed.

A stopped job is resumed from its parts. The file is written whole or not at all.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from brainscale.errors import OutputError, StorageError, UsageError
from brainscale.hashing import fingerprint
from brainscale.models.bundle import BUNDLE_FILES, Bundle, mark_edited, open_bundle
from brainscale.models.engines import identify_precision
from brainscale.models.shipped import locate_model
from brainscale.reading.keys import read_key
from brainscale.reading.pseudonyms import key_fingerprint
from brainscale.scoring.bulk import fingerprint_sources, score_files
from brainscale.scoring.parts import read_rows
from brainscale.scoring.result import Scores, ScoringProgress
from brainscale.storage.folder import Folder
from brainscale.storage.formats import write_file
from brainscale.storage.local import require_writable
from brainscale.storage.remote import (
    ObjectStore,
    filesystem_of,
    is_address,
    retrying,
    split_address,
    split_options,
)
from brainscale.storage.shards import place_in
from brainscale.storage.tables import read_table, table_bytes
from brainscale.storage.workspace import fetch

MAX_FILE_ROWS = 1_000_000
"""Rows of a single file at most: they are sorted in memory, and a spreadsheet holds no more."""
SUFFIXES = (".parquet", ".csv")
OTHER_TABLES = (".tsv", ".txt", ".json", ".jsonl", ".xls", ".xlsx", ".md", ".tex", ".html", ".feather", ".arrow")
"""Suffixes of tables that scoring does not write; a folder of such a name would be a mistake."""
FILE_KEY = b"brainscale.scores"
"""Metadata key of a Parquet file: what it was made from, and the counts of its rows."""


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """A job that writes a single file.

    Attributes:
        out: path or address of the file.
        request: hash of what the scores depend on besides the sources.
        sources: hash of the files of the sources; None where their names are secret.
        bundle: the model.
    """

    out: str
    request: str
    sources: str | None
    bundle: Bundle

    @property
    def parts(self) -> str:
        """Path or address of the folder of its parts, beside the file; a job with another model has another one."""
        folder, name = _split(self.out)
        return place_in(folder, f".{name}.{self.request[:8]}.parts")

    def is_begun(self) -> bool:
        """Return whether this job was stopped: it has parts."""
        if is_address(self.parts):
            return bool(ObjectStore(self.parts).names())
        return Path(self.parts).is_dir()

    def read_finished(self) -> Scores | None:
        """Return the scores in the file, if it is this job's own; a CSV file does not say whose it is."""
        if self.sources is None or not self.out.lower().endswith(".parquet"):
            return None
        try:
            facts = json.loads((_read_schema(self.out).metadata or {})[FILE_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return None
        if (facts["request"], facts["sources"]) != (self.request, self.sources):
            return None
        return replace(Scores.from_facts(self.out, facts["scores"], ()), **facts["beside"])

    def encode(self, scores: Scores) -> pa.Buffer:
        """Return the bytes of the file, from the parts."""
        folder = Folder(self.parts)
        table = pa.concat_tables(read_rows(folder, part) for part in scores.parts).sort_by("sample_id")
        beside = {name: getattr(scores, name) for name in ("unit", "units", "units_file", "heatmaps")}
        facts = {"request": self.request, "sources": self.sources, "scores": scores.facts(), "beside": beside}
        metadata = dict(scores.identity) | {FILE_KEY: json.dumps(facts)}
        table = table.replace_schema_metadata(metadata)
        return _encode(mark_edited(table, self.bundle), self.out, "predictions", list(self.bundle.info.classes))


def names_file(out: str) -> bool:
    """Return whether an output is a single file, by its suffix; a slash at its end makes it a folder.

    Raises:
        UsageError: it has the suffix of a table that scoring does not write.
    """
    base = split_options(out)[0]
    suffix = "" if base.endswith("/") else PurePosixPath(base).suffix.lower()
    if suffix in OTHER_TABLES:
        raise UsageError(f"--out {out}: scores are written to a folder, or to a file ending in .parquet or .csv")
    return suffix in SUFFIXES and not (not is_address(out) and Path(out).is_dir())


def wants_file(out: str, *, overwrite: bool, extends: bool) -> bool:
    """Return whether an output is a single file, and check the options that are for one kind only.

    Args:
        out: path or address of a folder or a file.
        overwrite: whether `--overwrite` was given.
        extends: whether `--update` or `--prune` was given.

    Raises:
        UsageError: it has the suffix of another table, or an option is for the other kind.
    """
    is_file = names_file(out)
    if overwrite and not is_file:
        raise UsageError(f"--overwrite is for a single file, but --out {out} is a folder: remove --overwrite")
    if extends and is_file:
        raise UsageError(f"--update and --prune extend a folder, but --out {out} is a single file: remove them")
    return is_file


def open_file_job(
    bundle: Bundle,
    sources: Sequence[str],
    out: str,
    *,
    overwrite: bool,
    threshold: float | None,
    precision: str,
    unit: str | None,
    patient_key: str | None,
    hash_paths: bool,
    heatmaps: str | None,
    **settings: object,  # noqa: ARG001 (on which no score depends)
) -> tuple[FileJob, Scores | None]:
    """Return the job that writes a single file, and its scores if they are complete; all arguments as in `score_to`.

    Raises:
        BrainscaleError: the file is not this job's own, there are too many files, or the key cannot be read.
    """
    count, of_sources = fingerprint_sources(sources, bundle.info.preprocess)
    if count > MAX_FILE_ROWS:
        raise UsageError(f"{count:,} files are too many for one file ({MAX_FILE_ROWS:,} rows): give a folder as --out")
    key = read_key(patient_key)
    secret = None if key.random else key_fingerprint(key.secret)
    computed = identify_precision(bundle, precision)
    request = [bundle.sha256, threshold, computed, hash_paths, secret, unit, heatmaps]
    job = FileJob(out=out, request=fingerprint(request), sources=None if hash_paths else of_sources, bundle=bundle)
    outputs = [*([] if unit is None else [name_units(out, unit)]), out]
    existing = [] if overwrite else [output for output in outputs if _exists(output)]
    if len(existing) == len(outputs) and (finished := job.read_finished()) is not None:
        return job, finished
    if out in existing or (existing and not job.is_begun()):
        is_parquet = existing[0].lower().endswith(".parquet")
        why = "it is not the finished work of this job" if is_parquet else "a .csv file does not say what made it"
        raise OutputError(f"{existing[0]} exists, and {why}: give another path, or add --overwrite")
    return job, None


def score_to(
    model: str,
    sources: Sequence[str],
    out: str,
    *,
    overwrite: bool = False,
    threshold: float | None = None,
    precision: str = "fp32",
    unit: str | None = None,
    update: bool = False,
    prune: bool = False,
    patient_key: str | None = None,
    hash_paths: bool = False,
    heatmaps: str | None = None,
    allow_edited_model: bool = False,
    **settings: Any,
) -> Scores:
    """Score every sample of the sources into a folder, or into a single file if `out` ends in .parquet or .csv.

    Args:
        model: as `score_files` takes it.
        sources: as `score_files` takes them.
        out: path or address of a folder or a file.
        overwrite: whether to replace a file that is not this job's own.
        threshold: operating threshold, instead of the model's own.
        precision: fp32, bf16 or int8.
        unit: scan or patient, to write a second table; for `scores.csv` it is `scores.scans.csv`.
        update: whether to score files that are new in the sources of a folder.
        prune: whether to drop the rows of files that are gone from the sources of a folder.
        patient_key: file with the secret key for the hashes.
        hash_paths: whether the names of files become hashes too.
        heatmaps: folder for heatmaps of the most confident positives.
        allow_edited_model: whether to score with a model whose model.json was edited.
        settings: the other arguments of `score_files`.

    Raises:
        BrainscaleError: as by `score_files`; or the file is not this job's own, or would have too many rows.
    """
    settings |= {
        "threshold": threshold,
        "precision": precision,
        "unit": unit,
        "patient_key": patient_key,
        "hash_paths": hash_paths,
        "heatmaps": heatmaps,
        "allow_edited_model": allow_edited_model,
    }
    if not wants_file(out, overwrite=overwrite, extends=update or prune):
        folder = out if is_address(out) else str(Path(out))  # without a slash at its end
        return score_files(model, sources, folder, update=update, prune=prune, **settings)
    with fetch(locate_model(model), *BUNDLE_FILES) as bundle_folder:
        bundle = open_bundle(bundle_folder, allow_edited=allow_edited_model)
    job, finished = open_file_job(bundle, sources, out, overwrite=overwrite, **settings)
    if finished is not None:
        return finished
    if not is_address(out):
        require_writable(Path(out).parent)
    # of files that came, changed or went since the job was stopped, the rows are as if it began now
    scores = score_files(model, sources, job.parts, update=True, prune=True, **settings)
    if scores.rows > MAX_FILE_ROWS:
        raise OutputError(
            f"{scores.rows:,} rows are too many for one file ({MAX_FILE_ROWS:,}): they are in the folder {job.parts}, "
            "which you can rename and use as it is"
        )
    if scores.unit is not None and scores.units_file is not None:
        moved = _move_units(scores.units_file, scores.unit, out, list(bundle.info.classes))
        scores = replace(scores, units_file=moved)
    write_file(job.encode(scores).to_pybytes(), out)
    _remove(job.parts)
    progress = scores.progress or ScoringProgress(rows_now=0, seconds_now=0.0, rows_a_second=0.0)
    return replace(scores, path=out, parts=(), progress=progress)


def _move_units(file: str, unit: str, out: str, classes: Sequence[str]) -> str:
    """Move the table of scans or patients beside the file, in its format, and return its place."""
    kind, target = f"{unit}s", name_units(out, unit)
    write_file(_encode(read_table(file, kind), target, kind, classes).to_pybytes(), target)
    _remove(file)
    return target


def name_units(out: str, unit: str) -> str:
    """Return the path or address of the table of scans or patients of a single file."""
    folder, name = _split(out)
    path = PurePosixPath(name)
    return place_in(folder, f"{path.stem}.{unit}s{path.suffix}")


def _encode(table: pa.Table, out: str, kind: str, classes: Sequence[str]) -> pa.Buffer:
    """Return a table as Parquet, or as CSV with a column for the probability of each class."""
    if split_options(out)[0].lower().endswith(".parquet"):
        return table_bytes(table, kind)
    sink = pa.BufferOutputStream()
    pacsv.write_csv(spread_probabilities(table, classes), sink)
    return sink.getvalue()


def spread_probabilities(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Return a table with a column `probability_CLASS` for each class, in place of the lists in `probabilities`."""
    place = table.column_names.index("probabilities")
    lists = table["probabilities"].combine_chunks()
    table = table.remove_column(place)
    for number, name in enumerate(classes):
        table = table.add_column(place + number, f"probability_{name}", pc.list_element(lists, number))
    return table


def _split(out: str) -> tuple[str, str]:
    return split_address(out) if is_address(out) else (str(Path(out).parent), Path(out).name)


def _exists(location: str) -> bool:
    if not is_address(location):
        return Path(location).exists()
    folder, name = split_address(location)
    filesystem, root = filesystem_of(folder)
    info = retrying(lambda: filesystem.get_file_info(f"{root}/{name}"), location)
    return bool(info.is_file)


def _read_schema(location: str) -> pa.Schema:
    folder, name = _split(location)
    with Folder(folder).open(name) as source:
        return pq.ParquetFile(source).schema_arrow


def _remove(location: str) -> None:
    """Remove a file or a folder of this job; one that cannot be removed is left, since its rows are in the file."""
    with suppress(OSError, StorageError):
        if not is_address(location):
            path = Path(location)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            return
        folder, name = split_address(location)
        ObjectStore(location).remove(ObjectStore(location).names())
        ObjectStore(folder).remove([name])
