"""All cases of ../shared/cases: the right value, and what comes out.

python -m benchmarks.cases [--cases FOLDER]

A picture is right if no pixel differs by more than one grey level from the case's own plane. Whole sources are indexed,
on a local Ray. Exits with 1 if a case is wrong.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
from PIL import Image

from brainscale import api
from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import BrainscaleError, SampleError
from brainscale.reading import decoder
from brainscale.reading.formats.frame import NO_WINDOWS
from brainscale.reading.preprocess import to_grey
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest

REQUEST = ReadRequest(preprocess=PreprocessConfig(window_source="file"), key=b"k" * 16)
LOSSY = 8
"""Grey levels that compression may change."""
ROWS = {
    "big_dims/a.png": "too_many_pixels",
    "big_dims/b.jpg": "too_many_pixels",
    "big_dims/c.dcm": "too_many_pixels",
    "dicom_more/twoframes.dcm": "truncated",
    "dicom_more/slope_only.dcm": "1 read",
    "jpeg_kinds/truncated.jpg": "corrupt",
    "nifti_affine/a.nii": "5 read",
    "nifti_affine/b.nii": "5 read",
    "nifti_affine/c.nii": "5 read",
    "nifti_affine/d.nii": "5 read",
    "nifti_affine/e.nii": "1 read",
    "nifti_shear/a.nii": "read",
    "nifti_shear/ipr.nii": "read",
    "nifti_values/4d.nii": "6 read",
    **{f"nifti_values/{name}.nii": "3 read" for name in ("big", "inf", "int64", "nan", "zero_offset")},
    **{f"nifti_values/{name}.nii": "3 read" for name in ("slope0", "slopeinf", "slopenan")},
    **{f"nifti_wrappers/{name}.nii.gz": "3 read" for name in ("good", "plain", "double", "trailing_zeros")},
    "nifti_wrappers/trailing_text.nii.gz": "3 read, a note",
    "nifti_wrappers/cut.nii.gz": "corrupt_archive",
    "nifti_wrappers/pair.hdr": "3 read",
    "png_kinds/apng.png": "read",
    "zip_backslash/case.zip": "4 read",
    "zip_kinds/comment_behind.zip": "2 read",
    "zip_kinds/sfx.exe": "unsupported_format",
    "zip_kinds/crc.zip": "1 read, corrupt_member",
    "zip_kinds/deflate64.zip": "1 read, unsupported_compression",
    "zip_kinds/encrypted.zip": "1 read, encrypted",
    "zip_kinds/names.zip": "read",
    "zip_kinds/zip64.zip": "1 read",
    "zip_mac/case.zip": "6 read, sidecar",
}
"""File → what its rows are, where there is no plane to compare with: codes without numbers may come several times."""


class Outcome(NamedTuple):
    """A case, its right value, and what came out."""

    case: str
    right: str
    came: str
    is_right: bool


def planes(cases: Path) -> Iterator[Outcome]:
    """Compare each file that has a right plane, or one for each frame, with it."""
    for file in sorted(path for path in cases.rglob("case*.*") if path.suffix != ".zip"):
        truths = sorted(file.parent.glob("truth*.png")) or sorted(file.parent.parent.glob("truth*.png"))
        yield compare(cases, file, truths)
    for file in sorted(path for path in cases.glob("*/*") if path.suffix in (".dcm", ".png", ".jpg", ".tif")):
        if file.stem.startswith(("case", "truth")):
            continue
        own, common = file.with_name(f"truth_{file.stem}.png"), file.with_name("truth.png")
        if truth := next((path for path in (own, common) if path.exists()), None):
            yield compare(cases, file, [truth])


def compare(cases: Path, file: Path, truths: list[Path]) -> Outcome:
    name, right = str(file.relative_to(cases)), ", ".join(f"{path.name}, mean {mean(path):.1f}" for path in truths)
    try:
        frames = decoder._frames(file.read_bytes(), REQUEST, NO_WINDOWS)
        greys = [to_grey(frame, REQUEST.preprocess.window) for frame in frames]
    except SampleError as error:
        return Outcome(name, right, error.code, False)
    apart, most = 255, LOSSY if file.suffix == ".jpg" else 1
    if len(greys) >= len(truths) and all(g.shape == plane(t).shape for g, t in zip(greys, truths, strict=False)):
        apart = max(int(np.abs(g - plane(t)).max()) for g, t in zip(greys, truths, strict=False))
    came = f"mean {', '.join(f'{grey.mean():.1f}' for grey in greys)}; {apart} grey level(s) apart at most"
    return Outcome(name, right, came, apart <= most)


def plane(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), np.int16)


def mean(path: Path) -> float:
    return float(plane(path).mean())


def rows(cases: Path) -> Iterator[Outcome]:
    """Read the files without a right plane, and say what their rows are."""
    for name, right in ROWS.items():
        samples = list(read_samples(cases / name, REQUEST))
        codes = Counter(sample.error_code for sample in samples)
        parts = [f"{codes.pop(None)} read"] if None in codes else []
        parts += sorted(str(code) for code in codes)
        parts += ["a note"] if any(sample.note for sample in samples) else []
        came = ", ".join(parts)
        yield Outcome(name, right, came, came == right or (right == "read" and came.endswith(" read")))


def sources(cases: Path) -> Iterator[Outcome]:
    """Index whole sources, and compare labels, patients and what is said."""
    labelled = {
        "no_dot_folders/data": {"tumour": 9, "no_tumour": 2, None: 2},
        "kaggle_folders": {"tumour": 24, "no_tumour": 14, None: 11},  # `binary`, `pred`, and a script in error
        "kaggle_four_distinct/data": {"tumour": 42, "no_tumour": 14},
        "zip_backslash/case.zip": {"tumour": 2, "no_tumour": 2},
    }
    for name, right in labelled.items():
        manifest, notices = index(cases / name)
        came = Counter(manifest["label"].to_pylist())
        said = sum("unlabelled" in notice or "label" in notice for notice in notices)
        text = f"{describe(came)}; {said} notice(s) of labels"
        yield Outcome(
            name, describe(right) or "public names are known", text, came == right if right else came[None] < 5
        )
    manifest, _ = index(cases / "issuer/data")
    patients = dict(
        zip((i[-5] for i in manifest["sample_id"].to_pylist()), manifest["patient"].to_pylist(), strict=True)
    )
    together = "".join(sorted(name for name in patients if patients[name] == patients["a"]))
    yield Outcome("issuer", "a, b, c one patient; d another", f"{together} one patient", together == "abc")
    manifest, notices = index(cases / "anonymous_patients/data")
    said = next((text for text in notices if "24" in text), "nothing said")
    yield Outcome("anonymous_patients", "says that one identifier ties 24 samples", said, "24" in said)
    manifest, notices = index(cases / "subjects_in_names/bids")
    patients = Counter(manifest["patient"].to_pylist())
    yield Outcome(
        "subjects_in_names", "24 patients", f"{len(patients)} patients", len(patients) == 24 and None not in patients
    )
    for name, right in {"conflict": "refused, names p/0.png", "na": "missing, and said", "windows": "read"}.items():
        try:
            manifest, notices = index(cases / "label_csv/data", labels=cases / f"label_csv/{name}.csv")
            came = f"read, {manifest['patient'].null_count} without a patient; {' '.join(notices)}"
        except BrainscaleError as error:
            came = f"refused: {error}"
        is_right = {
            "conflict": came.startswith("refused") and "p/0.png" in came,
            "na": "missing" in came or "placeholder" in came,
        }
        yield Outcome(f"label_csv/{name}", right, came, is_right.get(name, came.startswith("read")))


def index(source: Path, labels: Path | str = "folder") -> tuple[object, list[str]]:
    notices: list[str] = []
    return api.index(source, labels=labels, on_notice=notices.append), notices  # type: ignore[return-value]


def describe(labels: object) -> str:
    return ", ".join(f"{count} {label or 'unlabelled'}" for label, count in sorted(labels.items(), key=str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("BRAINSCALE_SHARED", "../shared"))
    parser.add_argument("--cases", type=Path, default=shared / "cases")
    cases = parser.parse_args().cases.resolve()
    wrong = count = 0
    for part in (planes, rows, sources):
        if part is sources:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        for outcome in part(cases):
            count, wrong = count + 1, wrong + (not outcome.is_right)
            mark = "right" if outcome.is_right else "WRONG"
            print(f"{mark}  {outcome.case:<40}{outcome.right[:50]:<52}{outcome.came[:150]}", flush=True)
    print(f"{count} cases, {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
