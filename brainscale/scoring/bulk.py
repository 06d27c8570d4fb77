"""Bulk inference: score all files of the sources into Parquet parts. A rerun scores only what the parts do not hold."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from brainscale.cluster.capacity import require_shared
from brainscale.config.sections import PreprocessConfig
from brainscale.dataset.manifest import is_manifest, read_manifest, require_paths
from brainscale.errors import RERUN, OutputError, SourceError, UsageError
from brainscale.models.bundle import BUNDLE_FILES, open_bundle
from brainscale.models.engines import EngineOptions
from brainscale.reading import sample_ids
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.preprocess import spec_fingerprint
from brainscale.reading.pseudonyms import (
    GIVE_KEY,
    find_key,
    hide_id,
    keep_new_key,
    kept_key_file,
    key_fingerprint,
    read_key,
)
from brainscale.reading.sources import SourceFile, list_files
from brainscale.scoring.ledger import Ledger, Rename, find_ids, read_ledger, remove_duplicate_rows
from brainscale.scoring.on_ray import estimate_rows, plan_scoring, score_into_parts
from brainscale.scoring.outputs import draw_heatmaps, write_scans
from brainscale.scoring.parts import OWNER_FILE, PART_FILES, TAKEN_OVER, claim_folder, owns_folder, write_part
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Scores, ScoringProgress
from brainscale.storage.local import SUCCESS, read_success, write_success
from brainscale.storage.workspace import Workspace, fetch, open_workspace

DRIVER_FILES = (SUCCESS, OWNER_FILE, "_scans/*")
"""Files that a driver needs in order to resume a job."""
PARTS_OF_A_JOB = 1000
"""Approximate number of parts of a large job: a kill loses a thousandth of the work."""
MIN_PART_ROWS, MAX_PART_ROWS = 64, 65_536
FILES_AT_A_TIME = 2**24
"""Number of files in one Ray dataset, which bounds what Ray remembers of its blocks, however large the archive."""

OnPart = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions that report progress, as `score_files` describes them."""

    on_start: Callable[[int], None]
    on_part: OnPart
    on_notice: Callable[[str], None]


