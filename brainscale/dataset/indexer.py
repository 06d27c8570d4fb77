"""The `index` command: read every file of sources once, and write the manifest and pages to look at."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice

import pyarrow as pa

from brainscale import progress
from brainscale.config.sections import Config
from brainscale.dataset.from_sources import index_files, make_rules, walk_samples
from brainscale.dataset.header_control import HeaderControl, estimate_header_control
from brainscale.dataset.label_file import LabelColumns
from brainscale.dataset.manifest import describe_form, require_readable
from brainscale.dataset.manifest_rows import RowRules
from brainscale.dataset.on_ray import open_map
from brainscale.dataset.outputs import ManifestOutput, describe_index, describe_state
from brainscale.dataset.pages.request import PageRequest
from brainscale.dataset.streamed import write_streamed
from brainscale.dataset.summary import ManifestSummary, describe_gaps, summarise
from brainscale.reading.keys import KEY_VARIABLE, read_key
from brainscale.reading.small_jobs import is_ray_near
from brainscale.reading.sources import SourceFile, require_sources

MAX_FILES = 2**18
"""Files up to which the rows of a manifest are made as one table in this process."""


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
    rules = make_rules(config, labels, columns, patient_from, key, hash_paths)
    predictions = pages.check_files()
    require_sources(sources)
    output.check_owner([*sources, labels, patient_key, audit_run], overwrite=overwrite)
    progress.announce(
        f"Indexing {len(sources)} source{'s' if len(sources) > 1 else ''} into {out}"
    )  # whose names may be secret
    with _open_cluster(workers, [*sources, out, pairs, audit, audit_run], config.resources.shared):
        walk = walk_samples(sources, labels, out)
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
    manifest = index_files(files, rules, workers, on_notice)
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
    from brainscale.cluster.capacity import require_shared  # here: small sources need no Ray
    from brainscale.cluster.session import session

    with session(workers):
        require_shared(locations, shared)
        yield
