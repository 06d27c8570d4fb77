"""The folder of a run: its files, and whether it is a run of this configuration and data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.config.files import CONFIG_FILE, parse_config, read_yaml
from brainscale.config.sections import Config
from brainscale.dataset.manifest import (
    MANIFEST_FILE,
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from brainscale.errors import FormatError, OutputError
from brainscale.schema import FORMATS
from brainscale.storage.local import read_success, refuse_other_files, replacing, write_json
from brainscale.training.environment import environment
from brainscale.training.history import read_history

ENVIRONMENT_FILE = "environment.json"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, here or a local copy of one: its files by name, and what they hold.

    Attributes:
        path: the folder.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config_file(self) -> Path:
        """The whole configuration; written last of what starts a run."""
        return self.path / CONFIG_FILE

    @property
    def manifest_file(self) -> Path:
        """The samples, labelled and split."""
        return self.path / MANIFEST_FILE

    @property
    def environment_file(self) -> Path:
        """Hardware, library versions, and the format of the folder."""
        return self.path / ENVIRONMENT_FILE

    @property
    def checkpoints(self) -> Path:
        """States to resume from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The bundle of a finished run."""
        return self.path / "model"

    def evaluation(self, split: str) -> Path:
        """Return where the evaluation of one split goes by default."""
        return self.path / "evaluation" / split

    def is_started(self) -> bool:
        """Return whether the folder holds a run, finished or not."""
        return self.config_file.is_file() and self.manifest_file.is_file()

    def config(self) -> Config:
        """Read the configuration.

        Raises:
            UsageError: a key or a value is wrong.
        """
        return parse_config(read_yaml(self.config_file), where=str(self.config_file))

    def manifest(self) -> pa.Table:
        """Read the manifest."""
        return read_manifest(self.manifest_file)

    def history(self) -> list[dict[str, Any]]:
        """Return the finished epochs, rows of schema HISTORY."""
        return read_history(self.path)

    def facts(self) -> dict[str, Any] | None:
        """Return what `_SUCCESS.json` says, or None for an unfinished run."""
        return read_success(self.path)

    def start(self, config: Config, manifest: pa.Table) -> dict[str, Any] | None:
        """Write the files that start a run, or check that the folder is a run of this configuration and data.

        Returns:
            What `_SUCCESS.json` says if the run is complete.

        Raises:
            OutputError: the folder holds another run, or something else.
            FormatError: another version of brainscale wrote it.
        """
        refuse_other_files(self.path, {CONFIG_FILE, ENVIRONMENT_FILE}, "run")
        if self.config_file.exists():
            self._refuse_another(config, manifest)
        else:
            write_json(self.environment_file, {**environment(config), "format": FORMATS["folder"]})
            write_manifest(manifest, self.manifest_file)
            with replacing(self.config_file) as aside:  # last: a folder with it holds the other two
                aside.write_text(config.to_yaml(), encoding="utf-8")
        return self.facts()

    def _refuse_another(self, config: Config, manifest: pa.Table) -> None:
        version = json.loads(self.environment_file.read_bytes()).get("format")
        if version != FORMATS["folder"]:
            raise FormatError(
                f"{self} is a run of another version of brainscale: choose a new --out, or use that version"
            )
        before = self.config()
        if before.fingerprint != config.fingerprint:
            key, old, new = next(differences(before.model_dump(mode="json"), config.model_dump(mode="json")))
            raise OutputError(
                f"{self} is a run of another configuration: {key} is {old} there and {new} here; choose a new --out"
            )
        if manifest_fingerprint(self.manifest()) != manifest_fingerprint(manifest):
            raise OutputError(f"{self} is a run on other data: files, labels or splits differ; choose a new --out")


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
