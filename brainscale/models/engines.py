"""Run a bundle: ONNX Runtime on a CPU, torch on a GPU; the same numbers to 1e-5.

Both take uint8 planes and give float32 probabilities; expanding grey to three channels and normalising
happen inside, on the device.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import onnxruntime

from brainscale.errors import UsageError
from brainscale.models.bundle import Bundle, ModelInfo

ENGINES = ("auto", "onnx", "torch")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine computes.

    Attributes:
        name: auto, onnx or torch.
        on_gpu: whether torch has a GPU; `choose` decides.
        bf16: half the width inside networks on a GPU; other bits than float32, so a folder's identity names it.
        compiled: whether torch compiles the network first, which takes a minute and pays for many images.
    """

    name: str = "auto"
    on_gpu: bool = False
    bf16: bool = False
    compiled: bool = False


ONNX_BATCH, CPU_BATCH, GPU_BATCH = 1, 16, 128
"""Planes at a time: what a core's cache holds of the first stages for its thread, all cores', and a GPU's memory."""


class Engine(Protocol):
    """Planes, any number of them → probabilities."""

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""


class OnnxEngine:
    """ONNX Runtime on the CPU; needs no torch, so a worker starts fast.

    Each thread computes images of its own: faster than several on one, which wait for each other in every layer.
    """

    def __init__(self, info: ModelInfo, network: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._threads = ThreadPoolExecutor(threads)
        self._classes = len(info.classes)

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""
        return concatenate(self._threads.map(self._run, batches(planes, ONNX_BATCH)), self._classes)

    def _run(self, planes: np.ndarray) -> np.ndarray:
        (probabilities,) = self._session.run(["probabilities"], {"planes": planes})
        return np.asarray(probabilities)


class TorchEngine:
    """Torch on CUDA, with channels last, or on the CPU."""

    def __init__(self, info: ModelInfo, network: bytes, options: EngineOptions, threads: int) -> None:
        import torch  # here: ONNX workers start without it

        from brainscale.models.classifier import load_classifier

        self._torch, self._bf16 = torch, options.bf16
        self._device = torch.device("cuda" if options.on_gpu else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False  # agreement with the CPU to 1e-5 needs full float32
        self._classes, self._batch = len(info.classes), GPU_BATCH if options.on_gpu else CPU_BATCH
        scorer = load_classifier(info.architecture, len(info.classes), network).to(self._device)
        if options.on_gpu:
            scorer = scorer.to(memory_format=torch.channels_last)
        else:
            torch.set_num_threads(threads)
        self._scorer = torch.compile(scorer, dynamic=True) if options.compiled else scorer

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""
        return concatenate(map(self._run, batches(planes, self._batch)), self._classes)

    def _run(self, planes: np.ndarray) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            batch = torch.from_numpy(np.array(planes)).to(self._device)
            return np.asarray(self._scorer(batch).float().cpu().numpy())


def batches(planes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Planes in batches."""
    return (planes[at : at + size] for at in range(0, len(planes), size))


def concatenate(pieces: Iterable[np.ndarray], classes: int) -> np.ndarray:
    """float32 [N, classes] of all pieces, of which there may be none."""
    return np.concatenate([np.empty((0, classes), np.float32), *pieces])


def resolve_engine(options: EngineOptions, gpus: float) -> EngineOptions:
    """What `auto` means where there are so many GPUs.

    Raises:
        UsageError: no engine of that name, or one that cannot do what is asked.
    """
    if options.name not in ENGINES:
        raise UsageError(f"unknown engine '{options.name}': known: {', '.join(ENGINES)}")
    wants_torch = options.bf16 or options.compiled
    name = ("torch" if gpus or wants_torch else "onnx") if options.name == "auto" else options.name
    if name == "onnx" and wants_torch:
        raise UsageError("--precision bf16 and --compile are torch's: leave --engine onnx out")
    return replace(options, name=name, on_gpu=name == "torch" and gpus > 0)


def network_of(bundle: Bundle, options: EngineOptions) -> bytes:
    """The file of a bundle that an engine runs: what travels to engines on other machines."""
    return (bundle.weights if options.name == "torch" else bundle.onnx).read_bytes()


def load_engine(info: ModelInfo, network: bytes, options: EngineOptions, *, threads: int = 1) -> Engine:
    """Start an engine.

    Args:
        info: of a bundle.
        network: as `network_of` gave it.
        options: as `choose` gave them.
        threads: CPU threads.
    """
    if options.name == "torch":
        return TorchEngine(info, network, options, threads)
    return OnnxEngine(info, network, threads)
