"""Run a model with ONNX Runtime on a CPU or with torch on a GPU; their probabilities agree to 1e-5.

Both engines take uint8 planes and return float32 probabilities, and the features that novelty is computed from.
Normalisation is part of the engine, on its device.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from brainscale.errors import BundleError, UsageError
from brainscale.models.bundle import MODEL_JSON, Bundle, ModelInfo
from brainscale.models.int8 import INT8_ONNX, Int8Record
from brainscale.models.processor import BF16_INSTRUCTIONS, INT8_INSTRUCTIONS, read_cpu_instructions, read_cpu_model

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise ONNX Runtime reports its use to its makers
import onnxruntime

ENGINES = ("auto", "onnx", "torch")
Precision = Literal["fp32", "bf16", "int8"]
OWN, DIRECT, OPENVINO = "own", "direct", "openvino"
"""Ways to compute a network without torch: the graph of its folder; one without Winograd's convolutions; and the latter
on OpenVINO."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which engine to use, and how it computes.

    Attributes:
        name: auto, onnx or torch.
        on_gpu: whether torch uses a GPU; set by `resolve_engine`.
        precision: fp32; bf16, in which torch computes in bfloat16; or int8, in which ONNX Runtime multiplies 8-bit
            integers. The results differ, so it is part of a job's identity.
        compiled: whether torch compiles the network first, which takes a minute and pays off for many images.
    """

    name: str = "auto"
    on_gpu: bool = False
    precision: Precision = "fp32"
    compiled: bool = False

    @property
    def needs_torch(self) -> bool:
        """Whether only torch can compute so."""
        return self.precision == "bf16" or self.compiled


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


class OpenVinoEngine:
    """OpenVINO on the CPU, in float32."""

    def __init__(self, info: ModelInfo, network: bytes, threads: int) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it can report to Google Analytics
        import openvino  # here: it is an extra

        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
        core = openvino.Core()
        self._model = core.compile_model(
            core.read_model(network, b""), "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"}
        )
        self._pool, self._of_thread = ThreadPoolExecutor(threads), threading.local()
        self._classes = len(info.classes)
        # One call before there are several: the first ones of two threads may wait for each other for ever (2026.4).
        self._run(np.zeros((1, info.preprocess.image_size, info.preprocess.image_size), np.uint8))

    def __call__(self, planes: np.ndarray) -> EngineOutput:
        """Return probabilities and features for planes, uint8 [N, S, S]."""
        return _concatenate(self._pool.map(self._run, _split_into_batches(planes, ONNX_BATCH)), self._classes)

    def _run(self, planes: np.ndarray) -> EngineOutput:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._model.create_infer_request()
        outputs = self._of_thread.request.infer([planes])
        return EngineOutput(*(np.array(outputs[name]) for name in EngineOutput._fields))  # the request keeps its memory


class TorchEngine:
    """Torch on the CPU, or on CUDA with channels last."""

    def __init__(self, info: ModelInfo, network: bytes, options: EngineOptions, threads: int) -> None:
        import torch  # only here, because workers with ONNX Runtime start faster without it

        from brainscale.models.classifier import load_classifier

        self._torch, self._bf16 = torch, options.precision == "bf16"
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
    if options.precision not in get_args(Precision):
        raise UsageError(f"unknown precision '{options.precision}': choose fp32, bf16 or int8")
    if options.precision == "int8" and (options.name == "torch" or options.compiled):
        raise UsageError("--precision int8 needs ONNX Runtime: remove --engine torch and --compile")
    name = options.name
    if name == "auto":
        name = "torch" if (gpus and options.precision != "int8") or options.needs_torch else "onnx"
    if name == "onnx" and options.needs_torch:
        raise UsageError("--precision bf16 and --compile need torch: remove --engine onnx")
    return replace(options, name=name, on_gpu=name == "torch" and gpus > 0)


def describe_slow_choice(options: EngineOptions) -> str | None:
    """Return a note for the user if what was asked for, to be faster, is slower on this machine's CPU; else None.

    Args:
        options: options from `resolve_engine`.
    """
    if options.on_gpu:
        return None
    instructions = read_cpu_instructions()
    slower = [
        *(["--precision bf16"] if options.precision == "bf16" and not BF16_INSTRUCTIONS & instructions else []),
        *(["--compile"] if options.compiled else []),
    ]
    if slower:
        return (
            f"Note: {' and '.join(slower)} without a GPU: torch scores instead of ONNX Runtime, which is faster here. "
            f"Remove {'it' if len(slower) == 1 else 'them'} for speed."
        )
    if options.precision == "int8" and not INT8_INSTRUCTIONS & instructions:
        return "Note: this CPU has no instructions for int8 (VNNI): --precision int8 may be slower than fp32 here."
    return None


def require_int8(bundle: Bundle) -> Int8Record:
    """Return the record of a model's int8 graph.

    Raises:
        BundleError: there is none, or it was made from another model.json.
    """
    if bundle.int8 is None:
        raise BundleError(f"{bundle.folder} has no int8 graph: run `brainscale quantize RUN` first, or use fp32")
    if bundle.int8.model_sha256 != bundle.sha256:
        raise BundleError(
            f"{bundle.folder} has an int8 graph that was checked with another {MODEL_JSON}: run `brainscale quantize` "
            "again, or use fp32"
        )
    return bundle.int8


def identify_precision(bundle: Bundle, precision: str) -> str:
    """Return what a precision means for a model: its name, with the hash of the graph for int8.

    Raises:
        BundleError: the model has no int8 graph, or one of another model.json.
    """
    return f"int8 {require_int8(bundle).graph_sha256}" if precision == "int8" else precision


def read_network(bundle: Bundle, options: EngineOptions) -> bytes:
    """Return the contents of the bundle's file that an engine runs, to be sent to engines on other machines.

    Raises:
        BundleError: the model has no int8 graph, or one of another model.json.
    """
    if options.precision == "int8":
        require_int8(bundle)
        return (bundle.folder / INT8_ONNX).read_bytes()
    return (bundle.weights if options.name == "torch" else bundle.onnx).read_bytes()


def load_engine(
    info: ModelInfo, network: bytes, options: EngineOptions, *, threads: int = 1, graph: str = OWN
) -> Engine:
    """Start an engine.

    Args:
        info: description of the model.
        network: contents of the model's file, from `read_network`.
        options: options from `resolve_engine`.
        threads: number of CPU threads.
        graph: name of the way to compute without torch; `network` is its graph.
    """
    if options.name == "torch":
        return TorchEngine(info, network, options, threads)
    if graph == OPENVINO:
        return OpenVinoEngine(info, network, threads)
    return OnnxEngine(info, network, threads)


def describe_arithmetic(options: EngineOptions, graph: str = OWN) -> str:
    """Return what decides the last bits of a probability: the engine, its version and its processor.

    Args:
        options: options from `resolve_engine`.
        graph: name of the way to compute without torch.
    """
    if options.name == "onnx":
        name = "OpenVINO" if graph == OPENVINO else "ONNX Runtime"
        version = metadata.version("openvino") if graph == OPENVINO else onnxruntime.__version__
        without = "" if graph == OWN else ", without Winograd"
        return f"{name} {version}{without} on {read_cpu_model()}"
    import torch

    processor = torch.cuda.get_device_name() if options.on_gpu else read_cpu_model()
    return f"torch {torch.__version__}{', compiled' if options.compiled else ''} on {processor}"
