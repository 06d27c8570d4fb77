"""Bulk inference: units → predictions → Parquet parts. A rerun scores what the parts do not hold."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.cluster.capacity import require_shared
from brainscale.dataset.manifest import is_manifest, read_manifest, require_paths
from brainscale.errors import RERUN, OutputError, SourceError, UsageError
from brainscale.models.bundle import FILES, open_bundle
from brainscale.models.engines import EngineOptions
from brainscale.reading import sample_ids
from brainscale.reading.preprocess import spec_fingerprint
from brainscale.reading.pseudonyms import folder_key, key_fingerprint
from brainscale.reading.reader import files_of_manifest, read_planes
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile, list_files
from brainscale.scoring import per_scan
from brainscale.scoring.ledger import JOB, PARTS, Ledger, ids_of, keep_once, owns, read_ledger, take_over, write_part
from brainscale.scoring.on_ray import expected_rows, written_parts
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Scores, ScoringProgress
from brainscale.storage.local import SUCCESS, read_success, write_success
from brainscale.storage.tables import write_table
from brainscale.storage.workspace import Workspace, fetch, open_workspace

KEY = ".scan-key"
SCANS = "_scans/scans.parquet"
"""Below an underscore, so that a reader of the folder takes the parts only."""
PARTS_OF_A_JOB = 1000
"""About, of a large one: what is lost and done again when it is killed is a thousandth."""
OURS = (SUCCESS, KEY, JOB, "_scans/*")
FILES_AT_A_TIME = 2**24
"""That one Ray dataset covers: what Ray remembers of its blocks is bounded, whatever the archive."""
PART_ROWS = 64, 65_536
"""Rows in one part, at least and at most."""

OnPart = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Callbacks:
    """Who is told of what happens: see `score`."""

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
    heatmaps: str | None = None,
    top: int = 20,
    shared: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_part: OnPart = lambda files, rows, errors: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Scores:
    """Score every file of the sources, or resume a job that was stopped; needs a connected Ray.

    Args:
        model: a RUN or a bundle folder.
        sources: folders, files, globs or addresses; or one manifest.
        out: the folder of parts, a path or an address.
        engine: auto, onnx or torch.
        workers: maximum number of engines side by side; without it, all that the cluster has room for.
        min_workers: number of engines to start with and to keep when idle; without it, all.
        cpus_per_worker: CPUs of each engine; by default those of its node, shared evenly.
        threshold: operating threshold in place of the model's own.
        precision: fp32 or bf16.
        compiled: whether torch compiles the network first.
        by: `scan` for a second table, one row for each series or volume.
        update: whether a complete folder takes in files that are new in the sources.
        patient_key: file with the key of the hashes that stand for series; by default the environment's, or a random
            one that stays in the folder.
        heatmaps: folder for heatmaps of the most confident positives.
        top: maximum number of heatmaps.
        shared: whether paths are on storage that every node of a cluster mounts.
        on_start: called once with the number of files still to score.
        on_part: called with the finished files, the rows and the errors of each part as it is written.
        on_notice: called with notes for a person, such as that nodes have to be waited for.

    Raises:
        BrainscaleError: no model, no files, the folder belongs to another model, or rows are missing.
    """
    require_shared([*sources, out, heatmaps], shared)
    with fetch(model, *FILES) as folder, open_workspace(out, OURS, known=[PARTS], what="scores") as workspace:
        bundle = open_bundle(folder)
        units = _units(sources)
        require_shared((unit.uri for unit in units), shared)
        job = ScoringJob(
            bundle=bundle,
            threshold=bundle.info.threshold if threshold is None else threshold,
            engine=EngineOptions(name=engine, bf16=precision == "bf16", compiled=compiled),
            workers=workers,
            min_workers=min_workers,
            cpus_per_worker=cpus_per_worker,
            key=folder_key(workspace.path / KEY, patient_key),
        )
        scores = _completed(workspace, units, job, update, Callbacks(on_start, on_part, on_notice))
        if by == "scan":
            scores = replace(scores, scans=write_scans(workspace))
        if heatmaps:
            scores = replace(scores, heatmaps=draw_heatmaps(workspace, heatmaps, units, job, top))
    return scores


def _completed(
    folder: Workspace,
    units: Sequence[SourceFile],
    scoring: ScoringJob,
    update: bool,
    callbacks: Callbacks,
) -> Scores:
    """Score what a folder does not hold, check it, and mark it as complete."""
    identity = identity_of(scoring)
    ledger = read_ledger(folder, identity)
    missing = ledger.missing(units)
    finished = read_success(folder.path)
    if finished is not None and not (update and missing):
        return Scores.from_facts(str(folder), finished, files_not_in_it=len(missing) or None)
    if not update:
        _refuse_others(ledger, units, folder)
    (folder.path / SUCCESS).unlink(missing_ok=True)
    owner = take_over(folder)
    folder.push()  # the key before any part that counts on it
    progress = _score(missing, scoring, ledger, folder, owner, identity, callbacks)
    if not owns(owner, str(folder)):
        raise OutputError(f"{folder} was taken over by another job, which writes its rows: wait for that job")
    counts = _checked(folder, units, owner, identity, callbacks)
    (folder.path / JOB).unlink()  # what an earlier job has still to write finds no owner
    scores = Scores(
        path=str(folder),
        files=len(counts.files),
        rows=len(counts.samples),
        scored=len(counts.samples) - sum(counts.codes.values()),
        errors=counts.codes,
        architecture=scoring.bundle.info.architecture,
        identity=identity,
        progress=progress,
    )
    write_success(folder.path, scores.facts())
    return scores


def _units(sources: Sequence[str]) -> list[SourceFile]:
    """The files of the sources, or those that hold a manifest's samples.

    Raises:
        BrainscaleError: a source is missing or empty, or a manifest stands beside other sources.
    """
    manifests = [source for source in sources if is_manifest(source)]
    if not manifests:
        return list_files(sources)
    if len(sources) > 1:
        raise UsageError(f"{manifests[0]} is a manifest: score it in a command of its own")
    manifest = read_manifest(manifests[0])
    require_paths(manifest, manifests[0])
    return files_of_manifest(manifest)


def _refuse_others(ledger: Ledger, units: Sequence[SourceFile], folder: Workspace) -> None:
    if len(others := ledger.others(units)):
        first = min(map(sample_ids.file_of, ids_of(folder, files=others)))
        raise OutputError(
            f"{folder} holds rows of {len(others)} file(s) of other sources, '{first}' first: name all its "
            "sources again, or choose a new --out"
        )


def _score(
    missing: Sequence[SourceFile],
    scoring: ScoringJob,
    ledger: Ledger,
    folder: Workspace,
    owner: str,
    identity: Mapping[str, str],
    callbacks: Callbacks,
) -> ScoringProgress:
    """Score files and write their parts.

    Raises:
        OutputError: a part cannot be written.
        ClusterError: Ray stopped under the job.
    """
    callbacks.on_start(len(missing))
    began, rows, size = time.monotonic(), 0, part_rows(missing)
    write = partial(write_part, folder=str(folder), job=owner, identity=identity)
    for start in range(0, len(missing), FILES_AT_A_TIME):
        files = missing[start : start + FILES_AT_A_TIME]
        skip = frozenset(ids_of(folder, files=ledger.begun(files)))
        for part in written_parts(files, scoring, skip, write, size, callbacks.on_notice):
            if part["problem"]:
                raise OutputError(f"{folder} cannot be written ({part['problem']}): fix that, {RERUN}")
            rows += part["rows"]
            callbacks.on_part(part["files"], part["rows"], part["errors"])
    seconds = time.monotonic() - began
    rate = round(rows / max(seconds, 1e-9), 1)
    return ScoringProgress(rows_now=rows, seconds_now=round(seconds, 1), rows_a_second=rate)


def part_rows(units: Sequence[SourceFile]) -> int:
    """Rows in one part of a job on some files."""
    return min(max(expected_rows(units) // PARTS_OF_A_JOB, PART_ROWS[0]), PART_ROWS[1])


def identity_of(scoring: ScoringJob) -> dict[str, str]:
    """What decides a score; every part carries it in its metadata, and a folder holds one identity only."""
    info = scoring.bundle.info
    return {
        "model": info.weights_sha256,
        "preprocess": spec_fingerprint(info.preprocess),
        "threshold": repr(scoring.threshold),
        "temperature": repr(info.temperature),
        "classes": json.dumps(list(info.classes)),
        "precision": "bf16" if scoring.engine.bf16 else "fp32",
        "scan_key": key_fingerprint(scoring.key),
    }


def _checked(
    folder: Workspace, units: Sequence[SourceFile], owner: str, identity: Mapping[str, str], callbacks: Callbacks
) -> Ledger:
    """Return the ledger of a folder whose rows are all there, each once.

    Raises:
        OutputError: rows are missing, or written twice.
        SourceError: nothing could be read.
    """
    ledger = read_ledger(folder, identity)
    if len(ledger.twice):  # written by an earlier job between our reading of the parts and our taking over
        keep_once(folder, ledger.twice, owner)
        callbacks.on_notice(f"{len(ledger.twice)} row(s) were also written by an earlier job: one of each is kept")
        ledger = read_ledger(folder, identity)
    missing = [unit.sample_id for unit in ledger.missing(units)]
    twice = list(ids_of(folder, samples=ledger.twice))
    for problem, ids in (("written twice", twice), ("missing", missing)):
        if ids:
            raise OutputError(
                f"{folder}: {len(ids)} file(s) or row(s) {problem}, '{ids[0]}' first: run again, or choose a new --out"
            )
    errors = sum(ledger.codes.values())
    if errors == len(ledger.samples):
        codes = ", ".join(f"{code} {count}" for code, count in ledger.codes.items())
        raise SourceError(f"none of the {errors} files could be read ({codes}): the rows in {folder} say why")
    return ledger


def read_scores(folder: Workspace, columns: Sequence[str]) -> pa.Table:
    """Columns of all parts of a folder."""
    return pa.concat_tables(folder.table(name, columns) for name in folder.listed(PARTS))


def write_scans(folder: Workspace) -> int:
    """Write the table with one row for each scan; return their number."""
    table = per_scan.scan_table(read_scores(folder, per_scan.COLUMNS))
    write_table(table, folder.path / SCANS, "scans")
    return len(table)


def draw_heatmaps(folder: Workspace, to: str, units: Sequence[SourceFile], scoring: ScoringJob, top: int) -> int:
    """Draw what spoke for a tumour in the surest positives; return how many could be drawn.

    Args:
        folder: of the scores.
        to: folder for the pictures, a path or an address.
        units: the files of the scores.
        scoring: how they were made.
        top: pictures at most.
    """
    from brainscale.models.heatmaps import write_heatmaps  # here: it needs torch, and scoring does without

    table = read_scores(folder, ["sample_id", "probability", "prediction"])
    negative = next(iter(scoring.bundle.info.classes))
    positive = table.filter(pc.not_equal(table["prediction"], negative))
    order = [("probability", "descending"), ("sample_id", "ascending")]
    rows = positive.sort_by(order).slice(0, top).to_pylist()
    planes = read_planes(
        units, [row["sample_id"] for row in rows], ReadRequest(preprocess=scoring.bundle.info.preprocess)
    )
    drawn = [row for row in rows if row["sample_id"] in planes]  # a file may be gone since it was scored
    with open_workspace(to, (), known=["*"]) as pictures:
        write_heatmaps(scoring.bundle, [planes[row["sample_id"]] for row in drawn], drawn, pictures.path)
    return len(drawn)
