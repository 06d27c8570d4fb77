"""A run's folder before training: its manifest, configuration and environment, and whose it is."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from brainscale.config.files import parse_config
from brainscale.config.sections import Config
from brainscale.dataset.manifest import (
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from brainscale.errors import OutputError
from brainscale.storage.local import read_success, refuse_other_files, replacing, write_json
from brainscale.training.environment import environment


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


def training_facts(facts: Mapping[str, Any]) -> dict[str, object]:
    """What a model's card says of its training, from what the run's `_SUCCESS.json` says."""
    sides = {f"{side} samples": count for side, count in facts["samples"].items()}
    reasons = ", ".join(f"{reason} {count}" for reason, count in facts["left_out"].items())
    return {**sides, "left out": reasons or "none"}
