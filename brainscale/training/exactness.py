"""Check on real processes that the number of workers does not change a bit of a training, on this hardware."""

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from brainscale.config.files import load_config
from brainscale.models.registry import build_network
from brainscale.seeds import derive, make_deterministic
from brainscale.training import exact_sum
from brainscale.training.checkpoints import hash_weights
from brainscale.training.sampler import cut_into_windows
from brainscale.training.step import Learner, Samples, hold_windows

SETTINGS = ("data.image_size=64", "train.batch_size=8", "train.micro_batch=2", "train.threads=1")
WORLDS = (1, 2, 4)
SAMPLES, STEPS = 16, 2
SECONDS = 120
"""Longest wait of a process for another one."""


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """The hashes of the weights after the same two steps, computed in several ways.

    Attributes:
        hashes: what computed them, such as `cpu, 2 workers` → sha256 of the weights.
    """

    hashes: Mapping[str, str]

    @property
    def is_exact(self) -> bool:
        """Whether the number of workers changed no bit on any kind of device."""
        return all(len(hashes) == 1 for hashes in self._by_device().values())

    def _by_device(self) -> dict[str, set[str]]:
        devices: dict[str, set[str]] = {}
        for name, value in self.hashes.items():
            devices.setdefault(name.partition(",")[0], set()).add(value)
        return devices

    def to_text(self) -> str:
        """Return the result in one line."""
        verdict = "the same bits" if self.is_exact else "DIFFERENT BITS"
        return f"{verdict}: " + "; ".join(f"{name} {value[:8]}" for name, value in self.hashes.items())


class _Noise:
    """Made-up planes in memory."""

    def __init__(self, count: int, side: int) -> None:
        self._planes = np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]."""
        planes: np.ndarray = self._planes[positions]
        return planes

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        """Do nothing: all planes are in memory."""


def noise(count: int, side: int) -> Samples:
    """Return made-up samples of two classes, always the same."""
    ids = [f"{i:04d}" for i in range(count)]
    return Samples(sample_ids=ids, labels=np.arange(count, dtype=np.int64) % 2, planes=_Noise(count, side))


def check_exactness(worlds: Sequence[int] = WORLDS) -> Exactness:
    """Take the same two steps with 1, 2 and 4 workers on CPUs, and on each GPU and with several where there are GPUs.

    Args:
        worlds: numbers of workers; more workers than GPUs share them, and talk by gloo.
    """
    hashes = _run_group("cpu", worlds)
    if torch.cuda.is_available():
        hashes |= _run_group("cuda", worlds)
    return Exactness(hashes=hashes)


def _run_group(device: str, worlds: Sequence[int]) -> dict[str, str]:
    """Run the workers of the largest world once; the smaller ones consist of the first of them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # torch is imported once
    with tempfile.TemporaryDirectory() as folder:
        count = max(*worlds, torch.cuda.device_count() if device == "cuda" else 0, 1)
        start_processes(_work, (device, tuple(worlds), folder), nprocs=count, start_method="forkserver")
        return {
            path.name.partition(" ")[2]: path.read_text(encoding="ascii") for path in sorted(Path(folder).glob("hash*"))
        }


def _work(rank: int, device: str, worlds: Sequence[int], folder: str) -> None:
    """Take part in each world that this rank belongs to; the first rank writes the hash."""
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    here = torch.device("cuda", rank % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(here)
    if rank < gpus:
        name = f"hash0{rank:02d} {_kind(here)}, number {rank}, alone"
        Path(folder, name).write_text(train_a_little(here), encoding="ascii")
    for world in worlds:
        if rank < world and (world > 1 or not gpus):
            backend = "nccl" if world <= gpus else "gloo"
            value = _train_in_world(rank, world, here, backend, folder)
            if rank == 0:
                workers = f"{world} worker{'' if world == 1 else 's'}"
                shared = " on shared GPUs" if gpus and world > gpus else ""
                Path(folder, f"hash1{world:02d} {_kind(here)}, {workers}{shared}").write_text(value, encoding="ascii")


def _kind(device: torch.device) -> str:
    """Return what must give the same bits, as part of a file's name."""
    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device).replace("/", "-")


def _train_in_world(rank: int, world: int, device: torch.device, backend: str, folder: str) -> str:
    if world == 1:
        return train_a_little(device)
    dist.init_process_group(
        backend,
        init_method=f"file://{folder}/meet{world}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS),
    )
    try:
        return train_a_little(device)
    finally:
        dist.destroy_process_group()


def train_a_little(device: torch.device) -> str:
    """Take two exact steps with augmentation and dropout, with the workers of this group; return the weights' hash."""
    config = load_config(None, SETTINGS)
    settings = config.train
    make_deterministic(settings.threads)
    network = build_network(config.model.name, 2, None, derive(settings.seed, "weights"))
    learner = Learner(network, settings, config.augment, device)
    samples = noise(SAMPLES, config.data.image_size)
    windows = cut_into_windows(np.arange(SAMPLES), SAMPLES, settings.batch_size, settings.micro_batches)
    for step, batch in enumerate(hold_windows(samples.planes, windows)):
        learner.step(samples, batch, 1, step, settings.learning_rate)
    weights = torch.stack([value.float().sum() for value in network.state_dict().values()])
    same = exact_sum.is_equal_on_all_workers(weights)
    return hash_weights(network.state_dict()) if same else "the workers differ"
