"""What scoring would cost at 1 M, 100 M and 1 B images on 1 to 100 nodes, from constants measured here.

python benchmarks/scaling.py [FOLDER] [--rows 250000 1000000] [--constants FILE]

FOLDER holds images (phantoms as JPEG without one). The large jobs are real but for two things that cost nothing in
them, reading a file and running the network: listing, Ray, parts, ledger and the last count are the product's own.
FILE keeps what was measured; if it is there, only the tables are printed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from score import make_bundle, make_images, watch

from brainscale.cluster import session
from brainscale.models import engines
from brainscale.models.bundle import open_bundle
from brainscale.reading.on_ray import read_parallel
from brainscale.reading.reader import read_file
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sources import SourceFile, list_files
from brainscale.scoring import bulk, on_ray
from brainscale.scoring.ledger import read_ledger
from brainscale.scoring.on_ray import BLOCK_ROWS
from brainscale.scoring.predictions import ScoringJob, make_predictions
from brainscale.storage.workspace import Workspace

CORES = 16
"""Of a node in the tables."""
IMAGES = 10**6, 10**8, 10**9
NODES = 1, 10, 100
GIB, HOUR, PLANE = 2**30, 3600, 224 * 224
Constants = dict[str, float]


def free_read(units: pa.Table, skip: frozenset[str]) -> Iterator[pa.Table]:
    """A row for each file without opening it."""
    ids = [i for i in units["sample_id"].to_pylist() if i not in skip]
    known = {
        "sample_id": pa.array(ids, pa.string()),
        "uri": pa.array([f"s3://archive/{i}" for i in ids], pa.string()),
        "sha256": pa.array([hashlib.sha256(i.encode()).hexdigest() for i in ids], pa.string()),
        "empty": pa.array([False] * len(ids), pa.bool_()),
        "file_rows": pa.array([1] * len(ids), pa.int32()),
    }
    yield pa.table([known.get(f.name, pa.nulls(len(ids), f.type)) for f in COLUMNS], schema=COLUMNS)


class FreeEngine:
    """Probabilities out of nothing."""

    def __init__(self, scoring: ScoringJob) -> None:
        self._scoring = scoring

    def __call__(self, block: pa.Table) -> pa.Table:
        """As `on_ray.ScoringActor` does."""
        info, tumour = self._scoring.bundle.info, np.random.default_rng(0).random(len(block), np.float32)
        known = np.stack([1 - tumour, tumour], 1)
        present = np.ones(len(block), bool)
        return make_predictions(block, present, known, self._scoring.threshold, list(info.classes), info.weights_sha256)


def free_predictions(
    units: Sequence[SourceFile], scoring: ScoringJob, skip: frozenset[str], _: Callable[[str], None]
) -> Dataset:
    """In place of `on_ray.score_lazily`: the same pipeline without its work."""
    rows = read_parallel(units, partial(free_read, skip=skip)).dataset
    pool = ActorPoolStrategy(min_size=1, max_size=1)
    return rows.map_batches(
        FreeEngine,
        fn_constructor_args=(scoring,),
        compute=pool,
        batch_format="pyarrow",
        batch_size=BLOCK_ROWS,
        num_cpus=1,
    )


def free_job(count: int, bundle: Path, out: Path) -> dict[str, float]:
    """Score so many files that are not there, and read the ledger, in this process; what it took."""
    me, peak, over = psutil.Process(), 0, threading.Event()

    def own() -> int:
        return int(me.memory_full_info().uss)

    def follow() -> None:
        nonlocal peak
        while not over.wait(0.5):
            peak = max(peak, own())

    names = (f"site-{i % 50:02}/patient-{i // 100:07}/scan-{i:010}.jpg" for i in range(count))
    with session.session(1):
        empty = own()
        units = [SourceFile(sample_id=name, uri=f"s3://archive/{name}", nbytes=30_000) for name in names]
        listed = own()
        on_ray.score_lazily, bulk.list_files = free_predictions, lambda sources: units  # type: ignore[assignment]
        threading.Thread(target=follow, daemon=True).start()
        cpu, began = sum(me.cpu_times()[:2]), time.perf_counter()
        scores = bulk.score_files(str(bundle), ["scans"], str(out))
        took, cpu = time.perf_counter() - began, sum(me.cpu_times()[:2]) - cpu
        over.set()
    if scores.rows != count:
        raise SystemExit(f"{scores.rows} rows of {count} files")
    began = time.perf_counter()
    ledger = read_ledger(Workspace(out), {})
    missing = ledger.find_missing(units)
    ledger_seconds = time.perf_counter() - began
    nbytes = sum(part.stat().st_size for part in out.glob("part-*"))
    return {
        "rows": count,
        "seconds": took,
        "driver_cpu": cpu,
        "empty": empty,
        "units": listed - empty,
        "peak": peak - empty,
        "parts": len(list(out.glob("part-*"))),
        "nbytes": nbytes,
        "ledger_seconds": ledger_seconds,
        "ledger_nbytes": sum(a.nbytes for a in (ledger.samples, ledger.files, ledger.done)),
        "missing": len(missing),
    }


def free_jobs(counts: Sequence[int], scratch: Path) -> list[dict[str, float]]:
    """Each in a process of its own; with the peak of all its processes."""
    bundle, found = make_bundle(scratch / "bundle", 64), []
    for count in counts:
        told, out = scratch / f"{count}.json", scratch / f"out-{count}"
        arguments = [sys.executable, __file__, "--free-job", str(count), str(bundle), str(out), str(told)]
        process = subprocess.Popen(arguments)
        everything = watch(process)
        if process.returncode:
            raise SystemExit(f"the job of {count} rows ended with {process.returncode}")
        found.append({**json.loads(told.read_text()), "everything": everything})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def each(function: Callable[[], int], rounds: int = 3) -> float:
    """Seconds for each of what a function says it did, the quickest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        count = function()
        best = min(best, (time.perf_counter() - began) / count)
    return best


