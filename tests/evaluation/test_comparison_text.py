"""A comparison as text and as Markdown."""

import pyarrow as pa

from brainscale.evaluation.comparison_text import format_comparison, format_pairs
from brainscale.schema import COMPARISON, PAIRS, PUBLISHED

ROW = {"n": 38, "parameters": 1000, "flops": 2_000_000_000, "images_per_second": 1.5}
METRICS = {
    column: value
    for name in PUBLISHED
    for column, value in ((name, 0.75), (f"{name}_low", 0.5), (f"{name}_high", 0.875))
}
PAIR = {"n": 38, "only_a": 3, "only_b": 4, "mcnemar_p": 0.5, "mcnemar_p_holm": 1.0}


def test_runs_of_one_model_are_told_apart() -> None:
    runs = [("brainmrnet", "good"), ("brainmrnet", "poor"), ("resnet50", "good")]
    rows = [{"model": model, "run": run, **METRICS, **ROW} for model, run in runs]
    table = pa.Table.from_pylist([*rows, {"model": "control", "run": "good", "n": 38}], schema=COMPARISON)
    heading, _, first, intervals, *lines = format_comparison(table).splitlines()
    assert heading.split()[:3] == ["Model", "Accuracy", "AUC"]
    assert first.split() == ["brainmrnet", "(good)", *["0.7500"] * 6, "38", "1,000", "2.0", "1.5"]
    assert intervals.split() == ["(0.500–0.875)"] * 6
    assert [line.split("  ")[0] for line in lines[::2]] == ["brainmrnet (poor)", "resnet50", "control"]
    markdown = format_comparison(table, markdown=True).splitlines()
    assert markdown[0].startswith("| Model | Accuracy (95 % CI) | AUC (95 % CI) |")
    assert markdown[2].startswith("| brainmrnet (good) | 0.7500 (0.500–0.875) |")
    assert markdown[-1] == f"| control |{' – |' * 6} 38 | – | – | – |"


def test_a_name_is_never_markup() -> None:
    tested = {"a": "runs/po|or*", "b": "runs/good", "difference": -0.25, "low": -0.5, "high": 0.0, "p_holm": 0.04}
    table = pa.Table.from_pylist([tested | PAIR, {"a": "x", "b": "y", "reason": "…"} | PAIR], schema=PAIRS)
    heading, rule, *rows = format_pairs(table, markdown=True).splitlines()
    assert heading.startswith("| A | B | AUC A − B | 95 % interval | p (DeLong, Holm) | only A correct |")
    assert all(line.replace("\\|", "").count("|") == rule.count("|") for line in rows)
    assert "po\\|or\\*" in rows[0]
    assert format_pairs(table).splitlines()[2].split()[:6] == [
        "runs/po|or*",
        "runs/good",
        "-0.2500",
        "-0.5000",
        "to",
        "+0.0000",
    ]
