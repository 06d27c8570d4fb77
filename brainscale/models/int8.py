"""The int8 graph of a model, a file beside model.onnx, and the record of the check that it passed; needs no torch."""

import json
from pathlib import Path

from brainscale.config.data_sections import Section
from brainscale.errors import BundleError
from brainscale.hashing import file_sha256, fingerprint
from brainscale.storage.local import replacing

INT8_ONNX, INT8_JSON = "model-int8.onnx", "model-int8.json"
INT8_FILES = "model-int8.*"
"""Pattern of both files in a model folder."""
AGAIN = "run `brainscale quantize` again"
NOT_MADE = "There is no int8 graph; `brainscale quantize` makes and checks one."
CARD_LINE = "Precision int8: "
"""How the line of a model card about the int8 graph begins."""
METRICS_HEADING = "## Metrics"


class Int8Record(Section):
    """The contents of model-int8.json: what the int8 graph was made from, and how it agrees with float32.

    Attributes:
        model_sha256: hash of the model that it was made from, with its threshold and temperature.
        graph_sha256: hash of model-int8.onnx.
        calibration: how the ranges of the activations were chosen.
        calibration_samples: number of training samples that they were chosen on.
        validation_samples: number of validation samples that the graph was checked on.
        auroc_fp32: AUROC on these in float32.
        auroc_int8: AUROC on these in int8.
        changed: number of these with another predicted class in int8.
        changed_bound: upper end of Wilson's 95 % interval of their share.
        largest_change: largest difference of a probability.
        largest_novelty_change: largest difference of a novelty; None for a model without.
        cpu: name of the CPU that the check ran on.
        versions: library → version.
        record_sha256: hash of all the fields above.
    """

    model_sha256: str
    graph_sha256: str
    calibration: str
    calibration_samples: int
    validation_samples: int
    auroc_fp32: float
    auroc_int8: float
    changed: int
    changed_bound: float
    largest_change: float
    largest_novelty_change: float | None
    cpu: str
    versions: dict[str, str]
    record_sha256: str = ""

    def hash_facts(self) -> str:
        """Return the hash of all fields save `record_sha256`."""
        return fingerprint(json.loads(self.model_dump_json(exclude={"record_sha256"})))

    def describe(self) -> str:
        """Return what was checked and found, in one line, as the card and the command line have it."""
        novelty = self.largest_novelty_change
        return (
            f"on {self.validation_samples:,} validation samples, the AUROC is {self.auroc_int8:.4f} instead of "
            f"{self.auroc_fp32:.4f}, and {self.changed} predictions change (at most {self.changed_bound:.1%} of all, "
            f"by the 95 % interval). The largest change of a probability is {self.largest_change:.4f}"
            f"{'' if novelty is None else f', and of a novelty {novelty:.4f}'}. {self.calibration}, calibrated on "
            f"{self.calibration_samples:,} training samples."
        )


def write_int8(graph: Path, record: Int8Record, folder: Path) -> Int8Record:
    """Write the int8 graph and its record into a model folder; the record is written last, and counts.

    Args:
        graph: file of the graph.
        record: its record; the hashes of graph and record are filled in.
        folder: the model folder.
    """
    remove_int8(folder)
    with replacing(folder / INT8_ONNX) as temporary:
        temporary.write_bytes(graph.read_bytes())
    record = record.model_copy(update={"graph_sha256": file_sha256(folder / INT8_ONNX)})
    record = record.model_copy(update={"record_sha256": record.hash_facts()})
    with replacing(folder / INT8_JSON) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def remove_int8(folder: Path) -> None:
    """Remove the int8 graph of a model folder, if there is one."""
    for name in (INT8_JSON, INT8_ONNX):
        (folder / name).unlink(missing_ok=True)


def read_int8(folder: Path) -> Int8Record | None:
    """Return the record of the int8 graph in a model folder, after checking both; None without one.

    Raises:
        BundleError: the record is unreadable or was edited, or the graph is missing or another.
    """
    path = folder / INT8_JSON
    if not path.is_file():
        return None
    try:
        record = Int8Record.model_validate_json(path.read_bytes())
    except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
        raise BundleError(f"{path} does not describe an int8 graph: {AGAIN}") from None
    if record.record_sha256 != record.hash_facts():
        raise BundleError(f"{path} was edited after it was written: {AGAIN}")
    graph = folder / INT8_ONNX
    if not graph.is_file() or file_sha256(graph) != record.graph_sha256:
        raise BundleError(f"{graph} is not the file that {INT8_JSON} describes: copy both again, or {AGAIN}")
    return record


def card_line(record: Int8Record | None) -> str:
    """Return the line of a model card about the int8 graph."""
    return f"{CARD_LINE}{NOT_MADE if record is None else record.describe()}"


def update_card(card: Path, record: Int8Record | None) -> None:
    """Replace the line of a model card about the int8 graph, or add one before the metrics; without a card, do nothing.

    Args:
        card: README.md of the model folder.
        record: record of the graph; None without one.
    """
    if not card.is_file():
        return
    lines = card.read_text(encoding="utf-8").splitlines()
    if any(line.startswith(CARD_LINE) for line in lines):
        lines = [card_line(record) if line.startswith(CARD_LINE) else line for line in lines]
    else:  # the authors have edited it, or another version wrote it
        end = lines.index(METRICS_HEADING) if METRICS_HEADING in lines else len(lines)
        lines[end:end] = [card_line(record), ""]
    with replacing(card) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
