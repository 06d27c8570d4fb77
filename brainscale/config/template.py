"""Write a configuration as YAML that a person can edit: every key with its value and what it means."""

import textwrap

import yaml
from pydantic import BaseModel

from brainscale.config.sections import Config

WIDTH = 100
"""Longest line, in characters, unless a value is longer."""
INDENT = "  "


def write_template(config: Config) -> str:
    """Return a configuration as YAML with a comment above each key; reading it gives the same configuration."""
    return "\n".join(_section_lines(config, "")).lstrip("\n") + "\n"


def _section_lines(section: BaseModel, indent: str) -> list[str]:
    values = section.model_dump(mode="json")
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        lines += [
            f"{indent}{line}"
            for line in textwrap.wrap(
                field.description or "",
                WIDTH - len(indent) - 2,
                initial_indent="# ",
                subsequent_indent="# ",
                break_on_hyphens=False,
            )
        ]
        if isinstance(value, BaseModel):
            lines += [*(() if indent else ("",)), f"{indent}{name}:", *_section_lines(value, indent + INDENT)]
        else:
            lines += textwrap.indent(_yaml_of(name, values[name]), indent).splitlines()
    return lines


def _yaml_of(name: str, value: object) -> str:
    """Return a key with its value: a mapping as a block, anything else on one line."""
    style = None if isinstance(value, dict) else True
    text = yaml.safe_dump(
        {name: value}, default_flow_style=style, width=WIDTH if style is None else 10**9, sort_keys=False
    )
    return text.rstrip("\n") if style is None else text.strip().removeprefix("{").removesuffix("}")
