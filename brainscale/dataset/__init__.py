"""The manifest of a dataset: samples, labels, groups and splits."""
