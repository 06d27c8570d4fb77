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
from tests.support.steps import step_row


def row(epoch: int, loss: float, best: bool, sha256: str = "") -> dict[str, object]:
    return {"epoch": epoch, "val_loss": loss, "best": best, "weights_sha256": sha256}


def test_patience_counts_from_the_best_epoch() -> None:
    progress = Progress([row(1, 1.0, True), row(2, 0.5, True), row(3, 0.4999, False), row(4, 0.6, False)])
    assert progress.is_improvement(0.49, 1e-3)
    assert not progress.is_improvement(0.4995, 1e-3)
    assert progress.is_out_of_patience(2)
    assert not progress.is_out_of_patience(3)
    assert Progress().is_improvement(9.9, 1e-3)


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
    progress.steps.append(step_row(3, 1, 3, -4))
    trained.step(3)
    trained.save(tmp_path, progress)
    progress.steps.append(step_row(3, 2, 5, 6))
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
