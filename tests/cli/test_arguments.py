"""Wrong arguments, as processes: one line, status 1 or 2, nothing written, and neither Ray nor torch was loaded."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.dataset.manifest import write_manifest
from brainscale.errors import OutputError
from brainscale.models.bundle import Bundle
from brainscale.models.processor import has_gpu
from brainscale.training.arguments import find_finished
from brainscale.training.run_folder import RunFolder
from tests.support.runs import SMALL

SETTINGS = [value for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True) if flag == "--set"]
CODE = """
import sys
from brainscale.cli.main import main
class Refused:
    def find_spec(self, name, path=None, target=None):
        assert name not in ("ray", "torch"), f"{name} was loaded"
sys.meta_path.insert(0, Refused())
main(sys.argv[1:])
"""


STUDY = """
title: A study
data: {scans: {title: Scans}}
parts:
  part:
    title: A part
    kind: folds
    data: scans
    rows: {row: {baseline: given_predictions, set: [model.weights=typo.csv]}}
"""


@pytest.fixture(scope="module")
def folder(scans: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what commands take: a manifest, a split one, a started run with a model, and other files."""
    folder = tmp_path_factory.mktemp("arguments")
    manifest = bs.index(scans, overrides=["data.image_size=64"])
    write_manifest(manifest, folder / "m.parquet")
    write_manifest(bs.split(manifest), folder / "split.parquet")
    (folder / "run").mkdir()
    RunFolder(folder / "run").start(load_config(None, [*SETTINGS, "train.epochs=2"]), bs.split(manifest))
    shutil.copytree(bundle.folder, folder / "run" / "model")
    shutil.copytree(bundle.folder, folder / "broken")
    (folder / "broken" / "model.onnx").unlink()
    bs.ensemble([bundle.folder], folder / "both")
    shutil.copytree(bundle.folder, folder / "copy")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "notes.txt").write_text("mine")
    (folder / "notes.csv").write_text("mine\n")
    (folder / "notes.md").write_text("mine\n")
    (folder / "wrong.yaml").write_text("trian: {epochs: 3}\n")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "notes.txt").write_text("mine")
    (folder / "scans").symlink_to(scans)
    (folder / "loop").symlink_to("loop")
    return folder


def run(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command in a process that can load neither Ray nor torch."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "scans" not in path.parts
    }


