"""Suffixes of names that say something before a file is opened."""

PAIRED = {".hdr": ".img", ".img": ".hdr"}
"""Suffix of one half of a NIfTI pair → suffix of the other."""


def suffix_of(name: str) -> str:
    """Return .hdr or .img for a name that ends so, also with .gz behind it, in capitals or not."""
    stem = name.lower().removesuffix(".gz")
    return next((suffix for suffix in PAIRED if stem.endswith(suffix)), "")
