"""Numbers and text for reports, model cards and the terminal."""

import math
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]|#~!$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Characters that Markdown or HTML would read as markup, and what stands for them."""

LATEX_SIGNS = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "±": r"$\pm$",
        "–": "--",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "×": r"$\times$",
    }
)
"""Characters that LaTeX would read as markup, or may have no glyph for, and what stands for them."""


CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys or that reverse what follows: a file's name may hold them."""


def printable(text: str) -> str:
    """Return a text with its control characters as escapes, as Python writes them, so that a terminal shows them."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def format_number(value: object, digits: int = 3) -> str:
    """Return a number as text, or a dash for None, NaN and infinity; halves are rounded up, as JavaScript does."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)).replace("-", "−")


def format_duration(seconds: float) -> str:
    """Return a duration to about three digits, such as `4.2 s`, `3 min 20 s`, `12 min` or `3 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes_left} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_nbytes(nbytes: int) -> str:
    """Return a size in kiB, MiB or GiB."""
    unit, size = next(
        ((unit, size) for unit, size in (("GiB", 2**30), ("MiB", 2**20)) if nbytes >= size), ("kiB", 1024)
    )
    return f"{nbytes / size:,.1f} {unit}"


def format_sections(sections: Mapping[str, Mapping[str, str]]) -> str:
    """Return sections of labelled lines as text: each with its heading, the texts below each other.

    Args:
        sections: heading → label → text.
    """
    width = max(len(label) for facts in sections.values() for label in facts)
    blocks = [
        [name, *(f"  {label:<{width}}  {text}" for label, text in facts.items())] for name, facts in sections.items()
    ]
    return "\n".join("\n".join(block) for block in blocks)


def escape_markdown(value: object) -> str:
    """Return a value as one line of plain text in Markdown: no markup, no links, no further table cells."""
    line = " ".join(str(value).split()).translate(SIGNS)
    line = re.sub(r":(?=//)", "&#58;", line)  # GitHub makes links of bare addresses
    return re.sub(r"(?i)\bwww\.", lambda match: f"{match[0][:-1]}&#46;", line).replace("@", "&#64;")


def escape_latex(value: object) -> str:
    """Return a value as one line of plain text in LaTeX."""
    return " ".join(str(value).split()).translate(LATEX_SIGNS)
