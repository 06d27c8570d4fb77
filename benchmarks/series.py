"""What windowing by series gives and costs: one volume in every container, and a series of single files.

python -m benchmarks.series [--slices 200] [--side 512] [--baseline CHECKOUT] [--picture FILE.png]

First the planes of one phantom in every container, against those of its NIfTI. Then what a series costs with one window
for all slices, against a window for each slice alone (`data.window_source=file`; these files have no window of their
own), in turns and in one task: single files, which are decoded once; and two zip files that are read twice, as if they
were too large to be read at once. With --baseline, the single files are also read by another version, in turns.
With --picture, only a picture of both sources of windows is drawn.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.reading_process import ReadingProcess
from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading import children, plan
from brainscale.reading.file_tables import file_table
from brainscale.reading.kept import KEPT_NBYTES
from brainscale.reading.reader import plan_files, read_samples, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample
from brainscale.reading.sources import SourceFile, list_files
from tests.support.dicom import written
from tests.support.files import zipped
from tests.support.series import as_nifti, classic, containers, phantom, planes_of

ROUNDS = 5
VOLUME = ReadRequest(preprocess=PreprocessConfig(), key=b"k" * 16)
ALONE = replace(VOLUME, preprocess=PreprocessConfig(window_source="file"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read(files: dict[str, bytes], request: ReadRequest = VOLUME) -> list[Sample]:
    """Samples in the order of their volume."""
    with tempfile.TemporaryDirectory() as folder:
        samples = list(read_samples(write(Path(folder), files), request))
    return sorted(samples, key=lambda one: -1 if one.slice_index is None else one.slice_index)


def compare_containers() -> None:
    volume = phantom((96, 112, 24), 4)
    expected = read({"v.nii": as_nifti(volume)})
    print(f"{'container':<40}{'mean difference':>16}{'largest':>9}  emptiness  order  scans")
    for name, files in containers(volume, seed=1).items():
        found = read(files)
        if "another" in name:
            found = [one for one in found if one.sample_id.startswith("one-")]
        apart = [np.abs(a.plane.astype(int) - b.plane) for a, b in zip(found, expected, strict=True)]  # type: ignore[union-attr]
        empty = [one.empty for one in found] == [one.empty for one in expected]
        order = [one.slice_index for one in found] == list(range(len(expected)))
        scans = {one.scan or one.sample_id.partition("#")[0] for one in found}
        marks = (("differs", "equal")[empty], ("differs", "equal")[order], len(scans))
        print(f"{name:<40}{np.mean(apart):16.4f}{np.max(apart):9}  {marks[0]:<9}  {marks[1]:<5}  {marks[2]}")


def peak_mib(pid: int | str) -> float:
    """Highest resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def read_all(files: Sequence[SourceFile], request: ReadRequest) -> None:
    for _ in read_tables(file_table(files), request=request):
        pass


