"""Score a folder as plainly as it gets: threads, Pillow and one session of ONNX Runtime, or OpenVINO's.

python benchmarks/score_plain.py MODEL.onnx FOLDER OUT.parquet [onnxruntime|openvino]: what a competent user writes in
an hour, for the network as torch exports it (float32 [N, 3, S, S]) or for the bundle's graph (uint8 [N, S, S]). One
file that cannot be read ends it, a killed run starts over, and nobody knows which weights gave a score.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
Network = Callable[[np.ndarray], np.ndarray]
"""One image → probabilities [1, 2]."""


def load_with_onnxruntime(model: str) -> tuple[Network, int, bool]:
    """Return the network, its side, and whether it takes grey bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    wanted = session.get_outputs()[0].name  # the probabilities
    return lambda image: session.run([wanted], {given.name: image})[0], given.shape[-1], len(given.shape) == 3


def load_with_openvino(model: str) -> tuple[Network, int, bool]:
    """Return the network, its side, and whether it takes grey bytes; a request for each thread."""
    import threading

    import openvino  # type: ignore[import-not-found]

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": os.cpu_count()}
    compiled = openvino.Core().compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"})
    shape, local = compiled.input(0).partial_shape, threading.local()

    def infer(image: np.ndarray) -> np.ndarray:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        return np.array(local.request.infer([image])[0])

    side, is_grey = shape[-1].get_length(), len(shape) == 3
    kind = np.uint8 if is_grey else np.float32
    infer(np.zeros([1, *(each.get_length() for each in list(shape)[1:])], kind))  # the first calls of two may deadlock
    return infer, side, is_grey


LOAD = {"onnxruntime": load_with_onnxruntime, "openvino": load_with_openvino}

if __name__ == "__main__":
    network, side, is_grey = LOAD[sys.argv[4] if len(sys.argv) > 4 else "onnxruntime"](sys.argv[1])

    def score(file: Path) -> float:
        """Return the probability of a tumour."""
        image = Image.open(file)
        image.draft("L", (side, side))
        plane = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))
        given = plane if is_grey else (plane.astype(np.float32) / 255 - MEAN) / STD
        return float(network(given[None])[0, 1])

    files = sorted(Path(sys.argv[2]).iterdir())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(score, files))
    pq.write_table(pa.table({"path": [str(file) for file in files], "probability": found}), sys.argv[3])
