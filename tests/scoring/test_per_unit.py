"""Scans from slices, without Ray."""

import numpy as np
import pyarrow as pa
import pytest

from brainscale.schema import PREDICTIONS, SCANS
from brainscale.scoring.per_scan import COLUMNS, summarise_scans


def rows(*given: tuple[str, str | None, float | None, bool, str | None]) -> pa.Table:
    """(sample id, series, probability, empty, error) → predictions."""
    facts = [
        {
            "sample_id": name,
            "scan": scan,
            "frame": int(name.partition("#")[2]) if "#" in name else None,
            "empty": empty,
            "probability": probability,
            "prediction": None if probability is None else ("tumour" if probability >= 0.5 else "no_tumour"),
            "error_code": error,
            "model": "w",
        }
        for name, scan, probability, empty, error in given
    ]
    return pa.Table.from_pylist(facts, schema=pa.schema([PREDICTIONS.field(name) for name in COLUMNS]))


def test_series_volumes_and_single_files() -> None:
    table = summarise_scans(
        rows(
            ("a/1.dcm", "s", 0.125, False, None),
            ("b/2.dcm", "s", 0.75, False, None),
            ("b/3.dcm", "s", 0.5, False, None),
            ("b/4.dcm", "s", 0.25, False, None),
            ("b/5.dcm", "s", 1.0, True, None),
            ("v.nii#0", None, 0.25, False, None),
            ("v.nii#1", None, None, False, "corrupt"),
            ("z.zip!one.png", None, 0.375, False, None),
            ("torn.dcm", None, None, False, "truncated"),
        )
    )
    assert table.schema == SCANS
    assert table.to_pylist() == [
        scan("s", 4, 1, 0, 0.75, 1.625 / 4, 0.5, "tumour", "b/2.dcm"),
        scan("z.zip!one.png", 1, 0, 0, 0.375, 0.375, 0.375, "no_tumour", "z.zip!one.png"),
        scan("v.nii", 1, 0, 1, 0.25, 0.25, 0.25, "no_tumour", "v.nii#0"),
        scan("torn.dcm", 0, 0, 1, None, None, None, None, "torn.dcm"),
    ]


def scan(
    name: str,
    slices: int,
    empty: int,
    errors: int,
    highest: float | None,
    mean: float | None,
    top_mean: float | None,
    prediction: str | None,
    sample_id: str,
) -> dict[str, object]:
    values = (name, "w", slices, empty, errors, highest, mean, top_mean, prediction, sample_id)
    return dict(zip(SCANS.names, values, strict=True))


def test_no_rows_are_no_scans() -> None:
    assert summarise_scans(rows()).num_rows == 0


def test_any_slices_add_up() -> None:
    rng = np.random.default_rng(0)
    given = [
        (f"v{rng.integers(9)}.nii#{i}", None, float(np.float32(rng.random())), bool(rng.random() < 0.2), None)
        for i in range(500)
    ]
    for row in summarise_scans(rows(*given)).to_pylist():
        mine = [g for g in given if g[0].startswith(f"{row['scan']}#")]
        used = sorted((g[2] for g in mine if not g[3]), reverse=True)
        assert (row["slices"], row["empty"]) == (len(used), len(mine) - len(used))
        assert row["highest"] == used[0]
        assert row["mean"] == pytest.approx(np.mean(used))
        assert row["top_mean"] == pytest.approx(np.mean(used[:3]))
