"""Augmentation: each sample's own draw, whatever shares its batch."""

import numpy as np
import pytest
import torch

from brainscale.config.sections import AugmentConfig
from brainscale.training.augment import augment, draw_mixture

PLANES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32), np.uint8))
IDS = [f"s{i}" for i in range(6)]


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(elastic=0.05, bias_field=0.3)])
def test_a_draw_belongs_to_its_sample(config: AugmentConfig) -> None:
    before = PLANES.clone()
    together = augment(PLANES, IDS, 1, 42, config)
    alone = torch.cat([augment(PLANES[i : i + 1], IDS[i : i + 1], 1, 42, config) for i in range(6)])
    assert torch.equal(together, alone)
    assert torch.equal(PLANES, before)
    assert not torch.equal(together, augment(PLANES, IDS, 2, 42, config))
    assert not torch.equal(together, augment(PLANES, IDS, 1, 43, config))
    assert together.min() >= 0
    assert together.max() <= 255


STILL = AugmentConfig(flip=False, rotate=0.0, scale=0.0, shift=0.0, intensity=0.0)


def test_nothing_turned_on_changes_nothing() -> None:
    assert torch.allclose(augment(PLANES, IDS, 1, 42, STILL), PLANES.float(), atol=1e-3)


def test_smooth_changes_draw_after_all_others() -> None:
    tiny = AugmentConfig(elastic=1e-7, bias_field=1e-7)
    assert torch.allclose(augment(PLANES, IDS, 1, 42, tiny), augment(PLANES, IDS, 1, 42, AugmentConfig()), atol=1e-2)


def test_elastic_deformation_shifts_points_smoothly_and_by_no_more_than_its_maximum() -> None:
    columns = torch.arange(64, dtype=torch.uint8).repeat(6, 64, 1)  # a plane whose grey level is the column
    changed = augment(columns, IDS, 1, 42, STILL.model_copy(update={"elastic": 0.05}))
    shifts = (changed - columns)[:, 8:-8, 8:-8]
    assert 1 < shifts.abs().max() <= 0.05 * 64 + 1e-3  # along the axis of the columns
    assert shifts.amax((1, 2)).std() > 0.1
    assert shifts.diff(dim=1).abs().max() < 0.5


def test_a_bias_field_is_a_smooth_factor() -> None:
    grey = torch.full((6, 64, 64), 100, dtype=torch.uint8)
    logarithms = (augment(grey, IDS, 1, 42, STILL.model_copy(update={"bias_field": 0.4})) / 100).log()[:, 1:-1, 1:-1]
    assert 0.2 < logarithms.abs().max() <= 0.4 + 1e-5
    assert logarithms.std() > 0.05
    assert logarithms.diff(dim=2).abs().max() < 0.05


def test_a_flip_is_left_right() -> None:
    flips = AugmentConfig(flip=True, rotate=0.0, scale=0.0, shift=0.0, intensity=0.0)
    changed = augment(PLANES, IDS, 1, 42, flips)
    for plane, out in zip(PLANES.float(), changed, strict=True):
        assert torch.allclose(out, plane, atol=1e-3) or torch.allclose(out, plane.flip(1), atol=1e-3)
    assert not torch.allclose(changed, PLANES.float(), atol=1e-3)


def test_gamma_keeps_black_and_white_and_the_order_of_greys() -> None:
    config = AugmentConfig(flip=False, rotate=0.0, scale=0.0, shift=0.0, intensity=0.0, gamma=0.5)
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(6, 1, 1)
    changed = augment(ramp, IDS, 1, 42, config).flatten(1)
    assert torch.allclose(changed[:, [0, 255]], torch.tensor([0.0, 255.0]).expand(6, 2), atol=1e-2)
    assert (changed.diff(dim=1) > -1e-2).all()
    assert (changed[:, 128] - 128).abs().max() > 5
    assert changed[:, 128].std() > 1


def test_a_mixture_is_a_permutation_with_the_larger_share_first() -> None:
    for seed in range(50):
        partners, share = draw_mixture(5, seed, 0.2)
        assert sorted(partners) == list(range(5))
        assert 0.5 <= share <= 1
        assert draw_mixture(5, seed, 0.2)[1] == share
