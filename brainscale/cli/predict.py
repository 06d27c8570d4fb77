"""The command predict: one row for each sample on standard output, without Ray."""

import csv
import io
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow
from brainscale.errors import UsageError
from brainscale.formatting import printable
from brainscale.logs import notice

if TYPE_CHECKING:
    from brainscale.models.bundle import Bundle
    from brainscale.models.engines import Precision
    from brainscale.scoring.direct import ScoredRows

STDIN = "-"
COLUMNS = ("file", "prediction", "probability", "threshold", "error_code", "error")
WIDEST_FILE = 40
"""Characters of a file's name that the table shows; longer names keep their end."""


@click.command("predict")
@click.argument("model", metavar="MODEL")
@click.argument("files", nargs=-1, metavar="FILE...|-")
@click.option("--heatmap", "heatmaps", metavar="DIR", help="Folder for a heatmap of each sample.")
@options.show_burned_in
@options.allow_edited_model
@options.precision
@options.engine
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
@options.json
@handle_errors
def predict_command(
    model: str,
    files: tuple[str, ...],
    heatmaps: str | None,
    show_burned_in: bool,
    allow_edited_model: bool,
    precision: "Precision",
    engine: str,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Score a few files, and print one row for each sample.

    A FILE is an image, a DICOM file, a NIfTI volume, an archive, or a folder with a DICOM series; `-` reads one of them
    from standard input. The exit status is 1 if a sample could not be scored.

    Example: brainscale predict phantoms scan.dcm
    """
    from brainscale.reading.spawning import start_spare

    if not files:
        file = model if Path(model).is_file() else "scan.png"
        raise UsageError(f"name a model and a file, such as `brainscale predict phantoms {shlex.quote(file)}`")
    start_spare()  # it loads beside this process
    load_arrow()
    from brainscale import api
    from brainscale.models.engines import identify_precision
    from brainscale.models.shipped import describe_model_notes
    from brainscale.schema import SKIPPED
    from brainscale.storage.local import require_writable

    if as_csv and as_json:
        raise UsageError("--csv and --json cannot be combined: choose one")
    if heatmaps is not None:
        if Path(heatmaps).exists() and not Path(heatmaps).is_dir():
            raise UsageError(f"{heatmaps} is a file: choose a new folder for --heatmap")
        require_writable(heatmaps)
        if Path(heatmaps).exists() and any(Path(heatmaps).iterdir()):
            raise UsageError(f"{heatmaps} is not empty: choose a new folder for --heatmap, or remove this one")
    with _sources(files) as sources:
        trained = api.load_model(model, engine=engine, precision=precision, allow_edited=allow_edited_model)
        for text in describe_model_notes(trained.bundle):
            notice(text)
        scored = list(trained.score_directly(sources))
    computed = identify_precision(trained.bundle, precision)
    rows = [_row(row, trained.bundle, computed) for some in scored for row in some.predictions.to_pylist()]
    click.echo(json.dumps(rows, indent=2) if as_json else format_csv(rows) if as_csv else format_table(rows))
    if heatmaps is not None:
        _write_heatmaps(trained.bundle, scored, Path(heatmaps), show_burned_in=show_burned_in)
    if failed := sum(row["probability"] is None and row["error_code"] not in SKIPPED for row in rows):
        notice(f"{failed} of {len(rows)} sample(s) could not be scored: see the column error")
        sys.exit(1)


@contextmanager
def _sources(files: Sequence[str]) -> Iterator[list[str]]:
    """Yield the sources, with standard input as a temporary file.

    Raises:
        UsageError: standard input is named with other files, or a file beyond the limit of one file is in it.
    """
    from brainscale.config.data_sections import LimitsConfig
    from brainscale.storage.remote import make_absolute

    if STDIN not in files:
        yield [make_absolute(file) for file in files]
        return
    if len(files) > 1:
        raise UsageError("standard input (-) cannot be combined with other files: score it in a separate command")
    limit = LimitsConfig().nbytes
    with tempfile.TemporaryDirectory(prefix="brainscale-") as folder:
        path = Path(folder, "stdin")
        with path.open("wb") as copy:
            left = limit + 1
            while left and (chunk := sys.stdin.buffer.read(min(left, 2**20))):
                copy.write(chunk)
                left -= len(chunk)
        if not left:
            raise UsageError(f"standard input has more than {limit >> 20} MiB: save it to a file first")
        yield [str(path)]


def _row(prediction: Mapping[str, Any], bundle: "Bundle", precision: str) -> dict[str, Any]:
    """Return what is printed of a row of schema PREDICTIONS, with an edited model's hash and a precision below fp32."""
    scores = prediction["probabilities"]
    edited = {"edited_model": bundle.sha256} if bundle.edited else {}
    return {
        "file": prediction["sample_id"],
        "prediction": prediction["prediction"],
        "probability": prediction["probability"],
        "threshold": bundle.info.threshold,
        "probabilities": None if scores is None else dict(zip(bundle.info.classes, scores, strict=True)),
        "error_code": prediction["error_code"],
        "error": prediction["error"],
        "model": prediction["model"],
        **({} if precision == "fp32" else {"precision": precision}),
        **edited,
    }


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header."""
    text = io.StringIO()
    columns = (*COLUMNS, *(name for name in ("precision", "edited_model") if name in rows[0]))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table for a terminal; an error stands at the end of its line, an edited model in the heading."""
    edited = " (edited)" if "edited_model" in rows[0] else ""
    cells = [("file", "prediction", "probability", f"threshold{edited}", "error")]
    for row in rows:
        probability = "–" if row["probability"] is None else f"{row['probability']:.4f}"
        error = "" if row["error_code"] is None else f"{row['error_code']}: {printable(row['error'])}"
        cells.append((_shorten(row["file"]), row["prediction"] or "–", probability, f"{row['threshold']:.4f}", error))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = []
    for file, prediction, probability, threshold, error in cells:
        numbers = f"{probability:>{widths[2]}}  {threshold:>{widths[3]}}"
        lines.append(f"{file:<{widths[0]}}  {prediction:<{widths[1]}}  {numbers}  {error}".rstrip())
    return "\n".join(lines)


def _shorten(name: str) -> str:
    name = printable(name)
    return name if len(name) <= WIDEST_FILE else f"…{name[1 - WIDEST_FILE :]}"


def _write_heatmaps(bundle: "Bundle", scored: "Sequence[ScoredRows]", folder: Path, *, show_burned_in: bool) -> None:
    """Write a heatmap of each sample with a probability, except where text may be burned in."""
    from brainscale.cli.progress import show_progress
    from brainscale.models.heatmap_pictures import write_heatmaps

    rows: list[dict[str, Any]] = []
    planes = []
    hidden = 0
    for some in scored:
        shown = (row for row in some.predictions.to_pylist() if row["probability"] is not None)
        for row, plane in zip(shown, some.planes, strict=True):
            if row["burned_in"] and not show_burned_in:
                hidden += 1
                continue
            rows.append({"sample_id": row["sample_id"], "probability": row["probability"]})
            planes.append(plane)
    with show_progress():
        write_heatmaps(bundle, planes, rows, folder)
    notice(f"{len(rows)} heatmap(s) are in {folder}")
    if hidden:
        notice(
            f"{hidden} sample(s) may show text, such as a name, and have no heatmap: add --show-burned-in to draw them"
        )
