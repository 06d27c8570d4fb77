"""The first ten minutes of a new user, as a terminal of 80 columns shows them, with times; then what a mistake costs.

PYTHONPATH=. python benchmarks/first_steps.py [FOLDER] > docs/first-steps.md

FOLDER holds images in yes/ and no/ (60 phantoms without one). Each command is a process of its own on a terminal of its
own; the line behind it says how long it took, until it showed something, its CPU time and its memory.
"""

import os
import re
import resource
import shlex
import sys
import tempfile
import time
from pathlib import Path

from brainscale.dataset.phantoms import write_phantoms
from tests.support.terminals import screen, terminal

COLUMNS = 80
COMMAND = "PYTHONPATH=. .venv/bin/python benchmarks/first_steps.py FOLDER"
PEAK = ".peak"
MEASURED = f"""
import atexit, resource
from brainscale.cli.main import main
def write():
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    open({PEAK!r}, "w").write(str(max(peaks)))
atexit.register(write)
main()
"""
"""Runs a command and writes the largest memory of one of its processes, KiB."""
STEPS = """
models
predict phantoms {image}
index scans --out scans.parquet
split scans.parquet --out split.parquet
train --data split.parquet --config demo --epochs 3 --out run --dry-run
train --data split.parquet --config demo --epochs 3 --out run
evaluate run
score run scans --out scores.csv
predict run {image}
"""
MISTAKES = """
index scnas --out new.parquet
index scans --out scans.txt
index scans --out notes.csv
index scans --labels notes.csv --out new.parquet
split sacns.parquet --out new.parquet
split scans.parquet --out scans.parquet
split scans.parquet --val 0.9 --test 0.2 --out new.parquet
train --data scnas --out new
train --data notes.csv --out new
train --data split.parquet --out scans
train --data split.parquet --out new --model resnet51
train --data split.parquet --out new --config demoo
train --data split.parquet --out new --set epochs=5
train --data split.parquet --out new --set train.epochs=many
train --data split.parquet --out run --config demo --epochs 5
evaluate scans
evaluate run --split tset
evaluate run --by site
evaluate run --data scnas --out new
score run scnas --out new
score scans scans --out new
score run scans --out new.xlsx
score run scans --engine abacus --out new
predict run scnas.png
predict rnu {image}
compare run rnu
"""


PAGE = """# The first steps

This page was recorded in a terminal of 80 columns, which cuts long lines, on a machine with {cpus} CPU cores. It goes
from a folder of {count} images to a prediction. The line in brackets below each output gives the exit status, the total
time, the time until the first output, the CPU time, and the peak memory of the largest process. To record your own, run
`{command}`.
"""
PLACE = "/home/me/tumours"
"""What the recording shows in place of the temporary folder."""


def show(arguments: str, folder: str) -> None:
    """Run one command and print what its terminal shows in the end."""
    usage = resource.getrusage
    before, began = usage(resource.RUSAGE_CHILDREN), time.monotonic()
    measured = ["-c", MEASURED, *shlex.split(arguments)]
    with terminal([sys.executable, *measured], dict(os.environ), COLUMNS) as there:
        there.wait_for_something()
        first = time.monotonic() - began
        status = there.end()
    seconds, after = time.monotonic() - began, usage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    mib = int(Path(PEAK).read_text(encoding="utf-8")) // 1024
    shown = "\n".join(screen(there.shown.replace(folder, PLACE), COLUMNS)).strip("\n")
    print(f"```\n$ brainscale {arguments}")
    print(re.sub(r"\n{3,}", "\n\n", shown))
    print(
        f"[status {status}; {seconds:.1f} s, first sign {first:.1f} s; {cpu:.1f} CPU-s; {mib} MiB]\n```\n", flush=True
    )


def main() -> None:
    """Show the steps, then the mistakes."""
    given = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        if given is None:
            write_phantoms(Path("scans"), 60, 42)
        else:
            Path("scans").symlink_to(given)
        Path("notes.csv").write_text("mine\n", encoding="utf-8")
        images = [path for path in sorted(Path("scans").rglob("*")) if path.is_file()]
        print(PAGE.format(cpus=os.cpu_count(), count=len(images), command=COMMAND))
        for title, commands in (("From images to predictions", STEPS), ("Mistakes", MISTAKES)):
            print(f"## {title}\n")
            for command in commands.strip().splitlines():
                show(command.format(image=shlex.quote(str(images[0]))), name)


if __name__ == "__main__":
    main()