NO_DATA = "/no/such does not exist"
MISTAKES = [
    ("index /no/such --out new.parquet", NO_DATA),
    ("index /no/such --workers 2 --out new.parquet", NO_DATA),
    ("index scans --out new", "the suffix decides the format"),
    ("index scans --out notes.csv", "notes.csv exists, and a .csv file does not say what made it"),
    ("index scans --workers 2 --out notes.csv", "notes.csv exists, and a .csv file does not say what made"),
    ("index scans --labels notes.csv --out new.parquet", "notes.csv"),
    ("split split.parquet --out split.parquet", "split.parquet is an input of this command: --overwrite replaces it"),
    ("split m.parquet --out split.parquet", "split.parquet exists, and this command"),
    ("split none.parquet --out new.parquet", "no manifest at none.parquet"),
    ("overlap m.parquet m.parquet --out notes.txt", "the suffix decides the format"),
    ("overlap m.parquet m.parquet --out notes.csv", "notes.csv exists, and a .csv file does not say"),
    ("train --data /no/such --out new", NO_DATA),
    ("train --data /no/such --out new --workers 2", NO_DATA),
    ("train --data /no/such --out new --folds 2 --parallel-folds 2", NO_DATA),
    ("train --data none.parquet --out new", "none.parquet"),
    ("train --data notes.csv --out new", "notes.csv is a listing and no manifest"),
    ("train --data m.parquet --out notes.txt --workers 2", "notes.txt is a file, not a folder"),
    ("train --data m.parquet --out foreign --workers 2", "foreign holds other files and no run"),
    ("train --data m.parquet --out foreign --folds 2", "foreign holds other files and no cross-validation"),
    ("train --data m.parquet --out run --workers 2", "holds a run with another configuration"),
    ("train --data m.parquet --config wrong.yaml --out new", "unknown key 'trian': did you mean train?"),
    ("train --data m.parquet --set model.weights=none.safetensors --out new --workers 2", "no weights file"),
    ("train --data /no/such --out new --dry-run", NO_DATA),
    ("train --data /no/such --out new --folds 2 --dry-run", NO_DATA),
    ("train --data m.parquet --out run --dry-run", "holds a run with another configuration"),
    ("train --data m.parquet --out new --set epochs=5 --dry-run", "did you mean train.epochs?"),
    ("evaluate /no/such --out new", "neither a run nor a model folder"),
    ("evaluate run --split tset --out new", "no split named 'tset': choose train, val, test or all"),
    ("evaluate run --split tset --out new --workers 2", "no split named 'tset'"),
    ("evaluate run --engine abacus --out new", "unknown engine 'abacus': choose auto, onnx or torch"),
    ("evaluate run --engine abacus --out new --workers 2", "unknown engine 'abacus'"),
    ("evaluate run --by site --out new", "the manifest has no column site"),
    ("evaluate run --by site --out new --workers 2", "the manifest has no column site"),
    ("evaluate run --data /no/such --out new --workers 2", NO_DATA),
    ("evaluate run --out foreign --workers 2", "foreign holds other files and no evaluation"),
    ("evaluate broken --data scans --out new", "has no model.onnx"),
    ("score /no/such scans --out new", "neither a run nor a model folder"),
    ("score run /no/such --out new", NO_DATA),
    ("score run /no/such --out new --workers 2", NO_DATA),
    ("score run scans --engine abacus --out new", "unknown engine 'abacus'"),
    ("score run scans --engine abacus --out new --workers 2", "unknown engine 'abacus'"),
    ("score run scans --out foreign --workers 2", "foreign holds other files and no scores"),
    ("score run /no/such --out new --dry-run", NO_DATA),
    ("score run scans --out foreign --dry-run", "foreign holds other files and no scores"),
    ("compare /no/such", "neither a run nor an evaluation"),
    ("compare run --out notes.txt", "the suffix decides the format"),
    ("compare run --out notes.md", "notes.md exists, and this command"),
    ("index scans scans/ --out new.parquet", "scans is named twice"),
    ("index scans scans/yes --out new.parquet", "its files would be read twice"),
    ("score run scans scans --out new", "scans is named twice"),
    ("score run scans --out new --heatmaps foreign", "foreign holds other files and no heatmaps"),
    ("predict notes.txt", "name a model and a file, such as `brainscale predict phantoms notes.txt`"),
    ("ensemble run /no/such --out new", "neither a run nor a model folder"),
    ("ensemble run phantoms --out foreign", "foreign holds other files and no ensemble"),
    ("ensemble run broken --out new", "has no model.onnx"),
    ("quantize foreign", "neither a run nor a model folder"),
    ("demo --out foreign", "foreign holds other files and no demo"),
    ("demo --out notes.txt", "notes.txt is a file, not a folder"),
    ("results none --out new", "no study 'none': choose from brain_mri_253"),
    ("results brain_mri_253 --out new --data none=scans", "--data none: choose from brain_mri_253"),
    ("results brain_mri_253 --out new --part none", "--part none: choose from best, leak, table"),
    ("results brain_mri_253 --out new --row none", "--row none: choose from brainmrnet"),
    ("results brain_mri_253 --out foreign --data brain_mri_253=scans", "foreign holds other files and no results"),
    ("results brain_mri_253 --out new", "no data set is given: add --data brain_mri_253=PATH"),
    ("results brain_mri_253 --out new --data brain_mri_253=", "--data brain_mri_253=: there is no such file or folder"),
    ("results brain_mri_253 --out new --data brain_mri_253=none", "=none: there is no such file or folder"),
    ("results brain_mri_253 --out new --data brain_mri_253=scans --page notes.md", "notes.md exists, and this command"),
    ("results brain_mri_253 --out new --data brain_mri_253=scans --models none", "--models none: "),
    ("results brain_mri_253 --out new --data brain_mri_253=scans --models notes.txt", "notes.txt cannot be read as a"),
    (
        "results brain_mri_253 --out new --data brain_mri_253=scans --data efficientnet_lite0=notes.txt",
        "notes.txt: its SHA-256 is not",
    ),
    ("results study.yaml --out new --data scans=scans", "parts.part.rows.row: there is no table of given predictions"),
    ("ensemble run copy --out new", "is the same model as"),
    ("ensemble run --out copy", "copy holds another model: choose a new --out"),
    ("ensemble run both --out new", "both is an ensemble itself: name its members instead"),
    ("quantize both", "both is no run with its manifest"),
    ("ensemble run run --out new", "run is named twice: name each model once"),
    (
        "demo --out s3://bucket/demo",
        "s3://bucket/demo is an address, but this output must be a local or mounted folder",
    ),
    ("evaluate run --match label --out new", "--match label would leave no pair"),
    ("index loop --out new.parquet", "loop"),
    ("index scans --out notes.txt/m.parquet", "notes.txt is a file, not a folder"),
    ("split m.parquet --out notes.txt/s.parquet", "notes.txt is a file, not a folder"),
    ("compare run --out notes.txt/t.md", "notes.txt is a file, not a folder"),
    ("overlap m.parquet m.parquet --out notes.txt/t.csv", "notes.txt is a file, not a folder"),
    ("score run scans --out notes.txt/s.csv", "notes.txt is a file, not a folder"),
    ("index scans --out=", "a path is empty: name a file, a folder or an address"),
    ("compare loop", "loop is neither a run nor an evaluation"),
    ("predict phantoms", "such as `brainscale predict phantoms scan.png`"),
]


