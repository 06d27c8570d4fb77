"""Study files: unknown names and impossible parts are refused in one line; those that come with brainscale load."""

from pathlib import Path
from typing import Any

import pytest

from brainscale.config.files import load_config, resource_folder
from brainscale.errors import UsageError
from brainscale.evaluation.study.data_sets import read_doubtful
from brainscale.evaluation.study.files import read_study
from brainscale.evaluation.study.sections import Study
from tests.support.studies import FOLDS, ROWS, study

NAMED = sorted((resource_folder("configs") / "results").glob("*.yaml"))


def test_every_study_that_comes_with_brainscale_loads_with_the_configuration_of_each_row() -> None:
    assert len(NAMED) >= 2
    for path in NAMED:
        file = read_study(path.stem)
        for name in file.study.data:
            assert all(reason for reason in read_doubtful(file, name).values())


def test_studies_are_not_taken_for_configurations() -> None:
    with pytest.raises(UsageError, match="no configuration 'lgg_flair'") as error:
        load_config("lgg_flair")
    assert "brain_mri_253" not in str(error.value)


def test_a_row_starts_from_the_recipe_and_changes_it(tmp_path: Path) -> None:
    rows = {"one": {}, "two": {"set": ["train.epochs=3"], "config": "published"}}
    file = study(tmp_path, {"table": {**FOLDS, "rows": rows, "set": ["train.epochs=2"]}})
    part = file.study.parts["table"]
    one, two = (file.config_of(part, part.rows[name]) for name in rows)
    assert (one.data.image_size, one.train.epochs, one.train.optimizer) == (64, 2, "adamw")
    assert (two.data.image_size, two.train.epochs, two.train.optimizer) == (64, 3, "adam")


def test_the_recipe_of_a_row_changes_what_its_part_says(tmp_path: Path) -> None:
    rows = {"one": {"recipe": "tiny", "set": ["train.epochs=5"]}, "two": {}}
    file = study(tmp_path, {"table": {**FOLDS, "rows": rows, "recipe": None, "set": ["data.image_size=96"]}})
    part = file.study.parts["table"]
    one, two = (file.config_of(part, part.rows[name]) for name in rows)
    assert (one.data.image_size, one.train.epochs) == (64, 5)
    assert two.data.image_size == 96


def test_a_named_configuration_is_the_recipe_of_the_table() -> None:
    file = read_study("brain_mri_253")
    part = file.study.parts["table"]
    assert file.config_of(part, part.rows["brainmrnet"]) == load_config("few_images")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "fold"}, "parts.table.kind"),
        ({"fold": 3}, "unknown key 'parts.table.fold': did you mean parts.table.folds"),
        ({"rows": {"a": {"sets": []}}}, "unknown key 'parts.table.rows.a.sets': did you mean parts.table.rows.a.set"),
        ({"rows": {"a": {"set": ["train.epoch=3"]}}}, "parts.table.rows.a: configuration: unknown key|unknown key"),
        ({"rows": {"a": {"average": ["b", "c"]}}}, "a names the row 'b': choose from a"),
        ({"rows": {**ROWS, "x": {"average": ["both", "paper"]}}}, "averages 'both', which is an average itself"),
        ({"rows": {"a": {"average": ["a"], "baseline": "hog_svm"}}}, "a baseline or an average, not both"),
        ({"rows": {"a": {"average_seeds": True}}}, "average_seeds needs average"),
        (
            {"rows": {"a": {"baseline": "hog_smv"}}},
            "'header_only', 'hog_svm', 'frozen_features' or 'given_predictions'",
        ),
        ({"rows": {"a/b": {}}}, "the row 'a/b' needs a name of letters"),
        ({"rows": {}}, "rows"),
        ({"reference": "missing"}, "reference names the row 'missing'"),
        ({"data": "nobody"}, "parts.table.data 'nobody' is not in the study: choose from scans, others"),
        ({"recipe": "tinny"}, "parts.table.recipe 'tinny' is not in the study: did you mean 'tiny'"),
        ({"rows": {"a": {"recipe": "tinny"}}}, "parts.table.rows.a.recipe 'tinny' is not in the study: did you mean"),
        ({"kind": "external"}, "test_data is the data set that an external part is tested on"),
        ({"kind": "learning_curve", "shares": [0.5, 2]}, "shares must lie above 0"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_in_one_line(part: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        study(tmp_path, {"table": {**FOLDS, **part}})
    assert "\n" not in str(error.value)


def test_a_study_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="no study 'brain_mri_25': did you mean 'brain_mri_253'"):
        read_study("brain_mri_25")


def test_the_budget_of_the_page_is_24_hours() -> None:
    hours = sum(read_study(path.stem).study.budget_hours for path in NAMED)
    assert hours <= 24
    assert isinstance(read_study(NAMED[0].stem).study, Study)
