"""Comparing signatures with Ray tasks gives what one process gives."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import ray

from brainscale.dataset import on_ray
from brainscale.dataset.near_duplicates import find_near_duplicates
from brainscale.stats import bootstrap
from brainscale.stats.metrics import measure
from tests.dataset.test_near_duplicates import phantoms, table
from tests.support.copies import recognisable
from tests.support.samples import labelled, two_columns

pytestmark = pytest.mark.ray


def test_tasks_give_the_same_pairs_and_arguments_are_made_as_they_are_needed(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*phantoms()[:10], *(image[4:, 3:] for image in phantoms()[:10])]
    manifest = table([recognisable(image) for image in images])
    here, there = find_near_duplicates(manifest), find_near_duplicates(manifest, run=on_ray.map_on_ray)
    assert len(here) == 10
    assert (here.first.tolist(), here.second.tolist()) == (there.first.tolist(), there.second.tolist())
    made = []

    def count() -> Iterator[int]:
        for number in range(500):
            made.append(number)
            yield number

    results = on_ray.map_on_ray(partial(pow, 2), count())
    assert next(results) == 1
    assert len(made) <= 2 * ray.cluster_resources()["CPU"] + 1
    assert list(results) == [2**number for number in range(1, 500)]
    assert on_ray.choose_map(on_ray.SMALL) is map
    monkeypatch.setattr(on_ray, "SMALL", 3)
    with on_ray.open_map(4) as run:
        assert list(run(str, [1, 2])) == ["1", "2"]


def test_a_large_bootstrap_has_the_same_bits_in_tasks(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "LARGE", 100)
    monkeypatch.setattr(bootstrap, "FEWER_RESAMPLES", 200)
    draw = np.random.default_rng(0)
    labels, groups = draw.integers(0, 2, 600), (np.arange(600) // 3).tolist()
    samples = labelled(labels, two_columns((labels + draw.random(600)) / 2), groups=groups)
    assert measure(samples, 0.1, on_ray.map_on_ray).equals(measure(samples, 0.1))
    assert on_ray.choose_map(5, 5) is map
    assert on_ray.choose_map(6, 5) is on_ray.map_on_ray
