"""The report says whether its heatmaps show what the model goes by."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from brainscale.evaluation.heatmap_quality import MEASURED, choose_samples, measure_faithfulness
from brainscale.evaluation.report.cases import CaseRow
from brainscale.models.bundle import Bundle
from brainscale.models.faithfulness import Faithfulness, FaithfulnessSummary
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.schema import MANIFEST, PREDICTIONS
from brainscale.stats.estimate import Estimate
from tests.support import pages
from tests.support.bundles import make_bundle, network_with_statistics


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    return make_bundle(folder, network_with_statistics("brainmrnet"), "brainmrnet")


def predictions(labels: dict[str, tuple[str, str]]) -> pa.Table:
    """Sample id → label and prediction."""
    facts = [{"sample_id": name, "label": label, "prediction": p} for name, (label, p) in labels.items()]
    return pa.Table.from_pylist([dict.fromkeys(PREDICTIONS.names) | fact for fact in facts], schema=PREDICTIONS)


def test_true_positives_are_chosen_one_of_each_group_first(bundle: Bundle) -> None:
    hit, wrong, negative = ("tumour", "tumour"), ("no_tumour", "tumour"), ("no_tumour", "no_tumour")
    hits = {f"{group}{i}": group for group in "abcdefgh" for i in range(5)}
    table = predictions(
        dict.fromkeys(hits, hit) | {"wrong": wrong, "none": negative, "missed": ("tumour", "no_tumour")}
    )
    groups = dict(hits) | dict.fromkeys(("wrong", "none", "missed"))
    manifest = pa.table({"sample_id": list(groups), "group": list(groups.values())})
    chosen = choose_samples(bundle, table, manifest)
    assert len(chosen) == MEASURED
    assert {hits[name] for name in chosen[:8]} == set("abcdefgh")
    assert list(choose_samples(bundle, table.take(list(range(len(table)))[::-1]), manifest)) == list(chosen)


def test_the_samples_of_an_evaluation_are_measured(bundle: Bundle, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(generator.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"{i}.png")
    samples = list(read_samples(tmp_path, ReadRequest(preprocess=bundle.info.preprocess)))
    facts = [{"sample_id": s.sample_id, "uri": s.uri, "group": f"g{s.sample_id}"} for s in samples]
    manifest = pa.Table.from_pylist([dict.fromkeys(MANIFEST.names) | fact for fact in facts], schema=MANIFEST)
    hits = predictions({s.sample_id: ("tumour", "tumour") for s in samples})
    summary = measure_faithfulness(bundle, manifest, hits)
    assert summary is not None
    assert (summary.method, summary.gain.n) == ("integrated gradients", 3)
    assert summary.gain.value == pytest.approx(summary.own.faithfulness - summary.random.faithfulness)
    assert measure_faithfulness(bundle, manifest, hits) == summary
    none = predictions({s.sample_id: ("no_tumour", "tumour") for s in samples})
    assert measure_faithfulness(bundle, manifest, none) is None


def summary(low: float | None) -> FaithfulnessSummary:
    return FaithfulnessSummary(
        method="occlusion",
        own=Faithfulness(deletion=0.21, insertion=0.83),
        random=Faithfulness(deletion=0.52, insertion=0.57),
        gain=Estimate(value=0.57, low=low, high=None if low is None else 0.7, n=9, method="t interval by group"),
    )


@pytest.mark.parametrize(
    ("low", "said", "unsaid"),
    [
        (0.4, "More so than random maps.", "do not rely"),
        (-0.1, "do not rely on these heatmaps", "More so"),
        (None, "do not rely on these heatmaps", "More so"),
    ],
)
def test_the_report_says_how_far_heatmaps_can_be_believed(
    tmp_path: Path, low: float | None, said: str, unsaid: str
) -> None:
    text = pages.write_page(
        tmp_path, pages.minimal_page(cases=[CaseRow(title="Missed", about="1 sample.")], faithfulness=summary(low))
    )
    assert said in text
    assert unsaid not in text
    for figure in ("0.83", "0.21", "0.57", "9 samples", "occlusion"):
        assert figure in text


def test_a_report_without_the_measure_has_no_such_section(tmp_path: Path) -> None:
    assert "Do the heatmaps show" not in pages.write_page(tmp_path, pages.minimal_page())
