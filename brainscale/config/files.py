"""Read a configuration from a YAML file, from `section.key=value` texts, or from a mapping."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from brainscale.config.explain import did_you_mean, explain
from brainscale.config.sections import Config
from brainscale.errors import UsageError

CONFIG_FILE = "config.yaml"
"""Name of the file in a run's folder that holds its complete configuration."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of a YAML file.

    Raises:
        UsageError: the file is not valid YAML, or contains no sections.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must contain sections such as `train:`, not a {type(values).__name__}")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Set the value of one key.

    Args:
        values: sections of a configuration; changed in place.
        text: `section.key=value`, the value in YAML.

    Raises:
        UsageError: the text has another form, or its value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes section.key=value, such as train.epochs=10, not '{text}'")
    *sections, last = key.strip().split(".")
    section = values
    for name in sections:
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {text}: '{name}' is a key with a value, not a section: remove what follows it")
        section = inner
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text}: the value is not valid YAML; quote it if it contains brackets") from None


def resource_folder(name: str) -> Path:
    """Return a folder of files that belong to the package: inside it if installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def load_config(source: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: name of a file in configs/, path of a YAML file, or None for the defaults.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        UsageError: the file does not exist or is not valid YAML, or a key or a value is wrong.
    """
    values = read_yaml(_find(source)) if source else {}
    for text in overrides:
        override(values, text)
    return parse_config(values, where=source or "configuration")


def parse_config(values: Any, where: str = "configuration") -> Config:
    """Check a mapping and return it as a configuration.

    Args:
        values: sections with their keys.
        where: where the mapping comes from, for the message.

    Raises:
        UsageError: a key or a value is wrong; the message names the first.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(error, Config)}") from None


def _find(source: str) -> Path:
    named = resource_folder("configs") / f"{source}.yaml"
    if named.is_file():
        return named
    path = Path(source)
    if path.is_file():
        return path
    names = sorted(p.stem for p in resource_folder("configs").glob("*.yaml"))
    raise UsageError(f"no configuration '{source}'{did_you_mean(source, names)}, or give the path of a YAML file")
