"""Sources → manifest: every file read once, through Ray Data, and accounted for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa

from brainscale.cluster.capacity import require_capacity, require_shared
from brainscale.config.sections import Config
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.header_control import HeaderControl, header_control
from brainscale.dataset.labels import label_columns, read_labels
from brainscale.dataset.manifest import check_manifest, is_manifest, read_manifest, require_readable, write_manifest
from brainscale.dataset.summary import ManifestSummary, summarise
from brainscale.reading import sample_ids
from brainscale.reading.on_ray import read_parallel
from brainscale.reading.pseudonyms import KEY_VARIABLE, PatientKey, pseudonym, read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from brainscale.schema import HIDDEN, MANIFEST


def index_sources(
    sources: Sequence[str],
    config: Config,
    labels: str = "folder",
    *,
    key: PatientKey | None = None,
    hash_paths: bool = False,
) -> pa.Table:
    """Read every file of the sources and say what is in it.

    Args:
        sources: folders, files, globs, @lists or addresses.
        config: class names of folders, limits, windows, and the distance of copies.
        labels: `folder`, or a CSV file with columns sample_id, label and perhaps patient.
        key: of the hashes of patients.
        hash_paths: whether the names of files and members become hashes too.

    Returns:
        A manifest, sorted by sample_id, labelled and grouped.

    Raises:
        SourceError: a source does not exist or holds no file.
        UsageError: a file is on a path that not every node sees.
        ManifestError: the labels' file cannot be read, or does not fit.
    """
    key = key or read_key(None)
    given = None if labels == "folder" else read_labels(labels, config.data)
    request = ReadRequest(
        preprocess=config.data.preprocess, limits=config.limits, planes=False, hashes=True, key=key.secret
    )
    units = list_files(sources)
    require_shared((unit.uri for unit in units), config.resources.shared)
    table = read_parallel(units, partial(read_tables, request=request)).to_table()
    columns = {name: table[name] for name in table.column_names if name in MANIFEST.names}
    columns |= label_columns(table, given, labels, config.data, key)
    empty = pa.nulls(len(table), pa.null())
    full = pa.table([columns.get(f.name, empty).cast(f.type) for f in MANIFEST], schema=MANIFEST)
    grouped = assign_groups(full.sort_by("sample_id"), config.split.distance)
    return with_hidden_paths(grouped, key) if hash_paths else grouped


def with_hidden_paths(manifest: pa.Table, key: PatientKey) -> pa.Table:
    """The manifest without a name of a file: hashes for ids and members, and no place where the bytes are."""
    columns = {name: manifest[name].to_pylist() for name in ("sample_id", "member")}
    hashed = [
        "!".join([str(pseudonym(unit, key.secret)), *([str(pseudonym(member, key.secret))] if member else [])])
        + ("" if frame is None else f"#{frame}")
        for unit, member, frame in map(sample_ids.split_id, columns["sample_id"])
    ]
    replaced = {
        "sample_id": pa.array(hashed, pa.string()),
        "member": pa.array([pseudonym(member, key.secret) for member in columns["member"]], pa.string()),
        "uri": pa.array([HIDDEN] * len(manifest), pa.string()),
    }
    full = pa.table([replaced.get(f.name, manifest[f.name]) for f in MANIFEST], schema=MANIFEST)
    return full.sort_by("sample_id")


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """A manifest that was written, and what is in it.

    Attributes:
        manifest: its path or address.
        summary: counts.
        header_only_control: how well file headers alone tell a tumour.
    """

    manifest: str
    summary: ManifestSummary
    header_only_control: HeaderControl

    def to_json(self) -> dict[str, object]:
        """Return everything in one flat object, as `index --json` prints it."""
        control = self.header_only_control.to_json()
        return {"manifest": self.manifest, **asdict(self.summary), "header_only_control": control}


def write_index(
    sources: Sequence[str],
    out: str,
    config: Config,
    *,
    labels: str = "folder",
    patient_key: str | None = None,
    hash_paths: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> IndexResult:
    """Index sources and write the manifest; needs a connected Ray.

    Args:
        sources: folders, files, globs, @lists or addresses.
        out: the manifest to write, a path or an address.
        config: class map, preprocessing and limits.
        labels: `folder`, or a CSV file.
        patient_key: file with the key of the hashes that stand for patients.
        hash_paths: whether the names of files are hashed too.
        on_notice: called with notes for a person.

    Raises:
        BrainscaleError: a source, a label file or a key cannot be used, nothing can be read, or there is no CPU to
            read on.
    """
    require_shared([*sources, out], config.resources.shared)
    key = read_key(patient_key)
    if waiting := require_capacity(1, {"CPU": 1.0}):
        on_notice(waiting)
    manifest = index_sources(sources, config, labels, key=key, hash_paths=hash_paths)
    require_readable(manifest, " ".join(sources))
    write_manifest(manifest, out)
    summary = summarise(manifest)
    if key.random and (summary.patients or hash_paths):
        on_notice(
            "Note: patients are hashed with a random key, so these hashes match no other manifest: "
            f"give --patient-key FILE, or set {KEY_VARIABLE}"
        )
    control = header_control(manifest, negative=next(iter(config.data.classes)))
    return IndexResult(manifest=out, summary=summary, header_only_control=control)


def open_or_index(data: str | pa.Table, config: Config) -> pa.Table:
    """Return the manifest that `data` is or names, or index the source that it names.

    Args:
        data: a manifest as a table, the path or address of one, or a source; indexing needs a connected Ray.
        config: class map, preprocessing, limits, and whether paths are shared by all nodes.

    Raises:
        ManifestError: the manifest cannot be used.
        SourceError: the source does not exist or holds no file.
        UsageError: a path that not every node sees.
    """
    if isinstance(data, pa.Table):
        return check_manifest(data, "the manifest")
    if is_manifest(data):
        return read_manifest(data)
    return index_sources([data], config)
