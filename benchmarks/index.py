"""What indexing costs: decoding against the published notebook's transform, the rate of each format, and memory.

python -m benchmarks.index [FOLDER] [--baseline CHECKOUT] [--formats] [--files 2000 40000]

FOLDER holds images (phantoms as JPEG without one). Rates are of one core, both in turns on the same files.
With --formats, only the rates of the formats are measured: samples of each for a second of processor time, that of the
confined process that decodes included. With --baseline, another version reads the same files, in turns.
Memory is the highest sum of all processes' proportional set sizes while `brainscale index` runs.
"""

import argparse
import gzip
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from torchvision import transforms

from benchmarks.reading_process import ReadingProcess
from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.phantoms import draw_phantom
from brainscale.reading import decoder
from brainscale.reading.preprocess import resized_side
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import KEEP_MEMORY, Sandbox
from tests.support.dicom import written
from tests.support.series import as_nifti, classic

ROUNDS = 7
WISH = ReadRequest(preprocess=PreprocessConfig())
NOTEBOOK = transforms.Compose(
    [
        transforms.Resize((256, 256)),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def ours(data: bytes) -> bytes:
    ((_, plane),) = decoder.decode(data, WISH)
    return plane


def notebook(data: bytes) -> object:
    return NOTEBOOK(Image.open(io.BytesIO(data)).convert("RGB"))


def exact(data: bytes) -> np.ndarray:
    """Pillow's own bilinear resize of the whole grey image."""
    side = resized_side(WISH.preprocess)
    grey = Image.open(io.BytesIO(data)).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    start = (side - WISH.preprocess.image_size) // 2
    return np.asarray(grey)[start:-start, start:-start]


def seconds(function: Callable[[bytes], object], files: list[bytes]) -> float:
    start = time.perf_counter()
    for data in files:
        function(data)
    return time.perf_counter() - start


def decoding_rates(files: list[bytes]) -> None:
    child = Sandbox(decoder.__name__, WISH.to_json(), seconds=60)

    def isolated(data: bytes) -> object:
        return list(child.ask({"file": "", "wanted": None, "skip": 0}, io.BytesIO(data)))

    times: dict[Callable[[bytes], object], list[float]] = {ours: [], isolated: [], notebook: []}
    isolated(files[0])
    for _ in range(ROUNDS):
        for function, taken in times.items():
            taken.append(seconds(function, files))
    child.close()
    rates = {function.__name__: len(files) / np.median(taken) for function, taken in times.items()}
    for name, rate in rates.items():
        print(f"{name:<10}{rate:8.0f} images/s, {rate / rates['notebook']:.2f} × the notebook's")
    apart = [np.abs(np.frombuffer(ours(f), np.uint8).astype(int) - exact(f).ravel()).mean() for f in files]
    print(f"planes and Pillow's resize are {np.mean(apart):.2f} grey levels apart, {max(apart):.2f} at most")


def write_formats(folder: Path, count: int = 60, side: int = 512) -> list[Path]:
    """Write the same slices in every format, each in a folder of its own."""
    planes = [
        np.asarray(Image.fromarray(draw_phantom(0, i, bool(i % 2))).resize((side, side)), np.uint16) * 16
        for i in range(count)
    ]
    syntaxes = {
        "DICOM raw": None,
        "DICOM RLE": RLELossless,
        "DICOM JPEG-LS": JPEGLSLossless,
        "DICOM JPEG 2000": JPEG2000Lossless,
    }
    folders = [folder / name for name in ("JPEG", "PNG", *syntaxes, "NIfTI")]
    for path in folders:
        path.mkdir()
    for i, plane in enumerate(planes):
        picture = Image.fromarray((plane // 16).astype(np.uint8)).convert("RGB")
        picture.save(folder / "JPEG" / f"{i:03}.jpg", quality=90)
        picture.save(folder / "PNG" / f"{i:03}.png")
        for name, syntax in syntaxes.items():
            ds = classic(plane, i)
            if syntax:
                ds.compress(syntax, generate_instance_uid=False)
            (folder / name / f"{i:03}.dcm").write_bytes(written(ds))
    (folder / "NIfTI" / "volume.nii.gz").write_bytes(gzip.compress(as_nifti(np.stack(planes, -1).astype(np.int16)), 1))
    return folders


def format_rates(baseline: Path | None) -> None:
    """Print how many samples of each format a core reads in a second; the look for series is included."""
    checkouts = [Path(__file__).parents[1], *([baseline] if baseline else [])]
    processes = [ReadingProcess(checkout) for checkout in checkouts]
    print(f"samples/s a core, median of {ROUNDS} rounds" + (": before, now, ratio" if baseline else ""))
    with tempfile.TemporaryDirectory() as made:
        for folder in write_formats(Path(made)):
            costs = [[process.read(folder) for process in processes] for _ in range(ROUNDS)]
            now, *before = [
                float(np.median([one.rows / one.cpu for one in column])) for column in zip(*costs, strict=True)
            ]
            compared = "".join(f"{rate:8.0f}" for rate in before)
            ratio = "".join(f"{now / rate:7.2f} ×" for rate in before)
            print(f"{folder.name:<16}{compared}{now:8.0f}{ratio}", flush=True)
    for process in processes:
        process.close()


def peak_memory(files: list[bytes], count: int) -> float:
    """MiB that `brainscale index` of so many different files needs at most, all its processes together."""
    with tempfile.TemporaryDirectory() as made:
        source = Path(made, "scans")
        for i in range(count):
            place = source / f"{i % 100}" / f"{i}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(files[i % len(files)] + b"%d" % i)  # what follows the image is ignored
        command = [sys.executable, "-m", "brainscale", "index", str(source), "--out", f"{made}/m.parquet"]
        start, peak = time.perf_counter(), 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak = max(peak, sum(map(proportional, descendants(process.pid))))
                time.sleep(0.5)
        if process.returncode:
            raise SystemExit("index failed: run it by hand to see why")
        taken = time.perf_counter() - start
    print(f"index of {count:>6,} files: {peak / 2**20:6.0f} MiB at most, {taken:.0f} s")
    return peak


def descendants(pid: int) -> list[int]:
    try:
        children = [Path(task, "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [pid, *(p for text in children for child in text.split() for p in descendants(int(child)))]


def proportional(pid: int) -> int:
    """Bytes of a process, with a share of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    if not KEEP_MEMORY.items() <= os.environ.items():  # for both sides, what our decoding processes have
        command = [sys.executable, "-m", "benchmarks.index", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **KEEP_MEMORY})  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--formats", action="store_true", help="Measure the rates of the formats only.")
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="Root folder of another version.")
    parser.add_argument("--files", nargs=2, type=int, default=(2_000, 40_000), metavar=("FEW", "MANY"))
    asked = parser.parse_args()
    if asked.formats:
        format_rates(asked.baseline)
        return
    torch.set_num_threads(1)
    phantoms = []
    for i in range(60):
        out = io.BytesIO()
        Image.fromarray(draw_phantom(0, i, bool(i % 2))).resize((512, 512)).convert("RGB").save(out, "JPEG", quality=90)
        phantoms.append(out.getvalue())
    folder = sorted(p for p in asked.folder.rglob("*") if p.is_file()) if asked.folder else []
    decoding_rates([p.read_bytes() for p in folder] or phantoms)
    format_rates(asked.baseline)
    few, many = (peak_memory(phantoms, count) for count in asked.files)
    print(f"{asked.files[1] / asked.files[0]:g} × the files, {many / few:.2f} × the memory")


if __name__ == "__main__":
    main()
