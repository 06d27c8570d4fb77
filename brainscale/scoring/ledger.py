"""Read from the parts of a scores folder which files are done, so that a rerun scores only the others.

A file is done when all its samples are there. The last row of a file says how many samples it has.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from brainscale.errors import OutputError
from brainscale.reading import sample_ids
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.scoring.parts import FILE_ROWS_KEY, PART_FILES, list_sample_ids, name_part, read_part, save_part
from brainscale.storage.workspace import Workspace

Rename = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Samples and files in the parts of a folder.

    Ids are replaced by sorted 16-byte hashes, so a ledger takes 16 bytes for each row and 32 for each file.

    Attributes:
        samples: hashes of the samples, S16 [samples].
        files: hashes of their files, S16 [files].
        done: hashes of the files that are done.
        duplicates: hashes of the samples that occur more than once.
        codes: error code → number of rows.
        rename: id of a file or sample → id that the parts have for it.
    """

    samples: np.ndarray
    files: np.ndarray
    done: np.ndarray
    duplicates: np.ndarray
    codes: Mapping[str, int]
    rename: Rename = str

    def find_missing(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Return the files that are not done: some of the samples to score are not there."""
        is_done = _is_in(self._hash_files(files), self.done).tolist()
        return [file for file, done in zip(files, is_done, strict=True) if not (done or self._has_all_samples(file))]

    def hash_begun(self, files: Sequence[SourceFile]) -> np.ndarray:
        """Return the sorted hashes of those of the files that have at least one sample in the folder."""
        hashes = self._hash_files(files)
        return np.sort(hashes[_is_in(hashes, self.files)])

    def hash_others(self, files: Sequence[SourceFile]) -> np.ndarray:
        """Return the hashes of the files in the folder that are not among the given files."""
        given = np.sort(self._hash_files(files))
        others: np.ndarray = self.files[~_is_in(self.files, given)]
        return others

    def _has_all_samples(self, file: SourceFile) -> bool:
        if file.sample_ids is None:
            return False
        return bool(_is_in(hash_ids(map(self.rename, file.sample_ids)), self.samples).all())

    def _hash_files(self, files: Sequence[SourceFile]) -> np.ndarray:
        return hash_ids(self.rename(file.sample_id) for file in files)


def hash_ids(ids: Iterable[str]) -> np.ndarray:
    """Return a 16-byte hash of each id, S16 [ids]; among 10⁹ ids, two are equal with a probability of 10⁻²⁰."""
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=16).digest() for i in ids), "S16")


def _is_in(hashes: np.ndarray, sorted_hashes: np.ndarray) -> np.ndarray:
    """Return which of the hashes are among the sorted ones, bool."""
    if not len(sorted_hashes):
        return np.zeros(len(hashes), bool)
    positions = np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)
    return np.asarray(sorted_hashes[positions] == hashes)


def read_ledger(folder: Workspace, identity: Mapping[str, str], rename: Rename = str) -> Ledger:
    """Read the ledger of a scores folder from its parts.

    Args:
        folder: the scores folder.
        identity: metadata that every part must have.
        rename: id of a file or sample → id that the parts have for it.

    Raises:
        OutputError: a part is damaged, or was made with another model or configuration.
    """
    samples, files = [hash_ids([])], [hash_ids([])]
    rows_of_files: dict[str, int] = {}
    codes: Counter[str] = Counter()
    for name in folder.listed(PART_FILES):
        table, metadata = read_part(folder, name)
        for key, value in identity.items():
            if (part_value := metadata.get(key)) != value:
                raise OutputError(
                    f"{folder} holds scores with another {key} ({part_value} there, {value} here): choose a new --out"
                )
        rows_of_files |= json.loads(metadata.get(FILE_ROWS_KEY, "{}"))
        codes.update(code for code in table["error_code"].to_pylist() if code is not None)
        ids = list_sample_ids(table)
        samples.append(hash_ids(ids))
        files.append(hash_ids(map(sample_ids.file_of, ids)))
    sorted_codes = dict(sorted(codes.items()))
    ledger = _make_ledger(np.concatenate(samples), np.concatenate(files), rows_of_files, sorted_codes)
    return replace(ledger, rename=rename)


def _make_ledger(
    sample_of_row: np.ndarray, file_of_row: np.ndarray, rows_of_files: Mapping[str, int], codes: Mapping[str, int]
) -> Ledger:
    """Return the ledger of rows.

    Args:
        sample_of_row: hash of the sample of each row.
        file_of_row: hash of the file of each row.
        rows_of_files: file → number of its rows, for files with several samples whose last row is there.
        codes: error code → number of rows.
    """
    samples, first_rows, occurrences = np.unique(sample_of_row, return_index=True, return_counts=True)
    files, present_rows = np.unique(file_of_row[first_rows], return_counts=True)
    # the only sample of a file has the id of the file; −1 where the number of rows is not known
    expected_rows = np.where(_is_in(files, samples), 1, -1)
    file_positions = np.searchsorted(files, hash_ids(rows_of_files))
    expected_rows[file_positions] = np.array(list(rows_of_files.values()), expected_rows.dtype)
    done = files[present_rows == expected_rows]
    return Ledger(samples=samples, files=files, done=done, duplicates=samples[occurrences > 1], codes=codes)


def find_ids(folder: Workspace, *, files: np.ndarray | None = None, samples: np.ndarray | None = None) -> Iterator[str]:
    """Yield the ids of the rows of some files or of some samples, by reading the parts again.

    Args:
        folder: the scores folder.
        files: sorted hashes of files.
        samples: sorted hashes of samples.
    """
    hashes, id_to_hash = (files, sample_ids.file_of) if files is not None else (samples, str)
    if hashes is None or not len(hashes):
        return
    for name in folder.listed(PART_FILES):
        ids = list_sample_ids(read_part(folder, name)[0])
        matches = _is_in(hash_ids(map(id_to_hash, ids)), hashes).tolist()
        yield from (sample_id for sample_id, is_match in zip(ids, matches, strict=True) if is_match)


def remove_duplicate_rows(folder: Workspace, duplicates: np.ndarray, job: str) -> None:
    """Replace the parts that share rows by one part with each row once.

    If it is killed before it ends, calling it again finishes the work.

    Args:
        folder: the scores folder.
        duplicates: sorted hashes of the samples that occur more than once; at least one.
        job: name of the job that owns the folder.
    """
    names = [
        name
        for name in folder.listed(PART_FILES)
        if _is_in(hash_ids(list_sample_ids(read_part(folder, name)[0])), duplicates).any()
    ]
    tables = [folder.table(name, PREDICTIONS.names) for name in names]
    rows = pa.concat_tables(tables)
    unique_rows = rows.take(np.sort(np.unique(hash_ids(list_sample_ids(rows)), return_index=True)[1]))
    key = FILE_ROWS_KEY.encode()
    rows_of_files = dict(pair for table in tables for pair in json.loads(table.schema.metadata[key]).items())
    merged = unique_rows.replace_schema_metadata({**rows.schema.metadata, key: json.dumps(rows_of_files)})
    merged_name = name_part(list_sample_ids(unique_rows))
    save_part(merged, str(folder), merged_name, job)
    for name in names:
        if name != merged_name:
            folder.remove(name)
