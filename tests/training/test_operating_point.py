"""What validation decides, from predictions that are there already; no Ray."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from brainscale.config.sections import OperatingConfig
from brainscale.stats.decisions import apply_temperature, predicted_classes
from brainscale.training import operating_point
from tests.support.tables import CLASSES, manifest, predictions


@pytest.mark.parametrize("seed", range(20))
def test_a_target_reached_on_validation_is_reached_by_the_scores_that_are_written(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest score is a tumour's, and the threshold: in other digits than the engine's it might be missed."""
    draw = np.random.default_rng(seed)
    labels, scores = np.r_[1, np.arange(39) % 2], np.r_[0.01, draw.uniform(0.02, 1, 39)]
    rows = manifest(labels, split=["val"] * 40)
    bundle: Any = SimpleNamespace(info=SimpleNamespace(classes=dict.fromkeys(CLASSES)))

    def predict(asked: pa.Table, *_: object) -> pa.Table:
        assert asked.equals(rows)
        return predictions(asked, scores)

    monkeypatch.setattr(operating_point, "predict_rows", predict)
    others = manifest(labels, split=["test"] * 40, sample_id=[f"x{i:02d}" for i in range(40)])
    config = OperatingConfig(threshold="sensitivity", target=1.0, temperature=True)
    point = operating_point.choose_operating_point(config, bundle, pa.concat_tables([rows, others]))
    assert point.threshold_source.startswith(
        "highest threshold with the best bound on 20 validation samples with a tumour"
    )
    assert point.temperature_source == "lowest log loss on 40 validation samples"
    written = np.array(predict(rows)["probabilities"].to_pylist(), np.float32)
    called = predicted_classes(apply_temperature(written, point.temperature), point.threshold)
    assert called[labels == 1].all()


def test_what_is_fixed_says_so() -> None:
    assert operating_point.is_fixed(OperatingConfig())
    assert operating_point.fixed_operating_point(OperatingConfig()).temperature_source == "none"
