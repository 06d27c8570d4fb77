"""Where the time of scoring an image goes, in each of BrainMRNet's graphs, beside the speed of a matrix product.

python benchmarks/graph.py [--size 224] [--runs 40]

One thread of ONNX Runtime, its profiler's median time of each node. GFLOP are those of the graph's convolutions; the
graph with Winograd's has fewer multiplications than the network.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from math import prod
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.torch import load
from threadpoolctl import threadpool_limits

from brainscale.models.bundle import open_bundle
from brainscale.models.onnx_export import export_onnx
from brainscale.models.processor import read_cpu_model
from brainscale.models.registry import count_flops
from brainscale.models.shipped import shipped_folders

KINDS = {
    "convolutions": ("Conv", "FusedConv"),
    "sums, means and maxima": ("ReduceMean", "ReduceMax", "ReduceSum", "MaxPool"),
    "sums and products of two tensors, activations": ("Add", "Sub", "Mul", "LeakyRelu", "Relu", "Sigmoid"),
    "copies": ("Concat", "Slice", "Unsqueeze", "Squeeze", "Reshape", "ReorderInput", "ReorderOutput", "Cast", "Gather"),
}
REST = "everything else"
MATRIX_SIDE = 1024


def profile(path: Path, planes: np.ndarray, runs: int) -> tuple[dict[str, float], float]:
    """Return milliseconds by kind of operation, and GFLOP of the convolutions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, {"planes": planes})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = defaultdict(list)
    kernels = {e["name"]: e["args"] for e in events if e["name"].endswith("_kernel_time")}
    for event in events:
        if event["name"] in kernels:
            times[event["name"]].append(event["dur"] / 1e3)
    milliseconds: dict[str, float] = defaultdict(float)
    for name, values in times.items():
        kind = next((kind for kind, operations in KINDS.items() if kernels[name]["op_name"] in operations), REST)
        milliseconds[kind] += statistics.median(values)
    convolutions = [a for a in kernels.values() if a["op_name"] in KINDS["convolutions"]]
    return milliseconds, sum(map(count_operations, convolutions)) / 1e9


def count_operations(node: dict[str, list[dict[str, list[int]]]]) -> int:
    """Return the floating-point operations of a convolution of the profile, from its shapes."""
    (out,) = node["output_type_shape"][0].values()
    (_, weights) = (shape for each in node["input_type_shape"][:2] for shape in each.values())
    return 2 * prod(out) * prod(weights[1:])


def measure_matrix_product() -> float:
    """Return GFLOP/s of one thread in a product of two matrices with OpenBLAS, float32, the best of some."""
    left, right = np.random.default_rng(0).random((2, MATRIX_SIDE, MATRIX_SIDE), np.float32)
    seconds = []
    with threadpool_limits(1):
        for _ in range(10):
            began = time.process_time()
            left @ right
            seconds.append(time.process_time() - began)
    return 2 * MATRIX_SIDE**3 / min(seconds) / 1e9


def main() -> None:
    """Profile both graphs, and print what they take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="width and height of an image, pixels")
    parser.add_argument("--runs", type=int, default=40)
    asked = parser.parse_args()
    bundle = open_bundle(shipped_folders()["phantoms"])
    info, weights = bundle.info, load(bundle.weights.read_bytes())
    planes = np.random.default_rng(0).integers(0, 256, (1, asked.size, asked.size), np.uint8)
    network = count_flops(info.architecture, len(info.classes), asked.size) / 1e9
    print(f"{info.architecture} at {asked.size}² on one thread of {read_cpu_model()}: {network:.2f} GFLOP as trained")
    print(f"product of two {MATRIX_SIDE}² matrices with OpenBLAS: {measure_matrix_product():.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        for name, winograd in (("with Winograd's convolutions", True), ("without", False)):
            path = Path(folder, f"{winograd}.onnx")
            export_onnx(info.network, len(info.classes), asked.size, weights, path, winograd=winograd)
            milliseconds, gflop = profile(path, planes, asked.runs)
            total = sum(milliseconds.values())
            speed = gflop / milliseconds["convolutions"] * 1e3
            print(f"{name}: {total:.1f} ms; convolutions {gflop:.2f} GFLOP, {speed:.0f} GFLOP/s")
            for kind in (*KINDS, REST):
                print(f"  {kind:<48}{milliseconds[kind]:6.2f} ms{100 * milliseconds[kind] / total:7.1f} %")


if __name__ == "__main__":
    main()
