"""Make the int8 graph of a finished run, and keep it only if it agrees with float32 on the validation split."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.torch import load

from brainscale import progress
from brainscale.config.environment import count_cpus
from brainscale.dataset.manifest import MANIFEST_FILE, manifest_fingerprint
from brainscale.errors import BundleError, TrainError
from brainscale.models.bundle import BUNDLE_FILES, Bundle, open_bundle
from brainscale.models.engines import Engine, EngineOptions, load_engine
from brainscale.models.int8 import Int8Record, remove_int8, update_card, write_int8
from brainscale.models.model_card import README
from brainscale.models.processor import read_cpu_model
from brainscale.models.quantisation import CALIBRATION, export_int8
from brainscale.reading.file_tables import file_table, files_of_manifest
from brainscale.reading.keys import read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.scoring.predictions import stack_planes
from brainscale.seeds import derive
from brainscale.stats.agreement import MIN_SAMPLES, Agreement, find_objection, measure_agreement
from brainscale.stats.decisions import apply_temperature
from brainscale.storage.local import SUCCESS
from brainscale.storage.workspace import fetch
from brainscale.training.arguments import NO_RUN
from brainscale.training.run_folder import run_of

CALIBRATION_SAMPLES = 64
"""Training samples that the ranges of the activations are chosen on."""
MAX_VALIDATION = 5000
"""Most validation samples that are compared: more would show smaller differences than matter."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How an int8 graph compares with float32 on labelled samples.

    Attributes:
        agreement: of the probabilities, with the model's temperature and threshold.
        largest_novelty_change: largest difference of a novelty; None for a model without.
    """

    agreement: Agreement
    largest_novelty_change: float | None


def quantise_run(model: str, on_notice: Callable[[str], None] = lambda text: None) -> Int8Record:
    """Write model-int8.onnx beside the model.onnx of a finished run, if it passes the check on validation samples.

    Args:
        model: path or address of the run.
        on_notice: called with each message for the user.

    Raises:
        BundleError: there is no run, or it is not finished.
        TrainError: the graph does not pass, or cannot be checked; nothing is kept then.
    """
    with fetch(model, *BUNDLE_FILES, MANIFEST_FILE, SUCCESS, push=True) as folder:
        bundle = open_bundle(folder)
        run = run_of(bundle)
        manifest = None if run is None else run.manifest()
        if run is None or manifest is None or manifest_fingerprint(manifest) != bundle.info.manifest_sha256:
            raise BundleError(NO_RUN.format(model))
        seed = bundle.info.seed or 0
        training, validation = (
            draw_samples(manifest, split, count, seed)
            for split, count in (("train", CALIBRATION_SAMPLES), ("val", MAX_VALIDATION))
        )
        if len(validation) < MIN_SAMPLES:
            raise TrainError(
                f"int8 cannot be checked on the {len(validation)} validation sample(s) of {model}, and {MIN_SAMPLES} "
                "are needed: nothing is kept, use fp32"
            )
        remove_int8(bundle.folder)
        on_notice(f"Quantising on {len(training)} training samples, and checking on {len(validation)} validation ones")
        with tempfile.TemporaryDirectory(prefix="brainscale-int8-") as scratch:
            graph = Path(scratch, "int8.onnx")
            progress.stage("making the int8 graph")
            export_calibrated(bundle, training, graph)
            progress.stage("comparing int8 with float32")
            compared = compare_int8(bundle, graph.read_bytes(), validation)
            objection = find_objection(compared.agreement)
            update_card(bundle.folder / README, None)
            if objection is not None:
                raise TrainError(f"int8 is refused for {model}: {objection}; nothing is kept, use fp32")
            record = write_int8(graph, _make_record(bundle, compared, len(training)), bundle.folder)
        update_card(bundle.folder / README, record)
        return record


def export_calibrated(bundle: Bundle, training: pa.Table, path: Path) -> None:
    """Write the int8 graph of a model.

    Args:
        bundle: the model.
        training: rows of its manifest that the ranges of the activations are chosen on.
        path: the file to write.

    Raises:
        TrainError: none of them can be read.
    """
    info = bundle.info
    planes = [planes for _, planes in read_planes(training, bundle)]
    if not sum(map(len, planes)):
        raise TrainError("No training sample of the run can be read: give its images back their place.")
    weights = load(bundle.weights.read_bytes())
    size = info.preprocess.image_size
    export_int8(info.network, len(info.classes), size, weights, np.concatenate(planes), path)


def compare_int8(bundle: Bundle, graph: bytes, rows: pa.Table) -> Comparison:
    """Score samples in float32 and in int8, and compare.

    Args:
        bundle: the model.
        graph: contents of its int8 graph.
        rows: rows of a manifest, with labels.

    Raises:
        TrainError: not all of the samples can be read.
    """
    exact_engine, fast_engine = (_start(bundle, network) for network in (bundle.onnx.read_bytes(), graph))
    class_index = {name: index for index, name in enumerate(bundle.info.classes)}
    label_of = dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    labels: list[int] = []
    exact: list[np.ndarray] = []
    fast: list[np.ndarray] = []
    novelty_changes = [0.0]
    for ids, planes in read_planes(rows, bundle):
        labels += [class_index[label_of[sample_id]] for sample_id in ids]
        outputs = [engine(planes) for engine in (exact_engine, fast_engine)]
        for chosen, output in zip((exact, fast), outputs, strict=True):
            chosen.append(apply_temperature(output.probabilities, bundle.info.temperature))
        if bundle.novelty is not None and len(planes):
            novelties = [bundle.novelty.measure(output.features) for output in outputs]
            novelty_changes.append(float(np.abs(novelties[0] - novelties[1]).max()))
    if len(labels) < len(rows):
        raise TrainError(
            f"{len(rows) - len(labels)} of {len(rows)} samples cannot be read or have changed, and int8 has to be "
            "checked on all of them: give the images back their place"
        )
    agreement = measure_agreement(np.array(labels), np.concatenate(exact), np.concatenate(fast), bundle.info.threshold)
    return Comparison(
        agreement=agreement, largest_novelty_change=None if bundle.novelty is None else max(novelty_changes)
    )


def _start(bundle: Bundle, network: bytes) -> Engine:
    return load_engine(bundle.info, network, EngineOptions(name="onnx"), threads=count_cpus())


def read_planes(rows: pa.Table, bundle: Bundle) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield sample ids and planes, uint8 [n, S, S], of the rows of a manifest whose bytes can still be read."""
    spec = bundle.info.preprocess
    sha256_of = dict(zip(rows["sample_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    request = ReadRequest(preprocess=spec, key=read_key(None).secret)
    for table in read_tables(file_table(files_of_manifest(rows, spec)), request=request):
        hashes = zip(table["sample_id"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        is_same = pa.array([sha256_of.get(sample_id) == sha256 for sample_id, sha256 in hashes], pa.bool_())
        readable = table.filter(pc.and_(is_same, pc.is_valid(table["plane"])))
        yield readable["sample_id"].to_pylist(), stack_planes(readable["plane"], spec.image_size)


def draw_samples(manifest: pa.Table, split: str, count: int, seed: int) -> pa.Table:
    """Return rows of a split, at most so many."""
    rows = manifest.filter(pc.equal(manifest["split"], split))
    if len(rows) <= count:
        return rows
    chosen = np.random.default_rng(derive(seed, "int8", split)).choice(len(rows), count, replace=False)
    return rows.take(pa.array(np.sort(chosen)))


def _make_record(bundle: Bundle, compared: Comparison, calibration_samples: int) -> Int8Record:
    agreement = compared.agreement
    return Int8Record(
        model_sha256=bundle.sha256,
        graph_sha256="",
        calibration=CALIBRATION,
        calibration_samples=calibration_samples,
        validation_samples=agreement.samples,
        auroc_fp32=agreement.auroc_exact,
        auroc_int8=agreement.auroc_fast,
        changed=agreement.changed,
        changed_bound=agreement.changed_bound,
        largest_change=agreement.largest_change,
        largest_novelty_change=compared.largest_novelty_change,
        cpu=read_cpu_model(),
        versions={"onnxruntime": version("onnxruntime")},
    )