def constants(source: Path | None, counts: Sequence[int], scratch: Path) -> Constants:
    """What one image, one file and one row cost."""
    images = make_images(source, scratch / "images", 256)
    units = list_files([str(images)])
    opened = open_bundle(make_bundle(scratch / "full", 224))
    request, onnx = ReadRequest(preprocess=opened.info.preprocess), engines.EngineOptions(name="onnx")
    network = engines.load_engine(opened.info, engines.read_network(opened, onnx), onnx, threads=1)
    planes = np.stack([sample.plane for file in units[:64] for sample in read_file(file, request)])
    files = scratch / "files"
    for i in range(100_000):
        if i % 1000 == 0:
            (files / f"{i // 1000:03}").mkdir(parents=True)
        (files / f"{i // 1000:03}" / f"{i:06}.jpg").touch()
    small, *_, large = jobs = free_jobs(counts, scratch)
    return {
        "image_bytes": sum(u.nbytes or 0 for u in units) / len(units),
        "read_core_s": each(lambda: sum(1 for u in units for _ in read_file(u, request))),
        "engine_core_s": each(lambda: len(network(planes))),
        "list_s": each(lambda: len(list_files([str(files)]))),
        "unit_bytes": large["units"] / large["rows"],
        "driver_bytes": (large["peak"] - small["peak"]) / (large["rows"] - small["rows"]),
        "driver_base": small["empty"]
        + small["peak"]
        - small["rows"] * (large["peak"] - small["peak"]) / (large["rows"] - small["rows"]),
        "driver_core_s": large["driver_cpu"] / large["rows"],
        "row_bytes": large["nbytes"] / large["rows"],
        "ledger_bytes": large["ledger_nbytes"] / large["rows"],
        "ledger_s": large["ledger_seconds"] / large["rows"],
        **{f"job{i}_{name}": value for i, job in enumerate(jobs) for name, value in job.items()},
    }


