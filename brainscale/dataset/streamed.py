"""Index long listings: portion by portion on Ray, as a folder of shards, with the rows that one table would have.

1. A portion of the listing is read in tasks, and a task writes its rows as shards that are not finished.
2. The driver chooses patients and groups from columns of numbers (`sharded_patients`, `sharded`).
3. Tasks write the shards again with patients and groups; the list of the shards is last.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import replace_column
from brainscale.dataset.header_control import COLUMNS, HeaderControl, choose_rows, control_of_rows
from brainscale.dataset.manifest import SHARD_ROWS, check_manifest, none_readable
from brainscale.dataset.manifest_rows import RowRules, describe_notes, hide_paths
from brainscale.dataset.on_ray import map_on_ray, read_portions, shuffle_on_ray
from brainscale.dataset.patients import describe_mismatches, describe_placeholders
from brainscale.dataset.portions import PORTION_FILES, Portion, cut_portions, write_portion
from brainscale.dataset.shard_columns import BUCKETS_AT_A_TIME, ManifestColumns
from brainscale.dataset.sharded import Groups, find_groups
from brainscale.dataset.sharded_patients import WORDS, PatientChoice, choose_patients
from brainscale.dataset.sharded_summary import add_counts, count_shards, describe_gaps_of_shards
from brainscale.dataset.summary import ManifestSummary
from brainscale.errors import BrainscaleError
from brainscale.reading.keys import PatientKey
from brainscale.reading.reader import read_tables
from brainscale.reading.series import add_notes
from brainscale.reading.sources import SourceFile
from brainscale.schema import MANIFEST
from brainscale.storage.shards import Shard, ShardedTable, finish_shards, prepare_folder, remove_unlisted, write_shard


@dataclass(frozen=True, kw_only=True)
class StreamedManifest:
    """A manifest that was written, and what it contains.

    Attributes:
        shards: number of shards.
        summary: counts of samples, labels, errors and duplicates.
        header_only_control: how well file headers alone predict a tumour.
    """

    shards: int
    summary: ManifestSummary
    header_only_control: HeaderControl


def write_streamed(
    files: Iterable[SourceFile],
    source: str,
    out: str,
    rules: RowRules,
    *,
    workers: int | None = None,
    shard_rows: int | None = None,
    origin: str | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> StreamedManifest:
    """Index files on Ray, and write the manifest as a folder of shards.

    Args:
        files: in the order of their ids; read once.
        source: what messages call the source.
        out: path or address of the folder.
        rules: how samples become rows.
        workers: number of tasks that read at the same time; by default as many as there is room for.
        shard_rows: rows of a shard at most; `SHARD_ROWS` by default.
        origin: as in `write_table`.
        on_notice: called with each message for the user.

    Raises:
        ManifestError: no file can be read, or the label file names a sample that is not among them.
        SourceError: a source does not exist, contains no file, or cannot be listed.
        OutputError: the folder cannot be written.
        StorageError: the object store refuses, or does not answer.
        UsageError: a file or the folder is on a path that not every node can read.
        ClusterError: Ray does not answer, or has no CPU.
    """
    from brainscale.cluster.capacity import require_capacity, require_shared  # here: small sources need no Ray
    from brainscale.cluster.session import session

    shared = rules.config.resources.shared
    with session(workers):
        require_shared([out], shared)
        if waiting := require_capacity(1, {"CPU": 1.0}):
            on_notice(waiting)
        portions = cut_portions(files, PORTION_FILES)
        return _write(
            _require_shared(portions, shared), source, out, rules, workers, shard_rows or SHARD_ROWS, origin, on_notice
        )


def _require_shared(portions: Iterable[list[SourceFile]], shared: bool) -> Iterator[list[SourceFile]]:
    from brainscale.cluster.capacity import require_shared  # here, as above

    for files in portions:
        require_shared((file.uri for file in files), shared)
        yield files


def _write(
    cut: Iterable[list[SourceFile]],
    source: str,
    out: str,
    rules: RowRules,
    workers: int | None,
    limit: int,
    origin: str | None,
    on_notice: Callable[[str], None],
) -> StreamedManifest:
    with prepare_folder(out) as folder, _clean_after_failure(folder):
        write = partial(write_portion, rules=rules, folder=folder, shard_rows=limit)
        read = partial(read_tables, request=rules.request)
        portions: list[Portion] = list(read_portions(cut, read, workers, write))
        _require_rows(portions, source, rules)
        begun = _columns_of([shard for portion in portions for shard in portion.shards], folder)
        file = rules.label_file
        may_tie = file is not None and file.patients is not None and not file.patient_column_chosen
        choice, with_patients = choose_patients(
            begun, is_pattern=rules.pattern is not None, file=file.path if file is not None and may_tie else None
        )
        groups = find_groups(with_patients, rules.config.split.similarity)
        shards, placeholders = _finish(begun, groups, choice, rules)
        notices = [
            *describe_notes((portion.notes for portion in portions), rules.name_of),
            *(() if file is None else file.notices),
            *_describe_patients(portions, choice, placeholders, rules),
            *add_notes(portion.series for portion in portions).lines(rules.name_of),
            *_describe_cut_series(begun, portions),
        ]
        if rules.hash_paths:
            shards = _sort_again(_columns_of(shards, folder), limit)
        finish_shards(folder, "manifest", shards, origin)
    for text in notices:
        on_notice(text)
    columns = _columns_of(shards, out)
    counts = count_shards(columns, rules.config.data)
    for text in describe_gaps_of_shards(counts):
        on_notice(text)
    return StreamedManifest(
        shards=len(shards),
        summary=add_counts(columns, counts),
        header_only_control=_estimate_control(columns, negative=next(iter(rules.config.data.classes))),
    )


def _columns_of(shards: Sequence[Shard], folder: str) -> ManifestColumns:
    table = ShardedTable(location=folder, kind="manifest", shards=tuple(shards))
    return ManifestColumns((table,), map_on_ray, shuffle_on_ray)


@contextmanager
def _clean_after_failure(folder: str) -> Iterator[None]:
    """Remove the shards that no list names, which hold names of files, where indexing fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError, BrainscaleError):
            remove_unlisted(folder, "manifest")
        raise


