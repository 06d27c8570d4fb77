"""A run's folder before training."""

from pathlib import Path

import pytest

from brainscale.config.files import load_config
from brainscale.errors import OutputError
from brainscale.schema import MANIFEST
from brainscale.training.run_folder import Run, RunFolder, describe_training_data


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_a_kill_while_it_is_made_is_no_obstacle(there: int, tmp_path: Path) -> None:
    """Whatever number of its files was written, the same command goes on."""
    config, manifest = load_config(), MANIFEST.empty_table()
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    run.mkdir()
    assert RunFolder(whole).start(config, manifest) is None
    for path in sorted(whole.iterdir(), key=lambda p: p.stat().st_mtime_ns)[:there]:
        (run / path.name).write_bytes(path.read_bytes())
    (run / ".config.yaml.12ab34cd.tmp").write_text("half")
    assert RunFolder(run).start(config, manifest) is None
    names = {p.name for p in run.iterdir() if not p.name.endswith(".tmp")}
    assert names == {"config.yaml", "manifest.parquet", "environment.json"}


def test_the_card_marks_a_run_that_was_resumed_on_other_hardware() -> None:
    def hardware(*names: str) -> object:
        run = Run(
            path="r",
            samples={},
            left_out={},
            epochs=1,
            best_epoch=1,
            best_val_loss=0.5,
            threshold=0.5,
            threshold_source="fixed",
            weights_sha256="w",
            manifest_sha256="m",
            config_sha256="c",
            hardware=names,
        )
        return describe_training_data(run)["hardware"]

    assert hardware("cpu: A") == "cpu: A"
    assert hardware("cpu: A", "cuda: B") == (
        "cpu: A then cuda: B (resumed on other hardware, so no single machine gives these bits)"
    )


def test_a_folder_of_somebody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_text("mine")
    with pytest.raises(OutputError, match="holds other files and no run"):
        RunFolder(tmp_path).start(load_config(), MANIFEST.empty_table())


def test_another_number_of_epochs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """The learning rate has fallen to 0 by the last epoch, so a longer run is another one; its weights can be used."""
    folder, manifest = RunFolder(tmp_path), MANIFEST.empty_table()
    folder.start(load_config(None, ["train.epochs=20"]), manifest)
    fewer, more = (load_config(None, [f"train.epochs={epochs}"]) for epochs in (10, 30))
    reason = "is a run of 20 epochs, over which its learning rate falls to 0, so it cannot become one of 30"
    with pytest.raises(OutputError, match=f"{reason}: choose a new --out, which trains 30 epochs from the start$"):
        folder.require_config(more)
    folder.model.mkdir()
    weights = folder.model / "model.safetensors"
    weights.write_bytes(b"weights")
    with pytest.raises(OutputError, match=f", or 30 more epochs from its weights with --set model.weights={weights}$"):
        folder.require_config(more)
    with pytest.raises(OutputError, match="so it cannot become one of 10: choose a new --out, which trains 10 epochs"):
        folder.require_config(fewer)
    with pytest.raises(OutputError, match=r"another configuration \(train.seed is 42 there, 1 here\)"):
        folder.require_config(load_config(None, ["train.epochs=30", "train.seed=1"]))
