"""Finish a run: write the bundle of the kept epoch and mark the run as complete."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.dataset.patients import describe_unknown_patients
from brainscale.dataset.splits import SPLITS
from brainscale.errors import RERUN, TrainError
from brainscale.models.bundle import NOVELTY, ONNX, WEIGHTS, open_bundle, write_model_info
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.novelty import write_novelty
from brainscale.models.onnx_export import export_onnx
from brainscale.models.registry import build_network, count_parameters
from brainscale.storage.local import make_folder, write_success
from brainscale.training.checkpoints import Progress, load_best_weights, write_tensors
from brainscale.training.environment import read_library_versions
from brainscale.training.history import list_hardware
from brainscale.training.novelty import choose_novelty
from brainscale.training.operating_point import (
    choose_operating_points,
    describe_operating_points,
    fixed_operating_points,
    needs_validation,
)
from brainscale.training.run_folder import Run, RunFolder, describe_training_data
from brainscale.training.samples import count_left_out

EPOCH_SOURCES = {"best": "lowest validation loss", "last": "the last"}
"""`train.keep` → why an epoch was kept."""


def finish_run(run: RunFolder, config: Config, manifest: pa.Table, on_notice: Callable[[str], None]) -> Run:
    """Write the bundle of the kept epoch, then `_SUCCESS.json`.

    Args:
        run: folder of the run.
        config: its configuration.
        manifest: its manifest.
        on_notice: called with each line of `describe_operating_points`.
    """
    progress = Progress(run.history())
    if progress.best is None:
        raise TrainError(f"{run} has no finished epoch: {RERUN}")
    network = build_network(config.model.name, len(config.data.classes))
    weights = load_best_weights(run.checkpoints, progress)
    network.load_state_dict(weights)
    folder = make_folder(run.model)
    write_tensors(folder / WEIGHTS, weights)
    spec = NetworkSpec(architecture=config.model.name, views=config.model.views)
    export_onnx(spec, len(config.data.classes), config.data.image_size, weights, folder / ONNX)
    facts = {
        "architecture": config.model.name,
        "views": config.model.views,
        "classes": config.data.classes,
        "preprocess": config.data.preprocess,
        "parameters": count_parameters(network),
        "manifest_sha256": manifest_fingerprint(manifest),
        "config_sha256": config.fingerprint,
        "seed": config.train.seed,
        "epoch": progress.best["epoch"],
        "epoch_source": f"{EPOCH_SOURCES[config.train.keep]} of {progress.epoch} epochs",
        "versions": read_library_versions(),
    }
    (folder / NOVELTY).unlink(missing_ok=True)  # of a driver that was stopped here
    fixed = vars(fixed_operating_points(config.operating))
    write_model_info(folder, facts | fixed)
    # this and what follows need a complete bundle
    novelty = choose_novelty(open_bundle(folder), manifest, config.train.seed)
    facts["novelty_source"] = novelty.source
    if novelty.reference is not None:
        write_novelty(novelty.reference, folder / NOVELTY)
    info = write_model_info(folder, facts | fixed)
    if needs_validation(config.operating, manifest):
        chosen = choose_operating_points(config.operating, open_bundle(folder), manifest)
        info = write_model_info(folder, facts | vars(chosen))
        for text in describe_operating_points(chosen):
            on_notice(text)
    result = Run(
        path=str(run),
        samples={split: pc.sum(pc.equal(manifest["split"], split)).as_py() or 0 for split in SPLITS},
        left_out=count_left_out(manifest),
        epochs=progress.epoch,
        best_epoch=progress.best["epoch"],
        best_val_loss=progress.best["val_loss"],
        threshold=info.threshold,
        threshold_source=info.threshold_source,
        weights_sha256=info.weights_sha256,
        manifest_sha256=info.manifest_sha256,
        config_sha256=info.config_sha256,
        hardware=list_hardware(progress.history),
    )
    unknown_patients = describe_unknown_patients(manifest)
    card = ModelFacts(info=info, training=describe_training_data(result), unknown_patients=unknown_patients)
    write_model_card(folder, card)
    write_success(run.path, result.facts(), "run")
    return result
