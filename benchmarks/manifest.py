"""Splitting a large manifest that is a folder of shards: time, and memory of the driver.

python benchmarks/manifest.py [--rows 1000000] [--shard-rows 250000] [--one-file] [--cpus 2]

The rows are made up: ids, hashes, signatures, patients and labels of heads that nobody has, with copies, near
duplicates and errors among them. Prints a line for each step. `--one-file` splits the same rows as one file as well,
and checks that groups and splits are equal. 10 M rows need about 6 GB of disk.
"""

import argparse
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from brainscale.schema import MANIFEST
from brainscale.storage.shards import write_shards

MIB = 2**20
COPIES, NEAR, ERRORS = 0.02, 0.05, 0.005
"""Shares of rows that are copies or near duplicates of an earlier row, and that are errors."""
SLICES = 8
"""Rows of a patient; every fifth patient is unknown."""


def mix(values: np.ndarray) -> np.ndarray:
    """64 random bits for each number (SplitMix64)."""
    values = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def made_up_rows(start: int, stop: int) -> pa.Table:
    """Rows of a made-up manifest, the same in whatever pieces it is made."""
    rows = np.arange(start, stop)
    draw = mix(rows) / 2**64
    is_copy, is_near = draw < COPIES, (draw >= COPIES) & (draw < COPIES + NEAR)
    earlier = (mix(rows + 10**12) / 2**64 * rows).astype(np.int64)
    head = np.where(is_copy | is_near, earlier, rows)
    error = mix(rows + 2 * 10**12) / 2**64 < ERRORS
    content = np.where(is_copy, head, rows)
    hashes = [
        (mix(head + offset) >> np.uint64(1))
        ^ np.where(is_near, np.uint64(1) << mix(rows) % np.uint64(60), np.uint64(0))
        for offset in (3 * 10**12, 4 * 10**12)
    ]
    patient = np.where(rows // SLICES % 5 > 0, rows // SLICES, -1)
    labels = np.where(mix(head + 5 * 10**12) % np.uint64(2), "tumour", "no_tumour")
    nothing = {name: pa.nulls(len(rows), MANIFEST.field(name).type) for name in MANIFEST.names}
    filled = {
        "sample_id": [f"scans/{row:010d}.png" for row in rows.tolist()],
        "uri": [f"s3://made-up/scans/{row:010d}.png" for row in rows.tolist()],
        "format": ["PNG"] * len(rows),
        "width": (200 + head % 57).astype(np.int32),
        "height": (200 + head % 31).astype(np.int32),
        "nbytes": 20_000 + head % 9973,
        "sha256": masked([f"{key:016x}" * 4 for key in mix(content + 6 * 10**12).tolist()], error),
        "phash": masked([f"{key:016x}" for key in hashes[0].tolist()], error),
        "head_phash": masked([f"{key:016x}" for key in hashes[1].tolist()], error),
        "signature": masked(list(map(bytes, signatures(head, np.where(is_near, rows, 0)))), error),
        "empty": [False] * len(rows),
        "label": labels.tolist(),
        "patient": masked([f"{key:016x}" * 2 for key in mix(patient + 7 * 10**12).tolist()], error | (patient < 0)),
        "error_code": masked(["corrupt"] * len(rows), ~error),
        "error": masked(["the decoder cannot read the file"] * len(rows), ~error),
    }
    columns = {name: pa.array(values, MANIFEST.field(name).type) for name, values in filled.items()}
    return pa.table({**nothing, **columns}, schema=MANIFEST)


def masked(values: list[object], is_null: np.ndarray) -> list[object]:
    return [None if null else value for value, null in zip(values, is_null.tolist(), strict=True)]


def signatures(head: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Smooth random patterns of heads, uint8 [rows, 256]; with a little noise where `noise` is not 0."""
    coarse = (mix(head[:, None] * 16 + np.arange(16) + 8 * 10**12) / 2**64).reshape(-1, 4, 4)
    weights = np.maximum(0, 1 - np.abs(np.linspace(0, 3, 16)[:, None] - np.arange(4)))  # bilinear
    smooth = 20 + 200 * (weights @ coarse @ weights.T)
    bits = mix(noise[:, None] + np.arange(256)[None] * 10**7) % np.uint64(5)
    return (smooth.reshape(-1, 256) + np.where(noise[:, None] > 0, bits, 0)).astype(np.uint8)


def pieces(rows: int, shard_rows: int) -> Iterator[pa.Table]:
    return (made_up_rows(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows))


class Peak:
    """The largest memory of this process, its own pages, while the with-block runs, in MiB."""

    def __enter__(self) -> "Peak":
        self.mib, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            memory = process.memory_info()
            self.mib = max(self.mib, (memory.rss - memory.shared) / MIB)


def step(name: str, rows: int, function: Callable[[], Any]) -> Any:
    """Run a step and print its time, the CPU time and the peak memory of this process."""
    began, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        result = function()
    seconds, own = time.perf_counter() - began, time.process_time() - cpu
    print(f"{name:<28}{seconds:>8.1f} s{own:>9.1f} s{1e6 * own / rows:>11.2f}{peak.mib:>9.0f} MiB", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard-rows", type=int, default=250_000)
    parser.add_argument("--one-file", action="store_true", help="split the same rows as one file, and compare")
    parser.add_argument("--cpus", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="manifest-"))
    try:
        measure(folder, given.rows, given.shard_rows, given.one_file, given.cpus)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, rows: int, shard_rows: int, one_file: bool, cpus: int) -> None:
    child = os.fork()  # what makes the rows is not the driver
    if child == 0:
        write_shards(pieces(rows, shard_rows), folder / "made-up", "manifest")
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the rows could not be made")
    import ray

    from brainscale.cluster.session import quiet
    from brainscale.dataset import sharded, sharded_checks
    from brainscale.dataset.manifest import open_as_shards
    from brainscale.dataset.on_ray import map_on_ray, shuffle_on_ray
    from brainscale.dataset.shard_columns import ManifestColumns

    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    quiet()
    table = open_as_shards(str(folder / "made-up"))
    columns = ManifestColumns((table,), map_on_ray, shuffle_on_ray)
    request = sharded.SplitRequest(val=0.15, test=0.2)
    size = sum(path.stat().st_size for path in (folder / "made-up").iterdir())
    print(f"{rows:,} rows in {len(table.shards)} shards, {size / MIB:.0f} MiB; {cpus} CPUs")
    print(f"{'step':<28}{'time':>10}{'driver':>11}{'µs a row':>11}{'memory':>13}")
    groups = step("groups", rows, lambda: sharded.find_groups(columns))
    assigned, notice = step("splits", rows, lambda: sharded.assign_rows(columns, groups, request))
    out = str(folder / "split")
    written = step("write", rows, lambda: sharded.write_split(columns, out, groups, assigned, request))
    result = ManifestColumns((written,), map_on_ray, shuffle_on_ray)
    check = step("verify", rows, lambda: sharded_checks.verify_shards(result))
    both = ManifestColumns((table, written), map_on_ray, shuffle_on_ray)
    if rows <= 200_000:
        matches = step("overlap with itself", rows, lambda: sharded_checks.find_shared_samples(both, rows))
        print(f"{len(matches):,} samples are in both")
    print(f"{check.groups:,} groups, {len(check.violations)} pairs in different splits. {notice or ''}")
    print(f"peak of the driver, all pages: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if one_file:
        compare(folder)


def compare(folder: Path) -> None:
    """Split the same rows as one table, and compare."""
    from brainscale.dataset.groups import assign_groups
    from brainscale.dataset.manifest import read_manifest
    from brainscale.dataset.on_ray import map_on_ray
    from brainscale.dataset.splits import assign_splits

    whole = read_manifest(folder / "made-up")

    def split() -> pa.Table:
        return assign_splits(assign_groups(whole, run=map_on_ray), val=0.15, test=0.2, seed=0)

    one, many = step("the same as one table", len(whole), split), read_manifest(folder / "split")
    equal = {name: one[name].equals(many[name]) for name in ("group", "split")}
    print(f"equal to one table: {equal}")
    if not all(equal.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
