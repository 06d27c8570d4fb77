"""Small jobs of score and index beside the plain script (score_plain.py), from start to exit of the process.

python benchmarks/small_jobs.py [FOLDER] [--images 10 400] [--rounds 3]

FOLDER holds images, repeated until there are enough (phantoms as JPEG without one). The sides take turns. The script
and `score` run the same graph; `index` runs no network. CPU time and memory are those of all processes of a side;
memory counts shared pages once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from score import make_bundle, make_images, watch

SIDES = {"plain": "the plain script", "score": "brainscale score", "index": "brainscale index"}


def run(side: str, bundle: Path, images: Path, out: Path) -> tuple[float, float, float]:
    """Return seconds from start to exit, CPU-seconds and peak memory in MiB."""
    plain = [sys.executable, str(Path(__file__).with_name("score_plain.py")), str(bundle / "model.onnx")]
    ours = [sys.executable, "-m", "brainscale"]
    arguments = {
        "plain": [*plain, str(images), f"{out}.parquet"],
        "score": [*ours, "score", str(bundle), str(images), "--out", str(out)],
        "index": [*ours, "index", str(images), "--out", f"{out}.parquet"],
    }[side]
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = watch(process, 0.05)
    seconds, after = time.perf_counter() - began, os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return seconds, cpu, peak / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 400])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        bundle = make_bundle(scratch / "bundle", 224)
        for count in given.images:
            images = make_images(given.folder, scratch / f"images-{count}", count)
            found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
            for turn in range(given.rounds):
                for side in SIDES:
                    found[side].append(run(side, bundle, images, scratch / f"{side}-{count}-{turn}"))
            print(f"{count} JPEGs, brainmrnet at 224², {os.cpu_count()} cores, median (range) of {given.rounds}")
            for side, measured in found.items():
                seconds, cpu, memory = (sorted(values) for values in zip(*measured, strict=True))
                times = f"{statistics.median(seconds):7.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})"
                spent = f"{statistics.median(cpu):7.1f} CPU-s ({cpu[0]:.1f} to {cpu[-1]:.1f})"
                print(f"  {SIDES[side]:<18}{times}{spent}{memory[-1]:7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
