"""Index sources: read every file once, and make or open the manifest.

Small sources are read in this process; others, and all for a process that is connected to Ray, on Ray.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from brainscale import progress
from brainscale.config.sections import Config
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.header_control import HeaderControl, estimate_header_control
from brainscale.dataset.label_file import DEFAULT_COLUMNS, LabelColumns, read_label_file
from brainscale.dataset.manifest import (
    check_manifest,
    describe_form,
    is_manifest,
    read_manifest,
    require_readable,
)
from brainscale.dataset.manifest_rows import RowRules, count_notes, describe_notes, hide_paths
from brainscale.dataset.on_ray import open_map
from brainscale.dataset.outputs import ManifestOutput, describe_index, describe_state
from brainscale.dataset.pages.request import PageRequest
from brainscale.dataset.patients import find_patients
from brainscale.dataset.streamed import write_streamed
from brainscale.dataset.subject_names import compile_patient_pattern
from brainscale.dataset.summary import ManifestSummary, describe_gaps, summarise
from brainscale.dataset.windows import assign_windows
from brainscale.reading.keys import KEY_VARIABLE, PatientKey, read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.small_jobs import is_ray_near, is_small, read_here
from brainscale.reading.sources import SourceFile, require_sources, walk_files
from brainscale.storage.remote import is_address

MAX_FILES = 2**18
"""Files up to which the rows of a manifest are made as one table in this process."""


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
    rules = _make_rules(config, labels, columns, patient_from, key or read_key(None), hash_paths)
    return _index_files(list(_walk(sources, labels)), rules, workers, on_notice)


def _make_rules(
    config: Config, labels: str, columns: LabelColumns, patient_from: str | None, key: PatientKey, hash_paths: bool
) -> RowRules:
    columns.require_file(labels)
    return RowRules(
        config=config,
        pattern=None if patient_from is None else compile_patient_pattern(patient_from),
        label_file=None if labels == "folder" else read_label_file(labels, config.data, columns),
        key=key,
        hash_paths=hash_paths,
    )


def _walk(sources: Sequence[str], labels: str, out: str | None = None) -> Iterator[SourceFile]:
    """Yield the files of the sources in the order of their ids, without the label file and an earlier output."""
    local = [path for path in (labels, out) if path is not None and path != "folder" and not is_address(path)]
    own = {str(Path(path).absolute()) for path in local}

    def is_own(uri: str) -> bool:
        folder, _, name = uri.rpartition("/")
        return uri in own or (folder in own and name.endswith((".parquet", ".json")))  # a folder of shards

    return (file for file in walk_files(sources) if not is_own(file.uri))


def _index_files(
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


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """A manifest that was written, and what it contains.

    Attributes:
        manifest: path or address of the manifest.
        shards: number of files of a folder of shards; 0 for one file.
        summary: counts of samples, labels, errors and duplicates.
        header_only_control: how well file headers alone predict a tumour.
    """

    manifest: str
    shards: int
    summary: ManifestSummary
    header_only_control: HeaderControl

    def to_json(self) -> dict[str, object]:
        """Return one flat object, as `index --json` prints it."""
        control = self.header_only_control.to_json()
        form = describe_form(self.shards)
        return {"manifest": self.manifest, "form": form, **asdict(self.summary), "header_only_control": control}


def write_index(
    sources: Sequence[str],
    out: str,
    config: Config,
    *,
    labels: str = "folder",
    id_column: str | None = None,
    label_column: str | None = None,
    patient_column: str | None = None,
    patient_from: str | None = None,
    patient_key: str | None = None,
    hash_paths: bool = False,
    pairs: str | None = None,
    audit: str | None = None,
    audit_run: str | None = None,
    workers: int | None = None,
    shard_rows: int | None = None,
    overwrite: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> IndexResult:
    """Index sources and write the manifest, and pages to look at.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        out: path or address of the manifest to write, as one file or a folder of shards (`write_either_form`); or of
            a listing in CSV or JSON, which no command reads.
        config: class names of folders, preprocessing and limits.
        labels: `folder`, or a CSV file.
        id_column: column of the CSV file that names samples.
        label_column: its column of the labels.
        patient_column: its column of the patients.
        patient_from: regular expression whose group names the patient in a sample id.
        patient_key: file with the secret key for the hashes of patients and series.
        hash_paths: whether to hash the names of files and archive members too.
        pairs: path or address of the page of near duplicates to write.
        audit: path or address of the page of doubtful labels and images to write.
        audit_run: run, evaluation or cross-validation whose predictions the latter compares with the labels.
        workers: as in `index_sources`.
        shard_rows: rows of a shard, and of one file at most; `SHARD_ROWS` by default.
        overwrite: whether to replace outputs that another command made.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: an output is another's, a source, the label file or the key cannot be used, a page cannot be
            written, no file can be read, or the cluster has no CPU.
    """
    key = read_key(patient_key)
    options = {
        "labels": labels,
        "columns": [id_column, label_column, patient_column],
        "patient_from": patient_from,
        "patient_key": patient_key,
    }
    origin = describe_index(sources, config, key, options, hash_paths=hash_paths)
    output = ManifestOutput(location=out, origin=origin, shard_rows=shard_rows)
    output.check_format(listing=True)
    pages = PageRequest(pairs=pairs, audit=audit, audit_run=audit_run, origin=origin, overwrite=overwrite)
    pages.check_options(hash_paths=hash_paths)
    columns = LabelColumns(id=id_column, label=label_column, patient=patient_column)
    rules = _make_rules(config, labels, columns, patient_from, key, hash_paths)
    predictions = pages.check_files()
    require_sources(sources)
    output.check_owner([*sources, labels, patient_key, audit_run], overwrite=overwrite)
    progress.announce(
        f"Indexing {len(sources)} source{'s' if len(sources) > 1 else ''} into {out}"
    )  # whose names may be secret
    with _open_cluster(workers, [*sources, out, pairs, audit, audit_run], config.resources.shared):
        walk = _walk(sources, labels, out)
        first = deque(islice(progress.each(walk, "listing", unit="files"), MAX_FILES + 1))
        if len(first) > MAX_FILES:
            pages.refuse(MAX_FILES)
            output.refuse_listing(MAX_FILES)
            files = chain((first.popleft() for _ in range(len(first))), walk)
            on_notice(
                f"More than {MAX_FILES:,} files: the manifest becomes a folder of shards. If this command is "
                "interrupted, run it again: it starts anew."
            )
            name = " ".join(sources)
            written = write_streamed(
                files, name, out, rules, workers=workers, shard_rows=shard_rows, origin=origin, on_notice=on_notice
            )
            shards, summary, control = written.shards, written.summary, written.header_only_control
        else:
            manifest, shards = _make_or_keep(
                output, list(first), " ".join(sources), rules, workers, on_notice, overwrite=overwrite
            )
            with open_map(len(manifest)) as run:
                pages.write(manifest, config, predictions, run)
            for text in describe_gaps(manifest, config.data):
                on_notice(text)
            progress.stage("estimating the header-only control")
            control = estimate_header_control(manifest, negative=next(iter(config.data.classes)))
            summary = summarise(manifest)
    if key.random and (summary.patients or hash_paths):
        on_notice(
            "Note: patients are hashed with a random key, so their hashes will not match those of any other manifest. "
            f"To make them match, pass --patient-key FILE or set {KEY_VARIABLE}."
        )
    return IndexResult(manifest=out, shards=shards, summary=summary, header_only_control=control)


def _make_or_keep(
    output: ManifestOutput,
    files: Sequence[SourceFile],
    name: str,
    rules: RowRules,
    workers: int | None,
    on_notice: Callable[[str], None],
    *,
    overwrite: bool,
) -> tuple[pa.Table, int]:
    """Read files and write their manifest, unless it is there already; return it and the number of its shards."""
    label_file = None if rules.label_file is None else rules.label_file.path
    state = describe_state(files, label_file, rules.key, output.shard_rows)
    if not overwrite and (manifest := output.read_unchanged(state)) is not None:
        on_notice(
            f"{output.location} is complete already: no file of its sources has changed its size or time, so it was "
            "kept. --overwrite reads all files again."
        )
        return manifest, output.shards
    manifest = _index_files(files, rules, workers, on_notice)
    require_readable(manifest, name)
    return manifest, output.write(manifest, state)


@contextmanager
def _open_cluster(workers: int | None, locations: Iterable[str | None], shared: bool) -> Iterator[None]:
    """Connect to Ray for the whole command where it is near or asked for; otherwise, what needs Ray starts it.

    Raises:
        UsageError: one of the locations is a path that not every node sees.
        ClusterError: Ray does not answer.
    """
    if workers is None and not is_ray_near():
        yield
        return
    from brainscale.cluster.capacity import require_shared  # here, as above
    from brainscale.cluster.session import session

    with session(workers):
        require_shared(locations, shared)
        yield


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
