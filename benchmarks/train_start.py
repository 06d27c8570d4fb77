"""How long a training takes from its command to its first epoch: with workers of this machine, and with workers on Ray.

python benchmarks/train_start.py [--rounds 3]

The run is tiny: 60 phantoms at 64 pixels, one epoch of 3 steps. What is measured is the start, and the end, when the
model is exported. The first side has an empty cache, so it exports the graph of the network; the others find it there.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from brainscale.dataset.phantoms import write_phantoms

TINY = ("data.image_size=64", "train.batch_size=16", "train.micro_batch=4", "train.threads=1", "train.epochs=1")
FIRST = "1 worker, first time"
SIDES = {
    FIRST: ("--workers", "1"),
    "1 worker": ("--workers", "1"),
    "2 workers": ("--workers", "2"),
    "2 workers on Ray": ("--workers", "2", "--set", "resources.ray=always"),
}
"""Side → options of `brainscale train`."""


def measure(options: tuple[str, ...], data: Path, out: Path, cache: Path) -> tuple[float, float, float]:
    """Return the seconds until the first epoch has ended and until the command has, and its CPU-seconds."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    command = [sys.executable, "-m", "brainscale", "train", "--data", str(data), "--out", str(out), *settings, *options]
    before, began, first = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), None
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stderr or ():
            if first is None and line.startswith("epoch 1/1  "):
                first = time.monotonic() - began
    if process.returncode or first is None:
        sys.exit(f"{' '.join(command)} failed: {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return first, time.monotonic() - began, cpu


def main() -> None:
    """Measure in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        write_phantoms(Path(name, "scans"), 60, 1)
        for turn in range(rounds):
            for number, (side, options) in enumerate(SIDES.items()):
                if side == FIRST:
                    cache = Path(name, f"cache-{turn}")
                found[side].append(measure(options, Path(name, "scans"), Path(name, f"run-{turn}-{number}"), cache))
    print(f"{os.cpu_count()} cores, median (range) of {rounds}: first epoch after; the whole command; its CPU time")
    for side, costs in found.items():
        texts = [
            f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f}) s"
            for values in zip(*costs, strict=True)
        ]
        print(f"  {side:<20}" + "".join(f"{text:>20}" for text in texts))


if __name__ == "__main__":
    main()
