"""Ensembles: what is written, what is refused, and that the result is a model like any other; no Ray."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.dataset.manifest import manifest_fingerprint, read_manifest
from brainscale.errors import BundleError, OutputError, UsageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.leakage import find_leaked
from brainscale.evaluation.preparation import prepare_evaluation
from brainscale.models.bundle import MODEL_JSON, Bundle, OperatingPoint, open_bundle, write_model_info
from brainscale.models.engines import EngineOptions, load_engine, read_network
from brainscale.models.registry import build_network
from brainscale.training.ensemble import make_ensemble
from brainscale.training.operating_point import OperatingPoints
from brainscale.training.run_folder import RunFolder
from tests.support.bundles import make_bundle, random_planes
from tests.support.evaluating import edit_threshold, make_run, predict_without_ray
from tests.support.runs import Invoke, scores, succeed

Runs = tuple[Path, Path]


def rewrite(run: Path, **changed: object) -> None:
    """Change what a run's model says of itself, as training would have written it."""
    facts = json.loads((run / "model" / MODEL_JSON).read_text())
    hashes = ("weights_sha256", "onnx_sha256", "novelty_sha256", "model_sha256", "format")
    write_model_info(run / "model", {name: facts[name] for name in facts if name not in hashes} | changed)


def probabilities(bundle: Bundle, planes: np.ndarray, engine: str = "onnx") -> np.ndarray:
    options = EngineOptions(name=engine)
    return load_engine(bundle.info, read_network(bundle, options), options)(planes).probabilities


@pytest.fixture(scope="module")
def runs(bundle: Bundle, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two runs on the same split: a calibrated brainmrnet, and a brainmrnet_paper with two views."""
    folder = tmp_path_factory.mktemp("runs")
    paper = make_bundle(
        folder / "model", build_network("brainmrnet_paper", 2, seed=5).eval(), "brainmrnet_paper", 64, 2
    )
    made = make_run(folder / "a", bundle, phantoms), make_run(folder / "b", paper, phantoms)
    rewrite(made[0], temperature=2.0, temperature_source="by hand")
    return made


@pytest.fixture(scope="module")
def ensemble(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble") / "both"
    make_ensemble([str(run) for run in runs], str(folder))
    return folder


@pytest.fixture
def no_export(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the graph of one model in place of the ensemble's, whose export takes seconds."""
    graph = bundle.onnx.read_bytes()
    monkeypatch.setattr("brainscale.training.ensemble.export_onnx", lambda *given: given[-1].write_bytes(graph))


def copy_run(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder))


def split_again(run: Path, seed: int) -> pa.Table:
    """Give a run another split of the same samples, as that of another fold."""
    manifest = bs.split(read_manifest(run / "manifest.parquet"), val=0.2, test=0.3, seed=seed)
    pq.write_table(manifest, run / "manifest.parquet")
    rewrite(run, manifest_sha256=manifest_fingerprint(manifest))
    return manifest


def test_it_averages_the_calibrated_probabilities_of_its_members(runs: Runs, ensemble: Path) -> None:
    planes, members = random_planes(5, seed=2), [open_bundle(run) for run in runs]
    logarithms = np.log(probabilities(members[0], planes).astype(np.float64)) / 2
    calibrated = np.exp(logarithms) / np.exp(logarithms).sum(1, keepdims=True)
    expected = (calibrated + probabilities(members[1], planes)) / 2
    made = open_bundle(ensemble)
    for engine in ("onnx", "torch"):
        assert np.abs(probabilities(made, planes, engine) - expected).max() < 1e-5
    assert made.info.parameters == sum(member.info.parameters for member in members)
    assert {(one.run, one.architecture, one.views) for one in made.info.members} == {
        ("a", "brainmrnet", 1),
        ("b", "brainmrnet_paper", 2),
    }


def test_novelty_is_that_of_the_first_member(runs: Runs, ensemble: Path) -> None:
    made = open_bundle(ensemble)
    first = next(one for one in map(open_bundle, runs) if one.sha256 == made.info.members[0].model_sha256)
    planes, found = random_planes(5, seed=2), []
    for bundle in (made, first):
        options = EngineOptions(name="onnx")
        assert bundle.novelty is not None
        features = load_engine(bundle.info, read_network(bundle, options), options)(planes).features
        found.append(bundle.novelty.measure(features))
    assert np.abs(found[0] - found[1]).max() < 1e-4
    assert f"(of the first member, {made.info.members[0].run})" in made.info.novelty_source


def test_the_order_of_members_changes_nothing(runs: Runs, tmp_path: Path, no_export: None) -> None:
    one = make_ensemble([str(run) for run in runs], str(tmp_path / "one"))
    other = make_ensemble([str(run) for run in reversed(runs)], str(tmp_path / "other"))
    assert one.facts() == other.facts()


