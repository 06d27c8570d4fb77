"""Labels and probabilities to metrics with intervals; numpy and scipy only."""
