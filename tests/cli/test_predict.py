"""A few files on the command line: what is printed, and with which exit status."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.models.bundle import Bundle
from tests.support.images import write_image
from tests.support.runs import Invoke


@pytest.fixture(name="scan")
def write_scan(tmp_path: Path) -> Path:
    return write_image(tmp_path / "scan.png")


def test_one_file(invoke: Invoke, bundle: Bundle, scan: Path) -> None:
    result = invoke("predict", bundle.folder, scan)
    assert result.exit_code == 0, result.output
    header, line = result.stdout.splitlines()
    assert header.split() == ["file", "prediction", "probability", "threshold", "error"]
    (row,) = bs.load_model(bundle.folder).predict(scan).to_pylist()
    assert line.split() == ["scan.png", row["prediction"], f"{row['probability']:.4f}", "0.5000"]
    assert max(map(len, (header, line))) <= 60


def test_a_file_that_cannot_be_read_has_its_error_and_status_1(invoke: Invoke, bundle: Bundle, scan: Path) -> None:
    text = scan.with_name("notes.txt")
    text.write_text("no image")
    result = invoke("predict", bundle.folder, scan, text, "--json")
    assert result.exit_code == 1
    assert "1 of 2 sample(s) could not be scored" in result.stderr
    notes, row = json.loads(result.stdout)
    assert (notes["file"], notes["error_code"], notes["probability"]) == ("notes.txt", "unsupported_format", None)
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["model"] == bundle.info.weights_sha256


def test_csv_has_a_row_for_each_member_of_an_archive(invoke: Invoke, bundle: Bundle, scan: Path) -> None:
    archive = scan.with_name("scans.zip")
    with ZipFile(archive, "w") as file:
        file.write(scan, "a, b.png")
        file.write(write_image(scan.with_name("other.png"), seed=1), "c.png")
    result = invoke("predict", bundle.folder, archive, "--csv")
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["file"] for row in rows] == ["scans.zip!a, b.png", "scans.zip!c.png"]
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


def test_standard_input_without_torch_or_ray(bundle: Bundle, scan: Path) -> None:
    code = (
        "import sys; from brainscale.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'ray'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "predict", str(bundle.folder), "-", "--json"]
    done = subprocess.run(command, input=scan.read_bytes(), capture_output=True, check=True)
    (row,) = json.loads(done.stdout)
    (same,) = bs.load_model(bundle.folder).predict(scan).to_pylist()
    assert (row["file"], row["probability"]) == ("stdin", same["probability"])
    assert done.stderr.decode().splitlines()[-1] == "[]"


def test_heatmaps_of_what_was_scored(invoke: Invoke, bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    text = scan.with_name("notes.txt")
    text.write_text("no image")
    result = invoke("predict", bundle.folder, scan, text, "--heatmap", tmp_path / "heatmaps")
    assert "1 heatmap(s) are in" in result.stderr
    (row,) = pq.read_table(tmp_path / "heatmaps" / "heatmaps.parquet").to_pylist()
    assert row["sample_id"] == "scan.png"
    assert (tmp_path / "heatmaps" / row["file"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["none.png"], 1, "none.png does not exist"),
        (["-", "scan.png"], 2, "cannot be combined with other files"),
        (["scan.png", "--csv", "--json"], 2, "choose one"),
        (["scan.png", "--engine", "abacus"], 2, "unknown engine 'abacus'"),
        (["scan.png", "--heatmap", "."], 2, "is not empty"),
    ],
)
def test_wrong_usage_is_one_line(
    invoke: Invoke,
    bundle: Bundle,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    text: str,
) -> None:
    monkeypatch.chdir(scan.parent)
    result = invoke("predict", bundle.folder, *arguments)
    assert result.exit_code == status
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout
