"""Classifiers for brain MRI at any scale: trained repeatably, evaluated honestly, no scan lost."""

__version__ = "0.1.0"
