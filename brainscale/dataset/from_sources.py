"""Read every file of sources once, and make their manifest, for each command that gets a source.

Small sources are read in this process; others, and all for a process that is connected to Ray, on Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from brainscale import progress
from brainscale.config.sections import Config
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.label_file import DEFAULT_COLUMNS, LabelColumns, read_label_file
from brainscale.dataset.manifest import check_manifest, is_manifest, read_manifest
from brainscale.dataset.manifest_rows import RowRules, count_notes, describe_notes, hide_paths
from brainscale.dataset.on_ray import open_map
from brainscale.dataset.patients import find_patients
from brainscale.dataset.subject_names import compile_patient_pattern
from brainscale.dataset.windows import assign_windows
from brainscale.reading.keys import PatientKey, read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.small_jobs import is_ray_near, is_small, read_here
from brainscale.reading.sources import SourceFile, walk_files
from brainscale.storage.remote import is_address


def index_sources(
    sources: Sequence[str],
    config: Config,
    labels: str = "folder",
    *,
    columns: LabelColumns = DEFAULT_COLUMNS,
    patient_from: str | None = None,
    key: PatientKey | None = None,
    hash_paths: bool = False,
    workers: int | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Read every file of the sources and return the manifest of their samples.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        config: class names of folders, limits, preprocessing, and the similarity of near duplicates.
        labels: `folder`, or a CSV file with columns sample_id, label and, if known, patient; its other columns are
            added to the manifest. The file itself is no sample, also if it lies in a source.
        columns: names of these columns, if they are others.
        patient_from: regular expression over sample ids; its group `patient`, or its first group, names the patient.
        key: secret key for the hashes of patients and series.
        hash_paths: whether to hash the names of files and archive members too.
        workers: number of tasks that read at the same time, on Ray. By default, a small source is read without Ray if
            none is connected, and Ray reads as many files at a time as it has CPUs.
        on_notice: called with each message for the user.

    Returns:
        A manifest with labels and groups, sorted by sample_id.

    Raises:
        SourceError: a source does not exist or contains no file.
        UsageError: a file is on a path that not every node can read, or `patient_from` cannot be used.
        ManifestError: the label file cannot be read, or does not match the sources.
    """
    rules = make_rules(config, labels, columns, patient_from, key or read_key(None), hash_paths)
    return index_files(list(walk_samples(sources, labels)), rules, workers, on_notice)


def make_rules(
    config: Config, labels: str, columns: LabelColumns, patient_from: str | None, key: PatientKey, hash_paths: bool
) -> RowRules:
    """Return what makes the rows of a manifest, with the label file read; arguments as in `index_sources`.

    Raises:
        UsageError: columns are named without a file, or `patient_from` cannot be used.
        ManifestError: the label file cannot be read.
    """
    columns.require_file(labels)
    return RowRules(
        config=config,
        pattern=None if patient_from is None else compile_patient_pattern(patient_from),
        label_file=None if labels == "folder" else read_label_file(labels, config.data, columns),
        key=key,
        hash_paths=hash_paths,
    )


def walk_samples(sources: Sequence[str], labels: str, out: str | None = None) -> Iterator[SourceFile]:
    """Yield the files of the sources in the order of their ids, without the label file and an earlier output."""
    local = [path for path in (labels, out) if path is not None and path != "folder" and not is_address(path)]
    own = {str(Path(path).absolute()) for path in local}

    def is_own(uri: str) -> bool:
        folder, _, name = uri.rpartition("/")
        return uri in own or (folder in own and name.endswith((".parquet", ".json")))  # a folder of shards

    return (file for file in walk_files(sources) if not is_own(file.uri))


def index_files(
    files: Sequence[SourceFile], rules: RowRules, workers: int | None, on_notice: Callable[[str], None]
) -> pa.Table:
    """Read files and return their manifest as one table; see `index_sources`."""
    config, label_file = rules.config, rules.label_file
    with _open_rows(files, rules.request, config.resources.shared, workers, on_notice) as (read_rows, histograms):
        table, notes = assign_windows(read_rows, histograms, config.data.window)
    table = table.sort_by("sample_id")  # tasks end in any order, and messages name the first sample
    for text in describe_notes([count_notes(table)], rules.name_of):
        on_notice(text)
    ids = table["sample_id"].to_pylist()
    rows = [None] * len(ids) if label_file is None else label_file.rows(ids)
    labels = rules.choose_labels(ids, rows)
    patients = find_patients(table, labels, rows, label_file, rules.pattern, config.data, rules.key, rules.name_of)
    for text in (
        *(() if label_file is None else label_file.notices),
        *patients.notices,
        *notes.lines(rules.name_of),
    ):
        on_notice(text)
    manifest = rules.make_rows(table, labels, patients.hashes, rows)
    with open_map(len(manifest)) as run:
        grouped = assign_groups(manifest, config.split.similarity, run)
    return hide_paths(grouped, rules.key) if rules.hash_paths else grouped


@contextmanager
def _open_rows(
    files: Sequence[SourceFile],
    request: ReadRequest,
    shared: bool,
    workers: int | None,
    on_notice: Callable[[str], None],
) -> Iterator[tuple[pa.Table, Iterable[pa.Table]]]:
    """Read files, here or on Ray, and yield the rows without histograms, and tables of sample ids and histograms.

    Raises:
        UsageError: a file is on a path that not every node can read.
        ClusterError: Ray does not answer, or has no CPU.
    """
    read = partial(read_tables, request=request)
    if workers is None and not is_ray_near() and is_small(files):
        tables = list(read_here(files, read))
        rows = pa.concat_tables(table.drop_columns("histogram") for table in tables)
        yield rows, (table.select(["sample_id", "histogram"]) for table in tables)
        return
    from brainscale.cluster.capacity import require_capacity, require_shared  # here: small sources need no Ray
    from brainscale.cluster.session import session
    from brainscale.reading.on_ray import cut_parallel, read_parallel

    with session(workers):
        require_shared((file.uri for file in files), shared)
        if waiting := require_capacity(1, {"CPU": 1.0}):
            on_notice(waiting)
        yield read_parallel(cut_parallel(files, request), read, workers).to_table_without("histogram")


def open_or_index(
    data: str | pa.Table, config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> pa.Table:
    """Return the manifest given as a table or a path, or index the source given instead.

    Args:
        data: a manifest as a table, the path or address of a manifest, or a source.
        config: class names of folders, preprocessing, limits, and whether all nodes share the paths.
        on_notice: called with each message for the user, such as placeholders in place of patients.

    Raises:
        ManifestError: the manifest cannot be used.
        SourceError: the source does not exist or contains no file.
        UsageError: a file is on a path that not every node can read.
    """
    if isinstance(data, pa.Table):
        return check_manifest(data, "the manifest")
    if is_manifest(data):
        return read_manifest(data)
    progress.announce("Indexing the data")
    return index_sources([data], config, on_notice=on_notice)
