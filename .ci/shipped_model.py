"""Make the model that comes with brainscale: train it on phantoms, evaluate it, and copy it into the package.

Like every run, it has the same weights on the same processor and library versions. A stopped run is resumed.
"""

import shutil
import sys
from pathlib import Path

from brainscale.cli.demo import PHANTOMS, SEED
from brainscale.config.files import load_config
from brainscale.dataset.from_sources import index_sources
from brainscale.dataset.phantoms import write_phantoms
from brainscale.dataset.splits import assign_splits
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.results import METRICS_FILE
from brainscale.models.bundle import MODEL_JSON, NOVELTY, ONNX, WEIGHTS, open_bundle
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.models.shipped import FOR_TRYING
from brainscale.storage.local import SUCCESS, make_folder
from brainscale.training.driver import train_model
from brainscale.training.run_folder import RunFolder, describe_training_data

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "brainscale" / "shipped" / "phantoms"
OVERRIDES = ("train.memory_format=contiguous", "resources.workers=1", "resources.device=cpu")


def main(work: Path) -> None:
    """Make the model in `work`, and copy it to `SHIPPED`."""
    config = load_config("demo", OVERRIDES)
    scans, run = make_folder(work) / "scans", RunFolder(work / "run")
    write_phantoms(scans, PHANTOMS, SEED)
    split = config.split
    manifest = assign_splits(index_sources([str(scans)], config), val=split.val, test=split.test, seed=SEED)
    trained = train_model(manifest, str(run.path), config, on_epoch=print, on_notice=print)
    evaluation = evaluate_model(str(run.path), report=False, on_notice=print)
    for name in (MODEL_JSON, WEIGHTS, ONNX, NOVELTY):
        shutil.copyfile(run.model / name, make_folder(SHIPPED) / name)
    for name in (METRICS_FILE, SUCCESS):
        shutil.copyfile(run.evaluation("test") / name, make_folder(SHIPPED / "evaluation" / "test") / name)
    card = ModelFacts(
        info=open_bundle(SHIPPED).info,
        training=describe_training_data(trained),
        metrics=evaluation.metrics,
        evaluated_on="phantoms that it was not trained on",
        for_trying=FOR_TRYING,
    )
    write_model_card(SHIPPED, card)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
