"""A training run: driver, worker, exact step, checkpoints."""
