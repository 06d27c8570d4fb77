"""`brainscale results` from images to a page: real models, trained in children."""

from pathlib import Path
from typing import Any

import pytest

from brainscale.evaluation.study.pausing import VARIABLE
from brainscale.models.bundle import open_bundle
from brainscale.storage.tables import read_table
from tests.support.runs import invoke, succeed
from tests.support.studies import FOLDS, study


def figures(page: Path) -> list[dict[str, Any]]:
    """The metrics of the table beside a page."""
    rows = read_table(page.with_suffix(".parquet"), "results").to_pylist()
    return [row for row in rows if row["measure"] == "metric"]


def test_one_command_trains_tests_and_writes_the_page(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # these tests hold the lock of the checkout, which would pause the models
    study(tmp_path, {"table": {**FOLDS, "rows": {"brainmrnet": {"title": "BrainMRNet"}}}})
    out, page = tmp_path / "out", tmp_path / "small.md"
    command = ("results", tmp_path / "small.yaml", "--data", f"scans={phantoms}", "--out", out, "--page", page)

    said = succeed(invoke(*command, "--parallel", "2")).output
    folders = sorted(path.parent for path in out.glob("runs/small/table/brainmrnet/*/*/*/_SUCCESS.json"))
    assert len(folders) == 2, said
    for folder in folders:
        open_bundle(folder / "run" / "model")
        assert not list(folder.rglob("*/checkpoints/*")), "a complete model needs no checkpoint"
    results = figures(page)
    assert {row["n"] for row in results if (row["row"], row["metric"]) == ("brainmrnet", "accuracy")} == {60}
    assert "BrainMRNet" in page.read_text(encoding="utf-8")

    (folders[0] / "_SUCCESS.json").unlink()  # as if it had been killed after its checkpoints were removed
    again = succeed(invoke(*command, "--force")).output
    assert "1 of 1: " in again, "only the model that was stopped is completed"
    assert figures(page) == results
