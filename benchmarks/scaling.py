"""What scoring costs at 1 M, 100 M and 1 B images: the driver's memory and CPU, and how many nodes it can feed.

python benchmarks/scaling.py [FOLDER] [--rows 1000000 4000000] [--gpu-images-a-second 10000] [--keep FILE]

FOLDER holds images (phantoms as JPEG without one). The large jobs are real but for what costs nothing in them: the
files are made-up names, nothing is read, and the network is a random number. Listing, blocks, Ray, Parquet parts and
the check that they are complete are the product's own. FILE keeps what was measured; if it is there, only the tables
are printed. The speed of a GPU is an assumption, unless benchmarks/gpu.py measured it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa

from brainscale.models import engines
from brainscale.models.bundle import open_bundle
from brainscale.reading.reader import read_file
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sources import SourceFile, list_files
from brainscale.scoring import bulk, on_ray
from brainscale.scoring.blocks import Block
from brainscale.scoring.predictions import make_predictions
from brainscale.scoring.scorer import Scorer

CORES = 16
"""Of a node in the tables."""
IMAGES = 10**6, 10**8, 10**9
NODES = 1, 10, 100
MIB, GIB, HOUR = 2**20, 2**30, 3600
FILE_NBYTES = 30_000
JOB_IMAGES = 1500
"""Of a whole job, between whose first and last part its speed is measured."""


def made_up_files(count: int) -> Iterator[SourceFile]:
    """Yield files that are nowhere, sorted by id."""
    for i in range(count):
        name = f"site-{i // 500_000:03}/patient-{i // 100:08}/scan-{i:010}.jpg"
        yield SourceFile(sample_id=name, uri=f"s3://archive/{name}", nbytes=FILE_NBYTES)


class FreeScorer(Scorer):
    """Neither reads nor computes."""

    def _read(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, Iterator[pa.Table]]]:
        for block in blocks:
            ids = [one.name for one in block.files]
            known = {
                "sample_id": pa.array(ids, pa.string()),
                "uri": pa.array([one.uri for one in block.files], pa.string()),
                "empty": pa.array([False] * len(ids), pa.bool_()),
            }
            rows = [known.get(column.name, pa.nulls(len(ids), column.type)) for column in COLUMNS]
            yield block, iter([pa.table(rows, schema=COLUMNS)])

    def _predict(self, _: Block, tables: Iterable[pa.Table], __: Callable[[int, int], bool]) -> Iterator[pa.Table]:
        info = self._job.bundle.info
        for rows in tables:
            tumour = np.random.default_rng(len(rows)).random(len(rows), np.float32)
            known, present = np.stack([1 - tumour, tumour], 1), np.ones(len(rows), bool)
            yield make_predictions(rows, present, known, 0.5, list(info.classes), info.weights_sha256)


class FreeActor(on_ray.EngineActor):
    """An engine of which only the parts are real."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scorer.__class__ = FreeScorer


def free_job(count: int, bundle: Path, out: Path) -> dict[str, float]:
    """Score so many files that are not there, in this process, and say what it took; then look whether all is there."""
    me, peak, over = psutil.Process(), 0, threading.Event()

    def own() -> int:
        return int(me.memory_full_info().uss)

    def follow() -> None:
        nonlocal peak
        while not over.wait(0.5):
            peak = max(peak, own())

    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    on_ray.EngineActor = FreeActor  # type: ignore[misc]
    bulk.walk_files = lambda sources: made_up_files(count)
    threading.Thread(target=follow, daemon=True).start()
    cpu, began = sum(me.cpu_times()[:2]), time.perf_counter()
    scores = bulk.score_files(str(bundle), ["made-up"], str(out), workers=1)
    seconds, cpu = time.perf_counter() - began, sum(me.cpu_times()[:2]) - cpu
    over.set()
    if scores.rows != count:
        raise SystemExit(f"{scores.rows} rows of {count} files")
    began = time.perf_counter()
    again = bulk.score_files(str(bundle), ["made-up"], str(out))
    if again.progress is not None:
        raise SystemExit("a complete folder was scored again")
    return {
        "rows": count,
        "seconds": seconds,
        "driver_cpu": cpu,
        "peak": peak,
        "parts": len(scores.parts),
        "nbytes": sum(part.stat().st_size for part in out.glob("part-*")),
        "check_seconds": time.perf_counter() - began,
    }


