"""Dry runs of training: the samples and steps are those of a run, nothing is written, and refusals are its own."""

import json
import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, ClusterError, OutputError, TrainError, UsageError
from brainscale.evaluation.plan import plan_cross_validation
from brainscale.storage.local import write_success
from brainscale.storage.workspace import Workspace
from brainscale.training import duration, locally, workplace
from brainscale.training.arguments import PARAMETERS
from brainscale.training.checkpoints import last_position
from brainscale.training.history import Epoch, write_history
from brainscale.training.owner import own_run
from brainscale.training.plan import plan_training
from brainscale.training.plan_text import format_training_plan
from brainscale.training.run_folder import RunFolder
from brainscale.training.speed import StepSpeed, measure_steps
from tests.support.runs import SMALL, Invoke, succeed

SETTINGS = [value for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True) if flag == "--set"]
SPEED = StepSpeed(training=10.0, validation=20.0)


@pytest.fixture(autouse=True)
def _at_known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "measure_steps", lambda config, device: SPEED)
    monkeypatch.setattr(duration, "measure_reading", lambda files, request: 100.0 if list(files) else None)
    monkeypatch.setattr(duration, "count_cpus", lambda: 2)


@pytest.fixture(scope="module")
def manifest(scans: Path) -> pa.Table:
    return bs.split(bs.index(scans, overrides=["data.image_size=64"]))


@pytest.fixture
def data(manifest: pa.Table, tmp_path: Path) -> str:
    from brainscale.dataset.manifest import write_manifest

    write_manifest(manifest, tmp_path / "m.parquet")
    return str(tmp_path / "m.parquet")


def config(*overrides: str) -> Config:
    return load_config(None, [*SETTINGS, "train.epochs=4", *overrides])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def count(manifest: pa.Table, split: str) -> int:
    return int(pc.sum(pc.equal(manifest["split"], split)).as_py())


def epoch(number: int, hardware: str) -> Epoch:
    return Epoch(
        epoch=number,
        learning_rate=1e-3,
        train_loss=0.5,
        train_accuracy=0.5,
        val_loss=0.5,
        val_accuracy=0.5,
        best=True,
        weights_sha256="w",
        hardware=hardware,
    )


