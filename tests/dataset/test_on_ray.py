"""Comparing signatures with Ray tasks gives what one process gives."""

from collections.abc import Iterator
from functools import partial

import pytest
import ray

from brainscale.dataset import on_ray
from brainscale.dataset.near_duplicates import find_near_duplicates
from tests.dataset.test_near_duplicates import phantoms, table
from tests.support.copies import recognisable

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
