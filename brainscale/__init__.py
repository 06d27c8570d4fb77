"""Classifiers for brain MRI at any scale: trained repeatably, evaluated honestly, run without losing a scan."""

__version__ = "0.1.0"
