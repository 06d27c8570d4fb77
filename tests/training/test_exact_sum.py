"""The exact sum: one tree, however many workers share it, and the gradients and statistics of an ordinary step."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from brainscale.models.registry import build_network
from brainscale.training import exact_sum


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
    ordinary, ours = build_network("brainmrnet", 2, seed=1), build_network("brainmrnet", 2, seed=1)
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


@pytest.mark.parametrize(
    ("on_gpu", "each", "backend"), [(True, 1.0, "nccl"), (True, 2.0, "nccl"), (True, 0.5, "gloo"), (False, 1.0, "gloo")]
)
def test_workers_that_share_a_gpu_talk_by_gloo(on_gpu: bool, each: float, backend: str) -> None:
    assert exact_sum.choose_backend(on_gpu, each) == backend


def test_statistics_are_restored_when_a_step_fails() -> None:
    network = build_network("brainmrnet", 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(RuntimeError), exact_sum.micro_batch_statistics(network):
        network(torch.randn(4, 3, 64, 64))
        raise RuntimeError
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