def test_it_predicts_and_scores_without_ray(
    invoke: Invoke, ensemble: Path, runs: Runs, phantoms: Path, tmp_path: Path
) -> None:
    scan = min((phantoms / "yes").iterdir())
    (row,) = json.loads(succeed(invoke("predict", ensemble, scan, "--json")).stdout)
    assert row["model"] == open_bundle(ensemble).info.weights_sha256
    succeed(invoke("score", ensemble, phantoms / "yes", "--out", tmp_path / "scores"))
    rows = scores(tmp_path / "scores")
    assert len(rows) == len(list((phantoms / "yes").iterdir()))
    (scored,) = [one for one in rows if str(one["sample_id"]).endswith(scan.name)]
    assert scored["probability"] == pytest.approx(row["probability"], abs=1e-6)
    of_members = [bs.load_model(run).predict(scan)["probability"][0].as_py() for run in runs]
    assert row["probability"] == pytest.approx(np.mean(of_members), abs=1e-5)
    assert not ray.is_initialized()


def test_heatmaps_of_it_are_drawn(ensemble: Path, phantoms: Path, invoke: Invoke, tmp_path: Path) -> None:
    scan = min((phantoms / "yes").iterdir())
    succeed(invoke("predict", ensemble, scan, "--heatmap", tmp_path / "maps"))
    (table,) = (tmp_path / "maps").glob("*.parquet")
    assert pq.read_table(table)["method"].to_pylist() == ["integrated gradients"]


