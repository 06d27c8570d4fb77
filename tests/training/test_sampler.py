"""The order of an epoch: every sample once, whatever the cut."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.training.sampler import BLOCK, count_batches, cut_into_windows, epoch_order, own_positions, own_share


@given(
    count=st.integers(1, 1500),
    micro=st.sampled_from([1, 2, 4, 8]),
    size=st.integers(2, 9),
    batches_in_window=st.integers(1, 40),
    epoch=st.integers(1, 5),
)
@settings(max_examples=300)
def test_each_sample_comes_once(count: int, micro: int, size: int, batches_in_window: int, epoch: int) -> None:
    batch_size = size * micro
    window = batch_size * batches_in_window
    order = epoch_order(count, seed=3, epoch=epoch, window=window)
    assert sorted(order) == list(range(count))
    windows = list(cut_into_windows(order, window, batch_size, micro))
    plan = [batch for batches in windows for batch in batches]
    assert np.array_equal(np.concatenate([piece for batch in plan for piece in batch]), order)
    assert count_batches(count, window, batch_size, micro) == len(plan)
    assert all(len(batch) == micro for batch in plan)
    assert all(sum(len(piece) for batch in batches for piece in batch) <= window + 1 for batches in windows)
    pieces = [len(piece) for batch in plan for piece in batch if len(piece)]
    assert count == 1 or min(pieces) >= 2  # batch statistics need two
    for workers in (w for w in (1, 2, 4, 8) if micro % w == 0):
        seen = [
            piece
            for batch in plan
            for worker in range(workers)
            for m in own_share(batch, worker, workers)
            for piece in [batch[m]]
        ]
        assert np.array_equal(np.concatenate(seen), order)
        for batches in windows:
            owned = [own_positions(batches, worker, workers) for worker in range(workers)]
            held = np.sort(np.concatenate([piece for batch in batches for piece in batch]))
            assert np.array_equal(np.sort(np.concatenate(owned)), held)
    for skip in {0, 1, len(plan) // 2, len(plan)}:
        rest = list(cut_into_windows(order, window, batch_size, micro, skip))
        assert all(rest)  # a window of which nothing is left is never read
        assert [list(map(tuple, batch)) for batches in rest for batch in batches] == [
            list(map(tuple, batch)) for batch in plan[skip:]
        ]


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = {tuple(epoch_order(50, seed, epoch, 1024)) for seed in (1, 2) for epoch in (1, 2, 3)}
    assert len(orders) == 6


def test_an_order_is_pinned() -> None:
    """Golden: old runs must stay repeatable."""
    assert epoch_order(10, seed=42, epoch=1, window=1024).tolist() == [6, 3, 1, 4, 8, 9, 5, 0, 2, 7]
    assert epoch_order(600, seed=42, epoch=1, window=512)[:5].tolist() == [487, 180, 166, 209, 131]


def test_a_small_set_is_shuffled_whole() -> None:
    """Each of many positions is reached from each of many, as in a permutation drawn from all."""
    firsts = [int(epoch_order(BLOCK * 8, seed, 1, BLOCK * 8)[0]) for seed in range(300)]
    assert len(set(firsts)) > 250
    assert 0.4 < np.mean(firsts) / (BLOCK * 8) < 0.6


def test_a_large_set_is_read_window_by_window() -> None:
    """A window touches its own blocks of neighbours only, and they come from all over the set."""
    count, window = BLOCK * 64, BLOCK * 4
    order = epoch_order(count, seed=1, epoch=1, window=window)
    blocks = [set((order[at : at + window] // BLOCK).tolist()) for at in range(0, count, window)]
    assert all(len(some) == 4 for some in blocks)
    assert len(set().union(*blocks)) == 64
    assert any(max(some) - min(some) > 32 for some in blocks)
    assert not np.array_equal(order[:window], np.sort(order[:window]))
