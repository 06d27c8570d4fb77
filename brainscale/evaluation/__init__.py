"""Evaluation, comparison and cross-validation of models."""
