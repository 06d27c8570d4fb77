"""Seeds, order, batches, augmentation, the exact step, schedule and checkpoints: all without Ray."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale import checkpoints, exact
from brainscale.augment import augment
from brainscale.config import AugmentConfig, TrainConfig
from brainscale.models.registry import build
from brainscale.seeds import derive
from brainscale.tensors import _view, batches, epoch_order
from brainscale.train_loop import learning_rate, make_optimizer


def test_seeds_differ_by_every_part_of_their_purpose() -> None:
    seeds = {
        derive(1, "a", 2),
        derive(2, "a", 2),
        derive(1, "b", 2),
        derive(1, "a", 3),
        derive(1, "a2"),
        derive(1, "a"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(42, "order", 1) == 1033042360562068201  # golden: old runs must stay repeatable


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8]), st.integers(2, 9), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_each_sample_comes_once_whatever_the_cut(count: int, micro: int, size: int, epoch: int) -> None:
    order = epoch_order(count, seed=3, epoch=epoch)
    cut = list(batches(order, size * micro, micro))
    assert np.array_equal(np.concatenate([piece for batch in cut for piece in batch]), order)
    assert sorted(order) == list(range(count))
    assert all(len(batch) == micro for batch in cut)
    pieces = [len(piece) for batch in cut for piece in batch if len(piece)]
    assert count == 1 or min(pieces) >= 2  # batch statistics need two
    for workers in (w for w in (1, 2, 4, 8) if micro % w == 0):
        share = micro // workers
        seen = [
            p for batch in cut for r in range(workers) for piece in batch[r * share : (r + 1) * share] for p in piece
        ]
        assert seen == list(order)


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (1, 2) for epoch in (1, 2, 3)}
    assert len(orders) == 6


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=6), st.integers(0, 5))
def test_planes_are_viewed_without_a_copy(planes: list[bytes], start: int) -> None:
    column = pa.array(planes, pa.binary()).slice(min(start, len(planes)))
    view = _view(column, 4)
    assert [p.tobytes() for p in view] == column.to_pylist()


PLANES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32), np.uint8))
IDS = [f"s{i}" for i in range(6)]


def test_a_draw_belongs_to_its_sample() -> None:
    config, before = AugmentConfig(), PLANES.clone()
    together = augment(PLANES, IDS, 1, 42, config)
    alone = torch.cat([augment(PLANES[i : i + 1], IDS[i : i + 1], 1, 42, config) for i in range(6)])
    assert torch.equal(together, alone)
    assert torch.equal(PLANES, before)
    assert not torch.equal(together, augment(PLANES, IDS, 2, 42, config))
    assert not torch.equal(together, augment(PLANES, IDS, 1, 43, config))
    assert together.min() >= 0
    assert together.max() <= 255


def test_nothing_turned_on_changes_nothing() -> None:
    still = AugmentConfig(flip=False, rotate=0.0, scale=0.0, shift=0.0, intensity=0.0)
    assert torch.allclose(augment(PLANES, IDS, 1, 42, still), PLANES.float(), atol=1e-3)


def test_a_flip_is_left_right() -> None:
    flips = AugmentConfig(flip=True, rotate=0.0, scale=0.0, shift=0.0, intensity=0.0)
    changed = augment(PLANES, IDS, 1, 42, flips)
    for plane, out in zip(PLANES.float(), changed, strict=True):
        assert torch.allclose(out, plane, atol=1e-3) or torch.allclose(out, plane.flip(1), atol=1e-3)
    assert not torch.allclose(changed, PLANES.float(), atol=1e-3)


@given(st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 2**30))
@settings(deadline=None)
def test_the_tree_is_the_same_however_it_is_shared(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(7, generator=generator) * 10**i for i in range(count)]
    whole = exact.tree_sum(v.clone() for v in vectors)
    for workers in (1, 2, 4, 8, 16):
        if count % workers == 0:
            each = count // workers
            parts = [exact.tree_sum(v.clone() for v in vectors[r * each : (r + 1) * each]) for r in range(workers)]
            assert torch.equal(exact.tree_sum(parts), whole)
    assert torch.allclose(whole.double(), torch.stack(vectors).double().sum(0), rtol=1e-3, atol=1e-2 * 10**count)


def test_a_tree_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        exact.tree_sum(torch.ones(1) for _ in range(3))


def _sum_in_worker(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    vector = torch.randn(11, generator=torch.Generator().manual_seed(rank)) * 10.0**rank
    torch.save(exact.sum_over_workers(vector), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_every_worker_gets_the_tree_sum(tmp_path: Path, world: int) -> None:
    mp.spawn(_sum_in_worker, (world, str(tmp_path)), nprocs=world)
    expected = exact.tree_sum(
        torch.randn(11, generator=torch.Generator().manual_seed(r)) * 10.0**r for r in range(world)
    )
    for rank in range(world):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


def test_one_micro_batch_is_an_ordinary_step() -> None:
    ordinary, ours = build("brainmrnet", 2, seed=1), build("brainmrnet", 2, seed=1)
    planes, labels = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 0, 1, 1, 0])
    for network in (ordinary, ours):
        network.head.dropout.p = 0.0  # type: ignore[union-attr]
    F.cross_entropy(ordinary(planes), labels).backward()
    with exact.micro_batch_statistics(ours) as statistics:
        loss = F.cross_entropy(ours(planes), labels, reduction="sum")
        (loss / 6).backward()
        vector = exact.pack(ours, statistics, 1.0, [loss])
    assert len(vector) == exact.packed_length(ours, 1)
    (figure,) = exact.unpack(ours, vector, 1)
    assert figure == loss
    for (name, a), b in zip(ordinary.named_parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name
    for name, buffer in ordinary.named_buffers():
        assert torch.allclose(buffer.float(), dict(ours.named_buffers())[name].float(), atol=1e-5), name


def test_statistics_are_restored_when_a_step_fails() -> None:
    network = build("brainmrnet", 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(RuntimeError), exact.micro_batch_statistics(network):
        network(torch.randn(4, 3, 64, 64))
        raise RuntimeError
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_rate_rises_then_falls_to_nothing() -> None:
    settings_ = TrainConfig(epochs=20, warmup_epochs=2.0, warmup_start=1e-5, learning_rate=1e-2)
    rates = [learning_rate(step, 10, settings_) for step in range(200)]
    assert rates[0] == 1e-5
    assert np.argmax(rates) == 20
    assert rates[20] == pytest.approx(1e-2)
    assert all(a < b for a, b in zip(rates[:20], rates[1:21], strict=True))
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False))
    assert rates[-1] < 1e-5
    short = TrainConfig(epochs=3, warmup_epochs=5.0)
    assert max(learning_rate(s, 10, short) for s in range(30)) == pytest.approx(1e-3, rel=0.01)


def row(epoch: int, loss: float, best: bool) -> dict[str, object]:
    return {"epoch": epoch, "val_loss": loss, "best": best}


def test_patience_counts_from_the_best_epoch() -> None:
    progress = checkpoints.Progress([row(1, 1.0, True), row(2, 0.5, True), row(3, 0.4999, False), row(4, 0.6, False)])
    assert progress.improves(0.49, 1e-3)
    assert not progress.improves(0.4995, 1e-3)
    assert progress.exhausted(2)
    assert not progress.exhausted(3)
    assert checkpoints.Progress().improves(9.9, 1e-3)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_checkpoint_brings_everything_back_and_a_torn_one_is_passed_over(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    settings_ = TrainConfig.model_validate({"optimizer": kind})
    network = build("brainmrnet", 2, seed=5)
    optimizer = make_optimizer(network, settings_)
    progress = checkpoints.Progress()
    for epoch in range(1, 5):
        step(network, optimizer, epoch)
        progress.history.append(row(epoch, 1.0 / epoch, epoch < 4))
        checkpoints.save_checkpoint(tmp_path, network, optimizer, progress)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"{kind_}-000{i}.safetensors" for kind_, i in (("best", 3), ("last", 3), ("last", 4))]

    (tmp_path / "last-0004.safetensors").write_bytes((tmp_path / "last-0004.safetensors").read_bytes()[:5000])
    again = build("brainmrnet", 2, seed=6)
    optimizer_again = make_optimizer(again, settings_)
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.load_latest(tmp_path, again, optimizer_again)
    assert "last-0004.safetensors cannot be read" in caplog.text
    assert restored.history == progress.history[:3]
    step(again, optimizer_again, 4)
    assert checkpoints.weights_sha256(again.state_dict()) == checkpoints.weights_sha256(network.state_dict())
    assert checkpoints.load_best(tmp_path, progress).keys() == network.state_dict().keys()
