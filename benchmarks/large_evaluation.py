"""What evaluations of many samples cost: seconds, CPU-seconds and peak memory, of one process with one thread.

python benchmarks/large_evaluation.py [--samples 10000 100000 1000000] [--group 1 20] [--keep FOLDER]

Samples, labels and scores are made up; groups have one sample each, or 20, such as the slices of a patient. Each row is
measured in a process of its own: `metrics` computes the metrics of arrays; `evaluate` does all that `brainscale
evaluate` does after prediction (it reads the manifest and the predictions, and writes metrics, plots, report
and gallery); `compare` compares two such evaluations. On a cluster, the resamples of `evaluate` run as Ray
tasks; here they do not.
"""

import argparse
import binascii
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.schema import MANIFEST, PREDICTIONS

JOBS = "metrics", "evaluate", "compare"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PICTURES = 24
SIDE, WEIGHTS_SHA256 = 64, "a" * 64
RUNS = "first", "second"
CLASSES = tuple(DEFAULT_CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--group", type=int, nargs="+", default=[1, 20], help="samples of each group")
    parser.add_argument("--jobs", choices=JOBS, nargs="+", default=JOBS)
    parser.add_argument("--keep", type=Path, help="folder to keep the evaluations in")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child[0], Path(options.child[1]))
        return
    print("| samples | in groups of | job | seconds | CPU-seconds | peak MiB |\n|---:|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.samples:
            for size in options.group:
                folder = (options.keep or Path(temporary)) / f"{count}-{size}"
                measure_jobs(folder, count, size, options.jobs)


def measure_jobs(folder: Path, count: int, size: int, jobs: list[str]) -> None:
    """Print a line for each job, and leave its files in a folder."""
    make_inputs(folder, count, size)
    if set(jobs) != {"metrics"}:
        from score import make_bundle  # here: it imports torch

        make_bundle(folder / "model", SIDE)
    if "compare" in jobs and "evaluate" not in jobs:
        jobs = ["evaluate", *jobs]
    for job in jobs:
        cost = json.loads(start_child(job, folder / RUNS[0] if job != "compare" else folder))
        line = f"{cost['seconds']:.0f} | {cost['cpu_seconds']:.0f} | {cost['peak_mib']:,.0f}"
        print(f"| {count:,} | {size} | {job} | {line} |", flush=True)
        if job == "evaluate" and "compare" in jobs:
            start_child(job, folder / RUNS[1])


def start_child(job: str, folder: Path) -> str:
    command = [sys.executable, __file__, "--child", job, str(folder)]
    output = subprocess.run(command, env=os.environ | ONE_THREAD, check=True, stdout=subprocess.PIPE, text=True)
    return output.stdout.splitlines()[-1]


def run_child(job: str, folder: Path) -> None:
    start = time.monotonic()
    {"metrics": compute_metrics, "evaluate": evaluate, "compare": compare}[job](folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    print(json.dumps(cost))


def compute_metrics(folder: Path) -> None:
    """Compute the metrics of arrays, as `bs.compute_metrics` gets them."""
    import brainscale as bs

    table = pq.read_table(folder / "inputs/predictions.parquet", columns=["label", "probability"])
    groups = pq.read_table(folder / "inputs/manifest.parquet", columns=["patient"])["patient"].to_numpy()
    labels = pc.equal(table["label"], CLASSES[1]).to_numpy().astype(np.int64)
    bs.compute_metrics(labels, table["probability"].to_numpy(), groups=groups, prevalence=0.1)


def evaluate(folder: Path) -> None:
    """Write what `brainscale evaluate` writes, from the predictions on."""
    from brainscale.dataset.manifest import (
        MANIFEST_FILE,
        manifest_fingerprint,
        read_manifest,
        without_signatures,
        write_manifest,
    )
    from brainscale.evaluation.evaluated_model import EvaluatedModel
    from brainscale.evaluation.outputs import write_outputs
    from brainscale.evaluation.results import EvaluationFacts
    from brainscale.models.bundle import open_bundle
    from brainscale.storage.local import write_success

    bundle = open_bundle(folder.parent / "model")
    manifest = read_manifest(folder / "inputs/manifest.parquet")
    write_manifest(manifest, folder / MANIFEST_FILE)
    manifest = without_signatures(manifest)
    predictions = pq.read_table(folder / "inputs/predictions.parquet")
    evaluated = EvaluatedModel(
        bundle=bundle,
        run=None,
        manifest=manifest,
        rows=manifest,
        predictions=predictions,
        prevalence=0.1,
    )
    sha256 = manifest_fingerprint(manifest)
    facts = EvaluationFacts(
        model=bundle.info.architecture,
        run=folder.name,
        data=None,
        split="all",
        samples=len(manifest),
        unit="slice",
        aggregation=None,
        units=len(evaluated.labelled),
        labelled_samples=len(evaluated.labelled),
        unlabelled_samples=evaluated.unlabelled,
        errors=0,
        shared_with_training=None,
        looks=None,
        looks_note=None,
        degenerate=evaluated.degenerate,
        prevalence=0.1,
        images_per_second=100.0,
        parameters=bundle.info.parameters,
        model_edited=False,
        weights_sha256=bundle.info.weights_sha256,
        samples_sha256=sha256,
        manifest_sha256=sha256,
        evaluation_sha256=sha256,
    )
    write_outputs(folder, evaluated, facts)
    write_success(folder, facts.to_json())


def compare(folder: Path) -> None:
    """Compare the two evaluations in a folder."""
    from brainscale.evaluation.comparison import compare_runs

    compared = compare_runs([str(folder / name) for name in RUNS])
    if compared.pairs is None:
        sys.exit("nothing was compared")


def make_inputs(folder: Path, count: int, size: int) -> None:
    """Write a manifest, and the predictions of two models."""
    generator = np.random.default_rng(count + size)
    pictures = draw_pictures(folder / "pictures", generator)
    patient = np.arange(count) // size
    labels = generator.integers(0, 2, patient[-1] + 1)[patient]
    effects = generator.normal(size=patient[-1] + 1)[patient]
    number, names = pa.array(np.arange(count)), pa.array(CLASSES)
    sample_ids = join("patient-", pa.array(patient), "/slice-", number, ".png")
    samples = {
        "sample_id": sample_ids,
        "uri": pa.array(pictures).take(pa.array(np.arange(count) % PICTURES)),
        "sha256": text_of(generator, count, 64),
        "label": names.take(pa.array(labels)),
        "modality": pa.array(["MR", "CT"]).take(pa.array(np.arange(count) % 2)),
    }
    manifest = {
        **samples,
        "format": pa.repeat("PNG", count),
        "mode": pa.repeat("L", count),
        "width": pa.array(generator.integers(200, 600, count), pa.int32()),
        "height": pa.array(generator.integers(200, 600, count), pa.int32()),
        "nbytes": pa.array(generator.integers(10_000, 60_000, count)),
        "phash": text_of(generator, count, 16),
        "head_phash": text_of(generator, count, 16),
        "signature": signatures(generator, count),
        "patient": join("patient-", pa.array(patient)),
        "group": join("group-", pa.array(patient)),
    }
    for run, noise in zip(RUNS, (1.0, 1.1), strict=True):
        inputs = folder / run / "inputs"
        inputs.mkdir(parents=True)
        pq.write_table(table_of(manifest, MANIFEST, "manifest"), inputs / "manifest.parquet")
        logits = 2.0 * labels - 1 + effects + noise * generator.normal(size=count)
        score = (1 / (1 + np.exp(-logits))).astype(np.float32)
        both = pa.array(np.stack([1 - score, score], 1).ravel())
        predictions = {
            **samples,
            "prediction": names.take(pa.array((score >= 0.5).astype(np.int64))),
            "probability": pa.array(score),
            "probabilities": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * 2), both),
            "model": pa.repeat(WEIGHTS_SHA256, count),
        }
        pq.write_table(table_of(predictions, PREDICTIONS, "predictions"), inputs / "predictions.parquet")


