"""List the models at hand: those that come with brainscale, and those in folders. Needs no torch, Ray or scipy."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from brainscale.config.files import CONFIG_FILE, read_yaml
from brainscale.errors import BrainscaleError, UsageError
from brainscale.models.bundle import MODEL_JSON, NOVELTY, ONNX, WEIGHTS, ModelInfo, read_model_info
from brainscale.models.shipped import shipped_folders
from brainscale.storage.local import read_success
from brainscale.storage.remote import is_address
from brainscale.storage.tables import read_table

METRICS = "metrics.parquet"
"""`evaluation.results.METRICS_FILE`, whose module imports scipy."""


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model that was found, or a run that has none yet.

    Attributes:
        model: what the commands take: a name, or the path of a run or model folder.
        shipped: whether it comes with brainscale.
        network: name of the network, or `ensemble`; None where that cannot be read.
        members: number of members of an ensemble, else 0.
        classes: names of the classes, the one without a tumour first.
        image_size: side of the planes, in pixels.
        nbytes: bytes of its files.
        manifest_sha256: fingerprint of the training manifest.
        epoch: number of the epoch with the weights; None for an ensemble.
        auroc: AUROC on the test split of its own data; None where it was not evaluated there.
        auroc_low: lower end of its 95 % interval.
        auroc_high: upper end of its 95 % interval.
        test_samples: number of samples that the AUROC is computed from.
        edited: whether model.json was edited after it was written.
        problem: why a command would not take it; None where it would.
    """

    model: str
    shipped: bool = False
    network: str | None = None
    members: int = 0
    classes: Sequence[str] = ()
    image_size: int | None = None
    nbytes: int = 0
    manifest_sha256: str | None = None
    epoch: int | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    test_samples: int | None = None
    edited: bool = False
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**asdict(self), "classes": list(self.classes)}


def list_models(folders: Sequence[str] = ()) -> list[ListedModel]:
    """List the models that come with brainscale, and those in folders.

    Args:
        folders: folders that are models or runs, or hold some, not deeper; by default `runs` and the working
            directory.

    Raises:
        UsageError: a folder does not exist, or is in an object store.
    """
    shipped = [replace(_describe(folder, name), shipped=True) for name, folder in shipped_folders().items()]
    for folder in folders:
        if is_address(folder):
            raise UsageError(f"{folder} is in an object store, which is not searched: give a local folder")
        if not Path(folder).is_dir():
            raise UsageError(f"no folder '{folder}': give a folder with runs or models")
    given = [Path(folder) for folder in folders] or [path for path in (Path("runs"), Path()) if path.is_dir()]
    found = {path.resolve(): path for folder in given for path in _candidates(folder)}
    return [*shipped, *(_describe(path, str(path)) for path in found.values())]


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield the folder and those directly in it that are a run or a model."""
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in (folder, *children):
        of_this_run = path == folder / "model" and (folder / CONFIG_FILE).is_file()
        if not of_this_run and any(
            (path / name).is_file() for name in (MODEL_JSON, f"model/{MODEL_JSON}", CONFIG_FILE)
        ):
            yield path


def _describe(path: Path, model: str) -> ListedModel:
    folder = path / "model" if (path / "model" / MODEL_JSON).is_file() else path
    if not (folder / MODEL_JSON).is_file():
        return ListedModel(model=model, network=_network_of_run(path), problem="its training is not finished")
    try:
        info, edited = read_model_info(folder, allow_edited=True)
    except BrainscaleError as error:
        return ListedModel(model=model, problem=str(error))
    listed = ListedModel(
        model=model,
        network=info.architecture,
        members=len(info.members),
        classes=tuple(info.classes),
        image_size=info.preprocess.image_size,
        nbytes=sum((folder / name).stat().st_size for name in (WEIGHTS, ONNX, NOVELTY) if (folder / name).is_file()),
        manifest_sha256=info.manifest_sha256,
        epoch=info.epoch,
        edited=edited,
    )
    return _with_auroc(listed, info, path)


def _network_of_run(run: Path) -> str | None:
    try:
        name = read_yaml(run / CONFIG_FILE).get("model", {}).get("name")
    except (BrainscaleError, OSError, AttributeError):  # another program's config.yaml, perhaps
        return None
    return name if isinstance(name, str) else None


def _with_auroc(listed: ListedModel, info: ModelInfo, path: Path) -> ListedModel:
    """Add the AUROC of the evaluation on the test split of the model's own data, where there is one."""
    folder = path / "evaluation" / "test"
    try:
        facts = read_success(folder)
        own = {"manifest_sha256": info.manifest_sha256, "weights_sha256": info.weights_sha256, "unit": "slice"}
        if facts is None or any(facts.get(name) != value for name, value in own.items()):
            return listed
        metrics = {row["metric"]: row for row in read_table(folder / METRICS, "metrics").to_pylist()}
        auroc = metrics["auroc"]
    except (BrainscaleError, OSError, KeyError):  # damaged, or another version's: `evaluate` makes it again
        return listed
    return replace(
        listed,
        auroc=auroc["value"],
        auroc_low=auroc["low"],
        auroc_high=auroc["high"],
        test_samples=auroc["n"],
    )