def free_jobs(counts: Sequence[int], bundle: Path, scratch: Path) -> list[dict[str, float]]:
    """Each in a process of its own."""
    found = []
    for count in counts:
        told = scratch / f"{count}.json"
        arguments = [sys.executable, __file__, "--free-job", str(count), str(bundle), str(scratch / f"out-{count}")]
        subprocess.run([*arguments, str(told)], check=True)
        found.append(json.loads(told.read_text()))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def seconds_each(function: Callable[[], int], rounds: int = 3) -> float:
    """Seconds for each of what a function says it did, the median of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        count = function()
        taken.append((time.perf_counter() - began) / count)
    return statistics.median(taken)


def measure(source: Path | None, counts: Sequence[int], scratch: Path) -> dict[str, Any]:
    """What one image costs, and what jobs of many rows cost."""
    from score import make_bundle, make_images, probed, rate  # imports torch, which would be in the driver's memory

    files = list_files([str(make_images(source, scratch / "images", 256))])
    bundle, many = make_bundle(scratch / "bundle", 224), make_images(source, scratch / "many", JOB_IMAGES)
    rates = [rate(probed(bundle, many, scratch / f"job-{turn}")[1]) for turn in range(3)]
    opened = open_bundle(bundle)
    request, onnx = ReadRequest(preprocess=opened.info.preprocess), engines.EngineOptions(name="onnx")
    network = engines.load_engine(opened.info, engines.read_network(opened, onnx), onnx, threads=1)
    planes = np.stack(
        [sample.plane for file in files[:64] for sample in read_file(file, request) if sample.plane is not None]
    )
    return {
        "image_nbytes": sum(file.nbytes or 0 for file in files) / len(files),
        "read_core_s": seconds_each(lambda: sum(1 for file in files for _ in read_file(file, request))),
        "engine_core_s": seconds_each(lambda: len(network(planes).probabilities)),
        "job_core_s": (os.cpu_count() or 1) / statistics.median(rates),
        "jobs": free_jobs(counts, scratch / "bundle", scratch),
    }


def print_measured(known: dict[str, Any]) -> None:
    """What was measured."""
    print("| constant | measured |\n|---|---|")
    print(f"| size of an image file | {known['image_nbytes']:,.0f} B |")
    print(f"| one core reads, decodes and resizes an image in | {known['read_core_s'] * 1e3:.1f} ms |")
    print(f"| one core runs brainmrnet at 224² on it in | {known['engine_core_s'] * 1e3:.1f} ms |")
    print(f"| a whole job takes, for each image, of each core | {known['job_core_s'] * 1e3:.1f} ms |\n")
    print("| rows | seconds | driver's CPU a row | driver's peak memory | parts | Parquet a row | is it complete? |")
    print("|---|---|---|---|---|---|---|")
    for job in known["jobs"]:
        rows, micro = job["rows"], job["driver_cpu"] / job["rows"] * 1e6
        memory, row = f"{job['peak'] / MIB:,.0f} MiB", f"{job['nbytes'] / rows:.0f} B"
        facts = [f"{rows:,}", f"{job['seconds']:,.0f}", f"{micro:.1f} µs", memory, f"{job['parts']:,}", row]
        print(f"| {' | '.join(facts)} | {job['check_seconds']:.1f} s |")


def print_model(known: dict[str, Any], gpu_rate: float) -> None:
    """Arithmetic on the constants, and nothing else."""
    core = known["job_core_s"]
    job = known["jobs"][-1]
    driver = job["driver_cpu"] / job["rows"]
    rates = {f"nodes of {CORES} cores": CORES / core, f"GPUs of {gpu_rate:,.0f} images/s (assumed)": gpu_rate}
    for name, rate in rates.items():
        print(f"\n| images | {name} | network and reading | driver | the store must give |\n|---|---|---|---|---|")
        for images in IMAGES:
            for nodes in NODES:
                busy, planned = images / nodes / rate, images * driver
                gbits = images * known["image_nbytes"] * 8 / max(busy, planned) / 1e9
                times = f"{busy / HOUR:,.2f} h | {planned / HOUR:,.2f} h"
                print(f"| {images:,} | {nodes} | {times} | {gbits:,.2f} Gbit/s |")
        print(f"\nThe driver plans as fast as {1 / driver / rate:,.0f} {name} score.")


def main() -> None:
    """Measure, or read what was measured, and print."""
    if sys.argv[1:2] == ["--free-job"]:
        count, bundle, out, told = sys.argv[2:]
        Path(told).write_text(json.dumps(free_job(int(count), Path(bundle), Path(out))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000_000, 4_000_000])
    parser.add_argument("--gpu-images-a-second", type=float, default=10_000)
    parser.add_argument("--keep", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.keep and given.keep.exists():
        known = json.loads(given.keep.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            known = measure(given.folder, given.rows, Path(name))
        if given.keep:
            given.keep.write_text(json.dumps(known, indent=2))
    print_measured(known)
    print_model(known, given.gpu_images_a_second)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
