"""Rows of a training's steps."""


def step_row(epoch: int, step: int, *weights: int, rate: float = 0.1) -> dict[str, object]:
    """A row of schema STEPS, with these fingerprints of weights."""
    return {
        "epoch": epoch,
        "step": step,
        "learning_rate": rate,
        "samples": 4,
        "loss_sum": 1.5,
        "correct": 2,
        "weights": list(weights),
    }