def _require_rows(portions: Sequence[Portion], source: str, rules: RowRules) -> None:
    """Check the rows as those of one table are checked before its groups are found."""
    if rules.label_file is not None:
        rules.label_file.require_matches(set().union(*(portion.matched for portion in portions)))
    if not any(portion.samples for portion in portions):
        codes = sum((portion.codes for portion in portions), Counter[str]())
        sample_id, error = next(portion.first_error for portion in portions if portion.first_error)
        raise none_readable(codes, source, rules.name_of(sample_id), error)


def _describe_patients(
    portions: Sequence[Portion], choice: PatientChoice, placeholders: Counter[str], rules: RowRules
) -> Iterator[str]:
    yield from choice.notices
    if mismatches := sum(portion.mismatches for portion in portions):
        first = next(portion.first_mismatch for portion in portions if portion.mismatches)
        yield describe_mismatches(mismatches, sum(portion.samples for portion in portions), rules.name_of(first))
    yield from describe_placeholders(placeholders)


def _describe_cut_series(columns: ManifestColumns, portions: Sequence[Portion]) -> Iterator[str]:
    """Yield a line on the series whose files are in several portions, if there are any."""
    scans = columns.numbers("scan")
    rows = [sum(shard.rows for shard in portion.shards) for portion in portions]
    number = np.repeat(np.arange(len(portions)), rows)[scans >= 0]
    scans = scans[scans >= 0]
    first, last = np.full(int(scans.max(initial=-1)) + 1, len(portions)), np.full(int(scans.max(initial=-1)) + 1, -1)
    np.minimum.at(first, scans, number)
    np.maximum.at(last, scans, number)
    if cut := int((first < last).sum()):
        yield (
            f"{cut} of {len(first)} series have files in several portions of the listing, and a window in each: keep "
            "the files of a series in one folder"
        )


def _finish(
    columns: ManifestColumns, groups: Groups, choice: PatientChoice, rules: RowRules
) -> tuple[list[Shard], Counter[str]]:
    """Write the shards again with patients and groups; return them and the placeholders in place of patients."""
    key = rules.key if rules.hash_paths else None
    requests = (
        (source, number, Groups(groups.keys[low:high], groups.valid[low:high]), choice, key)
        for number, (source, low, high) in enumerate(
            zip(columns.sources, columns.starts, columns.starts[1:], strict=False)
        )
    )
    finished = list(columns.run(_finish_shard, requests))
    return [shard for shard, _ in finished], sum((words for _, words in finished), Counter())


def _finish_shard(
    request: tuple[ShardedTable, int, Groups, PatientChoice, PatientKey | None],
) -> tuple[Shard, Counter[str]]:
    source, number, groups, choice, key = request
    table = choice.apply(source.read(source.shards[0]))
    words = Counter(table.filter(pc.is_null(table["patient"]))[WORDS].drop_null().to_pylist())
    table = replace_column(table.drop_columns(WORDS), "group", groups.names())
    table = check_manifest(table, source.location)
    return write_shard(hide_paths(table, key) if key else table, source.location, "manifest", number), words


def _sort_again(columns: ManifestColumns, shard_rows: int) -> list[Shard]:
    """Write rows whose ids became hashes in the order of these, as shards of about so many rows."""
    (table,) = columns.tables
    buckets = -(-table.rows // shard_rows)
    shards: list[Shard] = []
    for begin in range(0, buckets, BUCKETS_AT_A_TIME):
        numbers = range(begin, min(begin + BUCKETS_AT_A_TIME, buckets))
        requests = [[(number, buckets) for number in numbers]] * len(columns.sources)
        arguments = [(table.location, number) for number in numbers]
        shards += filter(None, columns.shuffle(_pick_bucket, columns.sources, requests, _write_bucket, arguments))
    return shards


def _pick_bucket(source: ShardedTable, requests: list[tuple[int, int]]) -> list[pa.Table]:
    table = source.read(source.shards[0])
    starts = np.array([int(sample_id[:8], 16) for sample_id in table["sample_id"].to_pylist()], np.int64)
    return [table.filter(pa.array(starts * buckets >> 32 == number)) for number, buckets in requests]


def _write_bucket(request: tuple[str, int], parts: list[pa.Table]) -> Shard | None:
    folder, number = request
    table = pa.concat_tables(parts).sort_by("sample_id")
    return write_shard(table, folder, "manifest", number) if len(table) else None


def _estimate_control(columns: ManifestColumns, negative: str) -> HeaderControl:
    """Estimate what `estimate_header_control` does, from the same rows."""
    rows = np.flatnonzero(~columns.valid("error_code") & columns.valid("label"))
    rows = rows[choose_rows(len(rows))]
    fields = (MANIFEST.field(name) for name in COLUMNS)
    return control_of_rows(
        pa.table({field.name: pa.array(columns.texts(field.name, rows), field.type) for field in fields}), negative
    )
