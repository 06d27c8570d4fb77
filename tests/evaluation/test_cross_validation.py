"""Folds, the splits of their models, and their metrics combined; no Ray."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from brainscale.config.files import parse_config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import read_manifest, write_manifest
from brainscale.dataset.splits import assign_folds
from brainscale.errors import ManifestError, OutputError, UsageError
from brainscale.evaluation.arguments import require_folds
from brainscale.evaluation.cross_validation import _write_manifests, combine_evaluations, name_folds
from brainscale.evaluation.cross_validation_result import CrossValidation, Spread
from brainscale.evaluation.fold_data import assign_splits_of_folds, divide_into_folds, splits_of_fold
from brainscale.schema import PUBLISHED
from brainscale.stats.estimate import estimates_of
from brainscale.stats.folds import measure_folds
from brainscale.stats.metric_names import PUBLISHED_NOTE
from brainscale.stats.metrics import measure
from brainscale.storage.workspace import Workspace
from tests.support.pages import random_samples
from tests.support.samples import CLASSES, labelled, two_columns
from tests.support.tables import evaluation, manifest, predictions


def test_predictions_have_the_threshold_of_their_model_and_repeats_count_once(tmp_path: Path) -> None:
    """Two repeats of two folds, with four thresholds; the second repeat knows no more patients than the first."""
    draw = np.random.default_rng(0)
    labels, thresholds = np.arange(80) % 2, (0.2, 0.4, 0.6, 0.8)
    scores = 1 / (1 + np.exp(-draw.normal(size=80) - 1.5 * (labels - 0.5)))
    table, folders, correct = manifest(labels), [], []
    for i, threshold in enumerate(thresholds):
        tested = np.arange(80) % 4 // 2 == i % 2
        folder = tmp_path / f"{i}" / "evaluation" / "test"
        evaluation(folder, table, predictions(table.filter(tested), scores[tested]), threshold)
        correct.append((scores[tested] >= threshold) == labels[tested])
        folders.append(folder)
    combined = estimates_of(combine_evaluations(folders, CLASSES))
    assert combined["accuracy"].n == 160
    assert combined["accuracy"].value == pytest.approx(np.concatenate(correct).mean())
    first = [np.arange(80) % 4 // 2 == i for i in range(2)]
    once = estimates_of(measure_folds(labelled(labels, two_columns(scores)), first[1].astype(int)))["auroc"]
    for end in ("value", "low", "high"):
        assert getattr(combined["auroc"], end) == pytest.approx(getattr(once, end), abs=2e-3), end
    assert combined["auroc"].method == "within folds, DeLong by group"


def test_each_fold_is_the_test_split_of_one_model_and_a_share_of_the_rest_its_validation_split() -> None:
    assigned = assign_folds(manifest(np.arange(200) % 2), folds=5, seed=0)
    folds = np.array(assigned["fold"].to_pylist())
    for number in range(5):
        table = splits_of_fold(assigned, number, val=0.15, seed=number)
        splits = np.array(table["split"].to_pylist())
        assert ((splits == "test") == (folds == number)).all()
        for label in CLASSES:
            of_label = splits[np.array(table["label"].to_pylist()) == label].tolist()
            assert [of_label.count(name) for name in ("train", "val", "test")] == [68, 12, 20]
        validation = set(folds[splits == "val"].tolist())
        assert validation == set(range(5)) - {number}
    again = splits_of_fold(assigned.take(np.arange(200)[::-1]), 0, val=0.15, seed=0).sort_by("sample_id")
    assert again == splits_of_fold(assigned, 0, val=0.15, seed=0)


def test_two_folds_are_enough_and_too_few_groups_are_named() -> None:
    table = splits_of_fold(assign_folds(manifest(np.arange(40) % 2), folds=2, seed=0), 1, val=0.2, seed=0)
    assert Counter(table["split"].to_pylist()) == {"train": 16, "val": 4, "test": 20}
    few = assign_folds(manifest([0, 0, 0, 0, 1, 1]), folds=2, seed=0)
    with pytest.raises(
        ManifestError, match=r"with fold 1 as the test split, 1 group\(s\) .* are too few for 2 splits: add"
    ):
        splits_of_fold(few, 0, val=0.5, seed=0)


def test_samples_without_a_fold_are_in_no_split() -> None:
    assigned = assign_folds(manifest([*np.arange(40) % 2, None, None]), folds=4, seed=0)
    assert splits_of_fold(assigned, 0, val=0.2, seed=0)["split"].to_pylist()[40:] == [None, None]


CONFIG = parse_config({"split": {"val": 0.2}})


def models_of(table: pa.Table, folder: Path, repeats: int = 1) -> dict[str, pa.Table]:
    """The manifests that a cross-validation with three folds writes before it trains."""
    folded = divide_into_folds(table, CONFIG, 3, None, repeats, lambda text: None)
    every_fold = name_folds(Workspace(folder), folded, repeats, None)
    for fold in every_fold:
        fold.copy.parent.mkdir(exist_ok=True)
    _write_manifests(Workspace(folder), every_fold, folded)
    return {fold.name_of_run: read_manifest(fold.manifest) for fold in every_fold}


def test_folds_of_the_manifest_are_kept_in_the_first_repeat(tmp_path: Path) -> None:
    table = assign_folds(manifest(np.arange(60) % 2), folds=3, seed=9)
    models = models_of(table, tmp_path, repeats=2)
    for number in range(3):
        tested = pc.equal(models[f"repeat-1/fold-{number + 1}"]["split"], "test").to_pylist()
        assert tested == pc.equal(table["fold"], number).to_pylist()
    assert models["repeat-2/fold-1"]["fold"] != table["fold"]
    with pytest.raises(ManifestError, match="has 3 folds, not 4"):
        assign_splits_of_folds(table, CONFIG, 4, 1)


def test_a_folder_with_other_splits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """As an earlier version left it, where the next fold was the validation split."""
    table = manifest(np.arange(60) % 2)
    models = models_of(table, tmp_path)
    assert models_of(table, tmp_path) == models  # resumed
    model = models["repeat-1/fold-2"]
    earlier = pc.if_else(
        pc.equal(model["split"], "test"), "test", pc.if_else(pc.equal(model["fold"], 2), "val", "train")
    )
    write_manifest(replace_column(model, "split", earlier), tmp_path / "repeat-1" / "fold-2.parquet")
    (tmp_path / "folds-1.parquet").unlink()
    with pytest.raises(OutputError, match=r"other samples or splits \(repeat-1/fold-2.parquet\): choose a new --out"):
        models_of(table, tmp_path)
    assert not (tmp_path / "folds-1.parquet").exists()


def test_a_cross_validation_as_json_and_as_text() -> None:
    values = [0.5, None, 0.75]
    result = CrossValidation(
        path="folds",
        models=["repeat-1/fold-1"],
        folds=3,
        repeats=1,
        by_fold=dict.fromkeys(PUBLISHED, values),
        metrics=measure(random_samples()),
        config_sha256="a",
        manifest_sha256="b",
    )
    facts = result.to_json()
    keys = ["models", "figures", "spread", "combined", "folds", "repeats", "folds_by", "fold_names"]
    assert list(facts) == [*keys, "config_sha256", "manifest_sha256"]
    assert (facts["folds_by"], facts["fold_names"]) == (None, [])
    assert facts["spread"]["auroc"] == {"mean": 0.625, "deviation": pytest.approx(0.125 * 2**0.5)}
    assert facts["combined"]["accuracy"]["n"] == 160
    assert Spread.of([None, 0.5]) == Spread(mean=0.5, deviation=None)
    heading, accuracy, *_ = result.to_text().splitlines()
    assert " ".join(result.to_text().split()).endswith(PUBLISHED_NOTE)
    assert heading.split() == ["Metric", "Mean", "Deviation", "All", "folds", "95", "%", "interval"]
    assert accuracy.split()[:3] == ["Accuracy", "0.6250", "0.1768"]


def test_folds_of_a_column_are_tested_by_the_model_of_their_number(tmp_path: Path) -> None:
    table = manifest(np.arange(60) % 2).append_column("site", pa.array(["DU", "CS", "FG"] * 20))
    folded = divide_into_folds(table, CONFIG, None, "site", 1, lambda text: None)
    titles = [fold.title for fold in name_folds(Workspace(tmp_path), folded, 1, "site")]
    assert (folded.folds, folded.fold_names) == (3, ["CS", "DU", "FG"])
    for number, (name, model) in enumerate(zip(folded.fold_names, folded.models, strict=True), 1):
        assert set(model.filter(pc.equal(model["split"], "test"))["site"].to_pylist()) == {name}
        assert {"train", "val"} <= set(model["split"].to_pylist())
        assert titles[number - 1] == f"repeat 1 of 1, fold {number} of 3 (site {name})"


def test_metrics_of_each_fold_of_a_column_are_printed() -> None:
    result = CrossValidation(
        path="folds",
        models=["repeat-1/fold-1", "repeat-1/fold-2"],
        folds=2,
        repeats=1,
        by_fold={name: [0.5, None] for name in PUBLISHED},
        metrics=measure(random_samples()),
        config_sha256="a",
        manifest_sha256="b",
        folds_by="site",
        fold_names=["CS", "DU"],
    )
    lines = [line.split() for line in result.to_text().splitlines()]
    assert ["Tested", "on", "site", "AUROC", "Sensitivity", "Specificity"] in lines
    assert ["CS", "0.5000", "0.5000", "0.5000"] in lines
    assert ["DU", "–", "–", "–"] in lines


def test_folds_are_drawn_or_values_of_a_column() -> None:
    for folds, column in ((None, None), (3, "site")):
        with pytest.raises(UsageError, match="folds are either drawn .* or values of a column"):
            require_folds(folds, column, 1)
    with pytest.raises(UsageError, match="--folds-by site has the same folds in each repeat: remove --repeats"):
        require_folds(None, "site", 2)
