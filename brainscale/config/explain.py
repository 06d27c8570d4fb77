"""Explain what is wrong with a configuration, and suggest the nearest valid name."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return the first problem in one line, with the valid keys if a key is unknown.

    Args:
        error: what pydantic found.
        root: the configuration's class.
    """
    problem = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *sections, key = [str(part) for part in problem["loc"]]
        if not sections and (homes := [name for name, section in _sections(root) if key in section.model_fields]):
            return f"unknown key '{key}': did you mean {' or '.join(f'{home}.{key}' for home in homes)}?"
        return f"unknown key '{location}'{did_you_mean(key, _keys(root, sections))}"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if not location:
        return message
    statement = message.removeprefix("Input") if message.startswith("Input ") else f": {message}"
    return f"{location}{statement}" + (f", not {value!r}" if not isinstance(value, dict) and "ctx" in problem else "")


def _keys(root: type[BaseModel], sections: list[str]) -> list[str]:
    model: Any = root
    for name in sections:  # in a mapping of sections by name, any name
        model = model.model_fields[name].annotation if hasattr(model, "model_fields") else get_args(model)[1]
    return list(model.model_fields)


def _sections(root: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest valid name, and all valid names."""
    choices = list(choices)
    nearest = difflib.get_close_matches(name, choices, n=1)
    return (f": did you mean '{nearest[0]}'? Choose" if nearest else ": choose") + f" from {', '.join(choices)}"