def table_of(columns: dict[str, pa.Array], schema: pa.Schema, kind: str) -> pa.Table:
    """The columns in a schema, the others null."""
    from brainscale.storage.tables import stamp_table

    count = len(columns["sample_id"])
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    return stamp_table(table, kind)


def join(*parts: str | pa.Array) -> pa.Array:
    """Texts and numbers of eight digits, one after another."""
    texts = [part if isinstance(part, str) else pc.utf8_lpad(part.cast(pa.string()), 8, "0") for part in parts]
    return pc.binary_join_element_wise(*texts, "")


def text_of(generator: np.random.Generator, count: int, width: int) -> pa.Array:
    """Random hexadecimal digits."""
    return fixed_width(binascii.hexlify(generator.bytes(count * width // 2)), width).cast(pa.string())


def signatures(generator: np.random.Generator, count: int) -> pa.Array:
    return fixed_width(generator.bytes(count * 256), 256)


def fixed_width(data: bytes, width: int) -> pa.Array:
    offsets = pa.array(np.arange(0, len(data) + 1, width, dtype=np.int32)).buffers()[1]
    return pa.BinaryArray.from_buffers(pa.binary(), len(data) // width, [None, offsets, pa.py_buffer(data)])


def draw_pictures(folder: Path, generator: np.random.Generator) -> list[str]:
    """Write a few pictures, which all samples share."""
    from PIL import Image

    folder.mkdir(parents=True)
    paths = [folder / f"{i}.png" for i in range(PICTURES)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    return [str(path) for path in paths]


if __name__ == "__main__":
    main()
