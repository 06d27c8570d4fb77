"""Checkpoints bring everything back; damaged ones are passed over."""

from pathlib import Path

import pytest
import torch

from brainscale.config.sections import TrainConfig
from brainscale.errors import TrainError
from brainscale.models.registry import build_network
from brainscale.training import checkpoints
from brainscale.training.checkpoints import Progress
from brainscale.training.step import make_optimizer
from brainscale.training.trace import StepTotals
from tests.support.steps import step_row


def row(epoch: int, loss: float, best: bool, sha256: str = "") -> dict[str, object]:
    return {"epoch": epoch, "val_loss": loss, "best": best, "weights_sha256": sha256}


def test_the_best_loss_is_the_lowest_and_patience_counts_from_the_last_gain() -> None:
    """Epoch 3 is the best one, though too little better than epoch 2 to keep the training going."""
    progress = Progress([row(1, 1.0, True), row(2, 0.5, True), row(3, 0.4999, True), row(4, 0.6, False)])
    assert progress.best == progress.history[2]
    assert progress.is_best(0.4998)
    assert not progress.is_best(0.4999)
    assert progress.is_out_of_patience(2, 1e-3)
    assert not progress.is_out_of_patience(3, 1e-3)
    assert not progress.is_out_of_patience(2, 1e-5)
    assert Progress().is_best(9.9)
    assert not Progress().is_out_of_patience(1, 1e-3)


def test_many_small_gains_that_together_count_keep_the_training_going() -> None:
    progress = Progress([row(epoch, 1.0 - 0.0004 * epoch, True) for epoch in range(1, 7)])
    assert not progress.is_out_of_patience(3, 1e-3)
    assert progress.is_out_of_patience(3, 1e-2)


def test_names_of_any_length_keep_their_order(tmp_path: Path) -> None:
    """1,000,001 steps in an epoch, and 10,001 epochs: the newest are kept, and the newest is loaded."""
    trained = Trained(5)
    for steps in (999_999, 1_000_000, 1_000_001):
        trained.save(tmp_path, Progress([row(1, 0.5, False)], totals=StepTotals(steps=steps)))
    names = ["last-0001-1000000", "last-0001-1000001"]
    assert [path.stem for path in checkpoints.list_checkpoints(tmp_path)] == names
    progress = checkpoints.load_latest_checkpoint(tmp_path, trained.network, trained.optimizer)
    assert progress.totals.steps == 1_000_001
    for epoch in (9_999, 10_000):
        (tmp_path / f"best-{epoch:04d}.safetensors").touch()
        (tmp_path / f"last-{epoch:04d}-000000.safetensors").touch()
    checkpoints._delete_old_checkpoints(tmp_path)
    names = ["last-9999-000000", "last-10000-000000"]
    assert [path.stem for path in checkpoints.list_checkpoints(tmp_path)] == names
    assert {path.stem for path in tmp_path.glob("best-*")} == {"best-9999", "best-10000"}


class Trained:
    """A network that takes steps, without data."""

    def __init__(self, seed: int, kind: str = "adamw") -> None:
        self.network = build_network("brainmrnet", 2, seed=seed).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.network, TrainConfig.model_validate({"optimizer": kind}))

    def step(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()

    def save(self, folder: Path, progress: Progress) -> None:
        checkpoints.save_checkpoint(folder, self.network, self.optimizer, progress)

    @property
    def sha256(self) -> str:
        return checkpoints.hash_weights(self.network.state_dict())


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("damage", ["torn", "changed", "emptied", "no checkpoint"])
def test_damage_is_passed_over_and_nothing_is_lost(tmp_path: Path, kind: str, damage: str) -> None:
    trained = Trained(5, kind)
    progress = Progress()
    for epoch in (1, 2):
        trained.step(epoch)
        progress.history.append(row(epoch, 1.0 / epoch, True, trained.sha256))
        trained.save(tmp_path, progress)
    progress.add_step(step_row(3, 1, 3, -4))
    trained.step(3)
    trained.save(tmp_path, progress)
    progress.add_step(step_row(3, 2, 5, 6))
    trained.step(4)
    trained.save(tmp_path, progress)
    names = ["best-0001", "best-0002", "last-0002-000001", "last-0002-000002"]
    assert sorted(p.stem for p in tmp_path.iterdir()) == names[1:]

    newest = tmp_path / "last-0002-000002.safetensors"
    data = bytearray(newest.read_bytes())
    if damage == "torn":
        data = data[:5000]
    elif damage == "changed":
        data[-100] ^= 1
    elif damage == "emptied":
        data = bytearray()
    else:
        data = bytearray(next(tmp_path.glob("best-*")).read_bytes())
    newest.write_bytes(data)
    again, said = Trained(6, kind), []
    restored = checkpoints.load_latest_checkpoint(tmp_path, again.network, again.optimizer, said.append)
    assert len(said) == 1
    assert said[0].startswith("checkpoint last-0002-000002.safetensors cannot be read")
    assert said[0].endswith("resuming from the one before")
    assert (restored.history, restored.steps) == (progress.history, progress.steps[:1])
    again.step(4)
    assert again.sha256 == trained.sha256
    for (_, one), other in zip(again.network.named_parameters(), trained.network.parameters(), strict=True):
        assert one.stride() == other.stride()
        assert again.optimizer.state[one]["exp_avg"].stride() == trained.optimizer.state[other]["exp_avg"].stride()


def test_the_best_weights_are_checked(tmp_path: Path) -> None:
    trained = Trained(5)
    progress = Progress([row(1, 0.5, True, trained.sha256)])
    trained.save(tmp_path, progress)
    assert checkpoints.hash_weights(checkpoints.load_best_weights(tmp_path, progress)) == trained.sha256
    best = tmp_path / "best-0001.safetensors"
    data = bytearray(best.read_bytes())
    data[-10] ^= 1
    best.write_bytes(data)
    with pytest.raises(TrainError, match="was changed after it was written"):
        checkpoints.load_best_weights(tmp_path, progress)
    best.unlink()
    with pytest.raises(TrainError, match="cannot be read"):
        checkpoints.load_best_weights(tmp_path, progress)


def test_best_weights_stay_while_a_checkpoint_counts_on_them(tmp_path: Path) -> None:
    trained, progress = Trained(5), Progress()
    for epoch in range(1, 6):
        progress.history.append(row(epoch, 1.0 / epoch, epoch < 4, trained.sha256))
        trained.save(tmp_path, progress)
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["best-0003", "last-0004-000000", "last-0005-000000"]
