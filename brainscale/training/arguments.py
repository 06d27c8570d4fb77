"""Check arguments of commands that train or change models before anything starts; needs no torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import Config
from brainscale.dataset.arguments import require_data
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest
from brainscale.errors import BundleError, OutputError, SourceError, UsageError
from brainscale.models.bundle import (
    MODEL_JSON,
    NOVELTY,
    ONNX,
    WEIGHTS,
    ModelInfo,
    find_bundle,
    read_model_info,
    require_bundle,
)
from brainscale.models.model_card import README
from brainscale.models.pretrained import require_weights_file
from brainscale.models.shipped import locate_model
from brainscale.reading.sample_ids import file_of
from brainscale.reading.small_jobs import is_ray_near
from brainscale.reading.sources import walk_files
from brainscale.storage.local import SUCCESS, require_space
from brainscale.storage.remote import is_address
from brainscale.storage.workspace import fetch, is_complete, require_folder
from brainscale.training.owner import OWNERS
from brainscale.training.run_folder import ENVIRONMENT_FILE, Run, RunFolder, adopt_memory_format, find_differences
from brainscale.training.workplace import require_room_here

ENSEMBLE_FILES = (MODEL_JSON, WEIGHTS, ONNX, NOVELTY, MANIFEST_FILE, README, SUCCESS)
"""Files of the folder of an ensemble."""
RUN_FILES = (CONFIG_FILE, ENVIRONMENT_FILE, MANIFEST_FILE, SUCCESS)
"""Files that tell which run a folder holds."""
PARAMETERS = {
    "brainmrnet": 550_016,
    "brainmrnet_paper": 603_262,
    "vgg16": 134_268_738,
    "resnet50": 23_512_130,
    "densenet121": 6_955_906,
    "efficientnet_lite0": 3_373_570,
}
"""Network → number of its parameters with two classes, to know what a run writes before torch is loaded."""
NO_RUN = "{} is no run with its manifest: int8 is checked on a run's validation samples, so name the folder of a run"
"""Message about a model that cannot be quantised."""
WEIGHTS_IN_RUN = 6
"""Times that a run writes its weights: the latest checkpoint with the optimiser's two moments, the best, and twice in
the model; once more with a moving average."""


def find_finished(
    data: str | pa.Table, out: str, config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> Run | None:
    """Check the arguments of a training, and return the run if the folder holds it complete.

    Args:
        data: a manifest (a table, a path or an address), or a source.
        out: path or address of the run folder.
        config: configuration of the run.
        on_notice: called with each message for the user, if the run is complete.

    Returns:
        None if there is something to train.

    Raises:
        BrainscaleError: there is no such data, the folder cannot be written or holds another run or other files, its
            disk is full, or this machine cannot hold the workers.
    """
    if isinstance(data, str):
        require_data(data)
    require_folder(out, (CONFIG_FILE, ENVIRONMENT_FILE, f"{OWNERS}/*"), "run")
    if not is_complete(out):
        if not is_ray_near():
            require_room_here(config)
        if not is_address(out):
            _require_resumable(RunFolder(Path(out)), config)
        return None
    with fetch(out, *RUN_FILES) as path:
        folder = RunFolder(path)
        if not folder.is_started():  # a folder of another command, in a store: `RunFolder.start` refuses it
            return None
        folder.require_config(adopt_memory_format(config, folder.config()))
        if not (isinstance(data, str) and _is_unchanged(data, folder)):
            from brainscale.training.samples import prepare_manifest  # here: most commands need no indexer

            folder.require_data(prepare_manifest(data, config, on_notice))
        run = folder.result()
    return None if run is None else replace(run, path=out if is_address(out) else str(Path(out).absolute()))


def check_ensemble(models: Sequence[str], out: str) -> None:
    """Check the arguments of an ensemble that can be checked without reading weights.

    Args:
        models: paths or addresses of runs or model folders, or names of models that come with brainscale; one in an
            object store is read later.
        out: path or address of the folder to write.

    Raises:
        UsageError: a model is named twice, is an ensemble itself, or two are the same.
        BundleError: a model is missing or incomplete, or they differ in classes or preprocessing.
        OutputError: the folder cannot be written, or holds something else.
    """
    if twice := next((model for number, model in enumerate(models) if model in models[:number]), None):
        raise UsageError(f"{twice} is named twice: name each model once")
    infos = {model: require_bundle(locate_model(model)) for model in models if not is_address(model)}
    require_folder(out, ENSEMBLE_FILES, "ensemble")
    require_members([*infos.items()])
    if len(infos) == len(models) and not is_address(out):
        require_same_members(Path(out), out, [info.model_sha256 for info in infos.values()])


def require_members(members: Sequence[tuple[str, ModelInfo]]) -> None:
    """Refuse models that make no ensemble together.

    Args:
        members: name of each model, and what its model.json says.

    Raises:
        UsageError: one is an ensemble itself, or two are the same model.
        BundleError: they differ in classes or preprocessing.
    """
    names: dict[str, str] = {}
    first_name, first = members[0]
    wanted = first.data.model_dump(mode="json")
    for name, info in members:
        if info.seed is None or info.epoch is None or info.members:
            raise UsageError(f"{name} is an ensemble itself: name its members instead")
        if info.model_sha256 in names:
            raise UsageError(f"{name} is the same model as {names[info.model_sha256]}: name it once")
        names[info.model_sha256] = name
        difference = next(find_differences(wanted, info.data.model_dump(mode="json"), "data"), None)
        if difference is not None:
            key, one, other = difference
            raise BundleError(
                f"{first_name} and {name} do not fit into one ensemble ({key} is {one} and {other}): "
                "train both with the same classes and preprocessing"
            )


def require_same_members(folder: Path, path: str, members: Iterable[str]) -> None:
    """Refuse a folder that holds another model than the ensemble of these members.

    Args:
        folder: the folder on this machine.
        path: its path or address, for the message.
        members: `model_sha256` of each member, in any order.

    Raises:
        OutputError: it holds another model.
    """
    if not (folder / MODEL_JSON).is_file():
        return
    held = read_model_info(folder)[0].members  # its files may be those of a stopped command
    if sorted(member.model_sha256 for member in held) != sorted(members):
        raise OutputError(f"{path} holds another model: choose a new --out")


def require_quantisable(model: str) -> None:
    """Check what can be checked of a model that is to be quantised, without reading weights.

    Args:
        model: path or address of a run; one in an object store is checked later.

    Raises:
        BundleError: it is missing or incomplete, or no run.
    """
    if is_address(model):
        return
    require_bundle(model)
    if not RunFolder(find_bundle(Path(model)).absolute().parent).is_started():
        raise BundleError(NO_RUN.format(model))


def _require_resumable(folder: RunFolder, config: Config) -> None:
    """Check the configuration of a run that was begun, or the disk for a new one."""
    if folder.is_started():
        folder.require_config(adopt_memory_format(config, folder.config()))
    else:
        if config.model.weights not in (None, "imagenet"):
            require_weights_file(config.model.weights, config.model.name)
        copies = WEIGHTS_IN_RUN + (config.train.ema > 0)
        require_space(folder.path, copies * 4 * PARAMETERS[config.model.name])


def _is_unchanged(data: str, folder: RunFolder) -> bool:
    """Return whether a source holds the very files of a run, and none was changed after the run listed them.

    A source that seems to have changed has to be indexed to know.
    """
    if is_address(data) or is_manifest(data):
        return False
    listed = folder.manifest_file.stat().st_mtime_ns
    manifest = folder.manifest().select(["sample_id", "nbytes"])
    sizes: dict[str, int | None] = {}
    for name, nbytes in zip(*(column.to_pylist() for column in manifest.columns), strict=True):
        sizes.setdefault(file_of(name), None)
        if name == file_of(name):
            sizes[name] = nbytes
    try:
        for file in walk_files([data]):
            if file.sample_id not in sizes or file.modified is None or file.modified >= listed:
                return False
            if sizes.pop(file.sample_id) not in (None, file.nbytes):
                return False
    except SourceError:
        return False
    return not sizes
