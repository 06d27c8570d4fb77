"""Measure how fast this machine decodes, trains and scores, with phantoms, in a few seconds."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.dataset.phantoms import draw_phantom
from brainscale.models.bundle import ModelInfo
from brainscale.models.engines import EngineOptions, load_engine
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx
from brainscale.models.registry import build_network
from brainscale.reading.pace import count_rate
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.seeds import make_deterministic
from brainscale.training import exact_sum
from brainscale.training.allocator import keep_buffers
from brainscale.training.checkpoints import write_tensors
from brainscale.training.exactness import noise
from brainscale.training.step import Learner

FILES, FILE_SIDE = 48, 512
CPU_IMAGES, GPU_IMAGES = 4, 64
SECONDS = 1.0
"""Time after which a measurement ends, once it has two rounds."""


STEPS_SECONDS = 5.0
"""Seconds after which no larger step is measured."""
LONGEST_STEP_SECONDS = 12.0
"""Seconds of the longest step that is measured, if its images took as long as those of the step before; they do not."""


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """Images per second of one worker with one configuration.

    Attributes:
        training: augmentation, forward, backward and optimiser.
        validation: forward alone.
        norm_statistics: measurement of precise batch-norm statistics; infinite where there are none.
    """

    training: float
    validation: float
    norm_statistics: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images per second of the default network at its default size.

    Attributes:
        network: name of the network.
        side: width and height of a plane in pixels.
        device: CPU, or the name of the GPU, that trained and scored.
        cpus: number of CPUs, each of which may decode.
        decoding: JPEG files of 512 × 512 pixels, on one CPU.
        training: forward, backward and optimiser, on all CPUs or on one GPU.
        scoring: with the engine that `score` chooses, on all CPUs or on one GPU.
    """

    network: str
    side: int
    device: str
    cpus: int
    decoding: float
    training: float
    scoring: float

    @property
    def bottleneck(self) -> str:
        """Return what limits a job of this machine, in one sentence."""
        decoding = self.decoding * self.cpus
        slower = [name for name in ("training", "scoring") if getattr(self, name) > decoding]
        if not slower:
            return f"{self.device} limits training and scoring; decoding keeps up"
        needed = max(getattr(self, name) for name in slower) / self.decoding
        return f"decoding limits {' and '.join(slower)}: {needed:.0f} CPUs would keep up, there are {self.cpus}"


def measure_speed(cpus: int) -> Speed:
    """Measure this machine; nothing else should run on it.

    Args:
        cpus: number of CPUs to train and to score with, where there is no GPU.
    """
    config = load_config(None)
    side, gpu = config.data.image_size, torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    return Speed(
        network=config.model.name,
        side=side,
        device=torch.cuda.get_device_name() if gpu else "CPU",
        cpus=cpus,
        decoding=measure_decoding(ReadRequest(preprocess=config.data.preprocess)),
        training=measure_training(device, cpus),
        scoring=measure_scoring(gpu=gpu, threads=cpus),
    )


def measure_decoding(request: ReadRequest) -> float:
    """Return JPEG files that one process reads a second, as `index`, `train` and `score` read them."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Image.fromarray(draw_phantom(0, 0, tumour=True, size=FILE_SIDE))
        for number in range(FILES):
            picture.save(os.path.join(folder, f"{number}.jpg"))  # noqa: PTH118 (a folder's name)
        samples = read_samples(folder, request)
        next(samples)  # starts the decoder
        start = time.perf_counter()
        count = sum(sample.plane is not None for sample in samples)
        return round(count / (time.perf_counter() - start), 2)


def measure_training(device: torch.device, threads: int) -> float:
    """Return images a second of exact steps of the default network on one worker.

    Args:
        device: device to train on.
        threads: CPU threads.
    """
    images = GPU_IMAGES if device.type == "cuda" else CPU_IMAGES
    config = load_config(None, [f"train.batch_size={images}", f"train.micro_batch={min(images, 16)}"])
    make_deterministic(threads)
    learner = Learner(build_network(config.model.name, 2), config.train, config.augment, device)
    samples = noise(images, config.data.image_size)
    batch = list(np.arange(images).reshape(config.train.micro_batches, -1))
    return _rate(images, lambda: learner.step(samples, batch, 1, 0, 1e-3))


def measure_steps(config: Config, device: torch.device) -> StepSpeed:
    """Measure training steps, validation and precise statistics of a configuration for some seconds, in this process.

    Steps begin with two images and grow to a whole batch as long as there is time, because much of a step costs the
    same for any number of images. The best rate counts: the first steps are slow.

    Args:
        config: network, image size, batch, augmentation and threads.
        device: device to train on.
    """
    train, side = config.train, config.data.image_size
    keep_buffers()
    make_deterministic(train.threads, tf32=train.precision == "tf32")
    network = build_network(config.model.name, len(config.data.classes))
    learner = Learner(network, train, config.augment, device)

    def time_step(images: int) -> float:
        samples, batch = noise(images, side), np.split(np.arange(images), max(1, images // train.micro_batch))
        start = time.perf_counter()
        learner.step(samples, batch, 1, 0, rate=0.0)  # noise must not carry the weights away
        return time.perf_counter() - start

    sizes = [2, *(train.micro_batch << power for power in range(train.micro_batches.bit_length()))]
    began, images, seconds = time.perf_counter(), 2, min(time_step(2), time_step(2))
    rate = images / seconds
    for size in sizes[1:]:
        if time.perf_counter() - began > STEPS_SECONDS or seconds * size / images > LONGEST_STEP_SECONDS:
            break
        images, seconds = size, time_step(size)
        rate = max(rate, images / seconds)
    samples = noise(images, side)
    speed = StepSpeed(
        training=round(rate, 2),
        validation=count_rate(images, lambda: learner.validate(samples), SECONDS),
    )
    if train.norm_statistics != "precise" or not exact_sum.running_buffers(network):
        return speed
    measured = count_rate(images, lambda: learner.measure_norm_statistics(samples, 1), SECONDS)
    return replace(speed, norm_statistics=measured)


def measure_scoring(*, gpu: bool, threads: int) -> float:
    """Return images a second of the engine that `score` chooses for the default network.

    Args:
        gpu: whether to score on a GPU.
        threads: CPU threads.
    """
    config = load_config(None)
    name, side, images = config.model.name, config.data.image_size, 2 * GPU_IMAGES if gpu else 2 * threads
    weights = build_network(name, 2).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        if gpu:
            write_tensors(path, weights)
        else:
            export_onnx(NetworkSpec(architecture=name), 2, side, weights, path)
        network = path.read_bytes()
    info = ModelInfo.model_construct(architecture=name, classes=config.data.classes)
    engine = load_engine(info, network, EngineOptions(name="torch" if gpu else "onnx", on_gpu=gpu), threads=threads)
    planes = np.random.default_rng(0).integers(0, 256, (images, side, side), np.uint8)
    return _rate(images, lambda: engine(planes))


def _rate(images: int, run: Callable[[], object]) -> float:
    """Return images a second, after one round that is not counted."""
    run()
    return count_rate(images, run, SECONDS, least=2)
