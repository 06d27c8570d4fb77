"""Names of classes and of the folders that stand for them."""

import re

DEFAULT_CLASSES: dict[str, list[str]] = {
    "no_tumour": ["no", "no tumor", "no tumors", "non tumor", "normal", "normal brain", "healthy", "healthy brain"],
    "tumour": [
        *("yes", "tumor", "tumors", "tumorous", "brain tumor", "brain tumors"),
        *("glioma", "gliomas", "glioma tumor", "meningioma", "meningiomas", "meningioma tumor"),
        *("pituitary", "pituitary tumor", "pituitary adenoma"),
    ],
}
"""Class → names of folders with its images. The first class is the one without a tumour."""


def normalise_name(name: str) -> str:
    """Return the name of a class or folder as names are compared.

    Case, spaces, underscores and hyphens do not matter, and tumour is spelt as in American English.
    """
    return re.sub(r"[\s_-]+", "", name.casefold()).replace("tumour", "tumor")
