"""Index sources: read every file once, and make or open the manifest.

Small sources are read in this process; others, and all for a process that is connected to Ray, on Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.header_control import HeaderControl, estimate_header_control
from brainscale.dataset.label_file import DEFAULT_COLUMNS, LabelColumns, read_label_file
from brainscale.dataset.labels import choose_folder_labels
from brainscale.dataset.manifest import (
    KEY_METADATA,
    check_manifest,
    describe_form,
    is_manifest,
    read_manifest,
    require_readable,
    write_either_form,
)
from brainscale.dataset.on_ray import open_map
from brainscale.dataset.pages.request import PageRequest
from brainscale.dataset.patients import find_patients
from brainscale.dataset.subject_names import compile_patient_pattern
from brainscale.dataset.summary import ManifestSummary, describe_gaps, summarise
from brainscale.dataset.windows import assign_windows
from brainscale.reading.pseudonyms import KEY_VARIABLE, PatientKey, hide_id, key_fingerprint, pseudonym, read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.small_jobs import is_ray_near, is_small, read_here
from brainscale.reading.sources import SourceFile, list_files
from brainscale.schema import HIDDEN, MANIFEST, WINDOW_KEY
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
    columns.require_file(labels)
    pattern = None if patient_from is None else compile_patient_pattern(patient_from)
    key = key or read_key(None)
    label_file = None if labels == "folder" else read_label_file(labels, config.data, columns)
    request = ReadRequest(
        preprocess=config.data.preprocess, limits=config.limits, planes=False, hashes=True, key=key.secret
    )
    files = [file for file in list_files(sources) if label_file is None or not _is_same_file(file.uri, labels)]
    with _open_rows(files, request, config.resources.shared, workers, on_notice) as (read_rows, histograms):
        table, notes = assign_windows(read_rows, histograms, config.data.window)
    name_of = partial(hide_id, key=key.secret) if hash_paths else str
    for text in _describe_notes(table, name_of):
        on_notice(text)
    ids = table["sample_id"].to_pylist()
    rows = [None] * len(ids) if label_file is None else label_file.rows(ids)
    if label_file is None or label_file.labels is None:
        sample_labels = choose_folder_labels(ids, config.data)
    else:
        sample_labels = [None if row is None else label_file.labels[row] for row in rows]
    patients = find_patients(table, sample_labels, rows, label_file, pattern, config.data, key, name_of)
    for text in (*(() if label_file is None else label_file.notices), *patients.notices, *notes.lines(name_of)):
        on_notice(text)
    known = {name: table[name] for name in table.column_names if name in MANIFEST.names}
    known |= {"label": pa.array(sample_labels, pa.string()), "patient": pa.array(patients.hashes, pa.string())}
    nulls = pa.nulls(len(table), pa.null())
    manifest = pa.table([known.get(f.name, nulls).cast(f.type) for f in MANIFEST], schema=MANIFEST)
    for name, values in ({} if label_file is None else label_file.extra_columns(rows)).items():
        manifest = manifest.append_column(name, values)
    rules = {WINDOW_KEY: config.data.window_rule, KEY_METADATA: key_fingerprint(key.secret)}
    manifest = manifest.replace_schema_metadata({**(manifest.schema.metadata or {}), **rules})
    with open_map(len(manifest)) as run:
        grouped = assign_groups(manifest.sort_by("sample_id"), config.split.similarity, run)
    return hide_paths(grouped, key) if hash_paths else grouped


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


def _describe_notes(table: pa.Table, name_of: Callable[[str], str]) -> Iterator[str]:
    """Yield a line on each thing that was odd about files that were read all the same.

    Args:
        table: schema `reading.sample.COLUMNS`.
        name_of: sample id → what messages call the sample.
    """
    noted = table.filter(pc.is_valid(table["note"]))
    for note in sorted(set(noted["note"].to_pylist())):
        ids = noted.filter(pc.equal(noted["note"], note))["sample_id"].to_pylist()
        yield f"Note: {note}, for {len(ids)} sample(s), the first of them '{name_of(ids[0])}'."


def _is_same_file(uri: str, path: str) -> bool:
    return not is_address(uri) and Path(uri).absolute() == Path(path).absolute()


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
    on_notice: Callable[[str], None] = lambda text: None,
) -> IndexResult:
    """Index sources and write the manifest, and pages to look at.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        out: path or address of the manifest to write, as one file or a folder of shards (`write_either_form`).
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
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: a source, the label file or the key cannot be used, a page cannot be written, no file can be
            read, or the cluster has no CPU.
    """
    pages = PageRequest(pairs=pairs, audit=audit, audit_run=audit_run)
    pages.check_options(hash_paths=hash_paths)
    key = read_key(patient_key)
    with _open_cluster(workers, [*sources, out, pairs, audit, audit_run], config.resources.shared):
        predictions = pages.check_files()
        manifest = index_sources(
            sources,
            config,
            labels,
            columns=LabelColumns(id=id_column, label=label_column, patient=patient_column),
            patient_from=patient_from,
            key=key,
            hash_paths=hash_paths,
            workers=workers,
            on_notice=on_notice,
        )
        require_readable(manifest, " ".join(sources))
        shards = write_either_form(manifest, out, shard_rows)
        with open_map(len(manifest)) as run:
            pages.write(manifest, config, predictions, run)
    for text in describe_gaps(manifest, config.data):
        on_notice(text)
    summary = summarise(manifest)
    if key.random and (summary.patients or hash_paths):
        on_notice(
            "Note: patients are hashed with a random key, so their hashes will not match those of any other manifest. "
            f"To make them match, pass --patient-key FILE or set {KEY_VARIABLE}."
        )
    control = estimate_header_control(manifest, negative=next(iter(config.data.classes)))
    return IndexResult(manifest=out, shards=shards, summary=summary, header_only_control=control)


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
    return index_sources([data], config, on_notice=on_notice)
