"""The Python API, as far as it needs no Ray; docs/python.md shows and tests the rest."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import brainscale as bs
from brainscale.models.bundle import Bundle
from brainscale.schema import METRICS, PREDICTIONS
from tests.support.images import write_image
from tests.support.tables import manifest

HEAVY = {"torch", "ray", "scipy", "sklearn", "pyarrow", "numpy", "matplotlib"}
SMALL = ("data.image_size=64", "data.crop=1.0")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(code: str) -> set[str]:
    """Heavy libraries that a program has loaded at its end."""
    listing = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    return set(run_python(f"{code}\n{listing}").split()) & HEAVY


def test_the_import_is_light_and_names_the_whole_api() -> None:
    assert loaded("import brainscale") == set()
    assert {name for name in bs.__all__ if getattr(bs, name) is None} == set()
    assert set(bs.__all__) <= set(dir(bs))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = bs.trian  # type: ignore[attr-defined]


def test_metrics_for_anybodys_model_need_neither_ray_nor_torch() -> None:
    code = (
        "import numpy as np, brainscale as bs\n"
        "labels = np.arange(40) % 2\n"
        "assert bs.compute_metrics(labels, np.stack([1 - labels * 0.8, labels * 0.8], 1)).num_rows > 10"
    )
    assert not loaded(code) & {"torch", "ray", "matplotlib"}


def test_metrics_of_two_columns_have_intervals_by_group() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    tumour = np.clip(0.3 + 0.4 * labels + generator.normal(0, 0.2, 60), 0, 1)
    table = bs.compute_metrics(labels, np.stack([1 - tumour, tumour], 1), groups=np.arange(60) // 3)
    assert table.schema.equals(METRICS)
    first = table.to_pylist()[0]
    assert first["metric"] == "accuracy"
    assert first["low"] < first["value"] < first["high"]
    assert "by group" in first["method"]


def test_reading_yields_planes_and_errors_without_ray(tmp_path: Path) -> None:
    write_image(tmp_path / "yes" / "a.png")
    (tmp_path / "yes" / "b.png").write_bytes(b"broken")
    good, bad = bs.read(tmp_path, overrides=["data.image_size=96"])
    assert (good.sample_id, good.error_code, good.empty) == ("yes/a.png", None, False)
    assert good.plane is not None
    assert (good.plane.shape, good.plane.dtype) == ((96, 96), np.uint8)
    assert (bad.sample_id, bad.plane, bad.error_code) == ("yes/b.png", None, "unsupported_format")
    assert bad.error
    with pytest.raises(bs.BrainscaleError, match="does not exist"):
        next(iter(bs.read(tmp_path / "none")))
    code = f"import brainscale as bs\nassert len(list(bs.read({str(tmp_path)!r}))) == 2"
    assert not loaded(code) & {"torch", "ray", "matplotlib", "sklearn"}


def test_a_model_predicts_in_this_process_as_score_would_write_it(bundle: Bundle, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", seed=1)
    (tmp_path / "b.png").write_bytes(b"broken")
    model = bs.load_model(bundle.folder)
    rows = model.predict(tmp_path)
    assert rows.schema.equals(PREDICTIONS)
    good, bad = rows.to_pylist()
    assert (good["sample_id"], good["error_code"]) == ("a.png", None)
    assert good["prediction"] in bundle.info.classes
    assert (bad["probability"], bad["error_code"]) == (None, "unsupported_format")
    overrides = [f"data.crop={bundle.info.preprocess.crop}", "data.image_size=64"]
    (sample,) = bs.read(tmp_path / "a.png", overrides=overrides)
    assert sample.plane is not None
    probabilities = model.probabilities(sample.plane)
    assert probabilities.shape == (1, 2)
    assert probabilities[0].tolist() == pytest.approx(good["probabilities"], abs=1e-6)
    heatmap = model.heatmap(sample.plane)
    assert (heatmap.shape, heatmap.dtype) == ((1, 64, 64), np.float32)
    assert 0 <= heatmap.min() <= heatmap.max() <= 1
    assert model.heatmap(np.empty((0, 64, 64), np.uint8)).shape == (0, 64, 64)
    code = f"import brainscale as bs\nbs.load_model({str(bundle.folder)!r}).predict({str(tmp_path / 'a.png')!r})"
    assert not loaded(code) & {"torch", "ray", "matplotlib", "sklearn"}


@pytest.mark.parametrize(
    "planes", [np.zeros((2, 32, 32), np.uint8), np.zeros((64, 64), np.float32), np.zeros(64, np.uint8)]
)
def test_planes_of_another_shape_are_refused(bundle: Bundle, planes: np.ndarray) -> None:
    with pytest.raises(bs.BrainscaleError, match=r"planes must be uint8 \[N, 64, 64\], not"):
        bs.load_model(bundle.folder).probabilities(planes)


def test_manifests_are_split_counted_and_compared_as_tables(tmp_path: Path) -> None:
    table = manifest([i % 2 for i in range(60)])
    divided = bs.split(table, val=0.2, test=0.2, seed=1)
    assert set(divided["split"].to_pylist()) == {"train", "val", "test"}
    assert bs.summary(divided).samples == 60
    assert set(bs.split(table, folds=3)["fold"].to_pylist()) == {0, 1, 2}
    assert bs.split(table, seed=5, keep=divided)["split"].to_pylist() == divided["split"].to_pylist()
    assert len(bs.overlap(table, table.slice(0, 7))) == 7
    with pytest.raises(bs.BrainscaleError, match="leave nothing to train on"):
        bs.split(table, val=0.5, test=0.5)
    with pytest.raises(bs.BrainscaleError, match="has no column sha256"):
        bs.summary(table.drop_columns(["sha256"]))
    with pytest.raises(bs.BrainscaleError, match="no manifest at"):
        bs.load_manifest(tmp_path / "none.parquet")


def test_a_configuration_is_loaded_by_name_with_overrides() -> None:
    assert bs.load_config("brainmrnet", ["train.epochs=3"]).train.epochs == 3
    with pytest.raises(bs.BrainscaleError, match="did you mean 'brainmrnet'"):
        bs.load_config("brainmrnt")


def test_a_single_image_is_a_source_too(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(np.full((30, 40), 90, np.uint8)).save(path)
    (sample,) = bs.read(str(path), overrides=SMALL)
    assert sample.sample_id == "one.png"
