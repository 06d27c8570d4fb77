"""Open, check and write the folder of a trained model; needs no torch.

It holds model.safetensors, model.onnx, model.json, novelty.safetensors where there were enough validation samples, and
model-int8.onnx with model-int8.json where it was quantised.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from brainscale.config.data_sections import DataConfig, PreprocessConfig, Section
from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import ViewCount
from brainscale.errors import BundleError, FormatError
from brainscale.hashing import file_sha256
from brainscale.models.int8 import INT8_FILES, Int8Record, read_int8
from brainscale.models.network_spec import ENSEMBLE, NetworkSpec
from brainscale.models.novelty import NoveltyReference, read_novelty
from brainscale.schema import FORMATS
from brainscale.stats.target_bound import TargetBound
from brainscale.stats.units import Aggregation, Unit
from brainscale.storage.local import replacing

WEIGHTS, ONNX, MODEL_JSON = "model.safetensors", "model.onnx", "model.json"
NOVELTY = "novelty.safetensors"
EDITED = "model.json was edited after it was written"
EDITED_KEY = "edited_model"
"""Name of the mark of an edited model in metadata and results; its value is the hash of the edited model."""
BUNDLE_FILES = ("model/*", "model.*", INT8_FILES, NOVELTY, CONFIG_FILE)
"""Patterns of the model's files in a run or model folder; the configuration shows that a folder is a run."""


class OperatingPoint(Section):
    """From which probability of a tumour on a slice, a scan or a patient is predicted to have one.

    Attributes:
        threshold: that probability.
        threshold_source: how the threshold was chosen.
        threshold_bound: bound of the sensitivity or specificity that it was chosen for; None without such a target.
        aggregation: how the probability follows from the slices'; None for slices.
        aggregation_source: how the aggregation was chosen; None for slices.
        validation_units: number of scans or patients that both were chosen on; None for slices.
    """

    threshold: float = Field(ge=0, le=1)
    threshold_source: str
    threshold_bound: TargetBound | None = None
    aggregation: Aggregation | None = None
    aggregation_source: str | None = None
    validation_units: int | None = None


class Member(Section):
    """A network of an ensemble, and the model that it came from.

    Attributes:
        architecture: name of the network in the registry.
        views: number of views whose probabilities it averages.
        temperature: number by which its log-probabilities are divided before they are averaged.
        run: name of the folder of its run or model.
        model_sha256: hash of that model.
        weights_sha256: hash of that model's weights.
        manifest_sha256: fingerprint of its training manifest.
        config_sha256: fingerprint of its configuration.
        seed: seed of its run.
        epoch: number of the epoch with its weights.
    """

    architecture: str
    views: ViewCount
    temperature: float = Field(gt=0)
    run: str
    model_sha256: str
    weights_sha256: str
    manifest_sha256: str
    config_sha256: str
    seed: int
    epoch: int

    @property
    def network(self) -> NetworkSpec:
        """What its network is built from."""
        return NetworkSpec(architecture=self.architecture, views=self.views, temperature=self.temperature)


