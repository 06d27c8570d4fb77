"""Int8 beside float32 on one thread, and how far the predictions of runs agree on samples that they have not seen.

python benchmarks/int8.py [RUN...] [--data SOURCE] [--sizes 64 224] [--rounds 5]

Times are of the shipped model's weights, on phantoms: the engines take turns, one image at a time; each number is the
median over the rounds, in wall time and in processor time, on which other programs matter little. Each RUN is quantised
as `brainscale quantize` does, without its check, and compared on its own test split, or on the labelled samples of
SOURCE; the folds of a cross-validation make one line, out of fold.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.compute as pc
from safetensors.torch import load

import brainscale as bs
from brainscale.dataset.phantoms import write_phantoms
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.models.engines import OPENVINO, Engine, EngineOptions, load_engine
from brainscale.models.onnx_export import export_onnx
from brainscale.models.processor import INT8_INSTRUCTIONS, read_cpu_instructions, read_cpu_model
from brainscale.models.quantisation import export_int8
from brainscale.models.shipped import shipped_folders
from brainscale.stats.agreement import Agreement
from brainscale.stats.intervals import wilson
from brainscale.training.quantising import (
    CALIBRATION_SAMPLES,
    compare_int8,
    draw_samples,
    export_calibrated,
)
from brainscale.training.run_folder import run_of

IMAGES = 20


def start_engines(bundle: Bundle, planes: np.ndarray) -> dict[str, Engine]:
    """Return engines of a model at another size: float32 with and without Winograd, int8, and OpenVINO if there."""
    info, weights = bundle.info, load(bundle.weights.read_bytes())
    classes, size = len(info.classes), planes.shape[-1]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.onnx") for name in ("fp32", "fp32 without Winograd", "int8")}
        export_onnx(info.network, classes, size, weights, paths["fp32"])
        export_onnx(info.network, classes, size, weights, paths["fp32 without Winograd"], winograd=False)
        export_int8(info.network, classes, size, weights, planes, paths["int8"])
        options = EngineOptions(name="onnx")
        engines = {name: load_engine(info, path.read_bytes(), options, threads=1) for name, path in paths.items()}
        if find_spec("openvino") is not None:
            network = paths["fp32 without Winograd"].read_bytes()
            engines["fp32 without Winograd, OpenVINO"] = load_engine(info, network, options, threads=1, graph=OPENVINO)
        return engines


def measure_milliseconds(engine: Engine, planes: np.ndarray) -> tuple[float, float]:
    """Return milliseconds of wall and of processor time for an image."""
    wall, processor = time.perf_counter(), time.process_time()
    for plane in planes:
        engine(plane[None])
    return tuple(
        1e3 * (end - start) / len(planes)
        for start, end in (  # type: ignore[return-value]
            (wall, time.perf_counter()),
            (processor, time.process_time()),
        )
    )


def print_times(sizes: Sequence[int], rounds: int) -> None:
    """Print a table of times."""
    found = sorted(INT8_INSTRUCTIONS & read_cpu_instructions())
    print(
        f"{read_cpu_model()} ({', '.join(found) or 'no instructions for int8'}), ONNX Runtime {onnxruntime.__version__}"
    )
    print("| pixels | engine | wall ms | CPU ms | CPU ms, range | times as fast |\n|---:|---|---:|---:|---|---:|")
    bundle = open_bundle(shipped_folders()["phantoms"])
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_phantoms(Path(folder), IMAGES, seed=1, size=size)
            samples = bs.read(folder, overrides=[f"data.image_size={size}"])
            planes = np.stack([sample.plane for sample in samples if sample.plane is not None])
        engines = start_engines(bundle, planes)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for _ in range(rounds):
            for name, engine in engines.items():
                engine(planes[:1])
                times[name].append(measure_milliseconds(engine, planes))
        base = statistics.median(processor for _, processor in times["fp32"])
        for name, values in times.items():
            wall, processor = (statistics.median(column) for column in zip(*values, strict=True))
            least, most = min(one for _, one in values), max(one for _, one in values)
            spread = f"{least:.1f} to {most:.1f}"
            print(f"| {size} | {name} | {wall:.1f} | {processor:.1f} | {spread} | {base / processor:.2f} |", flush=True)


def print_agreement(runs: Sequence[str], data: str | None) -> None:
    """Print how int8 agrees with float32 on the test split of each run, or on the labelled samples of a source."""
    print("\n| run | samples | AUROC fp32 | AUROC int8 | changed | 95 % interval up to | largest change |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    found: list[Agreement] = []
    manifest = None
    for name in runs:
        bundle = open_bundle(name)
        run = run_of(bundle)
        if run is None:
            raise SystemExit(f"{name} is not a run")
        training = draw_samples(run.manifest(), "train", CALIBRATION_SAMPLES, bundle.info.seed or 0)
        if data is None:
            rows = run.manifest().filter(pc.equal(run.manifest()["split"], "test"))
        else:
            if manifest is None:
                manifest = bs.index(data, config="brainmrnet")
            rows = manifest.filter(pc.and_(pc.is_valid(manifest["label"]), pc.is_null(manifest["error_code"])))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            export_calibrated(bundle, training, path)
            found.append(compare_int8(bundle, path.read_bytes(), rows).agreement)
        print_row("/".join(Path(name).absolute().parts[-2:]), found[-1])
    if len(found) > 1:
        print_row("all; mean AUROC", together(found))


def print_row(name: str, found: Agreement) -> None:
    """Print one row of the table of agreement."""
    print(
        f"| {name} | {found.samples} | {found.auroc_exact:.4f} | {found.auroc_fast:.4f} | {found.changed} | "
        f"{found.changed_bound:.1%} | {found.largest_change:.4f} |",
        flush=True,
    )


def together(found: Sequence[Agreement]) -> Agreement:
    """Return the sums of several runs, and the means of their AUROC."""
    samples, changed = sum(one.samples for one in found), sum(one.changed for one in found)
    return replace(
        found[0],
        samples=samples,
        auroc_exact=statistics.fmean(one.auroc_exact for one in found),
        auroc_fast=statistics.fmean(one.auroc_fast for one in found),
        changed=changed,
        changed_bound=wilson(changed, samples)[1],
        largest_change=max(one.largest_change for one in found),
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--data", metavar="SOURCE")
    parser.add_argument("--sizes", nargs="*", type=int, default=[64, 224])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print_times(arguments.sizes, arguments.rounds)
    if arguments.runs:
        print_agreement(arguments.runs, arguments.data)


if __name__ == "__main__":
    main()
