"""A model that only goes by a confounder is no better than it on matched pairs; one that sees tumours is."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.errors import ManifestError, UsageError
from brainscale.evaluation import comparison
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.matched import (
    MatchedEvaluation,
    describe_matched,
    evaluate_matched,
    match_labelled,
    require_match,
)
from brainscale.models.bundle import Bundle
from brainscale.schema import COMPARISON, MATCHED, MATCHED_PAIRS
from brainscale.stats.labelled import LabelledProbabilities
from tests.support.evaluating import make_run, predict_without_ray
from tests.support.pages import minimal_page, write_page
from tests.support.runs import Invoke, succeed
from tests.support.samples import CLASSES, estimates, labelled
from tests.support.tables import evaluation, manifest, predictions

SITES = ("CS", "DU", "FG")


def confounded(patients: int = 60, slices: int = 10) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Patients of three sites with slices from bottom to top, tumours in the middle: manifest, has_tumour, position."""
    draw = np.random.default_rng(0)
    position = np.tile(np.linspace(0, 1, slices), patients) + draw.normal(0, 0.02, patients * slices)
    has_tumour = draw.random(patients * slices) < np.where(np.abs(position - 0.5) < 0.25, 0.7, 0.15)
    groups = np.repeat([f"p{i:03d}" for i in range(patients)], slices).tolist()
    table = manifest(has_tumour.astype(int), group=groups)
    sites = np.repeat([SITES[i % 3] for i in range(patients)], slices)
    table = table.append_column("position", pa.array(position)).append_column("site", pa.array(sites))
    return table, has_tumour, position


def score(evidence: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-evidence - np.random.default_rng(1).normal(0, 1, len(evidence))))


def match(table: pa.Table, scores: np.ndarray, *names: str) -> MatchedEvaluation:
    samples = LabelledProbabilities.from_predictions(predictions(table, scores), CLASSES, groups=table)
    return evaluate_matched(match_labelled(table, table["sample_id"], samples, names), samples)


def test_a_model_that_goes_by_position_is_no_better_than_position() -> None:
    table, _, position = confounded()
    matched = match(table, score(4 * (0.25 - np.abs(position - 0.5))), "position")
    assert matched.on_all.model.value > 0.6  # type: ignore[operator]
    assert matched.on_pairs.model.value == pytest.approx(0.5, abs=0.06)
    assert matched.on_pairs.control.value == pytest.approx(0.5, abs=0.03)
    assert matched.verdict == "On matched pairs the model is not shown to be better than position alone."


def test_a_model_that_sees_tumours_is_better_on_pairs() -> None:
    table, has_tumour, _ = confounded()
    scores = score(3 * (has_tumour - 0.5))
    matched = match(table, scores, "position", "site")
    assert matched.verdict.startswith(
        "On matched pairs the model is better than position and site alone, so it does not"
    )
    assert matched.on_all.control.value == pytest.approx(0.78, abs=0.08)
    assert matched.pairs + matched.pairs + matched.left_out == 600
    rows = matched.samples.pairs.rows
    groups = np.array(table["group"].to_pylist())[rows]
    by_hand = estimates(has_tumour[rows].astype(int), scores[rows].astype(np.float32), groups=groups)
    ours = {row["metric"]: row for row in matched.metrics.to_pylist()}
    for name in ("auroc", "sensitivity", "brier"):
        assert ours[name]["value"] == pytest.approx(by_hand[name].value, rel=1e-5)
        assert ours[name]["low"] == pytest.approx(by_hand[name].low, rel=1e-4)
    assert ours["brier"]["method"] == "bootstrap by group"
    counts = Counter(zip(table["site"].to_pylist(), has_tumour.tolist(), strict=True))
    assert [(s.name, s.with_tumour, s.without_tumour) for s in matched.strata] == [
        (site, counts[site, True], counts[site, False]) for site in SITES
    ]
    assert sum(stratum.pairs for stratum in matched.strata) == matched.pairs


def test_tables_of_pairs() -> None:
    table, has_tumour, _ = confounded()
    matched = match(table, score(3 * (has_tumour - 0.5)), "position")
    pairs, metrics = matched.pairs_table(), matched.table()
    assert (pairs.schema, metrics.schema) == (MATCHED_PAIRS, MATCHED)
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    for pair in pairs.to_pylist():
        one, other = rows[pair["with_tumour"]], rows[pair["without_tumour"]]
        assert (one["label"], other["label"]) == ("tumour", "no_tumour")
        assert (pair["value_with_tumour"], pair["value_without_tumour"]) == (one["position"], other["position"])
        assert pair["same_group"] == (one["group"] == other["group"])
        assert pair["stratum"] is None
    aurocs = [(r["predictions"], r["samples"], r["n"]) for r in metrics.to_pylist() if r["metric"] == "auroc"]
    assert aurocs == [
        *[(name, "matched", 2 * matched.pairs) for name in ("model", "position alone", "difference")],
        *[(name, "all", 600) for name in ("model", "position alone", "difference")],
    ]
    first, second = describe_matched(metrics).splitlines()
    assert first.startswith(f"On matched pairs, AUROC: model {matched.on_pairs.model.value:.4f} (")
    assert second.startswith("On all samples, AUROC: model ")


def test_of_a_part_the_column_learns_from_the_whole_manifest() -> None:
    table, has_tumour, _ = confounded()
    part = table.slice(0, 100)
    samples = LabelledProbabilities.from_predictions(
        predictions(part, score(has_tumour[:100] - 0.5)), CLASSES, groups=part
    )
    whole = match_labelled(table, part["sample_id"], samples, ["position"])
    assert len(whole.alone) == 100
    assert not np.allclose(whole.alone, match_labelled(part, part["sample_id"], samples, ["position"]).alone)


