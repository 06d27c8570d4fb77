"""Samples of an evaluation: splits, data leakage, what is excluded; no Ray."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.dataset.manifest import read_manifest
from brainscale.dataset.phantoms import draw_phantom
from brainscale.errors import ManifestError
from brainscale.evaluation.evaluated_model import EvaluatedModel
from brainscale.evaluation.gallery import certainty
from brainscale.evaluation.leakage import find_leaked, unseen_contents
from brainscale.evaluation.outputs import write_outputs
from brainscale.evaluation.preparation import choose_rows, data_name, with_splits_of_run
from brainscale.evaluation.report.page import SampleFlow
from brainscale.evaluation.results import Evaluation
from brainscale.evaluation.sample_flow import count_flow
from brainscale.schema import MANIFEST
from brainscale.stats.metrics import measure
from brainscale.training.run_folder import RunFolder, run_of
from tests.support.copies import recognisable
from tests.support.pages import random_samples
from tests.support.samples import CLASSES, labelled
from tests.support.tables import digest, manifest, predictions

SPLIT = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
RUN = manifest(np.arange(12) % 2, split=SPLIT)


def evaluation() -> Evaluation:
    return Evaluation(
        model="brainmrnet",
        run="first",
        data=None,
        split="test",
        samples=160,
        unit="slice",
        aggregation=None,
        units=150,
        labelled_samples=150,
        unlabelled_samples=10,
        errors=0,
        shared_with_training=None,
        looks=1,
        looks_note=None,
        degenerate=None,
        prevalence=None,
        images_per_second=20.0,
        parameters=1000,
        model_edited=False,
        weights_sha256="a" * 64,
        samples_sha256="b" * 64,
        manifest_sha256="c" * 64,
        evaluation_sha256="d" * 64,
        path="/runs/first/evaluation/test",
        metrics=measure(random_samples()).replace_schema_metadata({"classes": json.dumps(CLASSES)}),
        predictions=predictions(RUN, np.linspace(0, 1, 12)),
    )


def test_a_source_has_the_splits_of_the_run_where_it_is_the_runs_own() -> None:
    bare = manifest(np.arange(12) % 2)
    assert with_splits_of_run(bare, RUN, None)["split"].to_pylist() == SPLIT


def test_each_slice_of_a_volume_has_its_own_split() -> None:
    """Empty slices are in none, and share the bytes of the others."""
    columns = {"sha256": [digest("volume")] * 3, "frame": [0, 1, 2]}
    run = manifest([1, 1, 1], split=["test", "test", None], **columns)
    assert with_splits_of_run(manifest([1, 1, 1], **columns), run, None)["split"].to_pylist() == ["test", "test", None]


def test_an_external_set_is_not_evaluated_on_the_test_images_it_shares() -> None:
    """One of its files is in the run's test split: all are evaluated, unless that split is asked for."""
    external = manifest([0, 1, 0, 1], sha256=[digest(8), *(digest(f"new {i}") for i in range(3))])
    split, rows = choose_rows(with_splits_of_run(external, RUN, None), None)
    assert (split, len(rows)) == ("all", 4)
    _, rows = choose_rows(with_splits_of_run(external, RUN, "test"), "test")
    assert rows["sample_id"].to_pylist() == ["0000.png"]


def test_a_split_that_does_not_exist_is_refused_with_the_others() -> None:
    with pytest.raises(ManifestError, match="no split named 'tset' in the manifest: choose train, val, test or all"):
        choose_rows(RUN, "tset")
    with pytest.raises(ManifestError, match="no split named 'test' in the manifest: choose all"):
        choose_rows(manifest([0, 1]), "test")


def test_an_evaluation_of_all_splits_counts_for_the_test_split() -> None:
    def unseen(split: str) -> list[str]:
        return unseen_contents(choose_rows(RUN, split)[1])

    assert unseen("test") == unseen("all") == [digest(i) for i in range(8, 12)]
    assert unseen("train") == unseen("val") == []
    assert len(unseen_contents(manifest([0, 1, 0]))) == 3  # external data


def test_leaked_samples_are_found_in_any_split(tmp_path: Path) -> None:
    """By bytes, by picture and by patient; also in an external set that has splits of its own."""
    image, other = (draw_phantom(0, index, tumour=False, size=96) for index in range(2))
    first, copy, stranger = recognisable(image), recognisable(image[3:, :-4]), recognisable(other)
    own = manifest(
        np.arange(12) % 2,
        split=SPLIT,
        patient=["p"] * 2 + [None] * 10,
        **{name: [value] + [None] * 11 for name, value in first.items()},
    )
    pq.write_table(own, tmp_path / "manifest.parquet")
    external = manifest(
        [0, 1, 0, 1, 0],
        sha256=[digest(6), *(digest(f"new {i}") for i in range(4))],
        **{name: [None, copy[name], stranger[name], None, None] for name in first},
        patient=[None, None, None, "p", "q"],
        split=["train", "train", "train", "val", "test"],
    )
    leaked = find_leaked(external, RunFolder(tmp_path))
    assert leaked is not None
    ties = [(row["sample_id"], row["kind"], row["similarity"] is not None) for row in leaked.to_pylist()]
    assert ties == [("0000.png", "exact", False), ("0001.png", "near", True), ("0003.png", "patient", False)]
    of_test = find_leaked(choose_rows(own, "test")[1], RunFolder(tmp_path))
    assert of_test is not None
    assert len(of_test) == 0
    of_all = find_leaked(own, RunFolder(tmp_path / "no run"), str(tmp_path / "manifest.parquet"))
    assert of_all is not None
    assert len(of_all) == 8  # what trained the model, and what selected it
    assert find_leaked(external, RunFolder(tmp_path / "no run")) is None


