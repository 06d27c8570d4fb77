"""Where an evaluation comes from: its title, the command that makes it again, and its facts in groups."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from brainscale.models.bundle import ModelInfo
from brainscale.reading.sample_ids import file_of
from brainscale.storage.remote import is_address, split_options
from brainscale.training.environment import read_library_versions

RUN = "Run"
GROUPS = {
    "Model": (
        *("model", "parameters", "weights_sha256", "model_edited", "threshold", "temperature", "image_size", "seed"),
        *("epoch", "configuration", "training_manifest"),
    ),
    "Data": (
        *("data", "split", "unit", "aggregation", "units", "samples", "labelled_samples", "unlabelled_samples"),
        *("errors", "shared_with_training", "samples_sha256", "manifest_sha256"),
    ),
    RUN: ("run", "command", "date"),
}
"""Group → its facts, in their order; a fact that is in no group is the run's."""
NAMES = {
    "data": "name",
    "labelled_samples": "labelled",
    "unlabelled_samples": "without a label",
    "errors": "not readable",
    "shared_with_training": "shared with training",
    "looks": "models evaluated on these samples",
    "looks_note": "not counted in the run",
    "unusual": "samples more unusual than 99 % of validation",
}


SHOWN_AT_THE_TOP = ("degenerate",)


def group_facts(facts: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Return the facts that are known as group → name → value, with the versions of the libraries as the last group."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    order = {name: place for names in GROUPS.values() for place, name in enumerate(names)}
    known = [name for name, value in facts.items() if value is not None and name not in SHOWN_AT_THE_TOP]
    groups: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for group in GROUPS:
        own = [name for name in known if group_of.get(name, RUN) == group]
        for name in sorted(own, key=lambda name: order.get(name, len(order))):
            groups[group][NAMES.get(name, name).replace("_", " ")] = _format(facts[name])
    return {**groups, "Software": read_library_versions()}


def model_facts(info: ModelInfo) -> dict[str, object]:
    """Return what is known of a model besides its network and its weights."""
    return {
        "threshold": f"{info.threshold:.6g} ({info.threshold_source})",
        "temperature": None if info.temperature == 1 else f"{info.temperature:.4g} ({info.temperature_source})",
        "image_size": f"{info.preprocess.image_size} px",
        "seed": None if info.seed is None else str(info.seed),  # a name, not a number of something
        "epoch": info.epoch,
        "configuration": info.config_sha256,
        "training_manifest": info.manifest_sha256,
    }


def format_time(time: datetime) -> str:
    """Return a time as text for people, in UTC."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def find_source_name(manifest: pa.Table) -> str | None:
    """Return the name of the folder or bucket that all samples come from; None where there are several."""
    ends = manifest.select(["uri", "sample_id"]).take(sorted({0, len(manifest) - 1})) if len(manifest) else manifest
    names = set()
    for row in ends.to_pylist():
        root = str(row["uri"]).removesuffix(file_of(row["sample_id"])).rstrip("/")
        names.add(root.rpartition("/")[2] if root != row["uri"] else None)
    return names.pop() if len(names) == 1 else None


def describe_command(model: str, options: Mapping[str, object]) -> str:
    """Return the command line of an evaluation.

    Args:
        model: a run or a bundle folder. Of an absolute path the last part is shown: a report travels, and says nothing
            of the folders of the machine that it was made on.
        options: option → value; options without a value are left out.
    """
    words = ["brainscale", "evaluate", _shorten(model)]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is None or one is False:
                continue
            words += [name] if one is True else [name, _shorten(one) if isinstance(one, str) else f"{one:g}"]
    return shlex.join(words)


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shorten(path: str) -> str:
    if is_address(path):
        return split_options(path)[0]  # options may hold a key
    return f"…/{path.rstrip('/').rpartition('/')[2]}" if path.startswith("/") else path
