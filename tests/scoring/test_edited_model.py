"""Scoring with a model whose model.json was edited: refused, or named in every output; without Ray."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.errors import BundleError, OutputError
from brainscale.models.bundle import Bundle, open_bundle
from tests.support.evaluating import edit_threshold
from tests.support.images import write_image
from tests.support.runs import Invoke, succeed

NOTE = "model.json was edited after it was written"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_image(tmp_path / "source" / "a.png", seed=1)
    return tmp_path / "source"


@pytest.fixture
def model(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "model"))


def marks(folder: Path) -> set[str | None]:
    """The mark of an edited model in each part, in the table of scans and in _SUCCESS.json."""
    tables = [*folder.glob("part-*.parquet"), folder.with_name(f"{folder.name}.scans.parquet")]
    assert len(tables) == 2
    metadata = [(pq.read_schema(table).metadata or {}).get(b"edited_model") for table in tables]
    success = json.loads((folder / "_SUCCESS.json").read_text()).get("edited_model")
    return {success, *(None if mark is None else mark.decode() for mark in metadata)}


def test_score_refuses_an_edited_model_or_names_it(model: Path, source: Path, tmp_path: Path, invoke: Invoke) -> None:
    plain, edited = tmp_path / "plain", tmp_path / "edited"
    succeed(invoke("score", model, source, "--out", plain, "--unit", "scan"))
    assert marks(plain) == {None}
    edit_threshold(model, 0.25)
    refused = invoke("score", model, source, "--out", edited)
    assert refused.exit_code == 1
    assert f"Error: {model / 'model.json'} was edited after it was written" in refused.stderr
    assert "or allow it with --allow-edited-model, which marks every output" in refused.stderr
    arguments = ("--unit", "scan", "--heatmaps", tmp_path / "pictures", "--allow-edited-model")
    done = succeed(invoke("score", model, source, "--out", edited, *arguments))
    sha256 = open_bundle(model, allow_edited=True).sha256
    assert f"Note: {model}: {NOTE}." in done.stderr
    assert any(line.split() == ["edited", "model", sha256] for line in done.stdout.splitlines())
    assert marks(edited) == {sha256}
    assert pq.read_schema(tmp_path / "pictures" / "heatmaps.parquet").metadata[b"edited_model"] == sha256.encode()
    succeed(invoke("score", model, source, "--out", edited, "--allow-edited-model"))


def test_scores_of_edited_and_other_models_never_mix(model: Path, source: Path, tmp_path: Path) -> None:
    """Not even where the threshold is given, so that no prediction differs."""
    out = tmp_path / "out"
    bs.score(model, source, out, threshold=0.4)
    edit_threshold(model, 0.25)
    with pytest.raises(OutputError, match=r"holds scores with another edited_model \(None there, [0-9a-f]{64} here\)"):
        bs.score(model, source, out, threshold=0.4, allow_edited=True)
    bs.score(model, source, tmp_path / "edited", threshold=0.4, allow_edited=True)
    edit_threshold(model, 0.3)
    with pytest.raises(OutputError, match=r"another edited_model \([0-9a-f]{64} there, [0-9a-f]{64} here\)"):
        bs.score(model, source, tmp_path / "edited", threshold=0.4, allow_edited=True)


def test_a_loaded_model_says_that_it_was_edited(model: Path, source: Path) -> None:
    assert bs.load_model(model).predict(source).schema.metadata is None
    edit_threshold(model, 0.25)
    with pytest.raises(BundleError, match="was edited"):
        bs.load_model(model)
    edited = bs.load_model(model, allow_edited=True)
    assert repr(edited).endswith(", edited)")
    assert edited.bundle.info.threshold == 0.25
    table: pa.Table = edited.predict(source)
    assert table.schema.metadata == {b"edited_model": edited.bundle.sha256.encode()}


def test_predict_refuses_an_edited_model_or_names_it(model: Path, source: Path, invoke: Invoke) -> None:
    edit_threshold(model, 0.25)
    assert "was edited after it was written" in invoke("predict", model, source).stderr
    sha256 = open_bundle(model, allow_edited=True).sha256

    def said(*options: str) -> str:
        done = succeed(invoke("predict", model, source, "--allow-edited-model", *options))
        assert f"Note: {model}: {NOTE}." in done.stderr
        return done.stdout

    assert "threshold (edited)" in said().splitlines()[0]
    assert json.loads(said("--json"))[0]["edited_model"] == sha256
    header, row = said("--csv").splitlines()
    assert (header.split(",")[-1], row.split(",")[-1]) == ("edited_model", sha256)