def score_files(
    model: str,
    sources: Sequence[str],
    out: str,
    *,
    engine: str = "auto",
    workers: int | None = None,
    min_workers: int | None = None,
    cpus_per_worker: int | None = None,
    threshold: float | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    by: str | None = None,
    update: bool = False,
    patient_key: str | None = None,
    hash_paths: bool = False,
    heatmaps: str | None = None,
    max_heatmaps: int = 20,
    show_burned_in: bool = False,
    shared: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_part: OnPart = lambda files, rows, errors: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Scores:
    """Score every sample of the sources, or resume a job that was stopped; needs a connected Ray.

    Args:
        model: a run folder or a model folder.
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses; or one manifest.
        out: path or address of the scores folder.
        engine: auto, onnx or torch.
        workers: maximum number of engines; by default as many as the cluster has room for.
        min_workers: number of engines to start with and to keep when idle; by default all.
        cpus_per_worker: number of CPUs of each engine; by default the CPUs of its node, shared evenly.
        threshold: operating threshold, instead of the model's own.
        precision: fp32 or bf16.
        compiled: whether to compile the network with torch first.
        by: `scan` to write a second table with one row for each series or volume.
        update: whether to score files that are new in the sources of a complete folder.
        patient_key: file with the secret key for the hashes; by default the key in the environment, or a random key
            that is kept for this folder among this user's own files, and never in it.
        hash_paths: whether the names of files and members become hashes too, as those of `index_sources` do.
        heatmaps: folder for heatmaps of the most confident positives.
        max_heatmaps: maximum number of heatmaps.
        show_burned_in: whether to draw heatmaps of samples whose pixels may show text, such as a name.
        shared: whether every node of the cluster mounts the paths.
        on_start: called once with the number of files to score.
        on_part: called for each part with the number of complete files, of rows and of errors.
        on_notice: called with each message for the user, such as that nodes are being waited for.

    Raises:
        BrainscaleError: there is no model or no file, the folder belongs to another model, or rows are missing.
    """
    require_shared([*sources, out, heatmaps], shared)
    with (
        fetch(model, *BUNDLE_FILES) as folder,
        open_workspace(out, DRIVER_FILES, own_files=[PART_FILES], what="scores") as workspace,
    ):
        bundle = open_bundle(folder)
        files = _list_files(sources, bundle.info.preprocess)
        require_shared((file.uri for file in files), shared)
        key = _open_key(workspace, out, patient_key, update)
        job = ScoringJob(
            bundle=bundle,
            threshold=bundle.info.threshold if threshold is None else threshold,
            engine=EngineOptions(name=engine, bf16=precision == "bf16", compiled=compiled),
            workers=workers,
            min_workers=min_workers,
            cpus_per_worker=cpus_per_worker,
            key=key or b"",
            hash_paths=hash_paths,
        )
        scores = _complete_folder(workspace, files, job, update, Callbacks(on_start, on_part, on_notice))
        if by == "scan":
            scores = replace(scores, scans=write_scans(workspace))
        if heatmaps:
            drawn = draw_heatmaps(workspace, heatmaps, files, job, max_heatmaps, show_burned_in=show_burned_in)
            scores = replace(scores, heatmaps=drawn)
    kept = key is not None and read_key(patient_key).random
    return replace(scores, key_file=str(kept_key_file(out))) if kept else scores


def _open_key(folder: Workspace, out: str, patient_key: str | None, update: bool) -> bytes | None:
    """Return the key of a folder's hashes, a new one for a new folder; None if a complete folder's is not here.

    Raises:
        OutputError: the folder is to be extended, and its key is not here.
    """
    key = find_key(out, patient_key)
    if key is not None:
        return key
    if not folder.listed(PART_FILES):
        return keep_new_key(out)
    if update or read_success(folder.path) is None:
        raise OutputError(
            f"The key of the hashes in {folder} is not on this machine. {GIVE_KEY}, or choose a new --out."
        )
    return None


def _complete_folder(
    folder: Workspace, files: Sequence[SourceFile], job: ScoringJob, update: bool, callbacks: Callbacks
) -> Scores:
    """Score the files that a folder does not hold, check its rows, and mark it as complete."""
    identity, rename = make_identity(job), partial(hide_id, key=job.key) if job.hash_paths else str
    ledger = read_ledger(folder, identity, rename)
    missing = ledger.find_missing(files) if job.key or not job.hash_paths else []  # nobody can tell without the key
    finished = read_success(folder.path)
    if finished is not None and not (update and missing):
        return Scores.from_facts(str(folder), finished, files_not_in_it=len(missing) or None)
    if not update:
        _refuse_other_files(ledger, files, folder)
    (folder.path / SUCCESS).unlink(missing_ok=True)
    owner = claim_folder(folder)
    folder.push()  # the owner's name has to be there before the first part
    progress = _score_missing(files, missing, job, ledger, folder, owner, identity, callbacks)
    if not owns_folder(owner, str(folder)):
        raise OutputError(_describe_take_over(folder))
    ledger = _check_rows(folder, files, owner, identity, callbacks, rename)
    (folder.path / OWNER_FILE).unlink()  # without an owner, an earlier job that still runs can write nothing
    scores = Scores(
        path=str(folder),
        files=len(ledger.files),
        rows=len(ledger.samples),
        scored=len(ledger.samples) - sum(ledger.codes.values()),
        errors=ledger.codes,
        architecture=job.bundle.info.architecture,
        identity=identity,
        progress=progress,
    )
    write_success(folder.path, scores.facts())
    return scores


def _list_files(sources: Sequence[str], spec: PreprocessConfig) -> list[SourceFile]:
    """Return the files of the sources, or the files with the samples of a manifest.

    Raises:
        BrainscaleError: a source is missing or empty, or a manifest is not the only source.
    """
    manifests = [source for source in sources if is_manifest(source)]
    if not manifests:
        return list_files(sources)
    if len(sources) > 1:
        raise UsageError(f"{manifests[0]} is a manifest and must be the only source: score it in a separate command")
    manifest = read_manifest(manifests[0])
    require_paths(manifest, manifests[0])
    return files_of_manifest(manifest, spec)


def _refuse_other_files(ledger: Ledger, files: Sequence[SourceFile], folder: Workspace) -> None:
    if len(others := ledger.hash_others(files)):
        first = min(map(sample_ids.file_of, find_ids(folder, files=others)))
        raise OutputError(
            f"{folder} holds scores of {len(others)} file(s) that are not in these sources, for example '{first}': "
            "give all its sources again, or choose a new --out"
        )


def _score_missing(
    files: Sequence[SourceFile],
    missing: Sequence[SourceFile],
    job: ScoringJob,
    ledger: Ledger,
    folder: Workspace,
    owner: str,
    identity: Mapping[str, str],
    callbacks: Callbacks,
) -> ScoringProgress:
    """Score the missing files and write their parts.

    Args:
        files: all files of the sources: a slice is windowed with its series, also where other slices are done.
        missing: those that are not done.
        job: the model, and how to run it.
        ledger: what is done.
        folder: the scores folder.
        owner: name of this job.
        identity: metadata of the parts.
        callbacks: report progress.

    Raises:
        OutputError: a part cannot be written.
        ClusterError: Ray stopped during the job.
    """
    callbacks.on_start(len(missing))
    start_time, rows, part_rows = time.monotonic(), 0, choose_part_rows(missing)
    write = partial(write_part, folder=str(folder), job=owner, identity=identity)
    plan = plan_scoring(files, job, [file.sample_id for file in missing])
    for text in plan.notices:
        callbacks.on_notice(text)
    for some in _cut_between_groups(plan.files):
        skip = frozenset(find_ids(folder, files=ledger.hash_begun(some)))
        for part in score_into_parts(some, job, skip, write, part_rows, callbacks.on_notice):
            if part.problem == TAKEN_OVER:
                raise OutputError(_describe_take_over(folder))
            if part.problem:
                raise OutputError(f"{folder} cannot be written ({part.problem}): fix the cause and {RERUN}")
            rows += part.rows
            callbacks.on_part(part.files, part.rows, part.errors)
    seconds = time.monotonic() - start_time
    rate = round(rows / max(seconds, 1e-9), 1)
    return ScoringProgress(rows_now=rows, seconds_now=round(seconds, 1), rows_a_second=rate)


def _cut_between_groups(files: Sequence[SourceFile]) -> Iterator[Sequence[SourceFile]]:
    """Cut files into datasets of about `FILES_AT_A_TIME`; those of one group stay together."""
    start = 0
    while start < len(files):
        end = min(start + FILES_AT_A_TIME, len(files))
        while end < len(files) and files[end].group is not None and files[end].group == files[end - 1].group:
            end += 1
        yield files[start:end]
        start = end


def _describe_take_over(folder: Workspace) -> str:
    return f"{folder} was taken over by another job, which scores the rest: wait for that job to end"


def choose_part_rows(files: Sequence[SourceFile]) -> int:
    """Return the number of rows in one part of a job on these files."""
    return min(max(estimate_rows(files) // PARTS_OF_A_JOB, MIN_PART_ROWS), MAX_PART_ROWS)


def make_identity(job: ScoringJob) -> dict[str, str]:
    """Return what a score depends on; it is in the metadata of every part, and equal in all parts of a folder."""
    info = job.bundle.info
    return {
        "hash_paths": "true" if job.hash_paths else "false",
        "model": info.weights_sha256,
        "preprocess": spec_fingerprint(info.preprocess),
        "threshold": repr(job.threshold),
        "temperature": repr(info.temperature),
        "classes": json.dumps(list(info.classes)),
        "precision": "bf16" if job.engine.bf16 else "fp32",
        **({"scan_key": key_fingerprint(job.key)} if job.key else {}),
    }


def _check_rows(
    folder: Workspace,
    files: Sequence[SourceFile],
    owner: str,
    identity: Mapping[str, str],
    callbacks: Callbacks,
    rename: Rename,
) -> Ledger:
    """Check that a folder holds every row exactly once, and return its ledger.

    Raises:
        OutputError: rows are missing, or occur more than once.
        SourceError: no sample could be read.
    """
    ledger = read_ledger(folder, identity, rename)
    if count := len(ledger.duplicates):
        # an earlier job wrote these rows after this one read the parts, and before it claimed the folder
        remove_duplicate_rows(folder, ledger.duplicates, owner)
        callbacks.on_notice(f"{count} row(s) had also been written by an earlier job: duplicates removed")
        ledger = read_ledger(folder, identity, rename)
    missing = [rename(file.sample_id) for file in ledger.find_missing(files)]
    duplicates = list(find_ids(folder, samples=ledger.duplicates))
    for problem, ids in (("are duplicated", duplicates), ("are missing", missing)):
        if ids:
            raise OutputError(
                f"{len(ids)} file(s) or row(s) in {folder} {problem}, for example '{ids[0]}': run the same command "
                "again, or choose a new --out"
            )
    errors = sum(ledger.codes.values())
    if errors == len(ledger.samples):
        codes = ", ".join(f"{code} {count}" for code, count in ledger.codes.items())
        raise SourceError(
            f"none of the {errors} sample(s) could be read ({codes}): see the column `error` of the parts in {folder}"
        )
    return ledger
