"""Metrics with confidence intervals from labels and probabilities; needs neither Ray nor torch."""
