"""Training on a GPU: device placement, NCCL, equal bits on 1 and 2 workers, bf16 within its tolerance."""

from pathlib import Path

import numpy as np
import pytest
import torch

from brainscale.config.files import load_config
from brainscale.config.sections import ARCHITECTURES
from brainscale.models.registry import build_network
from brainscale.seeds import derive, make_deterministic
from brainscale.training.checkpoints import Progress, hash_weights, load_latest_checkpoint, save_checkpoint
from brainscale.training.exactness import check_exactness, noise, train_a_little
from brainscale.training.fingerprints import Fingerprints, select_float_tensors
from brainscale.training.step import Learner
from brainscale.training.upload import Uploader

pytestmark = [pytest.mark.gpu]
BATCH = list(np.arange(32).reshape(4, -1))


def learner(device: torch.device, name: str = "brainmrnet", *settings: str) -> Learner:
    config = load_config(None, ["data.image_size=64", "train.batch_size=32", "train.micro_batch=8", *settings])
    make_deterministic(2, tf32=config.train.precision == "tf32")
    return Learner(build_network(name, 2, None, derive(1, "weights")), config.train, config.augment, device)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_of_a_step_is_on_the_gpu_and_repeats_its_bits(gpu: torch.device, name: str) -> None:
    hashes = set()
    for _ in range(2):
        one = learner(gpu, name)
        for step in range(2):
            one.step(noise(32, 64), BATCH, 1, step, 1e-3)
        assert {p.device for p in one.network.parameters()} == {gpu}
        assert all(p.grad is not None and p.grad.stride() == p.stride() for p in one.network.parameters())
        assert {value.device for state in one.optimizer.state.values() for value in state.values()} == {gpu}
        assert one.optimizer.defaults["fused"]
        hashes.add(hash_weights(one.network.state_dict()))
    assert len(hashes) == 1


def test_the_number_of_gpus_changes_no_bit(gpu: torch.device) -> None:
    """Two workers on one GPU by gloo, or on two by NCCL."""
    exactness = check_exactness((1, 2))
    assert exactness.is_exact, exactness.to_text()
    assert any("2 workers" in name and not name.startswith("CPU") for name in exactness.hashes)


def test_nccl_sums_as_gloo_does(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here: NCCL was not tried")
    by_nccl = check_exactness((2,)).hashes
    assert len({value for name, value in by_nccl.items() if not name.startswith("CPU")}) == 1


def test_a_gpu_agrees_with_the_cpu(gpu: torch.device) -> None:
    """In float32 to 1e-4 of a loss, after one step; in tf32 to 1e-2, in bf16 to 0.1."""
    losses = {}
    for name, device, precision in (
        ("cpu", torch.device("cpu"), "float32"),
        *(("float32", gpu, "float32"), ("tf32", gpu, "tf32"), ("bf16", gpu, "bf16")),
    ):
        one = learner(device, "brainmrnet", f"train.precision={precision}")
        one.network.head.dropout.p = 0.0  # type: ignore[union-attr]  # its draws differ between devices
        losses[name] = one.step(noise(32, 64), BATCH, 1, 0, 1e-3).losses
    for name, tolerance in (("float32", 1e-4), ("tf32", 1e-2), ("bf16", 0.1)):
        assert losses[name] == pytest.approx(losses["cpu"], abs=tolerance), name


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(gpu: torch.device, tmp_path: Path) -> None:
    first, samples, progress = learner(gpu), noise(32, 64), Progress()
    first.step(samples, BATCH, 1, 0, 1e-3)
    progress.totals.steps = 1
    save_checkpoint(tmp_path, first.network, first.optimizer, progress)
    second = learner(gpu)
    load_latest_checkpoint(tmp_path, second.network, second.optimizer)
    for one in (first, second):
        one.step(samples, BATCH, 1, 1, 1e-3)
    assert hash_weights(first.network.state_dict()) == hash_weights(second.network.state_dict())


def test_fingerprints_are_those_of_the_cpu(gpu: torch.device) -> None:
    tensors = list(select_float_tensors(build_network("resnet50", 2).state_dict()).values())
    on_gpu = [tensor.to(gpu) for tensor in tensors]
    assert Fingerprints(on_gpu).compute().tolist() == Fingerprints(tensors).compute().tolist()


def test_uploads_arrive_whole_while_the_gpu_computes(gpu: torch.device) -> None:
    upload, rng = Uploader(gpu), np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (64, 224, 224), np.uint8) for _ in range(50)]
    busy = torch.randn(4096, 4096, device=gpu)
    sums = []
    for array in arrays:
        busy @ busy
        sums.append(upload(array).sum(dtype=torch.int64))
    assert torch.stack(sums).tolist() == [int(array.sum(dtype=np.int64)) for array in arrays]


def test_no_step_waits_for_its_trace(gpu: torch.device) -> None:
    """One wait for each step: for its losses."""
    one, samples = learner(gpu), noise(32, 64)
    fingerprints = Fingerprints(list(select_float_tensors(one.network.state_dict()).values()))
    one.step(samples, BATCH, 1, 0, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fingerprints.compute()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_trainings_in_one_process_agree(gpu: torch.device) -> None:
    assert train_a_little(gpu) == train_a_little(gpu)
