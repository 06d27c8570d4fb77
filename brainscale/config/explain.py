"""Explain what is wrong with a configuration, and suggest the nearest valid name."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError


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
