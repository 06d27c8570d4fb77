"""The folder of a run: its files, and the check that it belongs to a configuration and to the data."""

import json
from collections.abc import Iterator, Mapping, Sequence
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
from brainscale.models.bundle import WEIGHTS, Bundle
from brainscale.schema import FORMATS
from brainscale.storage.local import read_success, refuse_other_files, replacing, write_json
from brainscale.storage.remote import is_address, join_address
from brainscale.storage.tables import read_table
from brainscale.training.environment import describe_environment
from brainscale.training.history import HISTORY_FILE, Epoch, read_history
from brainscale.training.owner import OWNERS

ENVIRONMENT_FILE = "environment.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        path: path or address of the run folder.
        samples: split → number of samples.
        left_out: reason → number of samples that are in no split.
        epochs: number of finished epochs.
        best_epoch: the epoch whose weights are kept: that with the lowest validation loss, or the last.
        best_val_loss: validation loss of that epoch.
        threshold: probability of a tumour from which on a sample is predicted to be one.
        threshold_source: how the threshold was chosen.
        weights_sha256: hash of the weights.
        manifest_sha256: fingerprint of the manifest.
        config_sha256: fingerprint of the configuration.
        hardware: the processors and library versions that computed the run, in order; more than one if the run was
            resumed on other hardware.
    """

    path: str
    samples: Mapping[str, int]
    left_out: Mapping[str, int]
    epochs: int
    best_epoch: int
    best_val_loss: float
    threshold: float
    threshold_source: str
    weights_sha256: str
    manifest_sha256: str
    config_sha256: str
    hardware: Sequence[str] = ()

    @property
    def model(self) -> str:
        """Path or address of the model folder."""
        return join_address(self.path, "model") if is_address(self.path) else str(RunFolder(Path(self.path)).model)

    @property
    def history(self) -> pa.Table:
        """The finished epochs, a table of schema HISTORY."""
        file = join_address(self.path, HISTORY_FILE) if is_address(self.path) else Path(self.path) / HISTORY_FILE
        return read_table(file, "history")

    @classmethod
    def from_facts(cls, path: str, facts: Mapping[str, Any]) -> "Run":
        """Return the run that the `_SUCCESS.json` of a folder describes."""
        return cls(path=path, **{field.name: facts[field.name] for field in fields(cls) if field.name != "path"})

    def facts(self) -> dict[str, Any]:
        """Return the contents of `_SUCCESS.json` and of `train --json`."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


@dataclass(frozen=True)
class RunFolder:
    """A local run folder, or a local copy of one: its files and their contents.

    Attributes:
        path: the folder.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config_file(self) -> Path:
        """The complete configuration; the last file to be written when a run starts."""
        return self.path / CONFIG_FILE

    @property
    def manifest_file(self) -> Path:
        """The manifest, with labels and splits."""
        return self.path / MANIFEST_FILE

    @property
    def environment_file(self) -> Path:
        """Hardware, library versions, and the format version of the folder."""
        return self.path / ENVIRONMENT_FILE

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the bundle, once the run is finished."""
        return self.path / "model"

    def evaluation(self, split: str) -> Path:
        """Return the default folder for the evaluation of a split."""
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
        """Return the finished epochs."""
        return read_history(self.path)

    def result(self) -> Run | None:
        """Return the run, or None if it is not finished."""
        facts = read_success(self.path)
        return None if facts is None else Run.from_facts(str(self.path), facts)

    def start(self, config: Config, manifest: pa.Table) -> Run | None:
        """Write the first files of a run, or check that the folder holds a run of this configuration and data.

        Returns:
            The run if it is finished, else None.

        Raises:
            OutputError: the folder holds another run, or other files.
            FormatError: another version of brainscale wrote the run.
        """
        refuse_other_files(self.path, {CONFIG_FILE, ENVIRONMENT_FILE, OWNERS}, "run")
        if self.config_file.exists():
            self.require_config(config)
            self.require_data(manifest)
        else:
            environment = asdict(describe_environment(config))
            write_json(self.environment_file, {**environment, "format": FORMATS["folder"]})
            write_manifest(manifest, self.manifest_file)
            with replacing(self.config_file) as temporary:  # last, so that a folder with it holds the other two
                temporary.write_text(config.to_yaml(), encoding="utf-8")
        return self.result()

    def require_config(self, config: Config) -> None:
        """Check that the run has this configuration, save for what changes no result.

        Raises:
            OutputError: it has another.
            FormatError: another version of brainscale wrote the run.
        """
        version = json.loads(self.environment_file.read_bytes()).get("format")
        if version != FORMATS["folder"]:
            raise FormatError(
                f"the run in {self} was written by another version of brainscale: choose a new --out, "
                "or use that version"
            )
        earlier = self.config()
        if earlier.fingerprint != config.fingerprint:
            differences = list(find_differences(earlier.model_dump(mode="json"), config.model_dump(mode="json")))
            key, old, new = differences[0]
            if key == "train.epochs" and len(differences) == 1:
                raise OutputError(self._describe_epochs(earlier.train.epochs, config.train.epochs))
            raise OutputError(
                f"{self} holds a run with another configuration ({key} is {old} there, {new} here): choose a new --out"
            )

    def _describe_epochs(self, earlier: int, wanted: int) -> str:
        """Return why a run does not get another number of epochs, and what to do."""
        text = (
            f"{self} is a run of {earlier} epochs, over which its learning rate falls to 0, so it cannot become one of "
            f"{wanted}: choose a new --out, which trains {wanted} epochs from the start"
        )
        weights = self.model / WEIGHTS
        if wanted < earlier or not weights.is_file():
            return text
        return f"{text}, or {wanted} more epochs from its weights with --set model.weights={weights}"

    def require_data(self, manifest: pa.Table) -> None:
        """Check that the run is on these samples, labels and splits.

        Raises:
            OutputError: it is on others.
        """
        if manifest_fingerprint(self.manifest()) != manifest_fingerprint(manifest):
            raise OutputError(f"{self} holds a run on other data (files, labels or splits differ): choose a new --out")


def adopt_memory_format(config: Config, started: Config) -> Config:
    """Return the configuration with `train.memory_format: auto` replaced by that of a started run."""
    if config.train.memory_format != "auto":
        return config
    train = config.train.model_copy(update={"memory_format": started.train.memory_format})
    return config.model_copy(update={"train": train})


def run_of(bundle: Bundle) -> RunFolder | None:
    """Return the run that a bundle belongs to, also if the bundle was named: it counts evaluations of its test set."""
    run = RunFolder(bundle.folder.absolute().parent)
    return run if run.is_started() else None


def find_differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys in which two configurations differ, with both values as JSON.

    The section `resources` is ignored, because it changes no result.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            if name != "resources":
                yield from find_differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, json.dumps(old), json.dumps(new)


def describe_training_data(run: Run) -> dict[str, object]:
    """Return the facts about the training data that a model card shows."""
    samples = {f"{split} samples": count for split, count in run.samples.items()}
    reasons = ", ".join(f"{reason} {count}" for reason, count in run.left_out.items())
    hardware = " then ".join(run.hardware)
    mark = f"{hardware} (resumed on other hardware, so no single machine gives these bits)"
    return {**samples, "left out": reasons or "none", "hardware": mark if len(run.hardware) > 1 else hardware}
