"""A run's folder before training: its manifest, configuration and environment, and whose it is."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml

from brainscale.config.sections import Config, parse_config
from brainscale.dataset.indexer import index_sources
from brainscale.dataset.manifest import (
    is_manifest,
    manifest_fingerprint,
    read_manifest,
    require_places,
    require_readable,
    write_manifest,
)
from brainscale.dataset.splits import assign_splits
from brainscale.errors import ManifestError, OutputError
from brainscale.storage.local import library_versions, read_success, refuse_other_files, replacing, write_json


def prepare_manifest(data: str, config: Config) -> pa.Table:
    """The manifest of a run: read or made, checked, and split if it is not.

    Raises:
        ManifestError: a label is missing or unknown, or a side or a class is empty.
    """
    manifest = read_manifest(data) if is_manifest(data) else index_sources([data], config)
    require_readable(manifest, data)
    require_places(manifest, data)
    readable = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.invert(_is_empty(manifest))))
    given = readable.filter(pc.is_valid(readable["split"]))  # a split of one's own leaves out what has no side
    _check_labels(given if len(given) else readable, config, data)
    if not len(given):
        manifest = assign_splits(manifest, val=config.split.val, test=config.split.test, seed=config.split.seed)
    manifest = _without_sides(manifest, _is_empty(manifest))
    for side in ("train", "val"):
        present = set(manifest.filter(pc.equal(manifest["split"], side))["label"].to_pylist())
        absent = [name for name in config.data.classes if name not in present]
        if absent:
            raise ManifestError(
                f"no sample of class '{absent[0]}' in the {side} part of {data}: add some, or split again"
            )
    return manifest


def _is_empty(manifest: pa.Table) -> pa.Array:
    """Whether a row is a slice that shows next to nothing."""
    return pc.fill_null(manifest["empty"], False)


def _without_sides(manifest: pa.Table, rows: pa.Array) -> pa.Table:
    """The manifest with some rows on no side."""
    sides = pc.if_else(rows, pa.scalar(None, pa.string()), manifest["split"])
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), sides)


def _check_labels(readable: pa.Table, config: Config, data: str) -> None:
    labels = readable["label"].to_pylist()
    classes = list(config.data.classes)
    unlabelled = [i for i, label in zip(readable["sample_id"].to_pylist(), labels, strict=True) if label is None]
    if unlabelled:
        folders = ", ".join(sorted(name for names in config.data.classes.values() for name in names))
        raise ManifestError(
            f"{len(unlabelled)} samples of {data} have no label, '{unlabelled[0]}' first: put them into "
            f"folders named after a class ({folders}), or say with data.classes what their folder means"
        )
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ManifestError(f"label '{unknown[0]}' of {data} is no class of data.classes: known: {', '.join(classes)}")
    if len(set(labels)) < 2:
        raise ManifestError(f"{data} holds one class only, '{labels[0]}': a classifier needs two or more")


def open_run(run: Path, config: Config, manifest: pa.Table) -> dict[str, Any] | None:
    """Start a run's folder, or check that it is this configuration's and data's.

    Returns:
        What `_SUCCESS.json` says if the run is complete.

    Raises:
        OutputError: the folder holds another run, or something else.
    """
    refuse_other_files(run, {"config.yaml", "environment.json"}, "run")
    if (run / "config.yaml").exists():
        _refuse_other(run, config, manifest)
    else:
        write_json(run / "environment.json", environment(config))  # first: a kill before the next leaves a run
        write_manifest(manifest, run / "manifest.parquet")
        with replacing(run / "config.yaml") as aside:  # last: a folder with it holds the other two
            aside.write_text(config.to_yaml(), encoding="utf-8")
    return read_success(run)


def _refuse_other(run: Path, config: Config, manifest: pa.Table) -> None:
    before = parse_config(
        yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")), where=str(run / "config.yaml")
    )
    if before.fingerprint != config.fingerprint:
        key, old, new = next(differences(before.model_dump(mode="json"), config.model_dump(mode="json")))
        raise OutputError(
            f"{run} is a run of another configuration: {key} is {old} there, {new} here; choose a new --out"
        )
    if manifest_fingerprint(read_manifest(run / "manifest.parquet")) != manifest_fingerprint(manifest):
        raise OutputError(f"{run} is a run on other data: files, labels or split differ; choose a new --out")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys in which two configurations differ, with both values as JSON; resources decide no result."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            if name != "resources":
                yield from differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, json.dumps(old), json.dumps(new)


def labelled_samples(manifest: pa.Table, side: str, config: Config) -> tuple[list[str], list[int]]:
    """Sample ids and class indices of one side."""
    number = {name: i for i, name in enumerate(config.data.classes)}
    rows = manifest.filter(pc.equal(manifest["split"], side))
    return rows["sample_id"].to_pylist(), [number[label] for label in rows["label"].to_pylist()]


def left_out(manifest: pa.Table) -> dict[str, int]:
    """Why samples of a manifest stand on no side: error codes, an empty slice, or no split of their own."""
    rows = manifest.filter(pc.is_null(manifest["split"]))
    reasons = zip(rows["error_code"].to_pylist(), rows["empty"].to_pylist(), strict=True)
    return dict(sorted(Counter(code or ("empty_slice" if empty else "no_split") for code, empty in reasons).items()))


def training_facts(facts: Mapping[str, Any]) -> dict[str, object]:
    """What a model's card says of its training, from what the run's `_SUCCESS.json` says."""
    sides = {f"{side} samples": count for side, count in facts["samples"].items()}
    reasons = ", ".join(f"{reason} {count}" for reason, count in facts["left_out"].items())
    return {**sides, "left out": reasons or "none"}


def environment(config: Config) -> dict[str, Any]:
    """What could change a result's bits, beside the configuration."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads_per_worker": config.train.threads,
        "workers": config.resources.workers,
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "versions": library_versions(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