def test_several_kinds_of_tumours_are_matched_as_one() -> None:
    table, has_tumour, _ = confounded()
    classes = ("no_tumour", "glioma", "meningioma")
    labels = np.where(has_tumour, 1 + np.arange(600) % 2, 0)
    place = table.schema.get_field_index("label")
    table = table.set_column(place, "label", pa.array([classes[i] for i in labels]))
    tumour = score(3 * (has_tumour - 0.5))
    samples = labelled(labels, np.column_stack([1 - tumour, 0.6 * tumour, 0.4 * tumour]), classes)
    matched = evaluate_matched(match_labelled(table, table["sample_id"], samples, ["position"]), samples)
    assert matched.on_pairs.model.value > 0.8  # type: ignore[operator]
    assert set(matched.headline) == {"sensitivity", "specificity"}
    names = [row["metric"] for row in matched.table().to_pylist() if row["predictions"] == "difference"]
    assert names == ["tumour_auroc", "tumour_auroc"]


def test_where_nothing_agrees_there_is_no_figure_but_a_reason() -> None:
    table = manifest([0, 1] * 20).append_column("site", pa.array(["a", "b"] * 20))
    matched = match(table, np.linspace(0, 1, 40), "site")
    assert (matched.pairs, matched.left_out, matched.on_pairs.model.value) == (0, 40, None)
    assert matched.verdict == (
        "On matched pairs the difference from site alone has no interval: all samples have a tumour, or none has."
    )
    assert "AUROC: model – (no interval)" in describe_matched(matched.table())
    assert len(matched.pairs_table()) == 0


def test_what_cannot_be_matched_is_refused() -> None:
    table, _, _ = confounded(4)
    with pytest.raises(UsageError, match="--match pairs slices, not scans: remove --unit, or --match"):
        require_match(table, ["position"], "scan")
    with pytest.raises(UsageError, match="columns position and width both have numbers"):
        require_match(table, ["position", "site", "width"], "slice")
    with pytest.raises(ManifestError, match="the manifest has no column age: choose position, site, format"):
        match(table, np.linspace(0, 1, 40), "age")


def test_the_report_shows_the_pairs_beside_the_column(tmp_path: Path) -> None:
    table, has_tumour, _ = confounded()
    matched = match(table, score(3 * (has_tumour - 0.5)), "position", "site")
    text = write_page(tmp_path, minimal_page(matched=matched))
    assert "On pairs matched by position, site" in text
    assert "Position and site alone may tell the classes apart without any picture." in text
    assert f"{matched.pairs} pairs" in text
    assert "DU" in text
    assert "On pairs matched by" not in write_page(tmp_path, minimal_page())


def test_runs_are_compared_on_pairs(tmp_path: Path, invoke: Invoke) -> None:
    table, has_tumour, position = confounded()
    for name, evidence in (("good", 3 * (has_tumour - 0.5)), ("position", 4 * (0.25 - np.abs(position - 0.5)))):
        evaluation(tmp_path / name, table, predictions(table, score(evidence)))
    runs = [str(tmp_path / "good"), str(tmp_path / "position")]
    compared = comparison.compare_runs(runs, match=["position"])
    assert compared.table.schema == COMPARISON
    good, other, alone, *_ = compared.table.to_pylist()
    matched = match(table, score(3 * (has_tumour - 0.5)), "position")
    assert good["auroc"] == pytest.approx(matched.on_pairs.model.value)
    assert (alone["model"], alone["auroc"]) == ("position alone", pytest.approx(matched.on_pairs.control.value))
    assert {row["n"] for row in (good, other, alone)} == {2 * matched.pairs}
    assert set(compared.table["matched_on"].to_pylist()) == {"position"}
    assert compared.pairs is not None
    pairs = {(row["a"], row["b"]): row for row in compared.pairs.to_pylist()}
    assert pairs[runs[0], "position alone"]["low"] > 0 > pairs[runs[1], "position alone"]["low"]
    done = succeed(invoke("compare", *runs, "--match", "position"))
    assert "Only pairs of samples matched by position count." in done.output
    assert "position alone" in done.output
    refused = invoke("compare", *runs, "--match", "position", "--unit", "scan")
    assert (refused.exit_code, "--match pairs slices" in refused.output) == (2, True)


def test_evaluate_writes_pairs_and_reads_them_again(
    bundle: Bundle, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    monkeypatch.setattr("brainscale.evaluation.drawing.draw_plots", lambda *arguments, **options: [])
    monkeypatch.setattr("brainscale.evaluation.drawing._measure_faithfulness", lambda model: None)
    predict_without_ray(monkeypatch)
    run = make_run(tmp_path / "run", bundle, phantoms)
    table = pq.read_table(run / "manifest.parquet")
    position = np.random.default_rng(0).random(len(table))
    pq.write_table(table.append_column("position", pa.array(position)), run / "manifest.parquet")
    first = evaluate_model(str(run), split="all", match=["position"])
    assert first.matched is not None
    assert (first.matched_on, first.pairs is not None, first.caliper is not None) == ("position", True, True)
    assert len(pq.read_table(run / "evaluation/all/matched-pairs.parquet")) == first.pairs
    again = evaluate_model(str(run), split="all", match=["position"])
    assert again.to_json() == first.to_json()
    done = succeed(invoke("evaluate", run, "--split", "all", "--match", "position"))
    assert "On matched pairs, AUROC: model" in done.output
    assert "matched on" in done.output
    evaluate_model(str(run), split="all")
    assert not (run / "evaluation/all/matched.parquet").exists()
