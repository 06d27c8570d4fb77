"""Models that come with brainscale, for trying it before any training; a command takes their name instead of a folder.

Each is a model folder in brainscale/shipped/, opened and checked as any other.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from brainscale.config.files import CONFIG_FILE, resource_folder
from brainscale.errors import UsageError
from brainscale.models.bundle import EDITED, MODEL_JSON, Bundle
from brainscale.storage.remote import make_absolute

FOR_TRYING = (
    "trained on phantoms (synthetic images), for trying brainscale only: its predictions say nothing about real scans"
)


def shipped_folders() -> dict[str, Path]:
    """Return name → model folder of the models that come with brainscale."""
    return {path.parent.name: path.parent for path in sorted(resource_folder("shipped").glob(f"*/{MODEL_JSON}"))}


def is_shipped_name(model: str) -> bool:
    """Return whether a text names a model that comes with brainscale, and no run or model folder here.

    A folder of that name with something else in it, such as the phantoms of a demo, is no model.

    Raises:
        UsageError: it names both.
    """
    if model not in shipped_folders():
        return False
    here = Path(model)
    if any((here / name).is_file() for name in (MODEL_JSON, f"model/{MODEL_JSON}", CONFIG_FILE)):
        raise UsageError(
            f"'{model}' is a model that comes with brainscale, and a folder with a model here: write ./{model} for the "
            "folder, or run the command in another folder"
        )
    return True


def locate_model(model: str) -> str:
    """Return the path of the model that a name stands for; a path or an address stays as it is.

    Args:
        model: path or address of a run or a model folder, or the name of a model that comes with brainscale.

    Raises:
        UsageError: the name stands for a folder here too.
    """
    return str(shipped_folders()[model]) if is_shipped_name(model) else model


def make_model_absolute(model: str) -> str:
    """Return the absolute path of a model folder; a name stays, for a job on a cluster to find in its own package."""
    return model if is_shipped_name(model) else make_absolute(model)


def find_shipped(bundle: Bundle) -> str | None:
    """Return the name of the model that comes with brainscale and has these weights, wherever the bundle lies."""
    for name, folder in shipped_folders().items():
        facts = json.loads((folder / MODEL_JSON).read_bytes())
        if facts["weights_sha256"] == bundle.info.weights_sha256:
            return name
    return None


def describe_model_notes(bundle: Bundle) -> Iterator[str]:
    """Yield the notes that every use of a model shows: that it was edited, or is for trying only."""
    if bundle.edited:
        yield f"Note: {bundle.folder}: {EDITED}."
    if (name := find_shipped(bundle)) is not None:
        yield f"Note: the model {name} was {FOR_TRYING}."
