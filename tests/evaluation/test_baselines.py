"""Baselines on phantoms, without Ray: what they read, what they must not read, and what they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from safetensors.torch import save_file

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import read_manifest
from brainscale.errors import ManifestError, OutputError, UsageError
from brainscale.evaluation.baselines import frozen_features
from brainscale.evaluation.baselines.runner import BASELINES, LEARNS_NOTHING, BaselineResult, run_baseline
from brainscale.evaluation.comparison import compare_runs
from brainscale.evaluation.cross_validation import combine_evaluations
from brainscale.evaluation.results import PREDICTIONS_FILE
from brainscale.evaluation.study.sections import Row
from brainscale.models.registry import build_network
from brainscale.schema import PREDICTIONS
from brainscale.stats.estimate import estimates_of
from brainscale.storage.tables import read_table

NAMES = [name for name in BASELINES if name not in LEARNS_NOTHING]


@pytest.fixture(autouse=True)
def small_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of small planes in place of four of 224 pixels."""
    monkeypatch.setattr(frozen_features, "SIDE", 64)
    monkeypatch.setattr(frozen_features, "FITS", ("squash", "head"))


@pytest.fixture(scope="module")
def manifest(phantoms: Path) -> pa.Table:
    return bs.split(bs.index(phantoms, config="brainmrnet"), val=0.2, test=0.3, seed=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_network("brainmrnet", 5, seed=1).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def configured(weights: Path, *settings: str) -> Config:
    return load_config("brainmrnet", [f"model.weights={weights}", *settings])


def run(name: str, manifest: pa.Table, config: Config, out: Path, cache: Path | None = None) -> BaselineResult:
    if name == "hog_svm":
        pytest.importorskip("skimage", reason="NOT TESTED: scikit-image is not installed")
    return run_baseline(name, manifest, config, out, cache=cache)


def relabelled(manifest: pa.Table, split: str) -> pa.Table:
    """The manifest with the labels of one split exchanged."""
    others = pc.if_else(pc.equal(manifest["label"], "tumour"), "no_tumour", "tumour")
    return replace_column(manifest, "label", pc.if_else(pc.equal(manifest["split"], split), others, manifest["label"]))


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_leaves_what_an_evaluation_does(
    name: str, manifest: pa.Table, weights: Path, cache: Path, tmp_path: Path
) -> None:
    result = run(name, manifest, configured(weights), tmp_path / "a", cache)
    test = manifest.filter(pc.equal(manifest["split"], "test"))
    table = read_table(tmp_path / "a" / PREDICTIONS_FILE, "predictions")
    assert table.schema.remove_metadata() == PREDICTIONS
    assert table.equals(result.predictions)
    assert table["sample_id"].to_pylist() == test["sample_id"].to_pylist()
    assert table["label"].to_pylist() == test["label"].to_pylist()
    sums = np.array(table["probabilities"].to_pylist()).sum(1)
    assert sums == pytest.approx(np.ones(len(test)), abs=1e-6)
    assert read_manifest(tmp_path / "a" / "manifest.parquet").equals(manifest)
    assert (result.learned_from, result.threshold, result.threshold_source) == (("train", "val"), 0.5, "fixed")

    combined = estimates_of(combine_evaluations([tmp_path / "a"], list(Config().data.classes)))
    assert combined["accuracy"].value == estimates_of(result.metrics)["accuracy"].value
    again = run(name, manifest, configured(weights), tmp_path / "b", cache)
    assert (tmp_path / "b" / PREDICTIONS_FILE).read_bytes() == (tmp_path / "a" / PREDICTIONS_FILE).read_bytes()
    assert again.metrics.equals(result.metrics)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_the_test_split_change_nothing(
    name: str, manifest: pa.Table, weights: Path, cache: Path, tmp_path: Path
) -> None:
    given = run(name, manifest, configured(weights), tmp_path / "given", cache)
    other = run(name, relabelled(manifest, "test"), configured(weights), tmp_path / "other", cache)
    assert other.predictions["probabilities"].equals(given.predictions["probabilities"])
    assert not other.predictions["label"].equals(given.predictions["label"])


def test_a_threshold_is_chosen_on_a_split_that_was_not_learned_from(
    manifest: pa.Table, weights: Path, cache: Path, tmp_path: Path
) -> None:
    config = configured(weights, "operating.threshold=youden", "operating.temperature=true")
    given = run("frozen_features", manifest, config, tmp_path / "given", cache)
    other = run("frozen_features", relabelled(manifest, "val"), config, tmp_path / "other", cache)
    assert given.learned_from == ("train",)
    assert "Youden" in given.threshold_source
    assert given.temperature != 1.0
    order = [np.argsort(run.predictions["probability"].to_numpy(), kind="stable").tolist() for run in (given, other)]
    assert order[0] == order[1]
    fixed = run("frozen_features", manifest, configured(weights), tmp_path / "fixed", cache)
    swapped = run("frozen_features", relabelled(manifest, "val"), configured(weights), tmp_path / "swapped", cache)
    assert not swapped.predictions["probability"].equals(fixed.predictions["probability"])  # it learned from val


def test_a_study_knows_every_baseline() -> None:
    assert {*get_args(get_args(Row.model_fields["baseline"].annotation)[0])} == {*BASELINES}


def write_given(path: Path, predictions: pa.Table, *columns: str) -> Path:
    """A table of given predictions, as another program writes it."""
    rows = zip(predictions["sha256"].to_pylist(), predictions["probabilities"].to_pylist(), strict=True)
    lines = [",".join(columns), *(f"{sha256},{no},{yes}" for sha256, (no, yes) in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


GIVEN = ("sha256", "no_tumour", "tumour")


def test_given_predictions_stand_as_they_are(manifest: pa.Table, weights: Path, tmp_path: Path) -> None:
    theirs = run_baseline("header_only", manifest, configured(weights), tmp_path / "theirs").predictions
    config = configured(write_given(tmp_path / "given.csv", theirs, *GIVEN))
    of_test = manifest.filter(pc.equal(manifest["split"], "test"))
    for name, samples in (("a", manifest), ("b", relabelled(manifest, "train")), ("c", of_test)):
        result = run_baseline("given_predictions", samples, config, tmp_path / name)
        assert result.predictions["probabilities"].equals(theirs["probabilities"])
        assert (result.learned_from, result.threshold) == ((), 0.5)


def test_a_table_of_given_predictions_may_come_from_a_spreadsheet(
    manifest: pa.Table, weights: Path, tmp_path: Path
) -> None:
    theirs = run_baseline("header_only", manifest, configured(weights), tmp_path / "theirs").predictions
    path = write_given(tmp_path / "given.csv", theirs, *GIVEN)
    header, *lines = path.read_text().splitlines()
    path.write_bytes("\ufeff".encode() + "\r\n".join([header, *map(str.upper, lines), lines[0]]).encode())
    result = run_baseline("given_predictions", manifest, configured(path), tmp_path / "a")
    assert result.predictions["probabilities"].equals(theirs["probabilities"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace("no_tumour", "no_tumor"), "the first line must name the column no_tumour"),
        (lambda text: "", "the first line must name the column sha256"),
        (
            lambda text: "".join(text.splitlines(keepends=True)[:-1]),
            "no row with the SHA-256 of '.*': add one for",
        ),
        *(
            (
                lambda text, end=end: text.rstrip().rpartition(",")[0] + end,
                "line .*: it needs a sha256, and no_tumour and",
            )
            for end in ("", ",", ",yes", ",nan", ",2.0", ",-1")
        ),
        (lambda text: text + text.splitlines()[-1][:64] + ",0.25,0.75\n", "line .*: an earlier line has other prob"),
        (lambda text: text + ",0.25,0.75\n", "line .*: it needs a sha256, and no_tumour and"),
        (lambda text: text.encode("utf-16"), "cannot be read as a CSV file"),
        (lambda text: text + "x" * 200_000, "cannot be read as a CSV file"),
    ],
)
def test_given_predictions_of_something_else_are_refused(
    manifest: pa.Table, weights: Path, tmp_path: Path, change: Callable[[str], str | bytes], error: str
) -> None:
    theirs = run_baseline("header_only", manifest, configured(weights), tmp_path / "theirs").predictions
    path = write_given(tmp_path / "given.csv", theirs, *GIVEN)
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(ManifestError, match=f"{path}.*{error}"):
        run_baseline("given_predictions", manifest, configured(path), tmp_path / "a")


def test_given_predictions_are_of_whole_files(manifest: pa.Table, weights: Path, tmp_path: Path) -> None:
    theirs = run_baseline("header_only", manifest, configured(weights), tmp_path / "theirs").predictions
    config = configured(write_given(tmp_path / "given.csv", theirs, *GIVEN))
    slices = replace_column(manifest, "frame", pa.array([0] * len(manifest)))
    with pytest.raises(ManifestError, match="'.*' is one of several pictures in a file, and .* has one row for each"):
        run_baseline("given_predictions", slices, config, tmp_path / "a")


@pytest.mark.parametrize(
    ("settings", "error"),
    [((), "given predictions need a table"), (("model.weights=none.csv",), "there is no table .* at none.csv")],
)
def test_given_predictions_need_a_table(
    manifest: pa.Table, tmp_path: Path, settings: tuple[str, ...], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        run_baseline("given_predictions", manifest, load_config("brainmrnet", settings), tmp_path / "a")


def test_a_complete_folder_is_read_and_another_is_refused(manifest: pa.Table, weights: Path, tmp_path: Path) -> None:
    first = run_baseline("header_only", manifest, configured(weights), tmp_path / "a")
    written = (tmp_path / "a" / PREDICTIONS_FILE).stat().st_mtime_ns
    second = run_baseline("header_only", manifest, configured(weights), tmp_path / "a")
    assert (tmp_path / "a" / PREDICTIONS_FILE).stat().st_mtime_ns == written
    assert second.to_json() == first.to_json()
    assert second.predictions.equals(first.predictions)
    with pytest.raises(OutputError, match="holds a baseline with another config_sha256: choose a new folder"):
        run_baseline("header_only", manifest, configured(weights, "operating.value=0.4"), tmp_path / "a")
    with pytest.raises(OutputError, match="with another manifest_sha256"):
        run_baseline("header_only", relabelled(manifest, "test"), configured(weights), tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files and no baseline"):
        run_baseline("header_only", manifest, configured(weights), tmp_path / "mine")


def test_without_a_validation_split_a_fixed_threshold_is_enough(manifest: pa.Table, tmp_path: Path) -> None:
    """As where a study tests on the validation split."""
    splits = pc.if_else(pc.equal(manifest["split"], "val"), "test", manifest["split"])
    given = replace_column(manifest, "split", splits)
    result = run_baseline("header_only", given, Config(), tmp_path / "a")
    assert result.learned_from == ("train",)
    assert len(result.predictions) == sum(split == "test" for split in splits.to_pylist())
    youden = load_config("brainmrnet", ["operating.threshold=youden"])
    with pytest.raises(ManifestError, match="no sample is in the split val"):
        run_baseline("header_only", given, youden, tmp_path / "b")


def test_headers_that_tell_the_classes_apart_are_found(manifest: pa.Table, weights: Path, tmp_path: Path) -> None:
    widths = pc.if_else(pc.equal(manifest["label"], "tumour"), 300, 200).cast(pa.int32())
    planted = run_baseline(
        "header_only", replace_column(manifest, "width", widths), configured(weights), tmp_path / "planted"
    )
    assert estimates_of(planted.metrics)["auroc"].value == 1


def test_gradients_show_the_tumours_of_phantoms(manifest: pa.Table, weights: Path, tmp_path: Path) -> None:
    result = run("hog_svm", manifest, configured(weights), tmp_path / "a")
    assert estimates_of(result.metrics)["auroc"].value > 0.7


def test_features_are_computed_once(
    manifest: pa.Table, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = manifest.take(np.flatnonzero(np.arange(len(manifest)) % 2 == 0))
    cached = run("frozen_features", few, configured(weights), tmp_path / "a", tmp_path / "cache")
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    plain = run("frozen_features", few, configured(weights), tmp_path / "b")
    assert cached.predictions.equals(plain.predictions)

    def refuse(*arguments: object) -> np.ndarray:
        raise AssertionError("the planes are read again")

    monkeypatch.setattr(frozen_features, "read_planes", refuse)
    other = relabelled(few, "train")  # other labels, the same pictures
    run("frozen_features", other, configured(weights), tmp_path / "c", tmp_path / "cache")
    changed = weights.with_name("changed.safetensors")
    save_file(build_network("brainmrnet", 5, seed=2).state_dict(), changed)
    with pytest.raises(AssertionError, match="read again"):
        run("frozen_features", few, configured(changed), tmp_path / "d", tmp_path / "cache")


def test_baselines_are_compared_like_models(manifest: pa.Table, weights: Path, cache: Path, tmp_path: Path) -> None:
    folders = []
    for name in ("header_only", "frozen_features"):
        run(name, manifest, configured(weights), tmp_path / name, cache)
        folders.append(str(tmp_path / name))
    comparison = compare_runs(folders)
    assert comparison.not_comparable is None
    assert comparison.table["model"].to_pylist()[:2] == ["header_only", "frozen_features"]
    assert comparison.table["parameters"].to_pylist()[:2] == [None, None]
    assert comparison.pairs is not None


def test_what_cannot_be_is_explained(manifest: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown baseline 'hog': did you mean 'hog_svm'?"):
        run_baseline("hog", manifest, Config(), tmp_path / "a")
    with pytest.raises(UsageError, match="need a network that was trained: set model.weights"):
        run_baseline("frozen_features", manifest, Config(), tmp_path / "b")
    with pytest.raises(UsageError, match="no weights file gone.safetensors"):
        run_baseline("frozen_features", manifest, configured(Path("gone.safetensors")), tmp_path / "c")
    unsplit = replace_column(manifest, "split", pa.nulls(len(manifest), pa.string()))
    with pytest.raises(ManifestError, match="no sample is in the split train"):
        run_baseline("header_only", unsplit, Config(), tmp_path / "d")
    wrong = replace_column(manifest, "sha256", pa.array(["0"] * len(manifest)))
    pytest.importorskip("skimage", reason="NOT TESTED: scikit-image is not installed")
    with pytest.raises(ManifestError, match="changed after it was indexed: index the source again"):
        run_baseline("hog_svm", wrong, Config(), tmp_path / "e")
