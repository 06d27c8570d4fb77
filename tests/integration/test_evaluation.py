"""Honest evaluation on a real Ray: what is chosen on validation, looks at the test part, outside data, folds."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from brainscale.config.files import parse_config
from brainscale.config.sections import OperatingConfig
from brainscale.dataset.columns import replace_column
from brainscale.errors import OutputError
from brainscale.evaluation import cross_validation, on_ray
from brainscale.evaluation.look_log import read_looks
from brainscale.models.bundle import open_bundle
from brainscale.schema import METRICS, SUBGROUPS
from brainscale.scoring.per_unit import SCHEMAS
from brainscale.stats.units import AGGREGATIONS
from brainscale.storage.remote import ObjectStore
from brainscale.training.driver import train_model
from brainscale.training.operating_point import choose_operating_points
from tests.evaluation.report.test_browser import HEARD, READ, set_to
from tests.support import cdp
from tests.support.files import zipped
from tests.support.runs import SMALL, Invoke, long, succeed, weights
from tests.support.stores import make_bucket, s3_server
from tests.support.stores import options as s3_options

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_threshold_and_temperature_come_from_validation_alone(run: Path) -> None:
    bundle, manifest = open_bundle(run), pq.read_table(run / "manifest.parquet")
    config = OperatingConfig(threshold="sensitivity", target=0.9, temperature=True)
    chosen = choose_operating_points(config, bundle, manifest)
    point = chosen.operating_points["slice"]
    is_counted = pc.and_(pc.equal(manifest["split"], "val"), pc.equal(manifest["label"], "tumour"))
    assert point.threshold_bound is not None
    assert point.threshold_bound.samples == pc.sum(is_counted).as_py()
    assert 0 < point.threshold < 1
    assert chosen.temperature > 0
    others = pc.if_else(pc.equal(manifest["split"], "val"), manifest["label"], pa.scalar(None, pa.string()))
    blind = manifest.set_column(manifest.schema.get_field_index("label"), "label", others)
    assert choose_operating_points(config, bundle, blind) == chosen  # no other label has a say


def test_a_calibrated_model_is_scored_with_its_temperature(
    run: Path, scans: Path, invoke: Invoke, tmp_path: Path
) -> None:
    """Trained on wrong labels of the test part, it is the same network: nothing of that part has a say."""
    manifest, options = pq.read_table(run / "manifest.parquet"), ["--calibrate", "--youden"]
    manifest = in_scans(manifest)
    swapped = pc.if_else(pc.equal(manifest["label"], "tumour"), "no_tumour", "tumour")
    swapped = pc.if_else(pc.equal(manifest["split"], "test"), swapped, manifest["label"])
    manifest = manifest.set_column(manifest.schema.get_field_index("label"), "label", swapped)
    pq.write_table(manifest, tmp_path / "wrong.parquet")
    succeed(invoke("train", "--data", tmp_path / "wrong.parquet", "--out", tmp_path / "new", *SMALL, *options))
    assert weights(tmp_path / "new") == weights(run)
    info = json.loads((tmp_path / "new" / "model" / "model.json").read_text())
    assert info["temperature"] != 1
    assert info["operating_points"]["slice"]["threshold_source"].startswith("Youden's index on ")
    assert "Youden" in (tmp_path / "new" / "model" / "README.md").read_text()
    for folder, place in ((run, "plain"), (tmp_path / "new", "calibrated")):
        succeed(invoke("score", folder, scans, "--out", tmp_path / place))
    plain, calibrated = (
        np.array(pq.read_table(tmp_path / place).sort_by("sample_id")["probabilities"].to_pylist(), np.float64)
        for place in ("plain", "calibrated")
    )
    by_hand = plain ** (1 / info["temperature"])
    assert np.allclose(calibrated, by_hand / by_hand.sum(1, keepdims=True), atol=1e-5)
    scans_and_patients(tmp_path / "new", tmp_path / "wrong.parquet", info, invoke, tmp_path)


def in_scans(manifest: pa.Table) -> pa.Table:
    """The manifest with scans of three images of one split and class, and patients of two scans."""
    counts: Counter[tuple[str, str]] = Counter()
    names = []
    for row in manifest.select(["split", "label"]).to_pylist():
        place = (row["split"], row["label"])
        names.append((*place, counts[place]))
        counts[place] += 1
    columns = {
        "scan": [f"{split}-{label}-{number // 3}" for split, label, number in names],
        "patient": [f"{split}-{label}-{number // 6}" for split, label, number in names],
    }
    for name, values in columns.items():
        manifest = replace_column(manifest, name, pa.array(values))
    return manifest


def scans_and_patients(run: Path, manifest: Path, info: dict[str, Any], invoke: Invoke, folder: Path) -> None:
    """The operating points of validation are used for scans and patients, by evaluate, compare and score alike."""
    points, rows = info["operating_points"], pq.read_table(manifest)
    for unit in ("scan", "patient"):
        val = rows.filter(pc.equal(rows["split"], "val"))
        assert points[unit]["validation_units"] == len(pc.unique(val[unit]))
        assert points[unit]["aggregation"] in AGGREGATIONS
        assert points[unit]["threshold_source"].startswith("Youden's index on ")
        facts = json.loads(succeed(invoke("evaluate", run, "--unit", unit, "--by", "label", "--json")).stdout)
        assert facts["out"] == str(run / "evaluation" / f"test-{unit}")
        assert (facts["unit"], facts["aggregation"]) == (unit, points[unit]["aggregation"])
        table = pq.read_table(run / "evaluation" / f"test-{unit}" / f"{unit}s.parquet")
        assert table.schema.equals(SCHEMAS[unit])
        assert (facts["units"], facts["samples"]) == (len(table), pc.sum(table["slices"]).as_py())
        called = pc.if_else(pc.greater_equal(table["probability"], points[unit]["threshold"]), "tumour", "no_tumour")
        assert table["prediction"].equals(called)
        right = pc.sum(pc.equal(table["prediction"], table["label"])).as_py()
        assert facts["metrics"]["accuracy"] == right / len(table)
        text = succeed(invoke("compare", run, run / "evaluation" / f"test-{unit}", "--unit", unit)).stdout
        assert f"Metrics and numbers of samples are those of {unit}s." in text
        page = (run / "evaluation" / f"test-{unit}" / "report.html").read_text(encoding="utf-8")
        assert f"labelled test {unit}s" in page
    assert "operating" not in succeed(invoke("evaluate", run, "--unit", "scan")).output  # it is there already
    different = invoke("compare", run, run / "evaluation" / "test-scan")
    assert "different units" in different.output
    out = folder / "patients"
    facts = json.loads(succeed(invoke("score", run, manifest, "--out", out, "--unit", "patient", "--json")).stdout)
    scored = pq.read_table(facts["units_file"])
    assert facts["units_file"] == f"{out}.patients.parquet"
    assert set(scored["patient"].to_pylist()) == set(rows["patient"].to_pylist())
    evaluated = pq.read_table(run / "evaluation" / "test-patient" / "patients.parquet")
    of_test = scored.filter(pc.is_in(scored["patient"], evaluated["patient"].combine_chunks()))
    for name in ("patient", "slices", "prediction", "threshold", "aggregation"):
        assert of_test.sort_by("patient")[name].equals(evaluated.sort_by("patient")[name])


def test_looks_at_the_test_part_are_counted(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["evaluate", run, "--split", "test", "--by", "format", "--prevalence", "0.01"]
    facts = json.loads(succeed(invoke(*arguments, "--out", tmp_path / "a", "--json")).stdout)
    assert facts["looks"] == 1
    looks, notes = read_looks(run)
    assert ({look.model for look in looks}, notes) == ({open_bundle(run).sha256}, [])
    low, high = facts["intervals"]["accuracy"]
    assert low < facts["metrics"]["accuracy"] < high or facts["metrics"]["accuracy"] in (0, 1)
    assert facts["metrics"]["ppv_at_prevalence"] is None or facts["metrics"]["ppv_at_prevalence"] < 0.5
    assert "<strong>1 model</strong> of this run has been evaluated" in (tmp_path / "a" / "report.html").read_text()
    assert pq.read_schema(tmp_path / "a" / "subgroups.parquet").equals(SUBGROUPS)
    succeed(invoke("evaluate", run, "--split", "val", "--out", tmp_path / "b"))
    assert read_looks(run)[0] == looks  # validation is no secret
    shown = succeed(invoke("evaluate", run, "--split", "all", "--out", tmp_path / "all")).stdout.splitlines()
    label = "models evaluated on this split"
    assert next(line for line in shown if line.startswith(label)).split()[-1] == "1"
    assert read_looks(run)[0] == looks  # nor is the same model on the same samples a new look
    again = succeed(invoke(*arguments, "--out", tmp_path / "a", "--json", "--engine", "torch"))
    assert json.loads(again.stdout) == facts
    assert "it was read, not computed again, and is no new look at the test set" in again.stderr
    accuracy = next(line for line in shown if line.startswith("Accuracy ")).split()
    assert (len(accuracy), accuracy[3]) == (5, "to")  # the value, and where its interval goes
    strange = invoke("evaluate", run, "--by", "hospital", "--out", tmp_path / "c")
    assert strange.exit_code == 1
    assert "the manifest has no column hospital" in strange.output


def test_outside_data_that_is_not_outside(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    """A copy of the training source under other names, and the model's folder knows."""
    for side in ("yes", "no"):
        (tmp_path / "outside" / side).mkdir(parents=True)
        for i, path in enumerate(sorted((scans / side).iterdir())):
            shutil.copy(path, tmp_path / "outside" / side / f"other-{i}{path.suffix}")
    succeed(invoke("index", tmp_path / "outside", "--out", tmp_path / "outside.parquet"))
    arguments = ["evaluate", run / "model", "--data", tmp_path / "outside.parquet", "--json"]
    facts = json.loads(succeed(invoke(*arguments)).stdout)
    out = run / "evaluation" / "outside-all"  # not in the place of its own test part, which a comparison looks for
    assert Path(facts["out"]) == out
    assert facts["looks"] == 1
    learnt = pq.read_table(run / "manifest.parquet")["split"].to_pylist()
    assert facts["shared_with_training"] >= learnt.count("train") + learnt.count("val")
    without = pq.read_table(out / "metrics-without-shared.parquet")
    assert without.schema.equals(METRICS)
    assert without["n"].to_pylist()[0] == 60 - facts["shared_with_training"]
    page = (out / "report.html").read_text()
    assert f"Data leakage: {facts['shared_with_training']} of these samples" in page
    assert "<h1>brainmrnet on outside.parquet: all samples</h1>" in page
    shutil.copytree(run / "model", tmp_path / "bare")
    arguments[1] = tmp_path / "bare"
    assert json.loads(succeed(invoke(*arguments, "--out", tmp_path / "e")).stdout)["shared_with_training"] is None
    assert "<strong>unknown</strong>" in (tmp_path / "e" / "report.html").read_text()


