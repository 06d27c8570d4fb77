"""What a training step asks of torch and of Python, counted on a CPU; the counts are the same on any machine.

Also the CPU time of an image beside the network, in training and in scoring.

python benchmarks/step_operations.py [NETWORK ...]

A step of 8 planes of 64² in 4 micro-batches. Operations are those that torch dispatches, views included.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from brainscale.config.files import load_config
from brainscale.config.sections import ARCHITECTURES
from brainscale.models.registry import build_network
from brainscale.reading.sample import Sample, sample_table
from brainscale.scoring.predictions import make_predictions, stack_planes
from brainscale.seeds import derive, make_deterministic
from brainscale.training.augment import augment
from brainscale.training.checkpoints import hash_weights
from brainscale.training.exactness import noise
from brainscale.training.fingerprints import Fingerprints, select_float_tensors
from brainscale.training.step import Learner

SETTINGS = ["data.image_size=64", "train.batch_size=8", "train.micro_batch=2", "train.threads=1"]
IMAGES, SIDE, ROUNDS = 8, 64, 200


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def count(run: Callable[[], object]) -> int:
    """Operations that a call dispatches."""
    with Operations() as operations:
        run()
    return sum(operations.counts.values())


def measure(name: str, layout: str) -> None:
    """Print the counts of one network."""
    config = load_config(None, [f"model.name={name}", f"train.memory_format={layout}", *SETTINGS])
    make_deterministic(1)
    network = build_network(name, 2, None, derive(1, "weights"))
    learner, samples = Learner(network, config.train, config.augment, torch.device("cpu")), noise(IMAGES, SIDE)
    batch = list(np.arange(IMAGES).reshape(4, -1))
    learner.step(samples, batch, 1, 0, 1e-3)
    step = count(lambda: learner.step(samples, batch, 1, 1, 1e-3))
    fingerprints = Fingerprints(list(select_float_tensors(network.state_dict()).values()))
    traced = count(fingerprints.compute)
    parameters = list(network.parameters())
    others = sum(p.grad is None or p.grad.stride() != p.stride() for p in parameters)
    weights = hash_weights(network.state_dict())[:16]
    print(
        f"{name:<20} {layout:<14} step {step:5d}, trace {traced:3d}; gradients with other strides {others} of "
        f"{len(parameters)}; weights {weights}",
        flush=True,
    )


def host() -> None:
    """Print the time and the bytes of an image beside the network."""
    config, samples = load_config(None, []), noise(256, 224)
    learner = Learner(build_network("brainmrnet", 2), config.train, config.augment, torch.device("cpu"))
    positions = np.arange(16)
    start = time.process_time()
    for _ in range(ROUNDS):
        learner._load(samples, positions)
    loading = (time.process_time() - start) / ROUNDS / len(positions)
    small, ids = torch.zeros(16, 2, 2, dtype=torch.uint8), samples.sample_ids[:16]
    start = time.process_time()
    for _ in range(ROUNDS):
        augment(small, ids, 1, 0, config.augment)
    drawing = (time.process_time() - start) / ROUNDS / len(positions)
    parts = f"{1e6 * loading:.1f} µs of CPU to take and to copy, {1e6 * drawing:.1f} µs to draw its changes"
    print(f"an image of 224²: {parts}")
    print(
        f"an image of 224² on a GPU: {224**2 + 8 + 32} bytes to the device: plane, label, eight numbers of its changes"
    )


def scoring() -> None:
    """Print the time that scoring spends on an image beside decoding, network and writing."""
    plane = np.zeros((224, 224), np.uint8)
    tables = [
        sample_table([Sample(sample_id=f"{part}/{i}.png", uri=f"/{part}/{i}.png", plane=plane) for i in range(16)])
        for part in range(16)
    ]
    rows = pa.concat_tables(tables)  # as the reading threads give them
    scores, has_plane = np.full((len(rows), 2), 0.5, np.float32), np.ones(len(rows), bool)
    start = time.process_time()
    for _ in range(ROUNDS):
        stack_planes(rows["plane"], 224)
        make_predictions(rows, has_plane, scores, 0.5, ["no_tumour", "tumour"], "0" * 64)
    seconds = (time.process_time() - start) / ROUNDS / len(rows)
    print(f"an image of 224² scored: {1e6 * seconds:.1f} µs of CPU beside decoding, network and writing")


def main() -> None:
    """Count for the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    for name in parser.parse_args().networks or ARCHITECTURES:
        for layout in ("contiguous", "channels_last"):
            measure(name, layout)
    host()
    scoring()


if __name__ == "__main__":
    main()
