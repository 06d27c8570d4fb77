"""Classifiers for brain MRI at any scale: trained repeatably, evaluated honestly, no scan lost."""

from brainscale.version import __version__

__all__ = ["__version__"]
