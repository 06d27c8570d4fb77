"""Nothing of a patient leaves the files: outputs, logs, reports and errors are searched for made-up identifiers."""

import gzip
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from brainscale.dataset.phantoms import draw_phantom
from brainscale.reading.keys import KEY_VARIABLE
from tests.support.dicom import dataset, item, written
from tests.support.files import zipped
from tests.support.runs import SMALL, invoke

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
INSIDE = {
    "PatientName": "Quibblethorpe^Zenobia",
    "PatientID": "QX-77410935",
    "IssuerOfPatientID": "Ulfrunaspital",
    "OtherPatientNames": "Wimblefrost",
    "PatientBirthDate": "19310713",
    "PatientAddress": "7 Vexelby Lane",
    "AccessionNumber": "ACC5520917",
    "StudyDate": "20031124",
    "StudyDescription": "fell off a horsefly",
    "SeriesDescription": "Yarrowby protocol",
    "ImageComments": "says that Grizelda drove",
    "InstitutionName": "Klinik Obermoosbach",
    "ReferringPhysicianName": "Pfefferkorn",
    "DeviceSerialNumber": "SN0093417",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.5550001",
}
"""What is written in files."""
SERIES = "1.2.826.0.1.3680043.8.498.777"  # and a number
IN_NAMES = ("Dillydally", "Ambrosius", "MRN6604418", "Haberfeld")
"""What is in the names of files and members under --hash-paths."""
KEY = "a key that no output may hold"
FRAGMENTS = [
    *(part for value in INSIDE.values() for part in re.split(r"[\^ ]", value) if len(part) > 4 and part != "protocol"),
    *(SERIES, KEY, *IN_NAMES),
]


def dicom(index: int, tumour: bool, **elements: object) -> bytes:
    plane = draw_phantom(3, index, tumour, 72).astype(np.uint16) * 16
    series = {"SeriesInstanceUID": f"{SERIES}.{index}", "SOPInstanceUID": f"{INSIDE['StudyInstanceUID']}.{index}"}
    private = item(ImageComments=INSIDE["ImageComments"])
    return written(
        dataset(
            plane,
            **{**INSIDE, "PatientID": f"{INSIDE['PatientID']}.{index}", **series, **elements},
            RequestAttributesSequence=[private],
        )
    )


