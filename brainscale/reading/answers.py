"""Checks of what a decoder answers: a file may have taken it over, and all that it may make then is rows of errors."""

from collections.abc import Mapping
from typing import Any

from brainscale.errors import ERROR_CODES, SampleError

MAX_TEXT = 1000  # characters of what a decoder says, names of members aside


def nonsense() -> SampleError:
    """Return the error of a file whose decoder answers what no decoder says."""
    return SampleError("decoder_crashed", "the decoder's answer makes no sense")


def check_facts(facts: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse what no decoder says, unless it was taken over by a file.

    Args:
        facts: what it says of a sample.
        kinds: what it may say, and the type of each.

    Raises:
        SampleError: `decoder_crashed`.
    """
    for name, value in facts.items():
        sound = name in kinds and isinstance(value, kinds[name])
        if isinstance(value, int):
            sound = sound and 0 <= value < (2**63 if name == "nbytes" else 2**31)
        if isinstance(value, str):
            sound = sound and len(value) <= MAX_TEXT and value.isprintable()
        if not sound or (name == "error_code" and value is not None and value not in ERROR_CODES):
            raise nonsense()


def is_text(value: Any) -> bool:
    """Return whether a value is text that every table can hold."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value
