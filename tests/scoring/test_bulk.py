"""Rows of predictions, without Ray."""

import numpy as np
import pyarrow as pa

from brainscale.reading.sample import COLUMNS
from brainscale.schema import PREDICTIONS
from brainscale.scoring.predictions import make_predictions


def block(errors: list[str | None]) -> pa.Table:
    rows = [
        dict.fromkeys(COLUMNS.names) | {"sample_id": f"{i}", "uri": f"/{i}", "error_code": e, "error": e}
        for i, e in enumerate(errors)
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def test_each_probability_stays_beside_its_sample() -> None:
    present = np.array([True, False, True, True])
    known = np.array([[0.9, 0.1], [np.nan, np.nan], [0.5, 0.5]], np.float32)
    table = make_predictions(block([None, "corrupt", None, None]), present, known, 0.5, ["no", "yes"], "w")
    assert table.schema.names == PREDICTIONS.names
    assert table.select(PREDICTIONS.names).schema == PREDICTIONS
    assert table["prediction"].to_pylist() == ["no", None, None, "yes"]
    assert table["error_code"].to_pylist() == [None, "corrupt", "not_finite", None]
    assert table["probability"].to_pylist()[1:] == [None, None, 0.5]
    assert table["probabilities"].to_pylist()[3] == [0.5, 0.5]
    assert set(table["model"].to_pylist()) == {"w"}


def test_the_threshold_decides_tumour_or_none_of_three_classes_too() -> None:
    known = np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]], np.float32)
    table = make_predictions(block([None, None]), np.ones(2, bool), known, 0.5, ["none", "a", "b"], "w")
    assert table["prediction"].to_pylist() == ["a", "b"]
    strict = make_predictions(block([None, None]), np.ones(2, bool), known, 0.7, ["none", "a", "b"], "w")
    assert strict["prediction"].to_pylist() == ["none", "b"]
    assert np.allclose(table["probability"].to_pylist(), [0.6, 0.8])


def test_nothing_but_errors() -> None:
    known = np.empty((0, 2), np.float32)
    table = make_predictions(block(["corrupt"]), np.zeros(1, bool), known, 0.5, ["no", "yes"], "w")
    assert table["error_code"].to_pylist() == ["corrupt"]
    assert table["probability"].to_pylist() == [None]