def test_the_plan_of_a_new_run_counts_samples_steps_sizes_and_time(
    manifest: pa.Table, data: str, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    plan = plan_training(data, str(tmp_path / "new"), config())
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()
    train, val = count(manifest, "train"), count(manifest, "val")
    assert (plan.data.count("train"), plan.data.count("val")) == (train, val)
    assert sum(plan.data.splits["train"].labels.values()) == train
    assert plan.data.files == train + val
    assert plan.recipe.steps == -(-train // 16)
    assert plan.workplace is not None
    assert (plan.workplace.ray, plan.workplace.device) == ("none", "cpu")
    assert plan.output.state == "new"
    assert plan.output.model_nbytes == 2 * 4 * PARAMETERS["brainmrnet"]
    assert plan.duration is not None
    assert plan.duration.epoch_seconds == pytest.approx(train / 10 + val / 20)
    assert plan.duration.total_seconds == pytest.approx(4 * (train / 10 + val / 20) + (train + val) / 200)
    text = format_training_plan(plan)
    assert "nothing is there yet" in text
    assert "here, without Ray: 1 worker on the CPU" in text


@pytest.mark.parametrize(("keep", "measurements"), [("best", 4), ("last", 1)])
def test_the_time_of_precise_statistics_is_counted(
    keep: str, measurements: int, data: str, manifest: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = []
    for speed in (SPEED, replace(SPEED, norm_statistics=25.0)):
        monkeypatch.setattr(duration, "measure_steps", lambda config, device, speed=speed: speed)
        planned = plan_training(data, str(tmp_path / "new"), config(f"train.keep={keep}")).duration
        assert planned is not None
        assert planned.total_seconds is not None
        totals.append(planned.total_seconds)
    assert totals[1] == pytest.approx(totals[0] + measurements * count(manifest, "train") / 25)


def test_a_small_source_is_planned_as_it_would_be_indexed(scans: Path, manifest: pa.Table, tmp_path: Path) -> None:
    plan = plan_training(str(scans), str(tmp_path / "new"), config())
    assert plan.data.is_known
    assert {split: counts.samples for split, counts in plan.data.splits.items()} == {
        split: count(manifest, split) for split in ("train", "val", "test")
    }


def test_a_source_that_takes_long_to_index_is_only_counted(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brainscale.training.planned_data.is_small", lambda files: False)
    plan = plan_training(str(scans), str(tmp_path / "new"), config())
    assert (plan.data.is_known, plan.recipe.steps) == (False, None)
    assert plan.data.files == len([path for path in scans.rglob("*") if path.is_file()])
    assert plan.duration is not None
    assert (plan.duration.train_rate, plan.duration.total_seconds) == (10.0, None)
    assert "plan with the manifest" in format_training_plan(plan)
    with pytest.raises(UsageError, match="plan with the manifest as --data"):
        plan_cross_validation(str(scans), str(tmp_path / "cv"), config(), folds=2, folds_by=None, repeats=1)


@pytest.fixture
def begun(manifest: pa.Table, tmp_path: Path) -> Path:
    """A run of which two epochs, and six steps of the third, are done on another processor."""
    folder = RunFolder(tmp_path / "begun")
    folder.path.mkdir()
    folder.start(config(), manifest)
    write_history([epoch(1, "cpu: Z80"), epoch(2, "cpu: Z80")], folder.path)
    folder.checkpoints.mkdir()
    for name in ("last-0001-000000", "last-0002-000006", "best-0002"):
        (folder.checkpoints / f"{name}.safetensors").write_bytes(b"")
    return folder.path


def test_a_begun_run_is_resumed_where_its_last_checkpoint_is(begun: Path, data: str) -> None:
    before = contents(begun)
    plan = plan_training(data, str(begun), config("resources.allow_other_hardware=true"))
    assert contents(begun) == before
    assert (plan.output.state, plan.output.epochs_done, plan.output.steps_done) == ("begun", 2, 6)
    assert plan.duration is not None
    assert plan.duration.total_seconds is not None
    assert plan.duration.epoch_seconds is not None
    assert plan.duration.total_seconds == pytest.approx(2 * plan.duration.epoch_seconds, rel=0.1)
    with pytest.raises(TrainError, match="trained on other hardware or library versions .cpu: Z80 there"):
        plan_training(data, str(begun), config())


def test_a_complete_run_has_nothing_to_do(begun: Path, data: str) -> None:
    facts = {"samples": {}, "left_out": {}, "epochs": 4, "best_epoch": 3, "best_val_loss": 0.5, "threshold": 0.5}
    hashes = dict.fromkeys(("threshold_source", "weights_sha256", "manifest_sha256", "config_sha256"), "x")
    write_success(begun, {**facts, **hashes, "hardware": []})
    plan = plan_training(data, str(begun), config())
    assert (plan.output.state, plan.output.epochs_done, plan.duration) == ("complete", 4, None)
    assert "complete already, after 4 epochs: nothing to do" in format_training_plan(plan)


@pytest.fixture
def owned(begun: Path) -> Iterator[Path]:
    with own_run(Workspace(begun)):
        yield begun


def test_what_the_run_refuses_its_plan_refuses(
    owned: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "w.safetensors").write_text("no weights")
    monkeypatch.setattr(workplace, "has_gpu", lambda: False)
    allowed = "resources.allow_other_hardware=true"
    refusals: list[tuple[type[BrainscaleError], str, str, list[str]]] = [
        (OutputError, "already trains in", str(owned), [allowed]),
        (OutputError, "another configuration .train.seed is", str(owned), ["train.seed=1"]),
        (OutputError, "holds other files and no run", str(tmp_path / "mine"), []),
        (UsageError, "is not a safetensors file", str(tmp_path / "n"), [f"model.weights={tmp_path}/w.safetensors"]),
        (UsageError, "there are no ImageNet weights for brainmrnet", str(tmp_path / "n"), ["model.weights=imagenet"]),
        (ClusterError, "--device cuda needs a GPU", str(tmp_path / "n"), ["resources.device=cuda"]),
        (ClusterError, "need 800 CPUs", str(tmp_path / "n"), ["resources.workers=2", "resources.cpus_per_worker=400"]),
    ]
    for kind, message, out, overrides in refusals:
        with pytest.raises(kind, match=message):
            plan_training(data, out, config(*overrides))
    assert not (tmp_path / "n").exists()
    assert socket.gethostname() in next((owned / ".owners").glob("*.json")).read_text()


def test_where_workers_train(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locally, "count_cpus", lambda: 2)
    for settings, ray in (
        (["resources.workers=2"], "none"),
        (["resources.workers=2", "resources.ray=always"], "local"),
    ):
        plan = plan_training(data, str(tmp_path / "new"), config(*settings))
        assert plan.workplace is not None
        assert (plan.workplace.ray, plan.workplace.workers) == (ray, 2)
        assert ("here, without Ray: 2 workers on the CPU" in format_training_plan(plan)) is (ray == "none")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "room is checked when training begins" in format_training_plan(
        plan_training(data, str(tmp_path / "new"), config())
    )


def test_a_cross_validation_counts_its_runs(manifest: pa.Table, data: str, tmp_path: Path) -> None:
    before = contents(tmp_path)
    out = tmp_path / "cv"
    plan = plan_cross_validation(data, str(out), config(), folds=2, folds_by=None, repeats=2)
    assert contents(tmp_path) == before
    assert not out.exists()
    assert [run.title for run in plan.runs][2] == "repeat 2 of 2, fold 1 of 2"
    in_folds = len(manifest) - manifest["split"].null_count
    assert {sum(run.samples.values()) for run in plan.runs} == {in_folds}
    assert sum(run.samples["test"] for run in plan.runs) == 2 * in_folds
    assert plan.duration is not None
    work = sum(run.samples["train"] / 10 + run.samples["val"] / 20 for run in plan.runs)
    read = sum(run.samples["train"] + run.samples["val"] for run in plan.runs) / 200
    assert plan.duration.total_seconds == pytest.approx(4 * work + read)
    assert "for 4 runs one after another" in plan.to_text()


def test_the_command_prints_the_plan_with_types(invoke: Invoke, data: str, tmp_path: Path) -> None:
    arguments = ["train", "--data", data, "--out", tmp_path / "new", *SMALL, "--dry-run"]
    plan = json.loads(succeed(invoke(*arguments, "--json")).stdout)
    assert plan["data"]["is_known"] is True
    assert (plan["recipe"]["epochs"], plan["output"]["epochs_done"], plan["workplace"]["workers"]) == (2, 0, 1)
    assert succeed(invoke(*arguments)).stdout.startswith("Reads\n  data ")
    folds = succeed(invoke(*arguments, "--folds", "2")).stdout
    assert "2: 2 folds, 1 time(s)" in folds
    refused = invoke(*arguments, "--address", "http://127.0.0.1:9")
    assert refused.exit_code == 2
    assert "--dry-run plans for this machine: remove --address" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_a_position_is_that_of_the_last_checkpoint() -> None:
    assert last_position([]) == (0, 0)
    names = ["checkpoints/last-0009-000001.safetensors", "last-0010-000000.safetensors", "best-0011.safetensors"]
    assert last_position(names) == (10, 0)


def test_steps_of_a_configuration_are_measured() -> None:
    import torch

    speed = measure_steps(config(), torch.device("cpu"))
    assert 0 < speed.training < speed.validation
    assert speed.norm_statistics == math.inf


@pytest.mark.parametrize(("network", "has_batch_norm"), [("brainmrnet", True), ("vgg16", False)])
def test_precise_statistics_take_time_where_there_is_batch_norm(network: str, has_batch_norm: bool) -> None:
    import torch

    settings = config(f"model.name={network}", "train.norm_statistics=precise")
    assert (measure_steps(settings, torch.device("cpu")).norm_statistics < math.inf) is has_batch_norm
