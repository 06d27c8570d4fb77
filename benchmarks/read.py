"""What reading costs, unpacking and decoding in a confined process included: time a sample, and memory at its peak.

python benchmarks/read.py [--samples 1000] [--rounds 3]

The same JPEG files in a folder, a zip and a tar.gz; a DICOM series of single files; and archives made to exhaust
memory. Time is CPU time of both processes, the least of all rounds, so that other work on the machine changes little.
To compare with another version, run this file on its checkout: PYTHONPATH=CHECKOUT python benchmarks/read.py.
"""

import argparse
import gzip
import io
import os
import resource
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.phantoms import draw_phantom
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import file_table
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files

REQUEST = ReadRequest(preprocess=PreprocessConfig(), key=b"k" * 16)


def write_images(folder: Path, count: int) -> None:
    kinds = []
    for i in range(40):
        out = io.BytesIO()
        Image.fromarray(draw_phantom(0, i, bool(i % 2))).resize((512, 512)).convert("RGB").save(out, "JPEG", quality=90)
        kinds.append(out.getvalue())
    files = {f"{i:05}.jpg": kinds[i % 40] + b"%d" % i for i in range(count)}  # what follows the image is ignored
    (folder / "folder of JPEG").mkdir()
    for name, data in files.items():
        (folder / "folder of JPEG" / name).write_bytes(data)
    with zipfile.ZipFile(folder / "zip of JPEG", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with tarfile.open(folder / "tar.gz of JPEG", "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_series(folder: Path, count: int = 200) -> None:
    (folder / "DICOM series").mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SOPClassUID, ds.SeriesInstanceUID, ds.PatientID = MRImageStorage, "1.2.3", "A7"
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.PixelData = generator.integers(0, 4000, (512, 512)).astype(np.uint16).tobytes()
        ds.save_as(folder / "DICOM series" / f"{i:03}.dcm", enforce_file_format=True)


def write_bombs(folder: Path) -> None:
    (folder / "gzip of zeros").write_bytes(gzip.compress(bytes(2**30)))
    with zipfile.ZipFile(folder / "zip of 300,000 folders", "w") as archive:
        for i in range(300_000):
            archive.writestr(zipfile.ZipInfo(f"{i}/"), b"")
    data = b"1\n4187593000\n512\n".ljust(512, b"\0") + bytes(512)
    with tarfile.open(folder / "sparse tar", "w") as tar:
        info = tarfile.TarInfo("sparse")
        info.size = len(data)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4187593512"}
        tar.addfile(info, io.BytesIO(data))


def child() -> Path:
    process = decoder_of(REQUEST)._process
    assert process is not None  # noqa: S101
    return Path(f"/proc/{process.pid}")


def child_seconds() -> float:
    values = (child() / "stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def child_peak() -> int:
    lines = (child() / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


def read(path: Path) -> tuple[int, float, float]:
    """Rows of a source, CPU seconds of both processes, and seconds."""
    start, cpu = time.perf_counter(), time.process_time() + child_seconds()
    rows = sum(len(table) for table in read_tables(file_table(list_files([str(path)])), request=REQUEST))
    return rows, time.process_time() + child_seconds() - cpu, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_images(folder, asked.samples)
        write_series(folder)
        write_bombs(folder)
        list(read_tables(file_table(list_files([str(folder / "DICOM series" / "000.dcm")])), request=REQUEST))
        for name in ("folder of JPEG", "zip of JPEG", "tar.gz of JPEG", "DICOM series"):
            taken = [read(folder / name) for _ in range(asked.rounds)]
            rows, cpu, seconds = taken[0][0], min(t[1] for t in taken), min(t[2] for t in taken)
            print(f"{name:<16}{1e3 * cpu / rows:7.2f} ms of CPU a sample, {rows / seconds:5.0f} samples/s", flush=True)
        for name in ("sparse tar", "gzip of zeros", "zip of 300,000 folders"):
            here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            rows, _, seconds = read(folder / name)
            here, there = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - here, child_peak()
            print(
                f"{name:<24}{rows} row(s), {seconds:4.1f} s, {here:4} MiB more here, {there:4} MiB in the child so far"
            )


if __name__ == "__main__":
    main()
