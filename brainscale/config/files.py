"""The texts that a configuration comes from, and what is wrong with them in words."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from brainscale.config.explain import did_you_mean, explain
from brainscale.config.sections import Config
from brainscale.errors import UsageError

CONFIG_FILE = "config.yaml"
"""The whole configuration of a run, in its folder."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        UsageError: it holds no YAML, or no sections.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold sections such as `train:`, not a {type(values).__name__}")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Put the value of a `section.key=value` text in its place.

    Raises:
        UsageError: no such text.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes section.key=value, such as train.epochs=10, not '{text}'")
    *sections, last = key.strip().split(".")
    place = values
    for name in sections:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {text}: '{name}' is a value, not a section")
        place = inner
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text}: the value is not YAML") from None


def resource_folder(name: str) -> Path:
    """A folder that travels with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def load_config(source: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: name of a file in configs/, path of a YAML file, or None for the defaults.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        UsageError: the file is absent or not YAML, or a key or a value is wrong.
    """
    values = read_yaml(_find(source)) if source else {}
    for text in overrides:
        override(values, text)
    return parse_config(values, where=source or "configuration")


def parse_config(values: Any, where: str = "configuration") -> Config:
    """Check a mapping and make it a configuration.

    Raises:
        UsageError: a key or a value is wrong; one line that names the first.
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
    raise UsageError(f"no configuration '{source}'{did_you_mean(source, names)}, or the path of a YAML file")
