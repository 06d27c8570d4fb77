"""Images a second of the five networks on a GPU, training and scoring, with the GPU's utilisation.

python benchmarks/gpu.py [--networks resnet50 densenet121] [--batch 256] [--seconds 5]

Training is the exact step, with augmentation and trace, in float32, tf32 and bf16; scoring is the engine alone, in
float32 and bf16. `python -m pytest -m gpu tests/gpu` comes first. Without a GPU, this ends with an error.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import save

from brainscale.config.files import load_config
from brainscale.config.sections import ARCHITECTURES
from brainscale.models.bundle import ModelInfo
from brainscale.models.engines import EngineOptions, Precision, TorchEngine
from brainscale.models.registry import build_network
from brainscale.seeds import make_deterministic
from brainscale.training.exactness import noise
from brainscale.training.fingerprints import Fingerprints, select_float_tensors
from brainscale.training.step import Learner

SIDE, IMAGES = 224, 1024


@contextmanager
def utilisation() -> Iterator[list[int]]:
    """Percentages of the time that the GPU computed, sampled during the with-block; empty without NVML."""
    stop, seen = threading.Event(), list[int]()

    def watch() -> None:
        while not stop.wait(0.1):
            try:
                seen.append(torch.cuda.utilization())
            except (ModuleNotFoundError, RuntimeError):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def measure(what: str, images: int, seconds: float, run: Callable[[], object]) -> None:
    """Print the rate of a call, after three that are not counted."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, rounds = time.perf_counter(), 0
    with utilisation() as seen:
        while time.perf_counter() - start < seconds:
            run()
            rounds += 1
        torch.cuda.synchronize()
    rate = rounds * images / (time.perf_counter() - start)
    busy = f"{sum(seen) / len(seen):.0f} % busy" if seen else "utilisation unknown"
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"  {what:<28}{rate:10.0f} images/s  {busy}, {memory:.1f} GiB", flush=True)


def training(name: str, precision: str, batch: int, micro: int, seconds: float) -> None:
    """Print the rate of training."""
    settings = [f"model.name={name}", f"train.batch_size={batch}", f"train.micro_batch={micro}"]
    config = load_config(None, [*settings, f"train.precision={precision}"])
    make_deterministic(config.train.threads, tf32=precision == "tf32")
    learner = Learner(build_network(name, 2), config.train, config.augment, torch.device("cuda"))
    fingerprints = Fingerprints(list(select_float_tensors(learner.network.state_dict()).values()))
    samples, rng = noise(IMAGES, SIDE), np.random.default_rng(0)

    def step() -> None:
        positions = rng.integers(0, IMAGES, batch)
        learner.step(samples, list(positions.reshape(config.train.micro_batches, -1)), 1, 0, 1e-3)
        fingerprints.compute()

    measure(f"training, {precision}, {micro} of {batch}", batch, seconds, step)


def scoring(name: str, precision: Precision, seconds: float) -> None:
    """Print the rate of the engine, on planes in memory."""
    info = ModelInfo.model_construct(architecture=name, classes=load_config(None).data.classes)
    engine = TorchEngine(
        info,
        save(build_network(name, 2).state_dict()),
        EngineOptions(name="torch", on_gpu=True, precision=precision),
        1,
    )
    planes = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE), np.uint8)
    measure(f"scoring, {precision}", IMAGES, seconds, lambda: engine(planes))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, planes of {SIDE}²")
    for name in given.networks:
        print(name)
        for precision in ("float32", "tf32", "bf16"):
            for micro in given.micro:
                training(name, precision, given.batch, micro, given.seconds)
        scoring(name, "fp32", given.seconds)
        scoring(name, "bf16", given.seconds)


if __name__ == "__main__":
    main()
