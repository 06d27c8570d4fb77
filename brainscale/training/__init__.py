"""Training: driver, workers, the exact step, checkpoints, and the folder of a run."""
