"""How many workers there are and how large, where nobody says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.cluster.placement import ALL, Nodes, count_trainers, plan_engines
from brainscale.reading.on_ray import READ_CPUS

MANY = 10**6
MIXED = [(1, 0), (4, 8), (4, 16)]


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "blocks", "asked"),
    [
        ([(1, 2)], None, None, MANY, (1, 2, 1)),  # one machine: one engine on all of it
        ([(1, 16)], None, None, MANY, (1, 16, 1)),
        ([(1, 1)], None, None, MANY, (1, 1, 1)),
        ([(1, 0), (10, 16)], None, None, MANY, (10, 16, 8.001)),  # a node each: no second one fits beside it
        ([(1, 2), (10, 64)], None, None, MANY, (10, 64, 32.001)),  # the head is left to reading
        (MIXED, None, None, MANY, (12, 8, 5.334)),  # two on the larger nodes, rather than half the smaller ones idle
        ([(1, 1), (2, 2)], None, None, MANY, (5, 1, 0.668)),
        ([(1, 0), (10, 16)], None, None, 3, (3, 16, 8.001)),  # not more than have something to do
        ([(1, 0), (10, 16)], None, None, 1, (1, 16, 1)),
        ([(10, 16)], None, 4, MANY, (40, 4, 3.201)),
        ([(10, 16)], 1, None, MANY, (1, 16, 1)),
        ([(2, 16)], 3, None, MANY, (3, 8, 5.334)),
        ([(1, 16)], 4, None, MANY, (4, 4, 3.201)),
        ([(1, 3)], 2, None, MANY, (2, 1, 0.751)),
        ([(1, 2)], 9, None, MANY, (9, 1, 0.668)),  # that it is too many is said elsewhere
        ([(10, 16)], 8, 2, MANY, (8, 2, 1.779)),
        ([(1, 2)], 2, 4, MANY, (2, 4, 4)),  # which no node has, as is said elsewhere
        ([(1, 2)], 1, 4, MANY, (1, 4, 4)),
        ([(1, 0)], None, None, MANY, (1, ALL, 1)),  # a head that waits for nodes of any size
        ([(1, 0)], 8, None, MANY, (8, 1, 1)),
        ([(1, 0)], 8, 16, MANY, (8, 16, 15.5)),
        ([(1, 0)], 8, 1, MANY, (8, 1, 0.9)),
    ],
)
def test_engines(
    nodes: list[tuple[int, int]], workers: int | None, cpus: int | None, blocks: int, asked: tuple[int, int, float]
) -> None:
    there = [Nodes(*size) for size in nodes]
    found = plan_engines(there, workers=workers, cpus=cpus, blocks=blocks)
    assert (found.workers, found.threads, found.cpus) == asked


SOME_NODES = st.lists(st.builds(Nodes, st.integers(1, 50), st.integers(0, 128)), min_size=1, max_size=5)


@given(SOME_NODES, st.integers(1, 500))
def test_what_is_chosen_finds_room_beside_reading(nodes: list[Nodes], blocks: int) -> None:
    in_all = sum(size.count * size.cpus for size in nodes)
    found = plan_engines(nodes, blocks=blocks)
    assert 1 <= found.workers <= max(1, blocks)
    if in_all < 2:
        return
    assert found.workers * found.cpus <= in_all - READ_CPUS
    assert sum(size.count * (size.cpus // found.cpus) for size in nodes) >= found.workers
    if found.workers > 1:
        assert found.workers * found.threads <= in_all  # no CPU is asked to compute for two


@given(st.integers(1, 50), st.integers(1, 128), st.integers(2, 500))
def test_whatever_nodes_are_lost_the_others_still_read(count: int, cpus: int, workers: int) -> None:
    found = plan_engines([Nodes(count, cpus)], workers=workers)
    on_one = cpus // found.cpus  # that come to a node when all others are gone
    assert cpus - on_one * found.cpus >= READ_CPUS
    assert on_one <= cpus // found.threads


@pytest.mark.parametrize(
    ("nodes", "gpus", "workers"),
    [
        ([(1, 16)], 0, 1),
        ([(1, 0), (3, 16)], 0, 2),  # as a batch of four can be shared
        ([(1, 0), (9, 16)], 0, 4),
        ([(1, 16)], 2, 2),
        ([(1, 16)], 3, 2),
        ([(1, 0)], 1, 1),
        ([], 0, 1),
    ],
)
def test_trainers(nodes: list[tuple[int, int]], gpus: int, workers: int) -> None:
    assert count_trainers([Nodes(*size) for size in nodes], gpus, micro_batches=4) == workers
