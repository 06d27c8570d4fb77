"""Run a model with ONNX Runtime on a CPU or with torch on a GPU; their probabilities agree to 1e-5.

Both engines take uint8 planes and return float32 probabilities, and the features that novelty is computed from.
Normalisation is part of the engine, on its device.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from brainscale.errors import UsageError
from brainscale.models.bundle import Bundle, ModelInfo
from brainscale.models.processor import read_cpu_model

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise ONNX Runtime reports its use to its makers
import onnxruntime

ENGINES = ("auto", "onnx", "torch")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which engine to use, and how it computes.

    Attributes:
        name: auto, onnx or torch.
        on_gpu: whether torch uses a GPU; set by `resolve_engine`.
        bf16: whether torch computes in bfloat16; the result differs from float32, so it is part of a job's identity.
        compiled: whether torch compiles the network first, which takes a minute and pays off for many images.
    """

    name: str = "auto"
    on_gpu: bool = False
    bf16: bool = False
    compiled: bool = False


ONNX_BATCH, CPU_BATCH, GPU_BATCH = 1, 16, 128
"""Number of planes in a batch, such that the first stages fit into the cache of one core (ONNX Runtime, where each
thread computes its own images), into the caches of all cores (torch on a CPU), or into the memory of a GPU."""


class EngineOutput(NamedTuple):
    """What a network says of N planes.

    Attributes:
        probabilities: probability of each class, float32 [N, classes].
        features: features that `NoveltyReference` takes, float32 [N, D].
    """

    probabilities: np.ndarray
    features: np.ndarray


class Engine(Protocol):
    """Runs a network on any number of planes."""

    def __call__(self, planes: np.ndarray) -> EngineOutput:
        """Return probabilities and features for planes, uint8 [N, S, S]."""


class OnnxEngine:
    """ONNX Runtime on the CPU; it does not import torch, so a worker starts fast.

    Each thread computes its own images. That is faster than several threads on one image, which would wait for each
    other in every layer.
    """

    def __init__(self, info: ModelInfo, network: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._pool = ThreadPoolExecutor(threads)
        self._classes = len(info.classes)

    def __call__(self, planes: np.ndarray) -> EngineOutput:
        """Return probabilities and features for planes, uint8 [N, S, S]."""
        return _concatenate(self._pool.map(self._run, _split_into_batches(planes, ONNX_BATCH)), self._classes)

    def _run(self, planes: np.ndarray) -> EngineOutput:
        return EngineOutput(*map(np.asarray, self._session.run(EngineOutput._fields, {"planes": planes})))


class TorchEngine:
    """Torch on the CPU, or on CUDA with channels last."""

    def __init__(self, info: ModelInfo, network: bytes, options: EngineOptions, threads: int) -> None:
        import torch  # only here, because workers with ONNX Runtime start faster without it

        from brainscale.models.classifier import load_classifier

        self._torch, self._bf16 = torch, options.bf16
        self._device = torch.device("cuda" if options.on_gpu else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False  # TF32 would not agree with the CPU to 1e-5
        self._classes, self._batch = len(info.classes), GPU_BATCH if options.on_gpu else CPU_BATCH
        classifier = load_classifier(info.network, len(info.classes), network).to(self._device)
        if options.on_gpu:
            classifier = classifier.to(memory_format=torch.channels_last)
        else:
            torch.set_num_threads(threads)
        self._classifier = torch.compile(classifier, dynamic=True) if options.compiled else classifier

    def __call__(self, planes: np.ndarray) -> EngineOutput:
        """Return probabilities and features for planes, uint8 [N, S, S]."""
        return _concatenate(map(self._run, _split_into_batches(planes, self._batch)), self._classes)

    def _run(self, planes: np.ndarray) -> EngineOutput:
        torch = self._torch
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            batch = torch.from_numpy(np.array(planes)).to(self._device)
            return EngineOutput(*(output.float().cpu().numpy() for output in self._classifier(batch)))


def _split_into_batches(planes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (planes[start : start + size] for start in range(0, len(planes), size))


def _concatenate(batches: Iterable[EngineOutput], classes: int) -> EngineOutput:
    """Return the outputs of all batches as one; without a batch, N and D are 0."""
    outputs = list(batches) or [EngineOutput(np.empty((0, classes), np.float32), np.empty((0, 0), np.float32))]
    return EngineOutput(*map(np.concatenate, zip(*outputs, strict=True)))


def resolve_engine(options: EngineOptions, gpus: float) -> EngineOptions:
    """Return the options with `auto` replaced by an engine: torch with a GPU, else ONNX Runtime.

    Args:
        options: options as the user gave them.
        gpus: number of GPUs.

    Raises:
        UsageError: there is no such engine, or it does not support the options.
    """
    if options.name not in ENGINES:
        raise UsageError(f"unknown engine '{options.name}': choose auto, onnx or torch")
    needs_torch = options.bf16 or options.compiled
    name = ("torch" if gpus or needs_torch else "onnx") if options.name == "auto" else options.name
    if name == "onnx" and needs_torch:
        raise UsageError("--precision bf16 and --compile need torch: remove --engine onnx")
    return replace(options, name=name, on_gpu=name == "torch" and gpus > 0)


def read_network(bundle: Bundle, options: EngineOptions) -> bytes:
    """Return the contents of the bundle's file that an engine runs, to be sent to engines on other machines."""
    return (bundle.weights if options.name == "torch" else bundle.onnx).read_bytes()


def load_engine(info: ModelInfo, network: bytes, options: EngineOptions, *, threads: int = 1) -> Engine:
    """Start an engine.

    Args:
        info: description of the model.
        network: contents of the model's file, from `read_network`.
        options: options from `resolve_engine`.
        threads: number of CPU threads.
    """
    if options.name == "torch":
        return TorchEngine(info, network, options, threads)
    return OnnxEngine(info, network, threads)


def describe_arithmetic(options: EngineOptions) -> str:
    """Return what decides the last bits of a probability: the engine, its version and its processor."""
    if options.name == "onnx":
        return f"ONNX Runtime {onnxruntime.__version__} on {read_cpu_model()}"
    import torch

    processor = torch.cuda.get_device_name() if options.on_gpu else read_cpu_model()
    return f"torch {torch.__version__}{', compiled' if options.compiled else ''} on {processor}"
