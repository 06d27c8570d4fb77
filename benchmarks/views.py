"""What views cost: images a second of processor time, with ONNX Runtime on one thread.

python benchmarks/views.py [--model brainmrnet_paper] [--sizes 64 224] [--rounds 5]

The models of 1, 2 and 6 views take turns; each number is the median over the rounds. Processor time is what one core
spends on the images, so other programs on the machine matter little. The weights are random, as they change no time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.sections import ARCHITECTURES, ViewCount
from brainscale.models.bundle import ModelInfo
from brainscale.models.engines import Engine, EngineOptions, load_engine
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx
from brainscale.models.registry import build_network

IMAGES = 12


def start_engine(name: str, views: int, size: int) -> Engine:
    """Return an engine of a network with random weights."""
    info = ModelInfo.model_construct(architecture=name, views=views, classes=DEFAULT_CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        spec = NetworkSpec(architecture=name, views=views)
        export_onnx(spec, len(info.classes), size, build_network(name, len(info.classes)).state_dict(), path)
        return load_engine(info, path.read_bytes(), EngineOptions(name="onnx"), threads=1)


def measure_rate(engine: Engine, planes: np.ndarray) -> float:
    """Return images a second of processor time."""
    start = time.process_time()
    engine(planes)
    return len(planes) / (time.process_time() - start)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="brainmrnet_paper", choices=ARCHITECTURES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| pixels | views | images/s | time relative to 1 view |\n|---:|---:|---:|---:|")
    for size in arguments.sizes:
        planes = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size), np.uint8)
        engines = {views: start_engine(arguments.model, views, size) for views in get_args(ViewCount)}
        for engine in engines.values():
            engine(planes[:1])  # the first run allocates memory
        rates: dict[int, list[float]] = {views: [] for views in engines}
        for _ in range(arguments.rounds):
            for views, engine in engines.items():
                rates[views].append(measure_rate(engine, planes))
        medians = {views: statistics.median(values) for views, values in rates.items()}
        for views, median in medians.items():
            print(f"| {size} | {views} | {median:.1f} | {medians[1] / median:.2f} |")


if __name__ == "__main__":
    main()
