"""Tables of scans and patients, without Ray."""

import pyarrow as pa

from brainscale.models.bundle import OperatingPoint
from brainscale.schema import PATIENTS, PREDICTIONS, SCANS
from brainscale.scoring.per_unit import tabulate_units
from brainscale.stats.units import UNIT_COLUMNS, Unit, UnitScores
from tests.support.scoring import made_up_bundle

ROWS = [
    ("a/1.dcm", "s", "p", 0.125, False, None),
    ("b/2.dcm", "s", "p", 0.75, False, None),
    ("b/3.dcm", "s", "p", 0.5, False, None),
    ("b/4.dcm", "s", "p", 0.25, False, None),
    ("b/5.dcm", "s", "p", 1.0, True, None),
    ("v.nii#0", None, "p", 0.25, False, None),
    ("v.nii#1", None, "p", None, False, "corrupt"),
    ("z.zip!one.png", None, None, 0.375, False, None),
    ("torn.dcm", None, None, None, False, "truncated"),
]


def scores(unit: Unit, rows: list[tuple[str, str | None, str | None, float | None, bool, str | None]]) -> UnitScores:
    facts = [
        {
            "sample_id": name,
            "scan": series,
            "patient": patient,
            "empty": empty,
            "probabilities": None if probability is None else [1 - probability, probability],
            "novelty": None if probability is None else 0.5 + probability / 2,
            "error_code": error,
        }
        for name, series, patient, probability, empty, error in rows
    ]
    schema = pa.schema([PREDICTIONS.field(name) for name in UNIT_COLUMNS])
    return UnitScores.from_predictions(pa.Table.from_pylist(facts, schema=schema), unit, 2)


def test_series_volumes_and_single_files_at_the_threshold_of_scans() -> None:
    info = made_up_bundle().info
    point = OperatingPoint(threshold=0.375, threshold_source="", aggregation="mean")
    info = info.model_copy(update={"operating_points": {**info.operating_points, "scan": point}})
    table = tabulate_units(scores("scan", ROWS), "scan", info)
    assert table.schema == SCANS
    columns = ("scan", "slices", "empty", "errors", "probability", "prediction", "sample_id")
    assert [tuple(row[name] for name in columns) for row in table.to_pylist()] == [
        ("s", 4, 1, 0, 1.625 / 4, "tumour", "b/2.dcm"),
        ("z.zip!one.png", 1, 0, 0, 0.375, "tumour", "z.zip!one.png"),
        ("v.nii", 1, 0, 1, 0.25, "no_tumour", "v.nii#0"),
        ("torn.dcm", 0, 0, 1, None, None, "torn.dcm"),
    ]
    first = table.to_pylist()[0]
    assert (first["maximum"], first["top_mean"], first["mean"]) == (0.75, 0.5, 1.625 / 4)
    assert (first["aggregation"], first["threshold"]) == ("mean", 0.375)
    assert table["novelty"].to_pylist() == [0.875, 0.6875, 0.625, None]  # the empty slice's, 1, does not count


def test_without_an_operating_point_nothing_is_predicted() -> None:
    table = tabulate_units(scores("patient", ROWS), "patient", made_up_bundle().info)
    assert table.schema == PATIENTS
    (row,) = table.to_pylist()
    assert (row["patient"], row["slices"], row["errors"]) == ("p", 5, 1)
    assert (row["aggregation"], row["threshold"], row["prediction"]) == ("top_mean", None, None)
    assert row["probability"] == row["top_mean"] == 0.5


def test_no_rows_are_no_scans() -> None:
    assert tabulate_units(scores("scan", []), "scan", made_up_bundle().info).num_rows == 0
