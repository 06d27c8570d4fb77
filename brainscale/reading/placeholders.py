"""Identifiers that name no patient: what exports and tables write where the patient is unknown."""

import re

ZEROS, REPEATED, SIGNS = "zeros", "a repeated character", "no letter or digit"
"""Kinds of placeholders that are no words."""
_WORDS = re.compile(
    "(?:(?:the)?(?:patient|subject|participant|pat)s?)?"
    "(na|nan|none|null|nil|unknown|unkn|unk|undefined|unspecified|unnamed|missing|empty|blank|removed|redacted|deleted|"
    "notavailable|notapplicable|notknown|notspecified|noname|noid|nopatient|"
    "anonymous|anonymi[sz]ed|anonymi[sz]e|anonym|anon|deidentified|deid|pseudonymi[sz]ed|confidential)"
    "(?:patient|subject|participant|pat)?(?:id|name|s)?"
)


def find_placeholder(identifier: str, *, numbers: bool = True) -> str | None:
    """Return the constant word for a placeholder, or None for an identifier.

    Case, spaces and punctuation do not matter: `N/A`, `<unknown>` and `ANONYMOUS^PATIENT` are placeholders.

    Args:
        identifier: identifier of a patient; an empty one is a placeholder too.
        numbers: whether zeros and other repeated digits are placeholders; not where patients may be numbered from 0.
    """
    text = "".join(character for character in identifier.casefold() if character.isalnum())
    if not text:
        return SIGNS
    if word := _WORDS.fullmatch(text):
        return word[1]
    if len(set(text)) > 1:
        return None
    if text.isdigit():
        is_placeholder = numbers and (text[0] == "0" or len(text) > 5)
        return (ZEROS if text[0] == "0" else REPEATED) if is_placeholder else None
    return REPEATED if len(text) > 2 or (text[0] == "x" and len(text) == 2) else None