if not has_gpu():
    MISTAKES.append(("train --data split.parquet --out new --device cuda", "--device cuda needs a GPU, but this"))


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_before_anything_starts(folder: Path, arguments: str, message: str) -> None:
    before = contents(folder)
    done = run(folder, arguments.split())
    assert done.returncode in (1, 2), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert "unexpected" not in line
    assert done.stdout == ""
    assert contents(folder) == before, "nothing is written, and no empty folder is left"


def test_a_full_disk_is_said_before_the_run_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2**40, used=2**40, free=0))
    config = load_config(None, ["model.name=vgg16"])
    with pytest.raises(OutputError, match=r"new needs at least 3,07\d MiB, and its disk has 0 MiB free: make room"):
        find_finished("m.parquet", str(folder / "new"), config)
    averaged = load_config(None, ["model.name=vgg16", "train.ema=0.9"])
    with pytest.raises(OutputError, match=r"new needs at least 3,58\d MiB"):
        find_finished("m.parquet", str(folder / "new"), averaged)


@pytest.mark.parametrize("data", ["split.parquet", "scans"])
def test_a_complete_run_is_said_at_once(folder: Path, tmp_path: Path, data: str) -> None:
    finished = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    facts = (
        '{"format": 1, "samples": {}, "left_out": {}, "epochs": 2, "best_epoch": 1, "best_val_loss": 0.5, '
        '"threshold": 0.5, "threshold_source": "fixed", "weights_sha256": "0", "manifest_sha256": "0", '
        '"config_sha256": "0", "hardware": []}'
    )
    (finished / "_SUCCESS.json").write_text(facts)
    arguments = ["train", "--data", data, "--out", str(finished), *SMALL, "--workers", "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(folder, arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"{finished} was already complete: nothing to do" in done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 4, "of the CPU; 1 is usual"
    other = run(folder, ["train", "--data", data, "--out", str(finished), *SMALL, "--seed", "7"])
    assert "train.seed is 42 there, 7 here" in other.stderr