class ModelInfo(Section):
    """The contents of model.json: what the meaning of a score depends on, and how the model was made.

    Attributes:
        architecture: name of the network in the registry, or `ensemble`.
        views: number of views of an image whose probabilities it averages; the members of an ensemble have their own.
        members: members of an ensemble; empty for a network.
        classes: class → folder names, in the order of the outputs; the class without a tumour is the first.
        preprocess: how to turn a frame into a plane.
        operating_points: unit → operating point: of slices always, of scans and patients where validation had enough.
        temperature: number by which log-probabilities are divided; 1 leaves them unchanged.
        temperature_source: how the temperature was chosen.
        parameters: number of trainable parameters.
        weights_sha256: hash of model.safetensors.
        onnx_sha256: hash of model.onnx.
        novelty_sha256: hash of novelty.safetensors; None without one.
        novelty_source: what novelty rests on, or why there is none.
        manifest_sha256: fingerprint of the training manifest.
        config_sha256: fingerprint of the configuration.
        seed: seed of the run; None for an ensemble.
        epoch: number of the epoch with these weights; None for an ensemble.
        epoch_source: how the epoch was chosen.
        versions: library → version at the time of training.
        model_sha256: hash of all the fields above, in their order, and so of the weights too.
    """

    format: int = FORMATS["model"]
    architecture: str
    views: ViewCount = 1
    members: list[Member] = Field(default=[])
    classes: dict[str, list[str]] = Field(min_length=2)
    preprocess: PreprocessConfig
    operating_points: dict[Unit, OperatingPoint]
    temperature: float = Field(default=1.0, gt=0)
    temperature_source: str = "none"
    parameters: int
    weights_sha256: str
    onnx_sha256: str
    novelty_sha256: str | None = None
    novelty_source: str = "none: it was not computed"
    manifest_sha256: str
    config_sha256: str
    seed: int | None
    epoch: int | None
    epoch_source: str = "lowest validation loss"
    versions: dict[str, str]
    model_sha256: str

    @model_validator(mode="after")
    def _has_point_of_slices(self) -> "ModelInfo":
        if "slice" not in self.operating_points:
            raise ValueError("operating_points has none of slices")
        return self

    @model_validator(mode="after")
    def _is_ensemble_or_network(self) -> "ModelInfo":
        if (self.architecture == ENSEMBLE) != bool(self.members):
            raise ValueError(f"architecture {self.architecture} with {len(self.members)} members")
        return self

    @property
    def network(self) -> NetworkSpec:
        """What the model's network is built from."""
        members = tuple(member.network for member in self.members)
        return NetworkSpec(architecture=self.architecture, views=self.views, members=members)

    @property
    def threshold(self) -> float:
        """Probability of a tumour from which on a slice is predicted to have one."""
        return self.operating_points["slice"].threshold

    @property
    def threshold_source(self) -> str:
        """How the threshold of slices was chosen."""
        return self.operating_points["slice"].threshold_source

    @property
    def data(self) -> DataConfig:
        """How to read a source for this model: preprocessing, classes and their folder names."""
        return DataConfig(**self.preprocess.model_dump(), classes=self.classes)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model folder whose files match their hashes.

    Attributes:
        folder: the folder.
        info: the contents of model.json.
        edited: whether model.json was edited after it was written, which was allowed.
        novelty: what the novelty of a sample is computed from; None for a model without.
        int8: the record of the int8 graph; None for a model without.
    """

    folder: Path
    info: ModelInfo
    edited: bool = False
    novelty: NoveltyReference | None = field(default=None, compare=False, repr=False)  # its hash is compared
    int8: Int8Record | None = None

    @property
    def sha256(self) -> str:
        """The hash of the model as it is now: of all that model.json says, and so of the weights too."""
        return self.info.model_sha256

    @property
    def weights(self) -> Path:
        """The safetensors file with the weights."""
        return self.folder / WEIGHTS

    @property
    def onnx(self) -> Path:
        """The ONNX file, from uint8 planes to probabilities."""
        return self.folder / ONNX


def require_bundle(model: str | Path) -> ModelInfo:
    """Check that a run folder or a model folder has all its files, without reading the large ones.

    Returns:
        What its model.json says.

    Raises:
        BundleError: the folder is missing or incomplete.
        FormatError: another version of brainscale wrote it.
    """
    folder = find_bundle(Path(model))
    info, _ = read_model_info(folder, allow_edited=True)
    _require_files(folder, info)
    return info


def _expected_files(info: ModelInfo) -> dict[str, str]:
    """Return the name of each file beside model.json and its hash."""
    files = {WEIGHTS: info.weights_sha256, ONNX: info.onnx_sha256, NOVELTY: info.novelty_sha256}
    return {name: sha256 for name, sha256 in files.items() if sha256 is not None}


def _require_files(folder: Path, info: ModelInfo) -> None:
    for name in _expected_files(info):
        if not (folder / name).is_file():
            raise BundleError(f"{folder} has no {name}: copy the whole model folder")


def open_bundle(model: str | Path, *, allow_edited: bool = False) -> Bundle:
    """Open a run folder or a model folder, and check model.json and every other file against their hashes.

    Args:
        model: the folder.
        allow_edited: whether to open a model whose model.json was edited, such as its threshold. Its
            `threshold_source` of its operating points then says so, in every output that shows it.

    Raises:
        BundleError: the folder is missing, incomplete or unreadable, or a file was changed after it was written.
        FormatError: another version of brainscale wrote it.
    """
    folder = find_bundle(Path(model))
    info, edited = read_model_info(folder, allow_edited=allow_edited)
    _require_files(folder, info)
    for name, expected in _expected_files(info).items():
        path = folder / name
        if file_sha256(path) != expected:
            raise BundleError(f"{path} is not the file that {MODEL_JSON} describes: copy the whole model folder again")
    novelty = None if info.novelty_sha256 is None else read_novelty(folder / NOVELTY)
    return Bundle(folder=folder, info=info, edited=edited, novelty=novelty, int8=read_int8(folder))


def read_model_info(folder: Path, *, allow_edited: bool = False) -> tuple[ModelInfo, bool]:
    """Return the contents of model.json, with their true hash, and whether they were edited.

    Args:
        folder: the model folder, whose other files are not read.
        allow_edited: whether the contents may have been edited.

    Raises:
        BundleError: model.json is missing or unreadable, or was edited.
        FormatError: another version of brainscale wrote it.
    """
    path = folder / MODEL_JSON
    try:
        facts = json.loads(path.read_bytes())
        version = facts.get("format")
        if version != FORMATS["model"]:
            raise FormatError(
                f"{path} has model format {version}, but this version of brainscale reads format {FORMATS['model']}: "
                "train the model again, or use the version that wrote it"
            )
        info = ModelInfo.model_validate_json(json.dumps(facts))
    except (OSError, ValueError, AttributeError, KeyError) as error:  # pydantic's ValidationError is a ValueError
        reason = " ".join(str(error).split())
        raise BundleError(f"{path} does not describe a model ({reason}): copy the whole model folder again") from None
    sha256 = _hash_facts(facts)
    if info.model_sha256 == sha256:
        return info, False
    if not allow_edited:
        raise BundleError(
            f"{path} was edited after it was written, such as its threshold or its classes: copy the whole model "
            "folder again, or allow it with --allow-edited-model, which marks every output"
        )
    points = {
        unit: point.model_copy(update={"threshold_source": f"{point.threshold_source}; {EDITED}"})
        for unit, point in info.operating_points.items()
    }
    return info.model_copy(update={"operating_points": points, "model_sha256": sha256}), True


def _hash_facts(facts: Mapping[str, Any]) -> str:
    """Return the hash of what model.json says, whatever its layout; the order counts, as that of the classes does."""
    contents = {name: value for name, value in facts.items() if name != "model_sha256"}
    return hashlib.sha256(json.dumps(contents, separators=(",", ":")).encode()).hexdigest()


def mark_edited(table: pa.Table, bundle: Bundle) -> pa.Table:
    """Return a table of a model's results; its metadata says which edited model they are of, if it was edited."""
    if not bundle.edited:
        return table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), EDITED_KEY: bundle.sha256})


