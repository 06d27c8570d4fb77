"""Explain what is wrong with a configuration, and suggest the nearest valid name."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SUGGESTED = 3
"""Keys that are suggested in place of an unknown one, at most."""
SHOWN = 40
"""Characters of a wrong value that are shown."""
EXPECTED = {
    "a valid tuple": "a list in brackets",
    "a valid list": "a list in brackets",
    "a valid dictionary": "a mapping of names to values",
}
"""Expectations of pydantic that are Python's words, and YAML's for them."""


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return the first problem in one line: the nearest valid keys if a key is unknown, else what a value should be.

    Args:
        error: what pydantic found.
        root: the configuration's class.
    """
    problems = error.errors(include_url=False)
    problem = problems[0]
    if problem["type"] == "extra_forbidden":
        return _explain_unknown([str(part) for part in problem["loc"]], root)
    key, is_section = _key_of(problem, root)
    if is_section and problem["type"] == "model_type":
        example = next(name for name in list_keys(root) if name.startswith(f"{key}."))
        return f"{key} is a section, so it has no value: set one of its keys, such as {example}"
    message = problem["msg"].removeprefix("Value error, ")
    if not message.startswith("Input should be "):
        return f"{key}: {message}" if key else message
    wanted = [_expectation(one) for one in problems if _key_of(one, root)[0] == key]
    return f"{key} should be {' or '.join(dict.fromkeys(wanted))}, not {_show(problem['input'])}"


def _expectation(problem: ErrorDetails) -> str:
    """Return what a value should be, without what pydantic adds after a comma about its own parsing."""
    text = problem["msg"].removeprefix("Input should be ")
    text = re.sub(r" or instance of \w+$", "", text if "ctx" in problem else text.partition(",")[0])
    return EXPECTED.get(text, text)


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, bool):
        return str(value).lower()  # as YAML writes it
    text = "empty" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _key_of(problem: ErrorDetails, root: type[BaseModel]) -> tuple[str, bool]:
    """Return the key that a problem is about, and whether it is a section; pydantic's names for types are left out."""
    model: Any = root
    names: list[str] = []
    for part in map(str, problem["loc"]):
        fields = getattr(model, "model_fields", {})
        if fields and part not in fields:
            break
        if not fields and get_args(model) and not _is_mapping(model):
            break
        names.append(part)
        model = fields[part].annotation if fields else None
    return ".".join(names), hasattr(model, "model_fields")


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _explain_unknown(location: Sequence[str], root: type[BaseModel]) -> str:
    """Return the line about an unknown key: the keys that were probably meant, or all keys of its section."""
    key = ".".join(location)
    if nearest := _find_nearest(location, root):
        return f"unknown key '{key}': did you mean {' or '.join(nearest)}?"
    return f"unknown key '{key}': choose from {', '.join(_names_in(root, location[:-1]))}"


def _find_nearest(location: Sequence[str], root: type[BaseModel]) -> list[str]:
    """Return the full keys that an unknown key probably stands for, the likeliest kind only."""
    *sections, last = location
    name = last.lower().replace("-", "_")
    within = {".".join([*sections, own]): own for own in _names_in(root, sections)}
    everywhere = {key: key.rpartition(".")[2] for key in list_keys(root)}
    finders = (_equal, _close, _abbreviated)
    nearest = (find(name, keys) for find in finders for keys in (within, everywhere))
    return next((keys for keys in nearest if keys), [])[:SUGGESTED]


def _equal(name: str, candidates: Mapping[str, str]) -> list[str]:
    """Return the keys whose own name is a name."""
    return [key for key, own in candidates.items() if own == name]


def _close(name: str, candidates: Mapping[str, str]) -> list[str]:
    """Return the keys whose own name is spelled most like a name."""
    nearest = difflib.get_close_matches(name, list(candidates.values()), n=1, cutoff=0.7)
    return [key for key, own in candidates.items() if own in nearest]


def _abbreviated(name: str, candidates: Mapping[str, str]) -> list[str]:
    """Return the keys that a name is short for: by the first letters of the words, or by some of the words."""
    words = set(name.split("_"))
    return [
        key
        for key, own in candidates.items()
        if "".join(word[0] for word in own.split("_")) == name or words <= set(own.split("_"))
    ]


def list_keys(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every key of a configuration with the names of its sections, such as `data.include.modalities`."""
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from list_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _names_in(root: type[BaseModel], sections: Sequence[str]) -> list[str]:
    model: Any = root
    for name in sections:  # in a mapping of sections by name, any name
        model = model.model_fields[name].annotation if hasattr(model, "model_fields") else get_args(model)[1]
    return list(model.model_fields)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest valid name, and all valid names."""
    choices = list(choices)
    nearest = difflib.get_close_matches(name, choices, n=1)
    return (f": did you mean '{nearest[0]}'? Choose" if nearest else ": choose") + f" from {', '.join(choices)}"