MEASURED = {
    "image_bytes": ("bytes of an image file", 1, "B"),
    "read_core_s": ("a core reads, decodes and resizes an image in", 1e3, "ms"),
    "engine_core_s": ("a core runs brainmrnet at 224² on it in", 1e3, "ms"),
    "list_s": ("listing a file of a local folder", 1e6, "µs"),
    "unit_bytes": ("driver's memory for a listed file", 1, "B"),
    "driver_bytes": ("driver's memory for a file of the million at work (its listing, Ray's blocks, ledger)", 1, "B"),
    "driver_core_s": ("driver's CPU for a row", 1e6, "µs"),
    "row_bytes": ("Parquet for a row", 1, "B"),
    "ledger_bytes": ("ledger's memory for a row", 1, "B"),
    "ledger_s": ("reading the ledger, for a row", 1e6, "µs"),
}


def print_constants(known: Constants) -> None:
    print("| constant | measured |\n|---|---|")
    for name, (text, scale, unit) in MEASURED.items():
        print(f"| {text} | {known[name] * scale:,.1f} {unit} |")
    print("\n| rows of a job without reading and network | seconds | rows/s | parts | driver at most | all processes |")
    print("|---|---|---|---|---|---|")
    for i in range(sum(name.endswith("_everything") for name in known)):
        job = {name.partition("_")[2]: value for name, value in known.items() if name.startswith(f"job{i}_")}
        driver, everything = (job["empty"] + job["peak"]) / 2**20, job["everything"] / 2**20
        speed = f"{job['seconds']:,.0f} | {job['rows'] / job['seconds']:,.0f} | {job['parts']:,.0f}"
        print(f"| {job['rows']:,.0f} | {speed} | {driver:,.0f} MiB | {everything:,.0f} MiB |")


def print_model(known: Constants) -> None:
    """Arithmetic on the constants, and nothing else."""
    work = known["read_core_s"] + known["engine_core_s"]
    print(f"\n| images | nodes of {CORES} cores | network and reading | driver | images' bytes | the store must give |")
    print("|---|---|---|---|---|---|")
    for images in IMAGES:
        for nodes in NODES:
            busy, driver = images * work / nodes / CORES, images * known["driver_core_s"]
            nbytes = images * known["image_bytes"]
            rate = nbytes * 8 / max(busy, driver) / 1e9
            print(
                f"| {images:,} | {nodes} | {busy / HOUR:,.1f} h | {driver / HOUR:,.2f} h "
                f"| {nbytes / 1e12:,.2f} TB | {rate:,.2f} Gbit/s |"
            )
    print(
        "\n| images | driver's memory | of which ledger | listing | ledger read twice | scores | planes of a training |"
    )
    print("|---|---|---|---|---|---|---|")
    for images in IMAGES:
        ledger = images * known["ledger_bytes"]
        at_work = min(images, bulk.FILES_AT_A_TIME) * max(0, known["driver_bytes"] - known["unit_bytes"])
        driver = known["driver_base"] + images * known["unit_bytes"] + at_work + ledger
        print(
            f"| {images:,} | {driver / GIB:,.1f} GiB | {ledger / GIB:,.2f} GiB | {images * known['list_s']:,.0f} s "
            f"| {2 * images * known['ledger_s']:,.0f} s | {images * known['row_bytes'] / 1e9:,.2f} GB "
            f"| {images * PLANE / GIB:,.0f} GiB |"
        )


def main() -> None:
    if sys.argv[1:2] == ["--free-job"]:
        count, bundle, out, told = sys.argv[2:]
        Path(told).write_text(json.dumps(free_job(int(count), Path(bundle), Path(out))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", nargs="+", type=int, default=[250_000, 1_000_000])
    parser.add_argument("--constants", type=Path)
    given = parser.parse_args()
    if given.constants and given.constants.exists():
        known: dict[str, Any] = json.loads(given.constants.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            known = constants(given.folder, given.rows, Path(name))
        if given.constants:
            given.constants.write_text(json.dumps(known, indent=2))
    print_constants(known)
    print_model(known)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
