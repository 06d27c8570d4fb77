"""Small jobs of score and index beside the plain script (score_plain.py), from start to exit of the process.

python benchmarks/small_jobs.py [FOLDER] [--images 10 400] [--rounds 3]

FOLDER holds images, repeated until there are enough (phantoms as JPEG without one). The sides take turns. The script
and `score` run the same graph; `index` runs no network. CPU time and memory are those of all processes of a side;
memory counts shared pages once.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import score

SIDES = {"plain": "the plain script", "ours": "brainscale score", "index": "brainscale index"}


def command(side: str, bundle: Path, images: Path, out: Path) -> list[str]:
    """Return the command of a side."""
    if side == "index":
        return [sys.executable, "-m", "brainscale", "index", str(images), "--out", f"{out}.parquet"]
    return score.command(side, bundle, images, out)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 400])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        bundle = score.make_bundle(scratch / "bundle", 224)
        for count in given.images:
            images = score.make_images(given.folder, scratch / f"images-{count}", count)
            found: dict[str, list[score.Cost]] = {side: [] for side in SIDES}
            for turn in range(given.rounds):
                for side in SIDES:
                    out = scratch / f"{side}-{count}-{turn}"
                    found[side].append(score.measure(command(side, bundle, images, out)))
            print(f"{count} JPEGs, brainmrnet at 224², {os.cpu_count()} cores, median (range) of {given.rounds}")
            for side, costs in found.items():
                seconds, cpu = (
                    score.spread([getattr(cost, name) for cost in costs]) for name in ("seconds", "cpu_seconds")
                )
                memory = max(cost.mebibytes for cost in costs)
                print(f"  {SIDES[side]:<18}{seconds:>20} s{cpu:>20} CPU-s{memory:7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