def test_folds_of_an_archive_are_one_run(phantoms: Path, invoke: Invoke, tmp_path: Path) -> None:
    """An archive trains like a folder, without what is unreadable."""
    files = {str(p.relative_to(phantoms)): p.read_bytes() for p in sorted(phantoms.rglob("*.*"))}
    (tmp_path / "all.zip").write_bytes(zipped({**files, "yes/torn.png": b"\x89PNG\r\n\x1a\n"}))
    out = tmp_path / "folds"
    train = ["train", "--data", tmp_path / "all.zip", *SMALL, "--epochs", "1", "--folds", "2"]
    arguments = [*train, "--out", out, "--parallel-folds", "2"]
    facts = json.loads(succeed(invoke(*arguments, "--json")).stdout)
    assert len(facts["models"]) == 2
    for model in facts["models"]:
        fold = json.loads((out / model / "_SUCCESS.json").read_text())
        assert (sum(fold["samples"].values()), fold["left_out"]) == (60, {"corrupt": 1})
    assert facts["combined"]["accuracy"]["n"] == 60  # every sample was in the test part once
    tested = [
        set(pq.read_table(out / model / "evaluation" / "test" / "predictions.parquet")["sample_id"].to_pylist())
        for model in facts["models"]
    ]
    assert sum(map(len, tested)) == len(set.union(*tested)) == 60
    assert set(facts["spread"]) == set(cross_validation.SHOWN)
    mean = np.mean(facts["figures"]["accuracy"])
    assert facts["spread"]["accuracy"]["mean"] == pytest.approx(mean)
    again = succeed(invoke(*arguments)).stdout
    assert "All folds" in again.splitlines()[0]
    with s3_server(tmp_path / "log") as port:  # it goes on in a store where another machine left it
        make_bucket(f"127.0.0.1:{port}", "bucket")
        place = f"s3://bucket/folds{s3_options(f'127.0.0.1:{port}')}"
        for path in (path for path in out.rglob("*") if path.is_file() and path != out / "_SUCCESS.json"):
            if path.parent != out / "repeat-1" / "fold-2" / "evaluation" / "test":
                with path.open("rb") as source:
                    ObjectStore(place).put(path.relative_to(out).as_posix(), source)
        there = succeed(invoke(*train, "--out", place, "--json"))
        assert json.loads(there.stdout) == facts
        assert json.loads(ObjectStore(place).get("_SUCCESS.json"))["combined"] == facts["combined"]
    for other, key in ((["--seed", "7"], "config_sha256"), (["--repeats", "2"], "repeats")):
        refused = invoke(*arguments, *other)
        assert refused.exit_code == 1
        assert f"is a cross-validation with another {key}: choose a new --out" in refused.output


