"""Scoring: run a model on files and write the predictions as Parquet parts."""
