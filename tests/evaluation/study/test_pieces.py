"""How the data of each kind of part is divided, and which pieces are one model."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from brainscale.dataset.groups import find_split_violations
from brainscale.errors import ManifestError, UsageError
from brainscale.evaluation.fold_data import assign_splits_of_folds
from brainscale.evaluation.study.arguments import check_studies
from brainscale.evaluation.study.data_sets import released_index
from brainscale.evaluation.study.divisions import CONDITIONS, TEST_SHARE
from brainscale.evaluation.study.measures import measure_studies
from brainscale.evaluation.study.pieces import Piece, RowPlan
from brainscale.evaluation.study.runs import choose_pieces
from brainscale.hashing import file_sha256
from brainscale.models.shipped import shipped_folders
from tests.support.studies import FOLDS, complete, indexed, plan, study

ONE = {"brainmrnet": {}}


def rows_of(folder: Path, part: dict[str, Any], *data: Any) -> list[RowPlan]:
    return list(plan(study(folder, {"part": {**FOLDS, "rows": ONE, **part}}), folder, *data).rows)


def ids(piece: Piece, split: str) -> list[str]:
    rows = piece.manifest.filter(pc.equal(piece.manifest["split"], split))
    return [str(name) for name in rows["sample_id"].to_pylist()]


def groups(piece: Piece, split: str) -> set[str]:
    return set(piece.manifest.filter(pc.equal(piece.manifest["split"], split))["group"].to_pylist())


def test_folds_are_those_of_a_cross_validation_with_the_same_configuration(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"repeats": 2, "seeds": 2})
    assert [(p.seed, p.repeat, p.fold) for p in row.pieces] == [
        (seed, repeat, fold) for repeat in (1, 2) for seed in (1, 2) for fold in (0, 1)
    ]
    for piece in row.pieces:
        _, models = assign_splits_of_folds(indexed().manifest, piece.config, 2, piece.repeat)
        assert piece.manifest["split"] == models[piece.fold]["split"]
        assert piece.config.train.seed == 42 + piece.seed - 1
    assert len({piece.identity for piece in row.pieces}) == len({piece.folder for piece in row.pieces}) == 8


def test_folds_by_a_column_leave_each_of_its_values_out_once(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"fold_by": "site"})
    for piece, site in zip(row.pieces, "AB", strict=True):
        sites = dict(zip(piece.manifest["sample_id"].to_pylist(), piece.manifest["site"].to_pylist(), strict=True))
        assert Counter(sites[name] for name in ids(piece, "test")) == {site: 40}
        assert site not in {sites[name] for split in ("train", "val") for name in ids(piece, split)}
    with pytest.raises(ManifestError, match="no column scanner"):
        rows_of(tmp_path, {"fold_by": "scanner"})
    with pytest.raises(ManifestError, match="has several values of label"):
        rows_of(tmp_path, {"fold_by": "label"})


def test_the_protocols_of_a_leak_part_differ_in_their_splits_only(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"kind": "leak", "splits": 3})
    assert [row.condition for row in rows] == list(CONDITIONS)
    for number in range(3):
        printed, honest, leak_free = (row.pieces[number] for row in rows)
        assert ids(printed, "val") == ids(honest, "test")
        assert len(ids(leak_free, "test")) == TEST_SHARE * 80 == len(ids(honest, "test"))
        assert (printed.tested, honest.tested, leak_free.tested) == ("val", "test", "test")
        assert not ids(printed, "test")
        assert groups(honest, "test") & groups(honest, "train")
        for split in ("val", "test"):
            assert not groups(leak_free, split) & groups(leak_free, "train")
        assert not [v for v in find_split_violations(leak_free.manifest, None) if v.column == "split"]
    assert ids(rows[0].pieces[0], "val") != ids(rows[0].pieces[1], "val")


def test_shares_of_a_learning_curve_are_nested_and_tested_on_the_same_samples(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"kind": "learning_curve", "shares": [0.25, 0.5, 1.0]})
    few, half, whole = (row.pieces[0] for row in rows)
    assert set(ids(few, "train")) < set(ids(half, "train")) < set(ids(whole, "train"))
    assert ids(few, "test") == ids(half, "test") == ids(whole, "test")
    assert [piece.config.train.epochs for piece in (few, half, whole)] == [4, 2, 1]
    (folds,) = rows_of(tmp_path, {})
    assert whole.identity == folds.pieces[0].identity  # so the whole set is not trained on twice


def test_an_external_part_trains_on_one_set_and_tests_on_all_of_the_other(tmp_path: Path) -> None:
    other = indexed("others", 40)
    (row,) = rows_of(tmp_path, {"kind": "external", "test_data": "others", "seeds": 2}, indexed(), other)
    for piece in row.pieces:
        assert Counter(piece.manifest["split"].to_pylist()).keys() == {"train", "val"}
        assert piece.test_manifest is other.manifest
        assert piece.tested == "all"
    changed = indexed("others", 44)
    (again,) = rows_of(tmp_path, {"kind": "external", "test_data": "others", "seeds": 2}, indexed(), changed)
    assert {p.identity for p in row.pieces}.isdisjoint(p.identity for p in again.pieces)


def test_pieces_are_chosen_repetition_by_repetition_and_each_model_once(tmp_path: Path) -> None:
    rows = {"brainmrnet": {"repeats": 2}, "same": {}, "paper": {"set": ["model.name=brainmrnet_paper"]}}
    whole = plan(study(tmp_path, {"one": {**FOLDS, "rows": rows}, "two": {**FOLDS, "rows": ONE}}), tmp_path)
    chosen = [(piece.part, piece.row, piece.repeat, piece.fold) for piece in choose_pieces(whole, (), ())]
    assert chosen == [
        *[("one", row, 1, fold) for row in ("brainmrnet", "paper") for fold in (0, 1)],
        *[("one", "brainmrnet", 2, fold) for fold in (0, 1)],
    ]
    assert {piece.row for piece in choose_pieces(whole, ("one",), ("paper",))} == {"paper"}
    out = str(tmp_path / "out")
    with pytest.raises(UsageError, match="--part three: choose from one, two"):
        check_studies(whole.files, (), out, ("three",), ())
    with pytest.raises(UsageError, match="--row nobody: choose from brainmrnet, paper, same"):
        check_studies(whole.files, (), out, (), ("nobody",))


def test_a_released_index_has_no_path_no_picture_and_no_patient(tmp_path: Path) -> None:
    data = indexed(doubtful=["0003.png"])
    folds = {"fold_1": data.manifest.select(["sample_id"]).append_column("fold", [[i % 5 for i in range(80)]])}
    index = released_index(data, folds, hide_ids=False)
    assert not {"uri", "signature", "patient", "scan", "site"} & set(index.column_names)
    assert index.filter(index["doubtful"])["sample_id"].to_pylist() == ["0003.png"]
    assert index["fold_1"].to_pylist() == [i % 5 for i in range(80)]
    hidden = released_index(data, folds, hide_ids=True)
    assert hidden["sample_id"].to_pylist() == [digest[:16] for digest in index["sha256"].to_pylist()]


def test_a_table_of_given_predictions_lies_beside_the_study_and_nothing_is_learned(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("sha256,no_tumour,tumour\n")
    rows = {"theirs": {"baseline": "given_predictions", "set": ["model.weights=theirs.csv"]}, "ours": {}}
    whole = plan(study(tmp_path, {"table": {**FOLDS, "rows": rows}}), tmp_path / "out")
    theirs, ours = (row.pieces[0] for row in whole.rows)
    assert (theirs.config.model.weights, theirs.missing_weights) == (str(tmp_path / "theirs.csv"), None)
    assert theirs.weights_sha256 == file_sha256(tmp_path / "theirs.csv")
    named = {"weights": {"theirs": {"title": "Theirs"}}}
    later = study(
        tmp_path,
        {"table": {**FOLDS, "rows": {"theirs": {**rows["theirs"], "set": ["model.weights=$theirs"]}}}},
        **named,
    )
    assert plan(later, tmp_path / "out").rows[0].pieces[0].missing_weights == "theirs"
    for piece in (theirs, ours):
        complete(piece, whole.out)
    facts = {(row["row"], row["metric"]) for row in measure_studies(whole).to_pylist() if row["measure"] == "fact"}
    learned = {"training_samples", "minutes_of_a_model", "tested_with_copy_in_training"}
    assert {metric for row, metric in facts if row == "ours"} >= learned
    assert not {metric for row, metric in facts if row == "theirs"} & learned


def test_weights_that_come_with_brainscale_need_no_place(tmp_path: Path) -> None:
    sections = {"weights": {"first": {"title": "Phantoms", "shipped": "phantoms"}}}
    rows = {"rows": {"one": {"set": ["model.weights=$first"]}}}
    file = study(tmp_path, {"table": {**FOLDS, **rows}}, **sections)
    piece = plan(file, tmp_path / "out").rows[0].pieces[0]
    shipped = json.loads((shipped_folders()["phantoms"] / "model.json").read_text())
    assert (piece.missing_weights, piece.weights_sha256) == (None, shipped["weights_sha256"])
    message = "weights.first.shipped: no model 'phantom' comes with brainscale: did you mean 'phantoms'"
    with pytest.raises(UsageError, match=message):
        study(tmp_path, {"table": FOLDS}, weights={"first": {"title": "Phantoms", "shipped": "phantom"}})
    with pytest.raises(UsageError, match="--data first=other.safetensors: these weights come with brainscale"):
        file.with_places({"first": "other.safetensors"})
    with pytest.raises(UsageError, match="remove one of the two"):
        study(tmp_path, {"table": FOLDS}, weights={"first": {"title": "P", "shipped": "phantoms", "sha256": "0" * 64}})
