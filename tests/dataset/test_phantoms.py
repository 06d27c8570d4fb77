from pathlib import Path

import numpy as np
from PIL import Image

from brainscale.dataset.phantoms import draw_phantom, write_phantoms


def test_a_set_is_half_and_half_and_repeatable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_phantoms(tmp_path / name, 6, seed=1, size=64)
    first = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert [p.parent.name for p in first] == ["no"] * 3 + ["yes"] * 3
    for path in first:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
        with Image.open(tmp_path / "a" / path) as image:
            assert (image.mode, image.size) == ("L", (64, 64))


def test_each_phantom_is_its_own() -> None:
    planes = [draw_phantom(1, 0, True), draw_phantom(1, 0, False), draw_phantom(1, 2, True), draw_phantom(2, 0, True)]
    assert all(p.shape == (160, 160) and p.dtype == np.uint8 for p in planes)
    assert len({p.tobytes() for p in planes}) == 4
    assert all(p[:5].max() < 60 < p[40:120, 40:120].mean() for p in planes)  # air around, a head within