def cpu_seconds(request: ReadRequest) -> float:
    """Processor time of this process and its decoder so far."""
    fields = Path(f"/proc/{children.decoder_of(request).pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_costs(slices: int, side: int) -> None:
    volume = phantom((side, side, slices), slices // 10)
    data = [written(classic(plane, number)) for number, plane in enumerate(planes_of(volume))]
    del volume
    nbytes = sum(map(len, data))
    with tempfile.TemporaryDirectory() as made:
        single = write(Path(made, "single"), {f"{i:04}.dcm": one for i, one in enumerate(data)})
        halves = [{f"{i:04}": data[i] for i in range(first, slices, 2)} for first in (0, 1)]
        spread = write(Path(made, "spread"), {f"{k}.zip": zipped(half) for k, half in enumerate(halves)})
        del data, halves
        files, archives = (list_files([str(folder)]) for folder in (single, spread))
        once = plan_files(files, VOLUME).files

        def read_twice() -> None:
            with patch.object(plan, "GROUP_NBYTES", 0):  # as if they were larger
                planned = plan_files(archives, VOLUME).files
            read_all(planned, VOLUME)

        runs: dict[str, tuple[str, ReadRequest, Callable[[], None]]] = {
            "files, each slice alone": ("files", ALONE, lambda: read_all(files, ALONE)),
            "files, one window": ("files", VOLUME, lambda: read_all(once, VOLUME)),
            "files, one window, with the look for series": (
                "files",
                VOLUME,
                lambda: read_all(plan_files(files, VOLUME).files, VOLUME),
            ),
            "archives, each slice alone": ("archives", ALONE, lambda: read_all(archives, ALONE)),
            "archives, one window, read twice": ("archives", VOLUME, read_twice),
        }
        print(f"\n{slices} files of {side} × {side}, {nbytes / 2**20:.0f} MiB, and two zip files; {ROUNDS} rounds")
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mib("self")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        memory = 0.0
        for _ in range(ROUNDS):
            for name, (_, request, run) in runs.items():
                read_all(files[:1], request)  # the decoder starts
                start, cpu = time.perf_counter(), cpu_seconds(request)
                run()
                times[name].append((time.perf_counter() - start, cpu_seconds(request) - cpu))
                memory = max(memory, peak_mib(children.decoder_of(request).pid or "self"))
    middle = {name: [median(column) for column in zip(*taken, strict=True)] for name, taken in times.items()}
    for name, (kind, _, _) in runs.items():
        (wall, cpu), alone = middle[name], middle[f"{kind}, each slice alone"]
        ratios = f"{wall / alone[0]:6.2f} × {cpu / alone[1]:6.2f} × of processor time"
        print(f"{name:<45}{1e3 * wall / slices:7.2f} ms a slice{ratios}")
    room, more = KEPT_NBYTES / 2**20, peak_mib("self") - before
    print(f"peak memory: decoder {memory:.0f} MiB (up to {room:.0f} MiB of it slices); its parent {more:.0f} MiB more")


def compare_versions(slices: int, side: int, baseline: Path) -> None:
    """Read a series of single files with this version and another one, in turns, each in one task."""
    volume, generator = phantom((side, side, slices), slices // 10), np.random.default_rng(0)
    kinds: dict[str, Callable[[np.ndarray], tuple[np.ndarray, dict[str, float]]]] = {
        "phantom": lambda plane: (plane, {}),
        "phantom with a slope": lambda plane: (plane, {"RescaleSlope": 1.5, "RescaleIntercept": -3.0}),
        "phantom with padding": lambda plane: (np.where(plane > 8, plane, -2000), {"PixelPaddingValue": -2000}),
        "noise of 16 bits": lambda plane: (generator.integers(-(2**15), 2**15, plane.shape), {}),
    }
    processes = [ReadingProcess(checkout) for checkout in (baseline, Path(__file__).parents[1])]
    print(f"\n{slices} files of {side} × {side}, ms of processor time a slice, median of {ROUNDS} rounds")
    print(f"{'series':<24}{'before':>8}{'now':>8}{'ratio':>8}{'with the look for series':>27}")
    for name, make in kinds.items():
        with tempfile.TemporaryDirectory() as made:
            for number, plane in enumerate(planes_of(volume)):
                stored, elements = make(plane)
                data = written(classic(stored.astype(np.int16), number, **elements))
                Path(made, f"{number:04}.dcm").write_bytes(data)
            costs = [[process.read(Path(made)) for process in processes] for _ in range(ROUNDS)]
        before = median(1e3 * old.cpu / old.rows for old, _ in costs)
        now = median(1e3 * (new.cpu - new.planning) / new.rows for _, new in costs)
        planned = median(1e3 * new.cpu / new.rows for _, new in costs)
        print(f"{name:<24}{before:8.2f}{now:8.2f}{now / before:7.2f} ×{planned / before:25.2f} ×")
    for process in processes:
        process.close()


def draw_picture(path: Path) -> None:
    """Draw slices of a phantom series, windowed by both sources."""
    volume = phantom((128, 144, 24), 4)
    shown = [1, 4, 6, 12]
    windowed, plain = {}, {}
    for number, plane in enumerate(planes_of(volume)):
        centre, width = float(plane.mean()), float(4 * plane.std() + 2)
        windowed[f"{number:02}"] = written(classic(plane, number, WindowCenter=centre, WindowWidth=width))
        plain[f"{number:02}"] = written(classic(plane, number))
    rows = {
        "volume: percentiles of the whole series": read(plain),
        "file: each file's own window": read(windowed, ALONE),
        "file, where the files have none: percentiles of each slice": read(plain, ALONE),
    }
    side, gap, line = VOLUME.preprocess.image_size // 2 * 1, 4, 16
    sheet = Image.new("L", ((side + gap) * len(shown) - gap, (side + line + gap) * len(rows)), 255)
    draw = ImageDraw.Draw(sheet)
    for row, (title, samples) in enumerate(rows.items()):
        top = row * (side + line + gap)
        draw.text((0, top + 2), title, fill=0)
        by_id = {one.sample_id: one.plane for one in samples}
        for column, number in enumerate(shown):
            tile = Image.fromarray(by_id[f"{number:02}"]).resize((side, side))  # type: ignore[arg-type]
            sheet.paste(tile, (column * (side + gap), top + line))
    sheet.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="Root folder of another version.")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.picture:
        draw_picture(asked.picture)
        return
    compare_containers()
    if asked.baseline:
        compare_versions(asked.slices, asked.side, asked.baseline)
    measure_costs(asked.slices, asked.side)


if __name__ == "__main__":
    main()
