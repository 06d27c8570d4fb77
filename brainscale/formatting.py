"""Numbers and text for reports, model cards and the terminal."""

import math
import re
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
    """Return a duration as text in its two largest units, such as `2 h 5 min`; minutes without seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days > 1:
        return f"{days} days {hours_of_day} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def escape_markdown(value: object) -> str:
    """Return a value as one line of plain text in Markdown: no markup, no links, no further table cells."""
    line = " ".join(str(value).split()).translate(SIGNS)
    line = re.sub(r":(?=//)", "&#58;", line)  # GitHub makes links of bare addresses
    return re.sub(r"(?i)\bwww\.", lambda match: f"{match[0][:-1]}&#46;", line).replace("@", "&#64;")


def escape_latex(value: object) -> str:
    """Return a value as one line of plain text in LaTeX."""
    return " ".join(str(value).split()).translate(LATEX_SIGNS)
