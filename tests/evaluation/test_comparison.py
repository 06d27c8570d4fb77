"""Comparison of evaluations that exist; no Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from brainscale.dataset import header_control
from brainscale.errors import BundleError
from brainscale.evaluation import comparison
from brainscale.schema import COMPARISON, METRICS, PAIRS, PUBLISHED
from brainscale.stats.delong import delong, delong_pair
from brainscale.stats.resampling import group_codes
from brainscale.storage.local import write_success
from brainscale.storage.tables import write_table
from tests.support.samples import CLASSES, estimates
from tests.support.tables import evaluation, manifest, predictions


def test_an_evaluation_of_an_older_version_is_refused(tmp_path: Path) -> None:
    facts = dict.fromkeys(comparison.FACTS, "1")
    for name, lacking in (("new", None), ("old", "flops")):
        (tmp_path / name).mkdir()
        metadata = {key: value for key, value in facts.items() if key != lacking}
        table = pa.Table.from_pylist([], schema=METRICS).replace_schema_metadata(metadata)
        write_table(table, tmp_path / name / "metrics.parquet", "metrics")
        write_success(tmp_path / name, {})
    with pytest.raises(BundleError, match=r"old lacks flops: an older version .* evaluate that model again"):
        comparison.compare_runs([str(tmp_path / "old")])
    with pytest.raises(BundleError, match="new lacks its manifest: an older version"):
        comparison.compare_runs([str(tmp_path / "new"), str(tmp_path / "old")])


def models(tmp_path: Path, n: int = 240) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Two evaluations of the first half of a manifest whose headers tell the label, but not always; two in a group."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) // 2 % 2
    sizes = 1000 + 400 * labels + draw.integers(0, 900, n // 2).repeat(2)
    table = manifest(labels, nbytes=sizes.tolist(), group=[f"g{i // 2:03d}" for i in range(n)])
    half, scores = table.slice(0, n // 2), {}
    for name, strength in (("good", 4.0), ("poor", 0.0)):
        scores[name] = 1 / (1 + np.exp(-draw.normal(size=n // 2) - strength * (labels[: n // 2] - 0.5)))
        evaluation(tmp_path / name, table, predictions(half, scores[name]))
    return table, scores


def test_the_control_is_evaluated_on_the_models_samples_and_tested_against_them(tmp_path: Path) -> None:
    table, scores = models(tmp_path)
    compared = comparison.compare_runs([str(tmp_path / "good"), str(tmp_path / "poor")])
    assert compared.table.schema == COMPARISON
    assert compared.pairs is not None
    assert compared.pairs.schema == PAIRS
    assert compared.same
    control = compared.table.to_pylist()[-1]
    assert (control["model"], control["n"], control["parameters"]) == (comparison.CONTROL, 120, None)
    votes = header_control.predict_from_headers(table, {name: i for i, name in enumerate(CLASSES)})
    labels, vote = votes.labels[:120], votes.probabilities[:120]
    codes = group_codes(table["group"].to_pylist()[:120])
    assert control["auroc"] == pytest.approx(delong(vote[:, 1], labels, codes)[0])
    assert 0.6 < control["auroc"] < 0.95
    expected = estimates(labels, vote, groups=codes)
    for name in PUBLISHED:
        own = control[name], control[f"{name}_low"]
        assert own == pytest.approx((expected[name].value, expected[name].low)), name
    rows = {(r["a"].rsplit("/")[-1], r["b"].rsplit("/")[-1]): r for r in compared.pairs.to_pylist()}
    assert list(rows) == [("good", "poor"), ("good", comparison.CONTROL), ("poor", comparison.CONTROL)]
    by_hand = delong_pair(scores["good"], vote[:, 1], labels, codes)  # by group, which only the manifest knows
    good = rows["good", comparison.CONTROL]
    assert (good["difference"], good["p"]) == pytest.approx((by_hand.difference, by_hand.p), rel=1e-5)
    assert good["p_holm"] < 0.05
    assert rows["poor", comparison.CONTROL]["difference"] < 0


def test_without_enough_groups_there_is_no_control(tmp_path: Path) -> None:
    table = manifest(np.arange(12) % 2, group=[f"g{i % 4}" for i in range(12)])
    evaluation(tmp_path / "one", table, predictions(table, np.linspace(0.1, 0.9, 12)))
    compared = comparison.compare_runs([str(tmp_path / "one")])
    assert (len(compared.table), compared.pairs) == (1, None)
    assert header_control.estimate_header_control(table, CLASSES[0]).reason == (
        "a class has only 2 group(s): the header-only control needs 10 of each class"
    )


def test_the_interval_of_the_control_takes_groups_into_account() -> None:
    """Each sample four times, in one group: the area's interval is that of a quarter as many."""
    draw = np.random.default_rng(1)
    labels, sizes = np.arange(120) % 2, draw.integers(0, 1000, 120) + 300 * (np.arange(120) % 2)
    once = manifest(labels, nbytes=sizes.tolist())
    copied = manifest(labels.repeat(4), nbytes=sizes.repeat(4).tolist(), group=[f"g{i // 4:03d}" for i in range(480)])
    one, four = (header_control.estimate_header_control(table, CLASSES[0]) for table in (once, copied))
    assert four.n == 480
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.25)
