"""Numbers and text for people: reports, model cards and terminals."""

import math
import re
from decimal import ROUND_HALF_UP, Decimal

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]|#~!$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def format_number(value: object, digits: int = 3) -> str:
    """A number for people, halves rounded up as JavaScript does; a dash where there is none."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)).replace("-", "−")


def escape_markdown(value: object) -> str:
    """A value as one line of plain text in Markdown: no markup, no link, no cell or line of its own."""
    line = " ".join(str(value).split()).translate(SIGNS)
    line = re.sub(r":(?=//)", "&#58;", line)  # GitHub makes links of bare addresses
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}&#46;", line).replace("@", "&#64;")