def scans() -> dict[str, bytes]:
    """Files of many kinds with identifiers in them; some are damaged, in the text among others."""
    files = {f"{('no', 'yes')[i % 2]}/{i:02}.dcm": dicom(i, bool(i % 2)) for i in range(24)}
    whole = dicom(30, True)
    files["yes/cut.dcm"] = whole[: len(whole) // 2]
    window = dicom(31, True, WindowCenter=40, WindowWidth=80, WindowCenterWidthExplanation="of Grizelda")
    files["yes/no_window.dcm"] = window.replace(b"40", b"Ze").replace(b"80", b"Gr")
    for number, keyword in enumerate(("Quibblethorpe", "QX-77", "MRIm", "19310713")):
        at = whole.find(keyword.encode())
        if at > 0:
            files[f"yes/bent{number}.dcm"] = whole[: at - 4] + b"\xff\xff" + whole[at - 2 :]
    report = dataset(np.zeros((2, 2), np.uint8), **INSIDE, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    del report.PixelData, report.PhotometricInterpretation
    files["no/report.dcm"] = written(report)
    volume = nib.Nifti1Image(np.stack([draw_phantom(4, i, True, 72) for i in range(3)], -1), np.eye(4))
    volume.header["descrip"] = INSIDE["PatientName"].encode()
    out = BytesIO()
    with gzip.GzipFile("Quibblethorpe.nii", "wb", fileobj=out) as file:  # gzip keeps the name
        file.write(volume.to_bytes())
    files["yes/volume.nii.gz"] = out.getvalue() + b"of Quibblethorpe"
    files["yes/cut.nii.gz"] = out.getvalue()[:3000]
    picture, text = Image.fromarray(draw_phantom(5, 1, True, 72)), PngInfo()
    text.add_text("Patient", INSIDE["PatientName"])
    for name, kind, options in (("a.png", "PNG", {"pnginfo": text}), ("a.jpg", "JPEG", {"comment": b"Quibblethorpe"})):
        out = BytesIO()
        picture.save(out, kind, **options)
        files[f"yes/{name}"] = out.getvalue()
        files[f"yes/cut_{name}"] = out.getvalue()[:-600]
    out = BytesIO()
    picture.save(out, "TIFF", description=INSIDE["PatientName"], artist="Grizelda")
    files["yes/a.tif"] = out.getvalue()
    files["no/letter.txt"] = b"Dear Mrs Quibblethorpe, QX-77410935"
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def named(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files under names of patients, and in archives, one of them cut."""
    person = f"{IN_NAMES[0]}_{IN_NAMES[1]}"
    named = {f"{name.split('/')[0]}/{person}/{IN_NAMES[2]}_{n}": data for n, (name, data) in enumerate(files.items())}
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = b"of Quibblethorpe"
        for n, (name, data) in enumerate(files.items()):
            archive.writestr(f"{name.split('/')[0]}/{IN_NAMES[3]}/{IN_NAMES[1]}_{n}.dcm", data)
    tar = BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive_:
        info = tarfile.TarInfo(f"{IN_NAMES[3]}_{IN_NAMES[1]}.dcm")
        info.size = len(files["yes/01.dcm"])
        archive_.addfile(info, BytesIO(files["yes/01.dcm"]))
        link = tarfile.TarInfo(f"{IN_NAMES[3]}.lnk")
        link.type, link.linkname = tarfile.SYMTYPE, IN_NAMES[2]
        archive_.addfile(link)
    return named | {
        f"{IN_NAMES[3]}.zip": out.getvalue(),
        f"{IN_NAMES[3]}_cut.zip": out.getvalue()[: len(out.getvalue()) // 2],
        f"{IN_NAMES[3]}.tgz": tar.getvalue(),
    }


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in a folder, tables as text."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            data += str(table.to_pylist()).encode() + str(table.schema.metadata).encode()
        yield str(path.relative_to(folder)), str(path.relative_to(folder)).encode() + data


def assert_nothing_of_a_patient(what: str, data: bytes, allowed: tuple[str, ...] = ()) -> None:
    lower = data.lower()
    found = [fragment for fragment in FRAGMENTS if fragment.lower().encode() in lower and fragment not in allowed]
    assert not found, f"{found[0]} in {what}: {context(lower, found[0])!r}"


def context(data: bytes, fragment: str) -> bytes:
    position = data.index(fragment.lower().encode())
    return data[max(0, position - 100) : position + 60]


def ray_logs() -> Iterator[tuple[str, bytes]]:
    """What Ray's processes wrote during this session, of this job and others."""
    yield from texts(Path(ray._private.worker._global_node.get_session_dir_path()) / "logs")


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    write(tmp_path, {name: data for name, data in named(scans()).items() if name[:3] in ("yes", "no/")})
    found = b"".join(data for _, data in texts(tmp_path)).lower()
    missing = {fragment for fragment in FRAGMENTS if fragment.lower().encode() not in found}
    assert missing == {KEY, IN_NAMES[3]}


def test_no_output_log_report_or_error_holds_anything_of_a_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    trial, archive, out = (
        write(tmp_path / "trial", scans()),
        write(tmp_path / "named", named(scans())),
        tmp_path / "out",
    )
    out.mkdir()
    manifest, hidden, split, run = out / "m.parquet", out / "h.parquet", out / "s.parquet", out / "run"
    steps = [
        ("index", trial, "--out", manifest),
        ("index", archive, "--out", hidden, "--hash-paths"),
        ("index", archive, "--out", out / "h2.parquet", "--hash-paths", "--patient-from", "_(x)_"),
        ("split", manifest, "--val", "0.2", "--test", "0.2", "--out", split),
        ("split", hidden, "--folds", "2", "--out", out / "f.parquet"),
        ("overlap", manifest, hidden),
        ("train", "--data", split, "--out", run, *SMALL, "--debug"),
        ("evaluate", run, "--out", out / "evaluation"),
        ("score", run, trial, "--out", out / "scores", "--unit", "scan", "--heatmaps", out / "pictures"),
        ("score", run, archive, "--out", out / "hidden", "--unit", "scan", "--hash-paths", "--heatmaps", out / "more"),
        ("score", run, archive, "--out", out / "hidden", "--hash-paths", "--update", "--json"),
    ]
    failures = [
        ("score", run, archive, "--out", out / "hidden", "--hash-paths", "--threshold", "0.9"),
        ("train", "--data", hidden, "--out", out / "none"),
        ("train", "--data", split, "--out", run, *SMALL, "--seed", "7"),
        ("evaluate", run, "--data", hidden),
        ("score", run, write(tmp_path / "few", {"x.dcm": b""}), "--out", out / "hidden", "--hash-paths"),
        ("score", run, tmp_path / "few", "--out", out / "few", "--hash-paths"),
    ]
    said = []
    for arguments in steps:
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        said.append((f"what `{arguments[0]}` said", result.output.encode()))
    (out / "hidden" / "_SUCCESS.json").unlink()
    for arguments in failures:
        result = invoke(*arguments)
        assert result.exit_code, result.output
        said.append((f"what `{arguments[0]}` said of an error", result.output.encode()))
    captured = capfd.readouterr()
    everything = [*said, ("standard output", captured.out.encode()), ("standard error", captured.err.encode())]
    for what, data in (*everything, *texts(out), *ray_logs()):
        assert_nothing_of_a_patient(what, data)
    rows = [row for path in (out / "hidden").glob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
    codes = {row["error_code"] for row in rows}
    assert {None, "corrupt", "truncated", "no_pixels", "unsupported_format", "corrupt_archive", "not_a_file"} <= codes
    assert len(rows) == pq.read_metadata(hidden).num_rows
    print(f"searched {len(list(texts(out)))} files for {len(FRAGMENTS)} identifiers")  # noqa: T201


def test_no_column_of_a_manifest_with_hashed_paths_holds_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file, a member, a patient or a series; the columns that describe a picture and its window among them."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    person = f"{IN_NAMES[0]}_{IN_NAMES[1]}"
    taken = {"ScanningSequence": "SE", "EchoTime": 14.0, "ImageType": ["ORIGINAL", "PRIMARY", "WIMBLEFROST"]}
    one_series = {"SeriesInstanceUID": f"{SERIES}.1", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    slices = [
        dicom(i, True, SOPInstanceUID=f"{SERIES}.1.{i}", ImagePositionPatient=[0, 0, i], **one_series, **taken)
        for i in range(6)
    ]
    files = {f"yes/{person}/{IN_NAMES[2]}_{i}.dcm": data for i, data in enumerate(slices[:3])}
    members = {f"{IN_NAMES[3]}/{IN_NAMES[2]}_{i}.dcm": data for i, data in enumerate(slices[3:])}
    source = write(tmp_path / person, {**files, f"yes/{person}.zip": zipped(members)})
    result = invoke("index", source, "--out", tmp_path / "hidden.parquet", "--hash-paths")
    assert result.exit_code == 0, result.output
    manifest = pq.read_table(tmp_path / "hidden.parquet")
    rows = manifest.to_pylist()
    assert len(rows) == len(slices)
    assert {(row["window_of"], row["modality"], row["orientation"], row["echo_time"]) for row in rows} == {
        ("volume", "MR", "axial", 14.0)
    }
    assert len({row["scan"] for row in rows}) == len({row["window_high"] for row in rows}) == 1
    for name in manifest.column_names:
        assert_nothing_of_a_patient(f"the column {name}", str(manifest[name].to_pylist()).encode())
    assert_nothing_of_a_patient("the file", (tmp_path / "hidden.parquet").read_bytes())
    assert_nothing_of_a_patient("its metadata", str(manifest.schema.metadata).encode())
    assert_nothing_of_a_patient("what index said", result.output.encode(), allowed=(IN_NAMES[0], IN_NAMES[1]))


def test_the_key_of_a_folder_is_neither_in_it_nor_in_the_environment_of_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    source = write(tmp_path / "few", {"yes/1.dcm": dicom(1, True)})
    result = invoke("score", run, source, "--out", tmp_path / "scores", "--hash-paths", "--json")
    assert result.exit_code == 0, result.output
    keys = [path.read_bytes() for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*.key")]
    assert keys
    for _, data in texts(tmp_path / "scores"):
        assert not any(key in data or bytes.fromhex(key.decode()) in data for key in keys)
