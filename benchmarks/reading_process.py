"""A process that reads folders with the package of any checkout, since 7a67b03: what benchmarks compare versions with.

PYTHONPATH=CHECKOUT python reading_process.py: each line of its input is a folder or a file; each line of its output
says what reading it in one task cost, once or
more often. `ReadingProcess` is the other side, and runs this file.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

KEY = b"k" * 16
LEAST_SECONDS = 1.0
"""Of processor time: a source is read again until it took as much."""
Reader = tuple[Callable[[str], Any], Callable[[Any], Iterable[Any]], Callable[[], int | None]]
"""Functions of a package: source → planned files; planned files → tables; and the number of the decoder's process."""


class Cost(NamedTuple):
    """What reading cost: processor seconds of the process and its decoder, and how many of them planning took."""

    rows: int
    errors: int
    cpu: float
    planning: float


class ReadingProcess:
    """A process that reads with the package of a checkout.

    Args:
        checkout: its root folder.
        window_source: of slices; by default, and in a checkout that knows no other, that of the checkout.
    """

    def __init__(self, checkout: Path, window_source: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), window_source],
            cwd=checkout,  # old versions take their modules from here first
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        )

    def read(self, source: Path) -> Cost:
        """Read a source and return what it cost.

        Raises:
            SystemExit: a sample could not be read, or the process ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the reading process is closed")
        self._process.stdin.write(f"{source.resolve()}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the reading process ended: its error is above")
        cost = Cost(*json.loads(line))
        if cost.errors:
            raise SystemExit(f"{cost.errors} samples of {source} could not be read")
        return cost

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def find_reader(window_source: str) -> Reader:
    """Return how the package on the path reads."""
    try:
        from brainscale.config.data_sections import PreprocessConfig
    except ImportError:  # of before the rooms
        return find_old_reader()
    from brainscale.reading.children import decoder_of
    from brainscale.reading.file_tables import file_table
    from brainscale.reading.reader import plan_files, read_tables
    from brainscale.reading.request import ReadRequest
    from brainscale.reading.sources import list_files

    named = {"window_source": window_source} if window_source else {}
    request = ReadRequest(preprocess=PreprocessConfig(**named), key=KEY)  # type: ignore[arg-type]
    return (
        lambda source: plan_files(list_files([source]), request).files,
        lambda files: read_tables(file_table(files), request=request),
        lambda: decoder_of(request).pid,
    )


def find_old_reader() -> Reader:
    from brainscale.sources import listing  # type: ignore[import-not-found]
    from brainscale.wish import Wish  # type: ignore[import-not-found]

    from brainscale import reading  # type: ignore[attr-defined]
    from brainscale.config import PreprocessConfig

    wish = Wish(spec=PreprocessConfig(), key=KEY)
    return (
        lambda source: listing([source]),
        lambda units: reading.read_tables(reading.unit_table(units), wish=wish),
        lambda: getattr(reading._decoder(wish)._process, "pid", None),
    )


def main() -> None:
    plan, read, decoder_pid = find_reader(sys.argv[1])

    def cpu_seconds() -> float:
        pid = decoder_pid()
        if pid is None:
            return time.process_time()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    for line in sys.stdin:
        source = line.rstrip("\n")
        path = Path(source)
        first = next(p for p in sorted(path.rglob("*")) if p.is_file()) if path.is_dir() else path
        list(read(plan(str(first))))  # the decoder starts
        rows = errors = 0
        planning, start = 0.0, cpu_seconds()
        while not rows or cpu_seconds() - start < LEAST_SECONDS:
            before = cpu_seconds()
            files = plan(source)
            planning += cpu_seconds() - before
            for table in read(files):
                rows, errors = rows + len(table), errors + len(table) - table["error_code"].null_count
        print(json.dumps([rows, errors, cpu_seconds() - start, planning]), flush=True)


if __name__ == "__main__":
    main()
