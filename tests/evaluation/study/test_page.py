"""The table of results and the page that is made from it alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from brainscale.errors import OutputError
from brainscale.evaluation.study.files import StudyFile, read_study
from brainscale.evaluation.study.measures import measure_studies
from brainscale.evaluation.study.page import render_page
from brainscale.evaluation.study.page_tables import signed_cell
from brainscale.evaluation.study.pieces import Piece
from brainscale.evaluation.study.predictions import average, read_piece, read_row
from brainscale.evaluation.study.results import write_page, write_results
from brainscale.evaluation.study.results_table import Results
from brainscale.evaluation.study.runs import StudyPlan
from brainscale.evaluation.study.subsets import ALL, MATCHED, SIZES, WITHOUT_DOUBTFUL, Control
from brainscale.schema import RESULTS
from brainscale.stats.paired_tests import holm
from brainscale.stats.repeated_folds import METRICS, estimate_repeated
from brainscale.storage.tables import read_table
from tests.support.studies import FOLDS, complete, indexed, plan, study

DOCS = Path(__file__).parents[3] / "docs"
ONE = {"brainmrnet": {"title": "BrainMRNet"}}


def whole(folder: Path, part: dict[str, Any] | None = None, **options: Any) -> StudyPlan:
    """A study of which every piece is complete."""
    file = study(folder, {"table": {**FOLDS, "reference": "brainmrnet", **(part or {})}})
    made = plan(file, folder / "out", indexed(**options))
    for row in made.rows:
        for piece in row.pieces:
            if piece.identity not in made.done():
                complete(piece, made.out, shift=2.0 if piece.row == "brainmrnet" else 1.0)
    return made


def results(made: StudyPlan) -> Results:
    return Results(measure_studies(made), made.files[0])


def page(table: pa.Table, file: StudyFile) -> str:
    command = "brainscale results small"
    return render_page(
        table, [file], table_file="results.parquet", models_file="models.parquet", images="images", command=command
    )


def test_a_row_has_the_metrics_of_its_predictions(tmp_path: Path) -> None:
    made = whole(tmp_path)
    found = results(made)
    row = made.rows[0]
    predictions = read_row(row, made.rows, made.done()).together()
    assert predictions is not None
    for name, estimate in estimate_repeated(predictions).items():
        line = found.metric("table", "brainmrnet", "", name)
        assert line is not None
        assert (line["value"], line["low"], line["high"]) == (estimate.value, estimate.low, estimate.high)
        assert (line["n"], line["groups"], line["models"]) == (80, 20, 2)
    facts = {name: found.number("table", "brainmrnet", "", name) for name in ("models", "models_planned", "parameters")}
    assert facts == {"models": 2, "models_planned": 2, "parameters": 1000}
    hashes = found.fact("table", "brainmrnet", "", "models")
    assert hashes is not None
    assert hashes["config_sha256"] == row.pieces[0].config.fingerprint
    assert hashes["seeds"] == [42, 42]
    assert len(set(hashes["weights_sha256"])) == 2


def test_models_that_a_page_loses_are_said(tmp_path: Path) -> None:
    made, said = whole(tmp_path), list[str]()
    page_file = str(tmp_path / "page.md")
    write_results(made, page_file, "brainscale results small", on_notice=said.append)
    assert not [text for text in said if "not complete" in text]
    elsewhere = plan(made.files[0], tmp_path / "elsewhere", indexed())
    complete(elsewhere.rows[0].pieces[0], elsewhere.out)
    complete(elsewhere.rows[0].pieces[1], elsewhere.out)
    write_results(elsewhere, page_file, "brainscale results small", on_notice=said.append)
    lost = [text for text in said if "models of the page that was there are not complete in" in text]
    assert [text.partition(":")[0] for text in lost] == ["small/table/paper", "small/table/both"]


def test_an_average_of_which_a_fold_lacks_a_member_is_not_measured(tmp_path: Path) -> None:
    made = plan(study(tmp_path), tmp_path / "out", indexed())
    for piece in (*made.rows[0].pieces, made.rows[1].pieces[0]):
        complete(piece, made.out)
    both = read_row(made.rows[2], made.rows, made.done())
    assert list(both.models) == [(1, 1, 0)]
    assert len(both.planned) == 2
    assert not both.complete_repetitions().models


def test_an_average_is_that_of_the_probabilities_of_the_same_sample(tmp_path: Path) -> None:
    made = whole(tmp_path)
    one, paper, both = (read_row(row, made.rows, made.done()) for row in made.rows)
    assert both.models.keys() == one.models.keys()
    for key, model in both.models.items():
        mean = (one.models[key].scores + paper.models[key].scores) / 2
        assert model.scores == pytest.approx(mean)
        assert model.sample_ids.tolist() == one.models[key].sample_ids.tolist()
        assert model.threshold == 0.5
    assert average([one.models[1, 1, 0]]).scores.tolist() == one.models[1, 1, 0].scores.tolist()


def test_a_configuration_that_two_studies_share_counts_once(tmp_path: Path) -> None:
    made = whole(tmp_path)
    files = {"table_file": "results.parquet", "models_file": "models.parquet", "images": "images", "command": "results"}
    text = render_page(measure_studies(made), [made.files[0], made.files[0]], **files)
    assert "**Selection.** 2 configurations are behind" in text


def test_an_average_of_seeds_has_all_seeds_of_a_fold_and_stands_beside_each(tmp_path: Path) -> None:
    rows = {"brainmrnet": {"seeds": 3}, "paper": {}, "all": {"average": ["brainmrnet", "paper"], "average_seeds": True}}
    made = whole(tmp_path, {"rows": rows})
    one, paper, together = (read_row(row, made.rows, made.done()) for row in made.rows)
    assert together.models.keys() == together.planned == one.planned
    for fold in range(2):
        of_seeds = np.mean([one.models[seed, 1, fold].scores for seed in (1, 2, 3)], 0)
        for seed in (1, 2, 3):
            mean = (of_seeds + paper.models[1, 1, fold].scores) / 2
            assert together.models[seed, 1, fold].scores == pytest.approx(mean)
    last = made.rows[0].pieces[-1]
    missing = {identity: folder for identity, folder in made.done().items() if identity != last.identity}
    assert read_row(made.rows[2], made.rows, missing).models.keys() == {(seed, 1, 0) for seed in (1, 2, 3)}
    found = results(made)
    own, other = (found.metric("table", row, "", "auroc") for row in ("all", "brainmrnet"))
    difference = found.difference("table", "all", "", "auroc", "brainmrnet")
    assert own is not None
    assert other is not None
    assert difference is not None
    assert difference["value"] == pytest.approx(own["value"] - other["value"])


def test_differences_are_adjusted_over_the_rows_of_a_part(tmp_path: Path) -> None:
    made = whole(tmp_path)
    found = results(made)
    for metric in METRICS:
        lines = [found.difference("table", row, "", metric, "brainmrnet") for row in ("paper", "both")]
        assert [line["p_holm"] for line in lines if line] == holm([line["p"] for line in lines if line])
        own, other = (found.metric("table", row, "", metric) for row in ("paper", "brainmrnet"))
        assert lines[0] is not None
        assert own is not None
        assert other is not None
        assert lines[0]["value"] == pytest.approx(own["value"] - other["value"])
    assert found.difference("table", "brainmrnet", "", "auroc", "brainmrnet") is None


def test_figures_without_doubtful_labels_stand_beside_those_of_all(tmp_path: Path) -> None:
    made = whole(tmp_path, doubtful=["0000.png", "0007.png"])
    found = results(made)
    line = found.metric("table", "paper", "", "accuracy", WITHOUT_DOUBTFUL)
    assert line is not None
    assert line["n"] == 78
    assert found.has_subset("table", ALL)
    text = page(measure_studies(made), made.files[0])
    assert "Without the samples whose label is doubtful" in text


def test_a_repetition_without_all_its_folds_does_not_count(tmp_path: Path) -> None:
    file = study(tmp_path, {"table": {**FOLDS, "repeats": 2, "rows": ONE}})
    made = plan(file, tmp_path / "out")
    one, two, three, four = made.rows[0].pieces
    complete(one, made.out)
    assert not read_row(made.rows[0], made.rows, made.done()).complete_repetitions().models
    assert "No row of this part is complete; it has 4 models." in page(measure_studies(made), file)
    complete(two, made.out)
    complete(three, made.out)
    kept = read_row(made.rows[0], made.rows, made.done()).complete_repetitions()
    assert kept.models.keys() == {(1, 1, 0), (1, 1, 1)}
    text = page(measure_studies(made), file)
    assert "Not complete, of 4 models: BrainMRNet (2 of 4 missing)." in text
    complete(four, made.out)
    assert "Not complete" not in page(measure_studies(made), file)


def test_pairs_are_compared_with_what_the_columns_alone_predict(tmp_path: Path) -> None:
    """The position tells the classes apart here, on all samples but not in pairs; the model sees the tumour."""
    file = study(tmp_path, {"table": {**FOLDS, "rows": ONE, "match": ["position"], "size": "pixels"}})
    data = indexed()
    tumour = np.array(data.manifest["label"].to_pylist()) == "tumour"
    position = np.random.default_rng(0).integers(0, 10, 80) + 3 * tumour
    sizes = np.where(tumour, np.arange(80), 0)
    table = data.manifest.append_column("position", [position]).append_column("pixels", [sizes])
    made = plan(file, tmp_path / "out", replace(data, manifest=table))
    for piece in made.rows[0].pieces:
        complete(piece, made.out, shift=4)
    found = results(made)
    everywhere, in_pairs = (found.control("table", "brainmrnet", "", "position", subset) for subset in (ALL, MATCHED))
    assert everywhere is not None
    assert in_pairs is not None
    assert everywhere["value"] > 0.6
    assert abs(in_pairs["value"] - 0.5) < abs(everywhere["value"] - 0.5)
    difference = found.difference("table", "brainmrnet", "", "auroc", "position", MATCHED)
    own = found.metric("table", "brainmrnet", "", "auroc", MATCHED)
    assert difference is not None
    assert own is not None
    assert difference["value"] == pytest.approx(own["value"] - in_pairs["value"])
    assert difference["low"] > 0
    counts = [found.metric("table", "brainmrnet", "", "sensitivity", size) for size in SIZES]
    assert [line["n"] - 40 for line in counts if line] == [14, 13, 13]
    text = page(measure_studies(made), file)
    assert "Beside what position alone predicts." in text
    assert "Sensitivity by size of the tumour" in text
    control = Control.of(table, ["position"], "no_tumour")
    model = read_row(made.rows[0], made.rows, made.done()).models[1, 1, 0]
    paired = control.pair(model)
    assert paired.has_tumour.sum() * 2 == len(paired.scores) > 0


def test_a_part_without_a_figure_says_so(tmp_path: Path) -> None:
    parts = {"table": {**FOLDS, "rows": ONE}, "other": {**FOLDS, "title": "Elsewhere", "data": "others", "rows": ONE}}
    file = study(tmp_path, parts)
    text = page(measure_studies(plan(file, tmp_path / "out")), file)
    assert "### Elsewhere\n\nNothing of this part has been computed yet." in text
    assert "0 of 2 models are complete" in text
    assert "No row of this part is complete; it has 2 models." in text
    empty = page(pa.Table.from_pylist([], schema=RESULTS), file)
    assert empty.count("Nothing of this part has been computed yet.") == 2


def test_a_leak_part_has_three_columns_and_what_each_leak_is_worth(tmp_path: Path) -> None:
    made = whole(tmp_path, {"kind": "leak", "splits": 2, "rows": ONE, "reference": None})
    found = results(made)
    printed, leak_free = (found.metric("table", "brainmrnet", name, "auroc") for name in ("as_printed", "leak_free"))
    worth = found.difference("table", "brainmrnet", "as_printed", "auroc", "leak_free")
    assert printed is not None
    assert leak_free is not None
    assert worth is not None
    assert worth["value"] == pytest.approx(printed["value"] - leak_free["value"])
    copies = found.number("table", "brainmrnet", "as_printed", "tested_with_copy_in_training")
    assert copies is not None
    assert copies > 0 == found.number("table", "brainmrnet", "leak_free", "tested_with_copy_in_training")
    text = page(measure_studies(made), made.files[0])
    assert "| Row | Metric | As printed | Honest choice | Leak-free | Printed − leak-free |" in text
    assert signed_cell(worth) in text


def test_a_learning_curve_and_an_external_part_have_their_rows(tmp_path: Path) -> None:
    made = whole(tmp_path, {"kind": "learning_curve", "shares": [0.5, 1.0], "rows": ONE, "reference": None})
    text = page(measure_studies(made), made.files[0])
    assert "| BrainMRNet, 50 % of the training data |" in text
    found = results(made)
    half, all_of_it = (found.number("table", "brainmrnet", share, "training_samples") for share in ("0.5", "1"))
    assert half is not None
    assert all_of_it is not None
    assert half < all_of_it
    part = {**FOLDS, "kind": "external", "test_data": "others", "rows": ONE}
    other = plan(study(tmp_path, {"outside": part}), tmp_path / "more", indexed(), indexed("others", 40))
    (piece,) = other.rows[0].pieces
    complete(piece, other.out)
    line = results(other).metric("outside", "brainmrnet", "", "auroc")
    assert line is not None
    assert line["n"] == 40


def test_the_page_follows_from_its_table_alone(tmp_path: Path) -> None:
    """The page that was written and the one that is made again of the stored table are equal, plots too."""
    made = whole(tmp_path, {"repeats": 2}, doubtful=["0000.png"])
    _, page_file, table_file = write_results(made, str(tmp_path / "docs" / "results.md"), "brainscale results small")
    written = page_file.read_bytes()
    plots = {path.name: path.read_bytes() for path in (tmp_path / "docs" / "images" / "results").iterdir()}
    assert list(plots) == ["small-table.svg"]
    again = tmp_path / "again" / "results.md"
    again.parent.mkdir()
    write_page(read_table(table_file, "results"), made.files, again, "brainscale results small")
    assert again.read_bytes() == written
    assert (again.parent / "images" / "results" / "small-table.svg").read_bytes() == plots["small-table.svg"]
    text = written.decode()
    assert "| BrainMRNet, published | 0.880 | 0.917 | – |" in text
    index = pq.read_table(tmp_path / "docs" / "results" / "scans.parquet")
    assert {"small_table_fold_1", "small_table_fold_2", "doubtful", "group"} <= set(index.column_names)
    assert index["doubtful"].to_pylist().count(True) == 1


def test_a_figure_that_was_changed_in_the_table_changes_the_page(tmp_path: Path) -> None:
    made = whole(tmp_path)
    table = measure_studies(made)
    values = np.array(table["value"].to_pylist(), float)
    rows = pc.and_(pc.equal(table["metric"], "accuracy"), pc.equal(table["measure"], "metric")).to_pylist()
    values[np.array(rows)] += 0.01
    changed = table.set_column(table.schema.get_field_index("value"), table.schema.field("value"), pa.array(values))
    assert page(changed, made.files[0]) != page(table, made.files[0])


def test_the_page_of_the_documentation_is_what_its_table_says(tmp_path: Path) -> None:
    """docs/results.md and its plots, made again from docs/results.parquet and the studies that it names."""
    table = read_table(DOCS / "results.parquet", "results")
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    command = text.split("Made by `")[1].split("`")[0]
    names = [
        name
        for name in command.split()
        if name in {path.stem for path in (DOCS.parent / "configs" / "results").iterdir()}
    ]
    write_page(table, [read_study(name) for name in names], tmp_path / "results.md", command)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text, "run `make results` again"
    for path in (tmp_path / "images" / "results").glob("*.svg"):
        assert f"images/results/{path.name}" in text
        assert (DOCS / "images" / "results" / path.name).is_file()


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    made = whole(tmp_path)
    piece: Piece = made.rows[0].pieces[0]
    folder = made.out / piece.folder
    (folder / "evaluation" / "predictions.parquet").unlink()
    with pytest.raises(OutputError, match="remove the folder, and run the same command again"):
        read_piece(piece, folder)
