"""Four classes from folders to the report, by the configuration that is shipped, on a real Ray."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, roc_auc_score

from brainscale.schema import COMPARISON, CONFUSION, METRICS, PUBLISHED_MULTICLASS
from brainscale.stats.multiclass import OF_EACH_CLASS
from tests.support.four_classes import write_four_classes
from tests.support.runs import SMALL, Invoke, scores, succeed

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CLASSES = ["no_tumour", "glioma", "meningioma", "pituitary"]


def test_four_classes_from_folders_to_the_report(invoke: Invoke, tmp_path: Path) -> None:
    scans, run, manifest = tmp_path / "scans", tmp_path / "run", tmp_path / "split.parquet"
    write_four_classes(scans, 12)
    config = ["--config", "four_classes"]
    succeed(invoke("index", scans, *config, "--out", tmp_path / "index.parquet"))
    labels = pq.read_table(tmp_path / "index.parquet")["label"].to_pylist()
    assert {name: labels.count(name) for name in CLASSES} == dict.fromkeys(CLASSES, 12)
    succeed(invoke("split", tmp_path / "index.parquet", "--val", "0.25", "--test", "0.3", "--out", manifest))

    training = ["train", "--data", manifest, *config, *SMALL, "--epochs", "3", "--youden", "--out", run, "--json"]
    trained = json.loads(succeed(invoke(*training)).stdout)
    threshold = trained["threshold"]
    assert re.fullmatch(r"Youden's index on \d+ validation samples", trained["threshold_source"])
    assert threshold != 0.5

    facts = json.loads(succeed(invoke("evaluate", run, "--prevalence", "0.1", "--json")).stdout)
    out = run / "evaluation" / "test"
    table = pq.read_table(out / "predictions.parquet")
    probabilities = np.array(table["probabilities"].to_pylist(), np.float64)
    true = np.array([CLASSES.index(label) for label in table["label"].to_pylist()])
    called = np.where(1 - probabilities[:, 0] >= threshold, 1 + probabilities[:, 1:].argmax(1), 0)
    assert table["prediction"].to_pylist() == [CLASSES[i] for i in called]
    check_metrics(facts["metrics"], true, called, probabilities)
    assert all(len(facts["intervals"][f"{metric}_{name}"]) == 2 for metric in OF_EACH_CLASS for name in CLASSES)
    counts = confusion_matrix(true, called, labels=range(4))
    assert [[facts["confusion"][a][b] for b in CLASSES] for a in CLASSES] == counts.tolist()
    confusion = pq.read_table(out / "confusion.parquet")
    assert confusion.schema.equals(CONFUSION)
    assert confusion["samples"].to_pylist() == counts.ravel().tolist()
    assert pq.read_table(out / "metrics.parquet").schema.equals(METRICS)

    page = (out / "report.html").read_text()
    assert '<h3 id="by-class">Per class</h3>' in page
    assert '<h3 id="any-tumour">Tumour against none</h3>' in page
    assert "Tumour PPV at a prevalence of 10 %" in page
    card = (run / "model" / "README.md").read_text()
    assert "### Per class" in card
    assert f"The model predicts a tumour at a probability of {threshold} or more." in card
    check_comparison(run, invoke, tmp_path)

    succeed(invoke("score", run, scans, "--out", tmp_path / "scores"))
    rows = {str(row["sample_id"]): row for row in scores(tmp_path / "scores")}
    assert len(rows) == 48
    for row in table.select(["sample_id", "prediction"]).to_pylist():
        assert rows[row["sample_id"]]["prediction"] == row["prediction"]
    succeed(invoke("score", run, scans, "--threshold", "0", "--out", tmp_path / "all"))
    assert "no_tumour" not in {row["prediction"] for row in scores(tmp_path / "all")}


def check_metrics(metrics: dict[str, Any], true: np.ndarray, called: np.ndarray, probabilities: np.ndarray) -> None:
    """Each block holds what scikit-learn says."""
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, called))
    assert metrics["macro_auroc"] == pytest.approx(roc_auc_score(true, probabilities, multi_class="ovr"), abs=1e-5)
    assert metrics["tumour_sensitivity"] == pytest.approx(recall_score(true > 0, called > 0))
    assert metrics["tumour_specificity"] == pytest.approx(recall_score(true > 0, called > 0, pos_label=0))
    assert metrics["sensitivity_glioma"] == pytest.approx(recall_score(true == 1, called == 1))
    assert metrics["auroc_pituitary"] == pytest.approx(roc_auc_score(true == 3, probabilities[:, 3]))
    assert not {"sensitivity", "specificity", "auroc", "ppv", "npv"} & set(metrics)


def check_comparison(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    """The published columns of four classes, and DeLong's test of a tumour against none."""
    shown = succeed(invoke("compare", run, "--out", tmp_path / "t.parquet")).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("Macro AUROC", "Tumour sensitivity", "Tumour AUROC A − B", "a tumour of any kind against none"):
        assert text in " ".join(shown.split()), text
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.schema.equals(COMPARISON)
    model, control = table.to_pylist()
    metrics = pq.read_table(run / "evaluation" / "test" / "metrics.parquet").to_pylist()
    values = {row["metric"]: row["value"] for row in metrics}
    assert {name: model[name] for name in PUBLISHED_MULTICLASS} == {name: values[name] for name in PUBLISHED_MULTICLASS}
    assert (model["classes"], model["sensitivity"], control["classes"]) == (4, None, 4)
    (pair,) = pq.read_table(tmp_path / "t-pairs.parquet").to_pylist()
    assert pair["auroc_a"] == pytest.approx(values["tumour_auroc"])