def test_it_is_evaluated_on_the_test_split_of_all(
    ensemble: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_without_ray(monkeypatch)
    monkeypatch.setattr("brainscale.evaluation.drawing.draw_plots", lambda *arguments, **options: [])
    found = evaluate_model(str(ensemble), str(tmp_path / "evaluation"))
    assert (found.model, found.split, found.shared_with_training) == ("ensemble", "test", 0)
    assert found.manifest_sha256 == open_bundle(runs[0]).info.manifest_sha256
    assert found.parameters == open_bundle(ensemble).info.parameters


def test_what_any_member_has_seen_is_leaked(runs: Runs, tmp_path: Path, no_export: None) -> None:
    """Of folds, the test part of one trained the others."""
    other = copy_run(runs[1], tmp_path / "fold")
    second, first = split_again(other, seed=5), read_manifest(runs[0] / "manifest.parquet")
    out, said = tmp_path / "folds", []
    made = make_ensemble([str(runs[0]), str(other)], str(out), said.append)
    is_test = [{row["sample_id"] for row in table.to_pylist() if row["split"] == "test"} for table in (first, second)]
    of_both = is_test[0] & is_test[1]
    assert 0 < len(of_both) < len(is_test[0])
    assert made.samples["test"] == len(of_both)
    assert said == ["Note: the threshold of 0.5 is fixed, as the members have different validation splits."]
    own = prepare_evaluation(out, str(out))
    assert (own.request.split, set(own.rows["sample_id"].to_pylist())) == ("test", of_both)
    assert len(find_leaked(own.rows, own.run) or ()) == 0
    of_first = prepare_evaluation(out, str(out), data=first, split="test")
    leaked = find_leaked(of_first.rows, of_first.run)
    assert leaked is not None
    assert set(leaked["sample_id"].to_pylist()) == is_test[0] - of_both


def test_a_member_without_its_run_leaves_training_data_unknown(runs: Runs, tmp_path: Path, no_export: None) -> None:
    alone = Path(shutil.copytree(runs[0] / "model", tmp_path / "shipped"))
    made = make_ensemble([str(alone), str(runs[1])], str(tmp_path / "out"))
    assert made.threshold_source == "fixed, as the validation split of shipped is not known"
    assert made.samples == {}
    rows = read_manifest(runs[1] / "manifest.parquet")
    assert find_leaked(rows, RunFolder(tmp_path / "out")) is None


def test_one_member_is_itself(runs: Runs, tmp_path: Path, no_export: None) -> None:
    make_ensemble([str(runs[1])], str(tmp_path / "one"))
    one, planes = open_bundle(tmp_path / "one"), random_planes(4)
    member = open_bundle(runs[1])
    assert np.abs(probabilities(one, planes, "torch") - probabilities(member, planes, "torch")).max() < 2e-7
    assert one.info.manifest_sha256 == member.info.manifest_sha256


def test_the_threshold_is_chosen_on_a_shared_validation_split(
    runs: Runs, tmp_path: Path, no_export: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [copy_run(run, tmp_path / run.name) for run in runs]
    for run in both:
        config = load_config(str(run / "config.yaml"), ["operating.threshold=youden"])
        (run / "config.yaml").write_text(config.to_yaml())
    point = OperatingPoint(threshold=0.25, threshold_source="by the test")
    seen = []

    def choose(config: object, bundle: Bundle, manifest: pa.Table) -> OperatingPoints:
        seen.append((bundle.info.architecture, manifest_fingerprint(manifest)))
        return OperatingPoints(operating_points={"slice": point})

    monkeypatch.setattr("brainscale.training.ensemble.choose_operating_points", choose)
    made = make_ensemble([str(run) for run in both], str(tmp_path / "youden"))
    assert (made.threshold, made.threshold_source) == (0.25, "by the test")
    assert seen == [("ensemble", open_bundle(both[0]).info.manifest_sha256)]
    (both[0] / "config.yaml").write_text(load_config(str(runs[0] / "config.yaml")).to_yaml())
    made = make_ensemble([str(run) for run in both], str(tmp_path / "different"))
    assert made.threshold_source == "fixed, as the members choose their thresholds in different ways"
    assert len(seen) == 1


def test_models_that_do_not_fit_are_refused(runs: Runs, ensemble: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UsageError, match="a is the same model as a: name it once"):
        make_ensemble([str(runs[0]), str(runs[0] / "model")], out)
    with pytest.raises(UsageError, match="both is an ensemble itself: name its members instead"):
        make_ensemble([str(ensemble), str(runs[0])], out)
    other = copy_run(runs[1], tmp_path / "cropped")
    rewrite(other, preprocess=open_bundle(other).info.preprocess.model_copy(update={"crop": 0.5}))
    with pytest.raises(BundleError, match=r"a and cropped do not fit into one ensemble \(data.crop is 0.875 and 0.5\)"):
        make_ensemble([str(runs[0]), str(other)], out)
    other = copy_run(runs[1], tmp_path / "renamed")
    rewrite(other, classes={"no_tumour": ["no"], "mass": ["yes"]})
    with pytest.raises(BundleError, match=r"a and renamed do not fit into one ensemble \(data.classes"):
        make_ensemble([str(runs[0]), str(other)], out)
    other = copy_run(runs[1], tmp_path / "edited")
    edit_threshold(other / "model", 0.1)
    with pytest.raises(BundleError, match="was edited after it was written"):
        make_ensemble([str(runs[0]), str(other)], out)
    assert not Path(out).exists()


def test_other_outputs_are_kept(runs: Runs, ensemble: Path, tmp_path: Path) -> None:
    said: list[str] = []
    again = make_ensemble([str(run) for run in runs], str(ensemble), said.append)
    assert said == [f"{ensemble} was already complete: nothing to do"]
    assert again.model_sha256 == open_bundle(ensemble).sha256
    with pytest.raises(OutputError, match="holds another model: choose a new --out"):
        make_ensemble([str(runs[0])], str(ensemble))
    with pytest.raises(OutputError, match="holds another model: choose a new --out"):
        make_ensemble([str(runs[0])], str(runs[1] / "model"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="holds other files and no ensemble"):
        make_ensemble([str(runs[0])], str(tmp_path))


def test_an_edited_ensemble_is_refused(ensemble: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ensemble, tmp_path / "copy"))
    facts = json.loads((copy / MODEL_JSON).read_text())
    for change in ({"members": facts["members"][::-1]}, {"members": facts["members"][:1]}):
        (copy / MODEL_JSON).write_text(json.dumps(facts | change))
        with pytest.raises(BundleError, match="was edited after it was written"):
            open_bundle(copy)
    (copy / MODEL_JSON).write_text(json.dumps(facts | {"members": []}))
    with pytest.raises(BundleError, match="architecture ensemble with 0 members"):
        open_bundle(copy)


def test_the_card_lists_the_members(ensemble: Path) -> None:
    text, info = (ensemble / "README.md").read_text(), open_bundle(ensemble).info
    assert "An ensemble of 2 trained networks" in text
    for number, member in enumerate(info.members):
        assert f"| {number}: {member.run} | " in text
        assert member.weights_sha256 in text
    assert "mean of the probabilities of 2 models" in text
    assert "None" not in text


def test_the_command_prints_what_it_made(invoke: Invoke, runs: Runs, tmp_path: Path, no_export: None) -> None:
    out = tmp_path / "both"
    facts = json.loads(succeed(invoke("ensemble", *runs, "--out", out, "--json")).stdout)
    assert facts["model"] == str(out)
    assert facts["model_sha256"] == open_bundle(out).sha256
    result = invoke("ensemble", runs[0], tmp_path / "none", "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "neither a run nor a model folder" in result.stderr
