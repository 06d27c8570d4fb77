"""Read study files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from brainscale.config.explain import did_you_mean, explain
from brainscale.config.files import load_config, read_yaml, resource_folder
from brainscale.config.sections import Config
from brainscale.errors import UsageError
from brainscale.evaluation.baselines.given_predictions import require_table
from brainscale.evaluation.study.sections import NAME, Part, Row, Study
from brainscale.hashing import file_sha256
from brainscale.models.bundle import WEIGHTS
from brainscale.models.shipped import shipped_folders

FOLDER = "configs/results"


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """A study and where it was read.

    Attributes:
        name: name of the file without its suffix; it names the study in tables and folders.
        path: the file.
        study: what it says.
        weights: file of initial weights by name: those that come with brainscale, and those whose place was given.
    """

    name: str
    path: Path
    study: Study
    weights: Mapping[str, str] = field(default_factory=dict)

    def config_of(self, part: Part, row: Row) -> Config:
        """Return the configuration of a row: the named one, changed by the part, then by the row.

        The recipe of each comes before its own changes.

        Raises:
            UsageError: a key or a value is wrong.
        """
        of_part, of_row = (self.study.recipes[each.recipe] if each.recipe else () for each in (part, row))
        source = row.config or part.config
        config = load_config(self._find_beside(source), [*of_part, *part.set, *of_row, *row.set])
        name = named_weights(config)
        if name is None:
            weights = config.model.weights
            return config if weights is None else with_weights(config, self._find_beside(weights))
        if name not in self.study.weights:
            raise UsageError(f"model.weights=${name}{did_you_mean(name, self.study.weights)}")
        return with_weights(config, self.weights[name]) if name in self.weights else config

    def hash_weights(self, config: Config) -> str | None:
        """Return the hash of the file of initial weights, which the study may name where it is not here, or None."""
        name, weights = named_weights(config), config.model.weights
        if name is not None:
            return self.study.weights[name].sha256
        return file_sha256(Path(weights)) if weights is not None and Path(weights).is_file() else None

    def _find_beside(self, name: str) -> str:
        """Return the path of a file that a study names, if it lies beside the study; else the name."""
        beside = self.path.parent / name
        return str(beside.absolute()) if beside.is_file() else name

    def with_places(self, places: Mapping[str, str]) -> "StudyFile":
        """Return the study with the weights whose place was given.

        Raises:
            UsageError: a file is missing, or is another than the study names, or the weights come with brainscale.
        """
        given = {name: path for name, path in places.items() if name in self.study.weights}
        for name, path in given.items():
            if self.study.weights[name].shipped is not None:
                raise UsageError(f"--data {name}={path}: these weights come with brainscale; remove this option")
            if not Path(path).is_file():
                raise UsageError(f"--data {name}={path}: no such file of weights")
            wanted = self.study.weights[name].sha256
            if wanted is not None and file_sha256(Path(path)) != wanted:
                raise UsageError(f"--data {name}={path}: its SHA-256 is not {wanted}, which {self.name} names")
        weights = {name: str(Path(path).absolute()) for name, path in given.items()}
        return replace(self, weights={**self.weights, **weights})


def named_weights(config: Config) -> str | None:
    """Return the name of weights whose place is not known, `$NAME` in a configuration, or None."""
    weights = config.model.weights
    return weights[1:] if weights is not None and weights.startswith("$") else None


def with_weights(config: Config, weights: str) -> Config:
    """Return the configuration with other initial weights."""
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": weights})})


def read_study(source: str) -> StudyFile:
    """Read a study.

    Args:
        source: name of a file in configs/results/, or path of a YAML file.

    Raises:
        UsageError: there is no such file, or a key, a value or a row's configuration is wrong.
    """
    path = _find(source)
    try:
        study = Study.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error, Study)}") from None
    file = StudyFile(name=path.stem, path=path, study=study, weights=_find_shipped(source, study))
    for kind, names in (("data set", study.data), ("part", study.parts)):
        _check_names(source, kind, names)
    for part_name, part in study.parts.items():
        _check_names(source, "row", part.rows)
        for row_name, row in part.rows.items():
            try:
                _check_weights(row, file.config_of(part, row))
            except UsageError as error:
                raise UsageError(f"{source}, parts.{part_name}.rows.{row_name}: {error}") from None
    return file


def _find_shipped(source: str, study: Study) -> dict[str, str]:
    """Return name → path of the initial weights that come with brainscale.

    Raises:
        UsageError: there is no such model.
    """
    folders, found = shipped_folders(), dict[str, str]()
    for name, weights in study.weights.items():
        if weights.shipped is None:
            continue
        if weights.shipped not in folders:
            known = did_you_mean(weights.shipped, folders)
            raise UsageError(
                f"{source}: weights.{name}.shipped: no model '{weights.shipped}' comes with brainscale{known}"
            )
        found[name] = str(folders[weights.shipped] / WEIGHTS)
    return found


def _check_weights(row: Row, config: Config) -> None:
    """Check that the file of a row is there, unless its place is said on the command line.

    Raises:
        UsageError: there is no such file.
    """
    if named_weights(config) is not None:
        return
    if row.baseline == "given_predictions":
        require_table(config)
    weights = config.model.weights
    if weights not in (None, "imagenet") and not Path(str(weights)).is_file():
        raise UsageError(f"model.weights: there is no file {weights}, here or beside the study")


def _check_names(source: str, kind: str, names: object) -> None:
    assert isinstance(names, dict)  # noqa: S101 - for the type checker
    if wrong := next((name for name in names if not re.match(NAME, name)), None):
        raise UsageError(f"{source}: the {kind} '{wrong}' needs a name of letters, digits, '_', '-' and '.'")


def _find(source: str) -> Path:
    folder = resource_folder("configs") / "results"
    for path in (folder / f"{source}.yaml", Path(source)):
        if path.is_file():
            return path
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    raise UsageError(f"no study '{source}'{did_you_mean(source, names)}, or give the path of a YAML file")
