"""Bulk inference: score all files of the sources into Parquet parts. A rerun scores only what the parts do not hold."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from brainscale import progress
from brainscale.config.data_sections import PreprocessConfig
from brainscale.config.environment import count_cpus
from brainscale.dataset.manifest import is_manifest
from brainscale.dataset.manifest_files import walk_manifest
from brainscale.errors import OutputError, UsageError
from brainscale.hashing import fingerprint
from brainscale.models.bundle import BUNDLE_FILES, Bundle, open_bundle
from brainscale.models.engines import EngineOptions, Precision, describe_slow_choice, resolve_engine
from brainscale.models.processor import has_gpu
from brainscale.models.shipped import describe_model_notes, locate_model
from brainscale.reading.keys import GIVE_KEY, find_key, keep_new_key, kept_key_file, read_key
from brainscale.reading.small_jobs import MAX_FILES, is_ray_near, is_small
from brainscale.reading.sources import SourceFile, walk_files
from brainscale.reading.spawning import end_spare
from brainscale.scoring.blocks import version_of
from brainscale.scoring.folder_job import Callbacks, FolderJob, Runner
from brainscale.scoring.folders import open_scores_folder, parts_that_count, read_finished
from brainscale.scoring.locally import LocalRunner
from brainscale.scoring.outputs import HEATMAP_FILES, draw_heatmaps, require_own_units, write_units
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Amount, Scores
from brainscale.scoring.rows import MAX_LOCAL_ROWS
from brainscale.scoring.spool import SpooledFiles
from brainscale.stats.units import require_unit
from brainscale.storage.folder import Folder
from brainscale.storage.local import removing_if_empty
from brainscale.storage.workspace import fetch, require_folder

STORE_SECONDS = 300.0
"""Seconds for which a store may be away."""
FEW_CPUS = 8
"""CPUs that the one engine of this process keeps busy, however long the job is."""


def score_files(
    model: str,
    sources: Sequence[str],
    out: str,
    *,
    engine: str = "auto",
    workers: int | None = None,
    min_workers: int | None = None,
    cpus_per_worker: int | None = None,
    object_store_gib: float | None = None,
    threshold: float | None = None,
    precision: Precision = "fp32",
    compiled: bool = False,
    unit: str | None = None,
    update: bool = False,
    prune: bool = False,
    patient_key: str | None = None,
    hash_paths: bool = False,
    heatmaps: str | None = None,
    max_heatmaps: int = 20,
    show_burned_in: bool = False,
    allow_edited_model: bool = False,
    shared: bool = False,
    store_seconds: float = STORE_SECONDS,
    on_start: Callable[[Amount, Amount], None] = lambda total, done: None,
    on_part: Callable[[Amount], None] = lambda done: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Scores:
    """Score every sample of the sources, or resume a job that was stopped.

    A job that Ray would not make faster runs in this process, any other on Ray: on the one that is connected, or on
    a local one.

    Args:
        model: a run folder or a model folder, or the name of a model that comes with brainscale.
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses; or one manifest.
        out: path or address of the scores folder.
        engine: auto, onnx or torch.
        workers: maximum number of engines; by default as many as the cluster has room for.
        min_workers: number of engines to start with; by default all.
        cpus_per_worker: number of CPUs of each engine; by default the CPUs of its node, shared evenly.
        object_store_gib: size of a local Ray's object store, GiB.
        threshold: operating threshold, instead of the model's own.
        precision: fp32, bf16, or int8 with the graph that `quantize_run` made.
        compiled: whether to compile the network with torch first.
        unit: scan or patient, to write a second table with one row for each.
        update: whether to score files that are new in the sources of a folder; rows of files that are gone stay.
        prune: whether to drop the rows of files that are gone from the sources.
        patient_key: file with the secret key for the hashes; by default the key in the environment, or with
            `hash_paths` a random key that is kept for this folder among this user's own files, and never in it.
        hash_paths: whether the names of files and members become hashes too, as those of `index_sources` do.
        heatmaps: folder for heatmaps of the most confident positives.
        max_heatmaps: maximum number of heatmaps.
        show_burned_in: whether to draw heatmaps of samples whose pixels may show text, such as a name.
        allow_edited_model: whether to score with a model whose model.json was edited; every output says so.
        shared: whether every node of the cluster mounts the paths.
        store_seconds: how long the object store of the sources may be away before the job ends; a file that gets no
            answer while others do is a row with an error.
        on_start: called once with the whole work, and what is done of it.
        on_part: called for each block with what was done.
        on_notice: called with each message for the user, such as that nodes are being waited for.

    Raises:
        BrainscaleError: there is no model or no file, the folder belongs to another model, or rows are missing.
    """
    options = EngineOptions(name=engine, precision=precision, compiled=compiled)
    resolve_engine(options, 0)
    if heatmaps is not None:
        require_folder(heatmaps, HEATMAP_FILES, "heatmaps")
    with removing_if_empty(out), fetch(locate_model(model), *BUNDLE_FILES) as bundle_folder:
        bundle = open_bundle(bundle_folder, allow_edited=allow_edited_model)
        for text in describe_model_notes(bundle):
            on_notice(text)
        listed = list_source_files(sources, bundle.info.preprocess)
        files = SpooledFiles(progress.each(listed, "listing", unit="files"))
        folder = open_scores_folder(out)
        job = open_job(
            folder,
            bundle,
            sources,
            engine=options,
            threshold=threshold,
            unit=unit,
            patient_key=patient_key,
            hash_paths=hash_paths,
            extends=update or prune,
            workers=workers,
            min_workers=min_workers,
            cpus_per_worker=cpus_per_worker,
        )
        unit_of_table = None if unit is None else require_unit(unit, ("scan", "patient"))
        if job is None:
            scores = read_complete(folder)
            return scores if unit_of_table is None else write_units(folder, scores, unit_of_table, bundle, on_notice)
        start = _Runners(job, files, [*sources, out, heatmaps], object_store_gib, on_notice, shared=shared)
        callbacks = Callbacks(on_start, on_part, on_notice)
        scores = FolderJob(
            folder, job, files, start.open, callbacks, update=update, prune=prune, store_seconds=store_seconds
        ).run()
        if unit_of_table is not None:
            scores = write_units(folder, scores, unit_of_table, bundle, on_notice)
        if heatmaps:
            drawn = draw_heatmaps(folder, scores, heatmaps, files, job, max_heatmaps, show_burned_in=show_burned_in)
            scores = replace(scores, heatmaps=drawn)
    kept = hash_paths and read_key(patient_key).random
    return replace(scores, key_file=str(kept_key_file(out))) if kept else scores


def open_job(
    folder: Folder,
    bundle: Bundle,
    sources: Sequence[str],
    *,
    engine: EngineOptions,
    threshold: float | None,
    unit: str | None,
    patient_key: str | None,
    hash_paths: bool,
    extends: bool,
    workers: int | None,
    min_workers: int | None,
    cpus_per_worker: int | None,
    make_key: Callable[[str], bytes] = keep_new_key,
) -> ScoringJob | None:
    """Check what a job on a folder needs, and return it; None for a complete folder whose key is not here.

    Args:
        folder: the scores folder.
        bundle: the model.
        sources: as `score_files` takes them, like most of the others.
        engine: the engine, and how it computes.
        threshold: operating threshold, instead of the model's own.
        unit: scan or patient, if there is a second table.
        patient_key: file with the secret key for the hashes.
        hash_paths: whether names become hashes.
        extends: whether files are added to the folder, or dropped from it.
        workers: maximum number of engines.
        min_workers: number of engines to start with.
        cpus_per_worker: number of CPUs of each engine.
        make_key: location of a new folder → the key that it keeps.

    Raises:
        BrainscaleError: the table of units is another's, the key is missing, or patients have none.
    """
    if unit is not None:
        require_own_units(folder, require_unit(unit, ("scan", "patient")), bundle)
    key, has_key = _open_key(folder, patient_key, make_key, hash_paths=hash_paths, extends=extends)
    if unit == "patient" and not has_key and not any(is_manifest(source) for source in sources):
        raise UsageError(f"Patients need a key, or a manifest that names them. {GIVE_KEY}, or score a manifest.")
    if key is None:
        return None
    return ScoringJob(
        bundle=bundle,
        threshold=bundle.info.threshold if threshold is None else threshold,
        engine=engine,
        workers=workers,
        min_workers=min_workers,
        cpus_per_worker=cpus_per_worker,
        key=key,
        has_key=has_key,
        hash_paths=hash_paths,
    )


def fingerprint_sources(sources: Sequence[str], spec: PreprocessConfig) -> tuple[int, str]:
    """Return the number of files of the sources, and a hash that changes when one of them comes, changes or goes.

    Raises:
        BrainscaleError: a source is missing or empty, or a manifest is not the only source.
    """
    versions = sorted((file.sample_id, version_of(file)) for file in list_source_files(sources, spec))
    return len(versions), fingerprint(versions)


def list_source_files(sources: Sequence[str], spec: PreprocessConfig) -> Iterable[SourceFile]:
    """Return the files of the sources, or the files with the samples of a manifest.

    Raises:
        BrainscaleError: a source is missing or empty, or a manifest is not the only source.
    """
    manifests = [source for source in sources if is_manifest(source)]
    if not manifests:
        return walk_files(sources)
    if len(sources) > 1:
        raise UsageError(f"{manifests[0]} is a manifest and must be the only source: score it in a separate command")
    return walk_manifest(manifests[0], spec)


def _open_key(
    folder: Folder, patient_key: str | None, make_key: Callable[[str], bytes], *, hash_paths: bool, extends: bool
) -> tuple[bytes | None, bool]:
    """Return the key of a folder's hashes, and whether they are the same in every job.

    Without hashed names and without a given key, the key is drawn for this job: series are called by a sample then.
    The key is None where a complete folder's is not here.

    Raises:
        OutputError: the folder is to be extended, and its key is not here.
    """
    given = read_key(patient_key)
    if not hash_paths or not given.random:
        return given.secret, not given.random
    key = find_key(folder.location, patient_key)
    if key is None and not folder.list_names("*.json", "_listing"):
        key = make_key(folder.location)
    if key is None and (extends or read_finished(folder) is None):
        raise OutputError(
            f"The key of the hashes in {folder} is not on this machine. {GIVE_KEY}, or choose a new --out."
        )
    return key, True


def read_complete(folder: Folder) -> Scores:
    """Return the scores of a complete folder, as its own file says."""
    finished = read_finished(folder) or {}
    return Scores.from_facts(str(folder), finished, parts_that_count(folder, finished))


@dataclass(frozen=True)
class _Runners:
    """Chooses where a job runs, and starts that once there is something to do."""

    job: ScoringJob
    files: SpooledFiles
    places: Sequence[str | None]
    object_store_gib: float | None
    on_notice: Callable[[str], None]
    shared: bool

    @contextmanager
    def open(self) -> Iterator[Runner]:
        """Yield what plans and scores: this process where Ray would not be faster, else a Ray, connected or started."""
        if not needs_ray(self.job, self.files, self.object_store_gib):
            if (note := describe_slow_choice(resolve_engine(self.job.engine, 0))) is not None:
                self.on_notice(note)
            with LocalRunner(self.job, self.files.rows) as runner:
                yield runner
            return
        end_spare()
        from brainscale.cluster.capacity import require_shared  # these import Ray
        from brainscale.cluster.session import session
        from brainscale.scoring.on_ray import RayRunner

        with session(self.job.workers, self.object_store_gib):
            require_shared(self.places, self.shared)
            require_shared([self.files.first_uri], self.shared)
            yield RayRunner(self.job, self.files.rows, self.on_notice)


def needs_ray(job: ScoringJob, files: SpooledFiles, object_store_gib: float | None) -> bool:
    """Return whether a job runs on Ray: it asks for what only Ray has, or is large and finds a GPU or many CPUs there.

    Args:
        job: the job.
        files: the files of its sources.
        object_store_gib: size of a local Ray's object store, if it was given.
    """
    asked = job.workers or job.min_workers or job.cpus_per_worker or object_store_gib
    needs_torch = job.engine.name == "torch" or job.engine.needs_torch  # which a GPU may run
    if asked or needs_torch or is_ray_near():
        return True
    finds_gpu = has_gpu() and job.engine.name != "onnx" and job.engine.precision != "int8"
    finds_cpus = files.rows > MAX_LOCAL_ROWS and count_cpus() > FEW_CPUS
    return (finds_gpu or finds_cpus) and not is_small(list(islice(files, MAX_FILES + 1)))
