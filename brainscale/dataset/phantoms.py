"""Draw phantoms that look like axial brain slices, half of them with a lesion, to try brainscale without patient data.

They are no model of anatomy: how well a classifier separates them says nothing about real scans.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from brainscale.seeds import derive

SIZE = 160


def draw_phantom(seed: int, index: int, tumour: bool, size: int = SIZE) -> np.ndarray:
    """Return one phantom, uint8 [size, size].

    Args:
        seed: seed of the set of phantoms.
        index: number of the phantom in the set; each has its own anatomy, contrast and noise.
        tumour: whether it has a lesion.
        size: width and height in pixels.
    """
    head = _Head(_generator(seed, index), size)
    image = head.draw_tissue()
    if tumour:
        image, _ = head.add_lesion(image)
    return head.acquire(image)


def draw_outline(seed: int, index: int, size: int = SIZE) -> np.ndarray:
    """Return where the lesion of a phantom is, without the oedema around it: bool [size, size].

    The arguments are those of `draw_phantom`.
    """
    head = _Head(_generator(seed, index), size)
    return head.add_lesion(head.draw_tissue())[1]


def write_phantoms(folder: Path, count: int, seed: int, size: int = SIZE) -> None:
    """Write `count` phantoms as PNG files, alternately into folder/yes and folder/no."""
    for name in ("yes", "no"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        tumour = index % 2 == 0
        plane = draw_phantom(seed, index, tumour, size)
        Image.fromarray(plane).save(folder / ("yes" if tumour else "no") / f"phantom-{index:04d}.png")


def draw_montage(seed: int = 0) -> Image.Image:
    """Return a picture of six phantoms: three with a lesion in the upper row, three without in the lower row."""
    rows = [np.hstack([draw_phantom(seed, 2 * i + (not tumour), tumour) for i in range(3)]) for tumour in (True, False)]
    return Image.fromarray(np.vstack(rows))


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, "phantom", index))


class _Head:
    """One head: its coordinates, and the random fields that its tissues share.

    Args:
        generator: generator of all random numbers of this head.
        size: width and height in pixels.
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        self.draw = generator
        self.size = size
        axis = np.linspace(-1, 1, size)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        angle = np.deg2rad(generator.uniform(-10, 10))
        x, y = x - generator.uniform(-0.05, 0.05), y - generator.uniform(-0.05, 0.05)
        self.x = (x * np.cos(angle) + y * np.sin(angle)) / generator.uniform(0.68, 0.78)
        self.y = (y * np.cos(angle) - x * np.sin(angle)) / generator.uniform(0.84, 0.94)
        self.theta = np.arctan2(self.y, self.x)
        warp = 0.03 * self._smooth_field(0.12) + 0.015 * np.cos(2 * self.theta + generator.uniform(0, 6))
        self.radius = np.hypot(self.x, self.y) * (1 + warp)  # 1 at the skin

    def draw_tissue(self) -> np.ndarray:
        """Return scalp, skull, folded cortex, white matter and ventricles, float [size, size] in 0..1."""
        d, r = self.draw, self.radius
        grey, white, fluid = d.uniform(0.42, 0.52), d.uniform(0.6, 0.72), d.uniform(0.08, 0.16)
        image = np.zeros_like(r)
        image += d.uniform(0.7, 0.9) * self._inside(1.0) * (1 - self._inside(0.94))  # scalp
        brain = self._inside(0.86)
        image = image * (1 - brain) + fluid * brain
        folds = self._folded_field(0.022, 0.05)
        depth = 0.81 + 0.035 * folds
        image = self._paint(image, _edge(depth - r, self.size), grey)
        ridges = np.abs(self._folded_field(0.03, 0.07))
        sulci = _edge(0.25 - ridges, self.size, 6) * _edge(r - 0.55, self.size, 8) * brain
        image = self._paint(image, 0.55 * sulci, fluid)
        core = _edge(0.66 + 0.07 * self._folded_field(0.04, 0.1) - r, self.size, 2)
        image = self._paint(image, core, white)
        image = self._paint(image, 0.5 * core * (self._folded_field(0.03, 0.09) > 1.0), grey)
        image = self._paint(
            image,
            _edge(0.012 - np.abs(self.x), self.size) * _edge(np.abs(self.y) - 0.3, self.size) * brain,
            fluid,
        )
        return self._add_ventricles(image, fluid, grey)

    def _add_ventricles(self, image: np.ndarray, fluid: float, grey: float) -> np.ndarray:
        """Add the two lateral ventricles, each with a nucleus of grey matter beside it."""
        d = self.draw
        length, width, tilt = d.uniform(0.2, 0.34), d.uniform(0.05, 0.11), d.uniform(0.2, 0.5)
        for side in (-1, 1):
            x = side * self.x - d.uniform(0.1, 0.13)
            y = self.y + d.uniform(0.0, 0.06)
            bent = x - tilt * y * y - 0.12 * np.abs(y)
            horn = 1 - np.hypot(bent / width, y / length)
            image = self._paint(image, _edge(horn * width, self.size), fluid)
            nucleus = 1 - np.hypot((x - 0.2) / 0.11, (y - 0.02) / 0.17)
            image = self._paint(image, 0.8 * _edge(nucleus * 0.11, self.size, 2), grey)
        return image

    def add_lesion(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add a lesion with an irregular outline and oedema around it; it is bright, or a bright rim of a dark core.

        Returns:
            The image, and where the lesion is without its oedema, bool [size, size].
        """
        d = self.draw
        angle, offset = d.uniform(0, 2 * np.pi), d.uniform(0.25, 0.6)
        size = d.uniform(0.12, 0.26)
        x, y = self.x - offset * np.cos(angle), self.y - offset * np.sin(angle)
        waves = (d.uniform(-0.12, 0.12) * np.cos(k * np.arctan2(y, x) + d.uniform(0, 6)) for k in range(2, 6))
        outline = 1 + sum(waves)
        distance = np.hypot(x, y * d.uniform(0.75, 1.3)) / outline
        brain = self._inside(0.84)
        halo = _edge(size * d.uniform(1.35, 1.9) + 0.05 * self._folded_field(0.03, 0.08) - distance, self.size, 5)
        image = self._paint(image, 0.75 * halo * brain, d.uniform(0.26, 0.36))
        bright = d.uniform(0.82, 1.0)
        lesion = _edge(size - distance, self.size, 1.5) * brain
        image = self._paint(image, lesion, bright)
        if d.random() < 0.6:
            necrosis = _edge(size * d.uniform(0.45, 0.7) - distance, self.size, 2)
            image = self._paint(image, necrosis * brain, d.uniform(0.15, 0.4))
        else:
            image = image + 0.06 * self._smooth_field(0.02) * (distance < size) * brain
        return image, lesion >= 0.5

    def acquire(self, image: np.ndarray) -> np.ndarray:
        """Add vessels, partial volume, a bias field, contrast and Rician noise; return uint8 [size, size]."""
        d = self.draw
        for _ in range(d.integers(3, 9)):  # vessels: bright dots that a classifier must not take for a lesion
            angle, offset, width = d.uniform(0, 2 * np.pi), d.uniform(0.1, 0.8), d.uniform(0.008, 0.022)
            dot = np.hypot(self.x - offset * np.cos(angle), self.y - offset * np.sin(angle))
            image = self._paint(image, d.uniform(0.4, 0.9) * _edge(width - dot, self.size), 0.95)
        image = _blur(image, d.uniform(0.003, 0.006) * self.size)
        image = image * (1 + d.uniform(0.05, 0.2) * _scale_to_unit(self._smooth_field(0.35)))
        image = np.clip(image, 0, None) ** d.uniform(0.85, 1.3) * d.uniform(0.75, 1.0)
        sigma = d.uniform(0.012, 0.035)
        noise = d.normal(0, sigma, (2, *image.shape))
        noisy = np.hypot(image + noise[0], noise[1])
        return np.asarray(np.clip(np.rint(noisy * 235), 0, 255), np.uint8)

    def _paint(self, image: np.ndarray, cover: np.ndarray, value: float) -> np.ndarray:
        """Return the image blended with a constant value, in proportion to `cover` (0..1)."""
        return np.asarray(image * (1 - cover) + value * cover)

    def _inside(self, radius: float) -> np.ndarray:
        """Return a mask in 0..1 of the points within a radius; the skin is at radius 1."""
        return _edge(radius - self.radius, self.size)

    def _smooth_field(self, scale: float) -> np.ndarray:
        """Return a random field of unit deviation, smooth over the fraction `scale` of the width."""
        field = _blur(self.draw.normal(size=(self.size, self.size)), scale * self.size)
        return np.asarray(field / field.std())

    def _folded_field(self, fine: float, coarse: float) -> np.ndarray:
        """Return a random field of unit deviation with structure between two scales only, as folds have."""
        field = self.draw.normal(size=(self.size, self.size))
        between = _blur(field, fine * self.size) - _blur(field, coarse * self.size)
        return np.asarray(between / between.std())


def _edge(inside: np.ndarray, size: int, width: float = 1.0) -> np.ndarray:
    """Return a mask that rises from 0 to 1 over about `width` pixels where a signed distance (half widths) is zero."""
    return np.asarray(np.clip(0.5 + inside * size / (2 * width), 0, 1))


def _scale_to_unit(field: np.ndarray) -> np.ndarray:
    """Return the field divided by its largest absolute value."""
    return np.asarray(field / np.abs(field).max())


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return a Gaussian blur, by Fourier transform: it wraps around at the borders, where there is only air."""
    frequency = np.fft.fftfreq(image.shape[0])
    squares = frequency[:, None] ** 2 + np.fft.rfftfreq(image.shape[1])[None, :] ** 2
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * squares)
    return np.asarray(np.fft.irfft2(np.fft.rfft2(image) * kernel, s=image.shape))


if __name__ == "__main__":
    draw_montage().save(sys.argv[1], optimize=True)
