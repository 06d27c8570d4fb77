"""The texts that a configuration comes from, and what is wrong with them in words."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from brainscale.errors import UsageError


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


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first problem in one line, with the valid keys or a near one where that helps."""
    problem = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *sections, key = [str(part) for part in problem["loc"]]
        known = _keys(root, sections)
        return f"unknown key '{location}'{did_you_mean(key, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = f", not {given!r}" if location and not isinstance(given, dict) and "ctx" in problem else ""
    return f"{location}: {message}{shown}" if location else message


def _keys(root: type[BaseModel], sections: list[str]) -> list[str]:
    model: Any = root
    for name in sections:
        model = model.model_fields[name].annotation
    return list(model.model_fields)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown name: the nearest of the known, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return (f": did you mean '{near[0]}'?" if near else ":") + f" known: {', '.join(known)}"