@long
def test_folds_side_by_side_are_the_models_of_folds_alone(scans: Path, tmp_path: Path) -> None:
    """Three at once; each line says whose it is."""
    data = {"image_size": 64, "crop": 1.0}
    config = parse_config({"data": data, "train": {"batch_size": 16, "epochs": 1}})
    out, said = tmp_path / "folds", []
    assert on_ray.folds_at_once(config, 3) == 3
    result = cross_validation.cross_validate(
        str(scans), str(out), config, folds=3, parallel_folds=3, on_notice=said.append
    )
    first_end = next(i for i, line in enumerate(said) if "epoch 1/1" in line)
    assert said[:first_end] == [f"repeat 1 of 1, fold {i} of 3" for i in (1, 2, 3)]
    for i in (1, 2, 3):
        assert sum(line.startswith(f"repeat 1 of 1, fold {i} of 3: epoch 1/1") for line in said) == 1
    train_model(str(out / "repeat-1" / "fold-2.parquet"), str(tmp_path / "alone"), config)
    assert weights(tmp_path / "alone") == weights(out / result.models[1])


@long
def test_a_fold_that_fails_ends_the_run_with_its_own_error(scans: Path, tmp_path: Path) -> None:
    config = parse_config({"data": {"image_size": 64}, "train": {"batch_size": 16, "epochs": 1}})
    (tmp_path / "folds" / "repeat-1" / "fold-2").mkdir(parents=True)
    (tmp_path / "folds" / "folds-1.parquet").touch()
    (tmp_path / "folds" / "repeat-1" / "fold-2" / "letter.txt").write_text("somebody's")
    with pytest.raises(OutputError, match="fold-2"):
        cross_validation.cross_validate(str(scans), str(tmp_path / "folds"), config, folds=3, parallel_folds=2)


def test_the_report_of_a_run_in_a_browser(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    succeed(invoke("evaluate", run, "--split", "all", "--by", "width", "--out", out))
    table = pq.read_table(out / "predictions.parquet")
    sick = pc.equal(table["label"], "tumour").to_numpy()
    called = table["probability"].to_numpy() >= 0.25

    async def look() -> tuple[dict[str, str], list[Any]]:
        async with cdp.tab(tmp_path) as tab:
            await tab.open(out / "report.html", 1280, 900)
            await tab.run(set_to("threshold", 0.25))
            shown = await tab.run(READ)
            for width in (1280, 390):
                await tab.resize(width, 900)
                await tab.picture(tmp_path / f"{width}.png", whole=True)
            return shown, tab.named(*HEARD)

    shown, heard = asyncio.run(look())
    assert heard == []
    counts = {"tp": sick & called, "fn": sick & ~called, "fp": ~sick & called, "tn": ~sick & ~called}
    assert {name: int(shown[name]) for name in counts} == {name: int(some.sum()) for name, some in counts.items()}
    assert all((tmp_path / f"{width}.png").stat().st_size > 50_000 for width in (1280, 390))
