"""A comparison as text and as Markdown."""

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from brainscale.evaluation.comparison_text import format_comparison, format_pairs
from brainscale.schema import COMPARISON, PAIRS, PUBLISHED, PUBLISHED_MULTICLASS
from brainscale.stats.metric_names import MULTICLASS_NOTE, PUBLISHED_NOTE

ROW = {
    "n": 38,
    "classes": 2,
    "unit": "slice",
    "samples_sha256": "a" * 64,
    "parameters": 1000,
    "flops": 2_000_000_000,
    "images_per_second": 1.5,
}
METRICS = {
    column: value
    for name in PUBLISHED
    for column, value in ((name, 0.75), (f"{name}_low", 0.5), (f"{name}_high", 0.875))
}
PAIR = {"n": 38, "only_a": 3, "only_b": 4, "mcnemar_p": 0.5, "mcnemar_p_holm": 1.0}


def test_runs_of_one_model_are_told_apart() -> None:
    runs = [("brainmrnet", "good"), ("brainmrnet", "poor"), ("resnet50", "good")]
    rows = [{"model": model, "run": run, **METRICS, **ROW} for model, run in runs]
    table = pa.Table.from_pylist(
        [*rows, {"model": "control", "run": "good", "classes": 2, "n": 38, "samples_sha256": "a" * 64}],
        schema=COMPARISON,
    )
    text = format_comparison(table)
    assert max(map(len, text.splitlines())) <= 80
    first_block, second_block, *_, note = text.split("\n\n")
    heading, _, first, intervals, *lines = first_block.splitlines()
    assert heading.split() == ["Model", "Accuracy", "AUROC", "Sensitivity", "Specificity"]
    assert first.split() == ["brainmrnet", "(good)", *["0.7500"] * 4]
    assert intervals.split() == ["(0.500–0.875)"] * 4
    assert [line.split("  ")[0] for line in lines[::2]] == ["brainmrnet (poor)", "resnet50", "control"]
    assert second_block.splitlines()[0].split() == [
        "Model",
        "Macro",
        "precision",
        "Macro",
        "recall",
        "Test",
        "samples",
        "Parameters",
    ]
    costs = text.split("\n\n")[2].splitlines()
    assert costs[2].split() == ["brainmrnet", "(good)", "2.0", "1.5"]
    assert " ".join(note.split()) == PUBLISHED_NOTE
    markdown = format_comparison(table, form="markdown").splitlines()
    assert markdown[0].startswith("| Model | Accuracy (95 % CI) | AUROC (95 % CI) |")
    assert markdown[2].startswith("| brainmrnet (good) | 0.7500 (0.500–0.875) |")
    assert markdown[-1] == PUBLISHED_NOTE
    assert markdown[-3] == f"| control |{' – |' * 6} 38 | – | – | – |"


def test_models_of_four_classes_have_their_own_names_and_footnote() -> None:
    values = dict.fromkeys(PUBLISHED_MULTICLASS, 0.75)
    row = {"model": "brainmrnet", "run": "four", **ROW, "classes": 4, **values}
    text = format_comparison(pa.Table.from_pylist([row], schema=COMPARISON))
    assert max(map(len, text.splitlines())) <= 80
    first_block = text.split("\n\n")[0].splitlines()
    assert first_block[0].split("  ")[-1].strip() == "Tumour sensitivity"
    assert "  AUROC" not in text
    assert "  Sensitivity" not in text
    assert " ".join(" ".join(text.split("\n\n")[-2:]).split()) == f"{PUBLISHED_NOTE} {MULTICLASS_NOTE}"
    both = [row, {"model": "resnet50", "run": "two", **METRICS, **ROW}]
    markdown = format_comparison(pa.Table.from_pylist(both, schema=COMPARISON), form="markdown").splitlines()
    assert " Sensitivity (95 % CI) |" in markdown[0]
    assert " Tumour sensitivity (95 % CI) |" in markdown[0]
    pair = pa.Table.from_pylist([{"a": "x", "b": "y"} | PAIR], schema=PAIRS)
    assert "| Tumour AUROC A − B |" in format_pairs(pair, classes=4, form="markdown")


def test_a_name_is_never_markup() -> None:
    tested = {"a": "runs/po|or*", "b": "runs/good", "difference": -0.25, "low": -0.5, "high": 0.0, "p_holm": 0.04}
    table = pa.Table.from_pylist([tested | PAIR, {"a": "x", "b": "y", "reason": "…"} | PAIR], schema=PAIRS)
    heading, rule, *rows = format_pairs(table, form="markdown").splitlines()
    assert heading.startswith("| A | B | AUROC A − B | 95 % interval | p (DeLong, Holm) | only A correct |")
    assert all(line.replace("\\|", "").count("|") == rule.count("|") for line in rows)
    assert "po\\|or\\*" in rows[0]
    plain = format_pairs(table)
    assert plain.splitlines()[2].split()[:6] == ["runs/po|or*", "runs/good", "-0.2500", "-0.5000", "to", "+0.0000"]
    names = {"a": "a/long/way/to/the/folder/of/runs/first", "b": "another/long/way/to/the/folder/of/runs/other"}
    long = format_pairs(pa.Table.from_pylist([tested | names | PAIR], schema=PAIRS))
    assert max(map(len, long.splitlines())) <= 80
    assert "…to/the/folder/of/runs/first" in long


@given(
    runs=st.lists(st.text(st.characters(codec="latin-1", exclude_categories=("C", "Z")), min_size=1, max_size=60),
                  min_size=2, max_size=4, unique=True),
    prefix=st.integers(0, 40),
    suffix=st.integers(0, 40),
    reason=st.none() | st.text("ab/ ", min_size=1, max_size=200),
)  # fmt: skip
def test_a_comparison_fits_a_terminal_whatever_the_names(
    runs: list[str], prefix: int, suffix: int, reason: str | None
) -> None:
    """No number is broken, no line is longer than 80, and no two models have one name."""
    runs = ["x" * prefix + run + "y" * suffix for run in runs]
    big = {"n": 1_000_000, "parameters": 1_234_567_890, "flops": 10**15, "images_per_second": 123_456.7}
    common = {**METRICS, **big, "samples_sha256": "a" * 64, "degenerate": reason, "not_comparable": reason}
    table = pa.Table.from_pylist([{"model": "brainmrnet", "run": run, **common} for run in runs], schema=COMPARISON)
    text = format_comparison(table)
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.7500", "(0.500–0.875)", "1,000,000", "1,234,567,890", "1000000.0", "123456.7"):
        assert text.count(number) >= len(runs), number
    block = next(block for block in text.split("\n\n") if block.startswith("Model"))
    names = [line[: line.index("  ")] for line in block.splitlines()[2::2]]
    assert len(set(names)) == len(runs)
    tested = {"difference": -0.25, "low": -0.5, "high": 0.0, "p_holm": 0.04, "not_comparable": reason}
    pairs = [{"a": a, "b": b} | tested | PAIR for a, b in itertools.pairwise(runs)]
    shown = format_pairs(pa.Table.from_pylist(pairs, schema=PAIRS))
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("-0.5000 to +0.0000") == len(pairs)


def test_a_comparison_of_scans_says_so() -> None:
    table = pa.Table.from_pylist([{"model": "m", "run": "r", **METRICS, **ROW, "unit": "scan"}], schema=COMPARISON)
    assert format_comparison(table).startswith("Metrics and numbers of samples are those of scans.\n")
