"""A trained model's folder: model.safetensors, model.onnx, model.json. Reading one needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import DataConfig, PreprocessConfig, Section
from brainscale.errors import BundleError, FormatError
from brainscale.hashing import file_sha256
from brainscale.schema import FORMATS
from brainscale.storage.local import replacing

WEIGHTS, ONNX, MODEL_JSON = "model.safetensors", "model.onnx", "model.json"
FILES = ("model/*", "model.*", CONFIG_FILE)
"""Patterns of what a run or a bundle holds of a model, and what tells a run without one."""


class ModelInfo(Section):
    """model.json: everything a score's meaning depends on, and where it came from.

    Attributes:
        architecture: name in the registry.
        classes: in the order of the outputs, the one without a tumour first; with the folder names of each.
        preprocess: how a frame becomes a plane.
        threshold: of the probability of a tumour, at and above which a sample is called one.
        threshold_source: how the threshold was chosen.
        temperature: by which log-probabilities are divided before use; 1 is none.
        temperature_source: how the temperature was chosen.
        parameters: trainable ones.
        weights_sha256: of model.safetensors.
        onnx_sha256: of model.onnx.
        manifest_sha256: fingerprint of the training manifest.
        config_sha256: fingerprint of the configuration.
        seed: of the run.
        epoch: the one whose weights these are.
        epoch_source: how the epoch was chosen.
        versions: of the libraries that made it.
    """

    format: int = FORMATS["model"]
    architecture: str
    classes: dict[str, list[str]] = Field(min_length=2)
    preprocess: PreprocessConfig
    threshold: float = Field(ge=0, le=1)
    threshold_source: str
    temperature: float = Field(default=1.0, gt=0)
    temperature_source: str = "none"
    parameters: int
    weights_sha256: str
    onnx_sha256: str
    manifest_sha256: str
    config_sha256: str
    seed: int
    epoch: int
    epoch_source: str = "lowest validation loss"
    versions: dict[str, str]

    @property
    def data(self) -> DataConfig:
        """How a source is read for this model: preprocessing, and what folder names mean."""
        return DataConfig(**self.preprocess.model_dump(), classes=self.classes)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened model folder, its hashes checked.

    Attributes:
        folder: where it is.
        info: its model.json.
    """

    folder: Path
    info: ModelInfo

    @property
    def weights(self) -> Path:
        """The weights' file."""
        return self.folder / WEIGHTS

    @property
    def onnx(self) -> Path:
        """The network with preprocessing on the device, for ONNX Runtime."""
        return self.folder / ONNX


def open_bundle(model: str | Path) -> Bundle:
    """Open a RUN or a bundle folder and check every file against the card.

    Raises:
        BundleError: not there, incomplete, unreadable, or altered since it was written.
    """
    folder = find_bundle(Path(model))
    info = _read_info(folder / MODEL_JSON)
    for name, expected in ((WEIGHTS, info.weights_sha256), (ONNX, info.onnx_sha256)):
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder} lacks {name}: copy the whole model folder")
        if file_sha256(path) != expected:
            raise BundleError(f"{path} is not the file that {MODEL_JSON} describes: copy the whole model folder again")
    return Bundle(folder=folder, info=info)


def _read_info(path: Path) -> ModelInfo:
    try:
        facts = json.loads(path.read_bytes())
        version = facts.get("format")
        if version != FORMATS["model"]:
            raise FormatError(
                f"{path} has format {version} of models, and this version of brainscale reads format "
                f"{FORMATS['model']}: train the model again, or use the version that wrote it"
            )
        return ModelInfo.model_validate_json(path.read_bytes())
    except (OSError, ValueError, AttributeError) as error:  # pydantic's ValidationError is a ValueError
        raise BundleError(f"{path} does not describe a model: {' '.join(str(error).split())}") from None


def find_bundle(model: Path) -> Path:
    """The bundle's folder of a RUN or of itself."""
    for folder in (model / "model", model):
        if (folder / MODEL_JSON).is_file():
            return folder
    if (model / CONFIG_FILE).is_file():
        raise BundleError(f"{model} has no model yet: its training is not finished; run `brainscale train` on it again")
    raise BundleError(f"{model} is neither a run nor a model folder: it holds no {MODEL_JSON}")


def write_model_info(folder: Path, facts: Mapping[str, Any]) -> ModelInfo:
    """Complete the card with the hashes of the files beside it and write it, last."""
    hashes = {
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "onnx_sha256": file_sha256(folder / ONNX),
    }
    info = ModelInfo.model_validate({**facts, **hashes})
    with replacing(folder / MODEL_JSON) as aside:
        aside.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info
