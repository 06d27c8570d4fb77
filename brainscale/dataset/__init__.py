"""The manifest: samples, labels, groups, splits."""
