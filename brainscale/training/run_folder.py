"""The folder of a run: its files, and whether it is a run of this configuration and data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
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
from brainscale.storage.remote import below, is_address
from brainscale.storage.tables import read_table
from brainscale.training.environment import environment
from brainscale.training.history import HISTORY_FILE, Epoch, read_history

ENVIRONMENT_FILE = "environment.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder, a path or an address.
        samples: split → samples.
        left_out: reason → samples that are in no split.
        epochs: finished epochs.
        best_epoch: the epoch whose weights were kept.
        best_val_loss: its validation loss.
        weights_sha256: hash of the weights.
        manifest_sha256: fingerprint of the manifest.
        config_sha256: fingerprint of the configuration.
    """

    path: str
    samples: Mapping[str, int]
    left_out: Mapping[str, int]
    epochs: int
    best_epoch: int
    best_val_loss: float
    weights_sha256: str
    manifest_sha256: str
    config_sha256: str

    @property
    def model(self) -> str:
        """Folder of the trained model."""
        return below(self.path, "model") if is_address(self.path) else str(RunFolder(Path(self.path)).model)

    @property
    def history(self) -> pa.Table:
        """The finished epochs, a table of schema HISTORY."""
        place = below(self.path, HISTORY_FILE) if is_address(self.path) else Path(self.path) / HISTORY_FILE
        return read_table(place, "history")

    @classmethod
    def from_facts(cls, path: str, facts: Mapping[str, Any]) -> "Run":
        """Return the run that a folder's `_SUCCESS.json` describes."""
        return cls(path=path, **{field.name: facts[field.name] for field in fields(cls) if field.name != "path"})

    def facts(self) -> dict[str, Any]:
        """Return what `_SUCCESS.json` and `train --json` say."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


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

    def history(self) -> list[Epoch]:
        """Return the finished epochs, rows of schema HISTORY."""
        return read_history(self.path)

    def result(self) -> Run | None:
        """Return the run, or None for an unfinished one."""
        facts = read_success(self.path)
        return None if facts is None else Run.from_facts(str(self.path), facts)

    def start(self, config: Config, manifest: pa.Table) -> Run | None:
        """Write the files that start a run, or check that the folder is a run of this configuration and data.

        Returns:
            The run if it is finished.

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
        return self.result()

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


def training_facts(run: Run) -> dict[str, object]:
    """Return what a model card says of the training data."""
    samples = {f"{split} samples": count for split, count in run.samples.items()}
    reasons = ", ".join(f"{reason} {count}" for reason, count in run.left_out.items())
    return {**samples, "left out": reasons or "none"}