def find_bundle(model: Path) -> Path:
    """Return the model folder of a run folder, or the folder itself if it is a model folder.

    Raises:
        BundleError: it is neither, or the run is not finished.
    """
    for folder in (model / "model", model):
        if (folder / MODEL_JSON).is_file():
            return folder
    if (model / CONFIG_FILE).is_file():
        raise BundleError(
            f"{model} has no model yet, because its training is not finished: run the same `brainscale train` again"
        )
    raise BundleError(
        f"{model} is neither a run nor a model folder (it has no {MODEL_JSON}): give the --out of `brainscale train`"
    )


def write_model_info(folder: Path, facts: Mapping[str, Any]) -> ModelInfo:
    """Write model.json with the hashes of the files beside it, which have to be there already.

    Args:
        folder: the model folder, with weights, ONNX file and, where there is one, the file of novelty.
        facts: the fields of `ModelInfo`, without the hashes.
    """
    hashes = {
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "onnx_sha256": file_sha256(folder / ONNX),
        "novelty_sha256": file_sha256(folder / NOVELTY) if (folder / NOVELTY).is_file() else None,
    }
    info = ModelInfo.model_validate({**facts, **hashes, "model_sha256": ""})
    sha256 = _hash_facts(json.loads(info.model_dump_json()))
    info = info.model_copy(update={"model_sha256": sha256})
    with replacing(folder / MODEL_JSON) as temporary:
        temporary.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info
