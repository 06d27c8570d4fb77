"""Seeds, augmentation, the exact sum and the schedule: all without Ray."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.sections import AugmentConfig, TrainConfig
from brainscale.models.registry import build
from brainscale.seeds import derive
from brainscale.training import exact_sum
from brainscale.training.augment import augment
from brainscale.training.plane_store import _view
from brainscale.training.step import learning_rate


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
def test_the_tree_is_the_same_however_it_is_shared(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(7, generator=generator) * 10**i for i in range(count)]
    whole = exact_sum.tree_sum(v.clone() for v in vectors)
    for workers in (1, 2, 4, 8, 16):
        if count % workers == 0:
            each = count // workers
            parts = [exact_sum.tree_sum(v.clone() for v in vectors[r * each : (r + 1) * each]) for r in range(workers)]
            assert torch.equal(exact_sum.tree_sum(parts), whole)
    assert torch.allclose(whole.double(), torch.stack(vectors).double().sum(0), rtol=1e-3, atol=1e-2 * 10**count)


def test_a_tree_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        exact_sum.tree_sum(torch.ones(1) for _ in range(3))


def test_one_micro_batch_is_an_ordinary_step() -> None:
    ordinary, ours = build("brainmrnet", 2, seed=1), build("brainmrnet", 2, seed=1)
    planes, labels = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 0, 1, 1, 0])
    for network in (ordinary, ours):
        network.head.dropout.p = 0.0  # type: ignore[union-attr]
    F.cross_entropy(ordinary(planes), labels).backward()
    with exact_sum.micro_batch_statistics(ours) as statistics:
        loss = F.cross_entropy(ours(planes), labels, reduction="sum")
        (loss / 6).backward()
        vector = exact_sum.pack(ours, statistics, 1.0, [loss])
    assert len(vector) == exact_sum.packed_length(ours, 1)
    exact_sum.unpack(ours, vector)
    assert vector[-1] == loss
    for (name, a), b in zip(ordinary.named_parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name
    for name, buffer in ordinary.named_buffers():
        assert torch.allclose(buffer.float(), dict(ours.named_buffers())[name].float(), atol=1e-5), name


def test_statistics_are_restored_when_a_step_fails() -> None:
    network = build("brainmrnet", 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(RuntimeError), exact_sum.micro_batch_statistics(network):
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
