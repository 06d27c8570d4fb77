"""Run a bundle: ONNX Runtime on a CPU, torch on a GPU; the same numbers to 1e-5.

Both take uint8 planes and give float32 probabilities; expanding grey to three channels and normalising
happen inside, on the device.
"""

from typing import Protocol

import numpy as np
import onnxruntime

from brainscale.bundle import Bundle
from brainscale.errors import UsageError

ENGINES = ("auto", "onnx", "torch")


class Engine(Protocol):
    """Planes → probabilities."""

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""


class OnnxEngine:
    """ONNX Runtime on the CPU; needs no torch, so a worker starts fast."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(bundle.onnx), options, providers=["CPUExecutionProvider"])

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""
        (probabilities,) = self._session.run(["probabilities"], {"planes": planes})
        return np.asarray(probabilities)


class TorchEngine:
    """Torch in float32 on CUDA or the CPU."""

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        import torch  # here: ONNX workers start without it

        from brainscale.models.scorer import load_scorer

        self._torch = torch
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False  # agreement with the CPU to 1e-5 needs full float32
        card = bundle.card
        self._scorer = load_scorer(card.architecture, len(card.classes), bundle.weights).to(self._device)

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S] → float32 [N, classes]."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(np.array(planes)).to(self._device)
            return np.asarray(self._scorer(batch).cpu().numpy())


def choose(engine: str, gpus: float) -> str:
    """The engine that `auto` means where there are so many GPUs.

    Raises:
        UsageError: no engine of that name.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine '{engine}': known: {', '.join(ENGINES)}")
    if engine == "auto":
        return "torch" if gpus else "onnx"
    return engine


def load(bundle: Bundle, engine: str, *, device: str = "cpu", threads: int = 1) -> Engine:
    """Start an engine on a bundle.

    Args:
        bundle: an opened model folder.
        engine: onnx or torch.
        device: of the torch engine.
        threads: CPU threads.
    """
    return TorchEngine(bundle, device, threads) if engine == "torch" else OnnxEngine(bundle, threads)
