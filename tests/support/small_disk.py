"""Scoring onto a disk that fills up, is full from the start, cannot be written, and at last has room.

Run by `unshare -rm`, so that it may mount a disk; prints exit status and messages of each of the four commands.
"""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from brainscale.cluster.session import session
from tests.support.runs import invoke


def score_on_small_disk(run: str, source: str, disk: Path, kept: Path) -> None:
    """Score four times into one folder on the disk, and copy the folder to a place that outlives the mount."""
    out = disk / "scores"
    out.mkdir()

    def score() -> None:
        result = invoke("score", run, source, "--out", out)
        print(json.dumps({"status": result.exit_code, "said": result.stderr}))  # noqa: T201

    with session():
        score()
        with suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        score()
        (disk / "full").unlink()
        mount("remount,ro", disk)
        score()
        mount("remount,rw,size=10m", disk)
        score()
    shutil.copytree(out, kept)


def mount(options: str, disk: Path) -> None:
    """Mount a disk in memory, or change it once the workers of a job that failed have closed their files."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk]
    for _ in range(20):
        if not options.startswith("remount") or subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            break
        time.sleep(0.5)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    run, source, disk, kept = sys.argv[1:]
    try:
        mount("size=60k", Path(disk))
    except subprocess.CalledProcessError:
        sys.exit(77)
    score_on_small_disk(run, source, Path(disk), Path(kept))