def test_a_run_is_known_by_its_models_folder_too(tmp_path: Path) -> None:
    """Else an evaluation of that folder would not be counted."""
    bundle: Any = SimpleNamespace(folder=tmp_path / "run" / "model")
    bundle.folder.mkdir(parents=True)
    assert run_of(bundle) is None
    for name in ("config.yaml", "manifest.parquet"):
        (tmp_path / "run" / name).touch()
    assert run_of(bundle) == RunFolder(tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "name"),
    [("/a/b.parquet", "b.parquet"), ("s3://c/site 1/?region=x&endpoint_override=y", "site 1"), (None, None)],
)
def test_data_has_the_last_part_of_its_path_for_a_name(data: str | None, name: str | None) -> None:
    assert data_name(data) == name


def flow(table: pa.Table, split: str) -> SampleFlow:
    _, rows = choose_rows(table, split)
    return count_flow(table, rows, predictions(rows, np.linspace(0, 1, len(rows))))


@pytest.mark.parametrize("split", ["test", "all"])
def test_excluded_samples_add_up(split: str) -> None:
    """Splits, errors, empty slices, samples without split or label: each sample once, and for one reason."""
    table = manifest(
        [*(np.arange(12) % 2).tolist(), 1, None, 0, 1, None],
        split=[*SPLIT, "test", "test", None, None, None],
        error_code=[None] * 12 + ["corrupt", None, None, "corrupt", None],
        empty=[None] * 14 + [True, None, None],
    )
    counts = flow(table, split)
    used, given = counts.steps["samples used"], counts.steps["samples in the files"]
    assert sum(counts.excluded.values()) + used == given == 17
    expected = {
        "test": {"train split": 6, "val split": 2, "empty slice": 1, "corrupt": 2, "no split": 1, "no label": 1},
        "all": {"corrupt": 2, "no label": 2},
    }
    assert counts.excluded == expected[split]


def test_where_nothing_could_be_read_nothing_is_written(tmp_path: Path) -> None:
    table = manifest([0, 1, 1], error_code=["corrupt"] * 3)
    bundle: Any = SimpleNamespace(info=None)
    predicted = predictions(table, np.zeros(3))
    evaluated = EvaluatedModel(bundle=bundle, run=None, manifest=table, rows=table, predictions=predicted)
    with pytest.raises(ManifestError, match="no labelled sample could be read: `brainscale index` says why"):
        write_outputs(tmp_path, evaluated, evaluation())
    assert not list(tmp_path.iterdir())


def test_metrics_say_how_many_labelled_samples_they_rest_on() -> None:
    table = manifest([0, 1, None, None, 1, None], error_code=[None] * 4 + ["corrupt"] * 2)
    predicted = predictions(table, np.linspace(0, 1, 6))
    bundle: Any = SimpleNamespace(info=None)
    evaluated = EvaluatedModel(bundle=bundle, run=None, manifest=table, rows=table, predictions=predicted)
    assert (len(evaluated.labelled), evaluated.unlabelled) == (2, 2)


def test_columns_of_ones_own_stay(tmp_path: Path) -> None:
    """A site or a scanner, for `evaluate --by`."""
    table = RUN.append_column("site", pa.array(["A", "B"] * 6))
    pq.write_table(table, tmp_path / "m.parquet")
    read = read_manifest(tmp_path / "m.parquet")
    assert read.column_names == [*MANIFEST.names, "site"]
    assert read["site"].to_pylist() == ["A", "B"] * 6


def test_certainty_is_the_distance_to_another_prediction() -> None:
    """A meningioma with a high probability of a glioma is a confident error."""
    probabilities = np.array([[0.01, 0.98, 0.01], [0.0, 0.51, 0.49], [0.4, 0.3, 0.3]])
    samples = labelled([2, 1, 0], probabilities, ("none", "glioma", "meningioma"))
    assert certainty(samples) == pytest.approx([0.49, 0.02, 0.0])
    assert certainty(labelled([0], [[0.8, 0.1, 0.1]], "abc")) == pytest.approx([0.3])
    assert certainty(labelled([0, 1], [[0.9, 0.1], [0.3, 0.7]], threshold=0.4)) == pytest.approx([0.3, 0.3])


def test_an_evaluation_as_json() -> None:
    facts = evaluation().to_json()
    assert list(facts)[:5] == ["model", "run", "data", "split", "samples"]
    assert list(facts)[-5:] == ["confusion", "metrics", "intervals", "matched", "out"]
    assert facts["matched"] is None
    assert facts["confusion"] == {
        "no_tumour": {"no_tumour": 3, "tumour": 3},
        "tumour": {"no_tumour": 3, "tumour": 3},
    }
    low, high = facts["intervals"]["auroc"]
    assert low < facts["metrics"]["auroc"] < high
    assert facts["out"] == "/runs/first/evaluation/test"
